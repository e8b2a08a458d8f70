package incusos

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/lxc/incus/v6/shared/api"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter"
)

// Errors of Adopt.
var (
	// ErrTrustToken means that the text is not a trust token of Incus, or has no usable address.
	ErrTrustToken = fmt.Errorf("not a trust token of Incus: %w", opscenter.ErrInvalidToken)
	// ErrTrustTokenExpired means that the trust token has expired.
	ErrTrustTokenExpired = fmt.Errorf("the trust token: %w", opscenter.ErrTokenExpired)
)

// AdoptOptions configures Adopt. The zero value suits most programs. The keys of the maps are the names
// of members in their cluster.
type AdoptOptions struct {
	// Name is the name of the cluster in the registry, or of a server that is in no cluster. Default:
	// the server's own name, or that of the cluster's first member. Adopt extends a default name
	// that is taken.
	Name string
	// Channel is the update channel of the adopted servers. Default: the registry's.
	Channel string
	// Names are the names of members in the registry. Default: the member's name, or MEMBER-CLUSTER if
	// that is taken. Characters that a server's name can't have become hyphens.
	Names map[string]string
	// URLs are the connection URLs of members. Default: for the member that answered, the URL at which it
	// did; for others, the URL that the cluster lists. The cluster may list addresses of a network that
	// the control plane can't reach.
	URLs map[string]string
	// Certificates are the fingerprints of the members' own certificates: SHA-256 in 64 hexadecimal
	// digits. They are needed only if the cluster's trust store has no certificate under the member's name,
	// or several. A failed join leaves a second one; a renamed member has none.
	Certificates map[string]string
}

// ErrAmbiguousCertificate means that the cluster's trust store does not show which certificate is a
// member's own. Set AdoptOptions.Certificates for the member.
var ErrAmbiguousCertificate = fmt.Errorf("the member's own certificate is ambiguous: %w", opscenter.ErrNoCertificate)

// Adopt takes an Incus server, or all members of an Incus cluster, into the registry. It is for servers
// that do not register themselves, such as those without IncusOS. It returns the names of the servers in
// the registry. From then on they are polled, and have an inventory, like all other servers.
//
// The trust token is the output of `incus config trust add` on the server. It contains the fingerprint of
// the server's certificate: Adopt sends nothing to a server that presents another one. where is the URL
// of the server. If it is empty, Adopt uses the first address of the token that answers. Adopt records
// this URL for the member that answered. If it is the URL of a load balancer, set AdoptOptions.URLs.
//
// Adopt validates as much as possible before it spends the token. It may be called again with the same
// token, and then adds new members of the cluster. Errors:
//
//   - ErrTrustToken, ErrTrustTokenExpired
//   - opscenter.ErrUnreachable, with ErrCertificate if another server answers
//   - opscenter.ErrRefused if the server refuses the token
//   - ErrAmbiguousCertificate, or opscenter.ErrNoCertificate, for a member
//   - opscenter.ErrInvalidCertificate for AdoptOptions.Certificates, and opscenter.ErrInvalidURL for where
//   - opscenter.ErrInvalidOptions if options name a member that does not exist
//   - those of Registry.Adopt
func (c *Client) Adopt(ctx context.Context, registry *opscenter.Registry, where, trustToken string, options AdoptOptions) ([]string, error) {
	token, err := parseTrustToken(trustToken)
	if err != nil {
		return nil, err
	}
	// Validate as much as possible before the token is spent.
	check := opscenter.AdoptionCheck{Fingerprint: token.Fingerprint, Name: options.Name, Channel: options.Channel,
		Names: slices.Collect(maps.Values(options.Names)), URLs: slices.Collect(maps.Values(options.URLs))}
	for member, fingerprint := range options.Certificates {
		if raw, err := hex.DecodeString(fingerprint); err != nil || len(raw) != sha256.Size {
			return nil, fmt.Errorf("the fingerprint of member %s must be a SHA-256 in 64 hexadecimal digits: %w", truncate.Text(member, maxText), opscenter.ErrInvalidCertificate)
		}
	}
	addresses := slices.DeleteFunc(slices.Clone(token.Addresses), func(address string) bool {
		return opscenter.CheckURL("address", "https://"+address) != nil // an address that no server can have
	})
	if where != "" {
		check.URLs = append(check.URLs, strings.TrimRight(where, "/"))
		u, err := url.Parse(where)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("the URL of an Incus server must be https:// with a host and a port: %w", opscenter.ErrInvalidURL)
		}
		addresses = []string{u.Host}
	}
	if err := registry.Read(ctx, func(s *opscenter.Snapshot) error { return s.CheckAdoption(check) }); err != nil {
		return nil, err
	}
	if len(addresses) == 0 {
		return nil, fmt.Errorf("%w: it has no valid address, and no URL is given", ErrTrustToken)
	}
	var failed error
	for _, address := range addresses[:min(len(addresses), maxAddresses)] {
		target := opscenter.Target{Name: address, ID: "adopt " + address, ConnectionURL: "https://" + address, Fingerprint: token.Fingerprint}
		found, err := c.authenticate(ctx, target, token, trustToken)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", truncate.Text(address, maxText), err))
			// Another server may have this address. It has not received the token: try the next address.
			if errors.Is(err, errDial) || errors.Is(err, errHandshake) || errors.Is(err, ErrCertificate) {
				continue
			}
			return nil, unreachable(failed)
		}
		names, err := c.record(ctx, registry, found, target, options)
		if err != nil {
			return nil, fmt.Errorf("the server trusts this control plane now, and the same token can be used again: %w", err)
		}
		return names, nil
	}
	return nil, unreachable(failed)
}

// record adds the server or cluster to the registry, and returns the names of the servers.
func (c *Client) record(ctx context.Context, registry *opscenter.Registry, found *selfDescription, target opscenter.Target, options AdoptOptions) ([]string, error) {
	known := func(fingerprint, member string) bool { // whether the registry has that certificate for the member
		info, err := serverWith(ctx, registry, fingerprint)
		return err == nil && info.ServedFingerprint == target.Fingerprint && info.State.MemberName == member
	}
	adoption, err := found.adoption(target, options, known)
	if err != nil {
		return nil, err
	}
	if err := registry.Adopt(ctx, *adoption); err != nil {
		return nil, err
	}
	return adoptedNames(ctx, registry, adoption)
}

// maxAddresses is the largest number of a token's addresses that Adopt tries.
const maxAddresses = 16

// unreachable adds opscenter.ErrUnreachable to an error, unless the server answered with a refusal.
func unreachable(err error) error {
	if errors.Is(err, opscenter.ErrRefused) || errors.Is(err, ErrTrustTokenExpired) {
		return err
	}
	return fmt.Errorf("%w: %w", opscenter.ErrUnreachable, err)
}

// parseTrustToken parses a token. The text is a secret, so its error contains nothing of it.
func parseTrustToken(text string) (*api.CertificateAddToken, error) {
	var token api.CertificateAddToken
	data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || json.Unmarshal(data, &token) != nil || token.Secret == "" || len(token.Fingerprint) != 64 {
		return nil, ErrTrustToken
	}
	return &token, nil
}

// selfDescription is the description that a server gives of itself and its cluster.
type selfDescription struct {
	Auth        string `json:"auth"`
	Environment struct {
		Certificate string `json:"certificate"`
		Name        string `json:"server_name"`
		Clustered   bool   `json:"server_clustered"`
	} `json:"environment"`
	members      []api.ClusterMember
	certificates []api.Certificate

	names  map[string]bool // of the members; set by index
	parsed []trusted       // valid certificates of type server; set by index
}

// Limits of a cluster that can be adopted.
const (
	maxMembers      = 1000
	maxCertificates = 10_000
)

// trusted is a server's certificate in the trust store of a cluster.
type trusted struct {
	name, fingerprint string
	certificate       *x509.Certificate
}

// index validates the members, and sets names and parsed. The error is opscenter.ErrUnreachable if there are too many
// members or certificates, or if two members have the same name.
func (f *selfDescription) index() error {
	if len(f.members) > maxMembers || len(f.certificates) > maxCertificates {
		return fmt.Errorf("the cluster has %d members and %d certificates; at most %d and %d are supported: %w", len(f.members), len(f.certificates), maxMembers, maxCertificates, opscenter.ErrUnreachable)
	}
	f.names = map[string]bool{}
	for i := range f.members {
		name := f.members[i].ServerName
		if f.names[name] {
			return fmt.Errorf("the cluster lists two members %s: %w", truncate.Text(name, maxText), opscenter.ErrUnreachable)
		}
		f.names[name] = true
	}
	for i := range f.certificates {
		c := &f.certificates[i]
		if c.Type != api.CertificateTypeServer {
			continue
		}
		if certificate, err := opscenter.ParseCertificate(c.Certificate); err == nil {
			f.parsed = append(f.parsed, trusted{c.Name, opscenter.Fingerprint(certificate), certificate})
		}
	}
	return nil
}

// authenticate makes the server trust the control plane, and reads its description.
func (c *Client) authenticate(ctx context.Context, target opscenter.Target, token *api.CertificateAddToken, text string) (*selfDescription, error) {
	s, err := c.session(ctx, target)
	if err != nil {
		return nil, err
	}
	var out selfDescription
	if err := s.get("/1.0", &out); err != nil {
		return nil, err
	}
	if out.Auth != "trusted" {
		if !token.ExpiresAt.IsZero() && time.Now().After(token.ExpiresAt) {
			return nil, fmt.Errorf("%w: at %s", ErrTrustTokenExpired, token.ExpiresAt.Format(time.RFC3339))
		}
		put := api.CertificatesPost{TrustToken: strings.TrimSpace(text)}
		put.Type, put.Name = api.CertificateTypeClient, token.ClientName
		if err := c.sendSecret(ctx, target, "/1.0/certificates", put, strings.TrimSpace(text), token.Secret); err != nil {
			return nil, err
		}
		out = selfDescription{}
		if err := s.get("/1.0", &out); err != nil {
			return nil, err
		}
		if out.Auth != "trusted" {
			return nil, errUntrusted
		}
	}
	if out.Environment.Clustered {
		if err := s.get("/1.0/cluster/members?recursion=1", &out.members); err != nil {
			return nil, err
		}
		if err := s.get("/1.0/certificates?recursion=1", &out.certificates); err != nil {
			return nil, err
		}
	}
	return &out, nil
}

// sendSecret posts a body that contains secrets. It does not use the Incus client, which may log
// requests. It removes the secrets from errors.
func (c *Client) sendSecret(ctx context.Context, target opscenter.Target, path string, body any, secrets ...string) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	p, err := c.fleet.peer(target)
	if err != nil {
		return err
	}
	p.alone = true
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+p.host+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header["User-Agent"] = userAgent
	resp, err := p.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("POST %s: %w", path, err)
	}
	defer resp.Body.Close()
	var answer struct {
		Type  string `json:"type"`
		Error string `json:"error"`
	}
	text, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(text, &answer)
	}
	switch {
	case err != nil:
		return fmt.Errorf("POST %s: %w", path, errAnswer)
	case answer.Type == string(api.SyncResponse):
		return nil
	}
	message := answer.Error
	for _, secret := range secrets {
		message = strings.ReplaceAll(message, secret, "…")
	}
	return fmt.Errorf("POST %s: %w: %s", path, opscenter.ErrRefused, truncate.Text(message, maxMessage))
}

// adoption makes the input of Registry.Adopt. A cluster member presents the cluster's certificate. The
// member's own certificate is the one in the cluster's trust store. known reports whether the registry
// has a certificate for a member.
func (f *selfDescription) adoption(target opscenter.Target, options AdoptOptions, known func(fingerprint, member string) bool) (*opscenter.Adoption, error) {
	presented, err := opscenter.ParseCertificate(f.Environment.Certificate)
	if err != nil {
		return nil, fmt.Errorf("%s sent an invalid certificate: %w: %v", target.Name, opscenter.ErrUnreachable, err)
	}
	if opscenter.Fingerprint(presented) != target.Fingerprint {
		return nil, fmt.Errorf("the certificate that %s describes differs from the one it presents: %w: %w", target.Name, opscenter.ErrUnreachable, ErrCertificate)
	}
	out := &opscenter.Adoption{Channel: options.Channel}
	if !f.Environment.Clustered {
		if err := unknownMembers(options, nil); err != nil {
			return nil, err
		}
		out.Servers = []opscenter.AdoptedServer{{Name: options.Name, Suggested: f.Environment.Name, ConnectionURL: target.ConnectionURL, Certificate: presented}}
		return out, nil
	}
	if len(f.members) == 0 {
		return nil, fmt.Errorf("%s says that its cluster has no members: %w", target.Name, opscenter.ErrUnreachable)
	}
	if err := cmp.Or(unknownMembers(options, f.members), f.index()); err != nil {
		return nil, err
	}
	out.Cluster, out.SuggestedCluster, out.Certificate = options.Name, f.members[0].ServerName, presented
	for i := range f.members {
		m := &f.members[i]
		own, err := f.certificateOf(m.ServerName, options.Certificates[m.ServerName], known)
		if err != nil {
			return nil, err
		}
		where := m.URL
		if m.ServerName == f.Environment.Name {
			where = target.ConnectionURL // the server has just answered there
		}
		where = cmp.Or(options.URLs[m.ServerName], where)
		if err := opscenter.CheckURL("connection URL", where); err != nil {
			return nil, fmt.Errorf("the cluster lists member %s at an address that no server can have; give its URL: %w: %w", truncate.Text(m.ServerName, maxText), opscenter.ErrUnreachable, err)
		}
		out.Servers = append(out.Servers, opscenter.AdoptedServer{Name: options.Names[m.ServerName], Suggested: m.ServerName, MemberName: m.ServerName,
			ConnectionURL: where, Certificate: own})
	}
	return out, nil
}

// unknownMembers returns an error if options name a member that does not exist.
func unknownMembers(options AdoptOptions, members []api.ClusterMember) error {
	for option, given := range map[string]map[string]string{"name": options.Names, "URL": options.URLs, "certificate": options.Certificates} {
		for name := range given {
			if !slices.ContainsFunc(members, func(m api.ClusterMember) bool { return m.ServerName == name }) {
				return fmt.Errorf("a %s is given for %s, which is no member of the cluster: %w", option, truncate.Text(name, maxText), opscenter.ErrInvalidOptions)
			}
		}
	}
	return nil
}

// certificateOf returns a member's own certificate. If a fingerprint is wanted, it is the certificate with
// that one. Otherwise it is the only unexpired certificate under the member's name. Of several, it is the
// one that the registry has for the member. A failed join leaves a certificate under the same name in
// Incus, and Incus does not rename the certificate of a renamed member.
func (f *selfDescription) certificateOf(member, wanted string, known func(fingerprint, member string) bool) (*x509.Certificate, error) {
	var candidates, others []*x509.Certificate
	for _, c := range f.parsed {
		switch {
		case wanted != "":
			if strings.EqualFold(c.fingerprint, wanted) {
				return c.certificate, nil
			}
		case c.name == member && time.Now().Before(c.certificate.NotAfter):
			if !slices.ContainsFunc(candidates, c.certificate.Equal) {
				candidates = append(candidates, c.certificate)
			}
		case !f.names[c.name] && len(others) < maxDescribed:
			others = append(others, c.certificate) // one may belong to a renamed member
		}
	}
	if len(candidates) == 1 {
		return candidates[0], nil
	}
	var own *x509.Certificate
	for _, c := range candidates {
		if known(opscenter.Fingerprint(c), member) {
			own = c
		}
	}
	if own != nil {
		return own, nil
	}
	subject := "member " + truncate.Text(member, maxText)
	switch {
	case wanted != "":
		return nil, fmt.Errorf("%s: the cluster's trust store has no server certificate %.12s: %w", subject, wanted, opscenter.ErrNoCertificate)
	case len(candidates) > 0:
		return nil, fmt.Errorf("%s: the cluster's trust store has several certificates under its name: %s: %w", subject, described(candidates), ErrAmbiguousCertificate)
	case len(others) > 0:
		return nil, fmt.Errorf("%s: the cluster's trust store has no certificate under its name, and others that belong to no member: %s: %w", subject, described(others), ErrAmbiguousCertificate)
	}
	return nil, fmt.Errorf("%s: the cluster's trust store has no certificate for it: %w", subject, opscenter.ErrNoCertificate)
}

// maxDescribed is the largest number of certificates that an error describes.
const maxDescribed = 5

// described lists fingerprint, name and date of certificates, for an error.
func described(list []*x509.Certificate) string {
	var out []string
	for _, c := range list[:min(len(list), maxDescribed)] {
		out = append(out, fmt.Sprintf("%s (%s, created %s)", opscenter.Fingerprint(c), truncate.Text(c.Subject.CommonName, maxText), c.NotBefore.UTC().Format(time.DateOnly)))
	}
	return strings.Join(out, ", ")
}

// adoptedNames returns the names of the adopted servers in the registry. A server that the registry
// had before keeps its name.
func adoptedNames(ctx context.Context, registry *opscenter.Registry, a *opscenter.Adoption) (out []string, err error) {
	for _, s := range a.Servers {
		info, err := serverWith(ctx, registry, opscenter.Fingerprint(s.Certificate))
		if err != nil {
			return nil, err
		}
		out = append(out, info.Name)
	}
	return out, nil
}

// serverWith returns the server that is registered with a certificate, or opscenter.ErrUnknownCertificate.
func serverWith(ctx context.Context, registry *opscenter.Registry, fingerprint string) (info *opscenter.ServerInfo, err error) {
	err = registry.Read(ctx, func(s *opscenter.Snapshot) error {
		info, err = s.ServerByFingerprint(fingerprint)
		return err
	})
	return info, err
}
