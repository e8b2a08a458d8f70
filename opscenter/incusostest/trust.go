package incusostest

import (
	"cmp"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/lxc/incus/v6/shared/api"
)

// TrustToken returns a trust token, like `incus config trust add`. It makes the server, or all members of its
// cluster, trust one client. It can be used once.
func (s *Server) TrustToken(client string) string {
	d := s.db()
	presented := s.Certificate()
	if shared := d.shared(); shared != nil {
		presented = shared.Leaf
	}
	secret := uuid.NewString()
	s.mu.Lock()
	address := s.address
	s.mu.Unlock()
	d.mu.Lock()
	d.trust[secret] = client
	d.mu.Unlock()
	token := api.CertificateAddToken{ClientName: client, Fingerprint: fingerprint(presented), Addresses: []string{address}, Secret: secret, ExpiresAt: time.Now().Add(time.Hour)}
	return token.String()
}

// postCertificates trusts the client of a request with a valid trust token, and spends the token.
func (s *Server) postCertificates(w http.ResponseWriter, r *http.Request) {
	var body api.CertificatesPost
	if !decode(w, r, &body) {
		return
	}
	var token api.CertificateAddToken
	data, err := base64.StdEncoding.DecodeString(body.TrustToken)
	if err == nil {
		err = json.Unmarshal(data, &token)
	}
	d := s.db()
	d.mu.Lock()
	_, known := d.trust[token.Secret]
	delete(d.trust, token.Secret)
	var members []*Server
	for _, m := range d.members {
		if m.server != nil {
			members = append(members, m.server)
		}
	}
	d.mu.Unlock()
	if err != nil || !known || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		respondError(w, http.StatusForbidden, "not authorized")
		return
	}
	for _, m := range members {
		m.Trust(r.TLS.PeerCertificates[0])
	}
	respondCreated(w, "/1.0/certificates/"+fingerprint(r.TLS.PeerCertificates[0]))
}

func respondCreated(w http.ResponseWriter, location string) {
	w.Header().Set("Location", location)
	send(w, http.StatusCreated, envelope{Type: "sync", Status: "Success", StatusCode: 200})
}

// getCertificates lists the trust store: the certificates of the members, and those of LeaveCertificate.
func (s *Server) getCertificates(w http.ResponseWriter, _ *http.Request) {
	d := s.db()
	d.mu.Lock()
	members := append([]*clusterMember(nil), d.members...)
	clustered, leftover := d.clustered, slices.Clone(d.leftover)
	d.mu.Unlock()
	out := []api.Certificate{}
	for _, m := range members {
		if clustered && m.server != nil {
			out = append(out, serverCertificate(cmp.Or(m.trusted, m.name), m.server.Certificate()))
		}
	}
	out = append(out, leftover...)
	slices.SortFunc(out, func(a, b api.Certificate) int { return cmp.Compare(a.Fingerprint, b.Fingerprint) })
	respond(w, out)
}

func serverCertificate(name string, certificate *x509.Certificate) api.Certificate {
	c := api.Certificate{Fingerprint: fingerprint(certificate)}
	c.Name, c.Type = name, api.CertificateTypeServer
	c.Certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
	return c
}
