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

	"github.com/opscenter-go/sdk/opscenter"
)

// Errors of Adopt.
var (
	// ErrTrustToken: the text is no trust token of Incus's.
	ErrTrustToken = fmt.Errorf("not a trust token of Incus's: %w", opscenter.ErrInvalidToken)
	// ErrTrustTokenExpired: it was one.
	ErrTrustTokenExpired = fmt.Errorf("the trust token: %w", opscenter.ErrTokenExpired)
)

// AdoptOptions of Adopt. The zero value is what most programs want.
type AdoptOptions struct {
	// Name for the record of the cluster, or of the server in none. Default: the server's own
	// name, or that of the first of a cluster's members, made free if it is taken.
	Name string
	// Channel for them. Default: the registry's.
	Channel string
	// Names of members in the registry, by their names in the cluster. Default: the member's
	// name, or, if that is taken, MEMBER-CLUSTER. What can't be in a server's name becomes a hyphen.
	Names map[string]string
	// URLs at which members are reached, by their names in the cluster. Default: the one that
	// worked for the member that answered, and those that the cluster lists for the others, which may be
	// on a network of their own.
	URLs map[string]string
	// Certificates of members, by their names in the cluster: the fingerprints (SHA-256, 64
	// hexadecimal digits) of their own, where the cluster's trust store has several for one name, as a failed
	// join leaves one, or none, as after a renaming.
	Certificates map[string]string
}

// ErrAmbiguousCertificate: which certificate is a member's own is not to be told by the cluster's
// trust store. AdoptOptions.Certificates says it.
var ErrAmbiguousCertificate = fmt.Errorf("which certificate is the member's own can't be told: %w", opscenter.ErrNoCertificate)

// Adopt takes an Incus server, or all members of an Incus cluster, into the registry: ones
// that don't register themselves, as those that are not on IncusOS. The trust token is what
// `incus config trust add` prints there. Its fingerprint is that of the certificate the server
// must present, before it is told anything. where is its URL; empty: the first of the token's addresses that
// answers. From then on they are polled, and have an inventory, as all others. A URL behind which
// one of several members answers is that member's: AdoptOptions.URLs says where each is reached.
//
// Adopt refuses all that it can before it spends the token. Again, with the same token, is no error:
// members that are new are added. It returns the names of the servers. Errors: ErrTrustToken,
// ErrTrustTokenExpired, opscenter.ErrUnreachable, with ErrCertificate if another server answers
// there, opscenter.ErrRefused if it does not take the token, ErrAmbiguousCertificate,
// opscenter.ErrInvalidCertificate for AdoptOptions.Certificates, opscenter.ErrInvalidOptions for a
// member that there is not, and those of Registry.Adopt.
func (c *Client) Adopt(ctx context.Context, registry *opscenter.Registry, where, trustToken string, options AdoptOptions) ([]string, error) {
	token, err := parseTrustToken(trustToken)
	if err != nil {
		return nil, err
	}
	// Before the token is spent, all is checked that can be.
	check := opscenter.AdoptionCheck{Fingerprint: token.Fingerprint, Name: options.Name, Channel: options.Channel,
		Names: slices.Collect(maps.Values(options.Names)), URLs: slices.Collect(maps.Values(options.URLs))}
	for member, fingerprint := range options.Certificates {
		if raw, err := hex.DecodeString(fingerprint); err != nil || len(raw) != sha256.Size {
			return nil, fmt.Errorf("the fingerprint of member %s: SHA-256 in 64 hexadecimal digits is wanted: %w", limited(member, maxText), opscenter.ErrInvalidCertificate)
		}
	}
	addresses := slices.DeleteFunc(slices.Clone(token.Addresses), func(address string) bool {
		return opscenter.CheckURL("address", "https://"+address) != nil // no server's
	})
	if where != "" {
		check.URLs = append(check.URLs, strings.TrimRight(where, "/"))
		u, err := url.Parse(where)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("the URL of an Incus server is https://, a host and a port: %w", opscenter.ErrInvalidURL)
		}
		addresses = []string{u.Host}
	}
	if err := registry.CheckAdoption(ctx, check); err != nil {
		return nil, err
	}
	if len(addresses) == 0 {
		return nil, fmt.Errorf("%w: it has no addresses of a server, and no URL is given", ErrTrustToken)
	}
	var failed error
	for _, address := range addresses[:min(len(addresses), maxAddresses)] {
		target := opscenter.Target{Name: address, ID: "adopt " + address, ConnectionURL: "https://" + address, Fingerprint: token.Fingerprint}
		found, err := c.introduce(ctx, target, token, trustToken)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", limited(address, maxText), err))
			// Somebody else may be there, who was told nothing.
			if errors.Is(err, errDial) || errors.Is(err, errHandshake) || errors.Is(err, ErrCertificate) {
				continue
			}
			return nil, unreachable(failed)
		}
		names, err := c.record(ctx, registry, found, target, options)
		if err != nil {
			return nil, fmt.Errorf("the server trusts this control plane by now, and the same token serves again: %w", err)
		}
		return names, nil
	}
	return nil, unreachable(failed)
}

// record takes what was found into the registry.
func (c *Client) record(ctx context.Context, registry *opscenter.Registry, found *found, target opscenter.Target, options AdoptOptions) ([]string, error) {
	known := func(fingerprint, member string) bool { // whether it is that member's, as far as the registry knows
		info, err := registry.ServerByFingerprint(ctx, fingerprint)
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

// maxAddresses is how many of a token's addresses are tried.
const maxAddresses = 16

func unreachable(err error) error {
	if errors.Is(err, opscenter.ErrRefused) || errors.Is(err, ErrTrustTokenExpired) {
		return err
	}
	return fmt.Errorf("%w: %w", opscenter.ErrUnreachable, err)
}

// parseTrustToken reads a token. Its text is a secret: no error holds any of it.
func parseTrustToken(text string) (*api.CertificateAddToken, error) {
	var token api.CertificateAddToken
	data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || json.Unmarshal(data, &token) != nil || token.Secret == "" || len(token.Fingerprint) != 64 {
		return nil, ErrTrustToken
	}
	return &token, nil
}

// found is what a server says of itself and its cluster.
type found struct {
	Auth        string `json:"auth"`
	Environment struct {
		Certificate string `json:"certificate"`
		Name        string `json:"server_name"`
		Clustered   bool   `json:"server_clustered"`
	} `json:"environment"`
	members      []api.ClusterMember
	certificates []api.Certificate

	names  map[string]bool // of the members
	parsed []trusted       // the certificates of servers
}

// Limits of the cluster that is adopted.
const (
	maxMembers      = 1000
	maxCertificates = 10_000
)

// trusted is a certificate of a server in a cluster's trust store.
type trusted struct {
	name, fingerprint string
	certificate       *x509.Certificate
}

// index makes the members and their certificates ready to be looked up. opscenter.ErrUnreachable: there are too
// many, or two members of one name.
func (f *found) index() error {
	if len(f.members) > maxMembers || len(f.certificates) > maxCertificates {
		return fmt.Errorf("the cluster lists %d members and %d certificates, at most %d and %d are taken: %w", len(f.members), len(f.certificates), maxMembers, maxCertificates, opscenter.ErrUnreachable)
	}
	f.names = map[string]bool{}
	for i := range f.members {
		name := f.members[i].ServerName
		if f.names[name] {
			return fmt.Errorf("the cluster lists two members %s: %w", limited(name, maxText), opscenter.ErrUnreachable)
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

// introduce makes the server trust the control plane, and reads who it is.
func (c *Client) introduce(ctx context.Context, target opscenter.Target, token *api.CertificateAddToken, text string) (*found, error) {
	s, err := c.session(ctx, target)
	if err != nil {
		return nil, err
	}
	var out found
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
		out = found{}
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

// sendSecret posts what holds secrets: past the Incus client, which may log what it sends, and
// with nothing of them in errors.
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
	return fmt.Errorf("POST %s: %w: %s", path, opscenter.ErrRefused, limited(message, maxMessage))
}

// adoption is how the registry is to have it. A member's own certificate is the one it is
// trusted with by the others; what it presents is the cluster's.
func (f *found) adoption(target opscenter.Target, options AdoptOptions, known func(fingerprint, member string) bool) (*opscenter.Adoption, error) {
	presented, err := opscenter.ParseCertificate(f.Environment.Certificate)
	if err != nil {
		return nil, fmt.Errorf("%s: its certificate: %w: %v", target.Name, opscenter.ErrUnreachable, err)
	}
	if opscenter.Fingerprint(presented) != target.Fingerprint {
		return nil, fmt.Errorf("%s says it has another certificate than it presents: %w: %w", target.Name, opscenter.ErrUnreachable, ErrCertificate)
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
			where = target.ConnectionURL // which has just worked
		}
		where = cmp.Or(options.URLs[m.ServerName], where)
		if err := opscenter.CheckURL("connection URL", where); err != nil {
			return nil, fmt.Errorf("the cluster lists member %s at an address at which no server can be; give its URL: %w: %w", limited(m.ServerName, maxText), opscenter.ErrUnreachable, err)
		}
		out.Servers = append(out.Servers, opscenter.AdoptedServer{Name: options.Names[m.ServerName], Suggested: m.ServerName, MemberName: m.ServerName,
			ConnectionURL: where, Certificate: own})
	}
	return out, nil
}

// unknownMembers refuses options for members that there are not.
func unknownMembers(options AdoptOptions, members []api.ClusterMember) error {
	for what, given := range map[string]map[string]string{"name": options.Names, "URL": options.URLs, "certificate": options.Certificates} {
		for name := range given {
			if !slices.ContainsFunc(members, func(m api.ClusterMember) bool { return m.ServerName == name }) {
				return fmt.Errorf("a %s is given for %s, which is no member of a cluster there: %w", what, limited(name, maxText), opscenter.ErrInvalidOptions)
			}
		}
	}
	return nil
}

// certificateOf returns the certificate that is a member's own: the one that is wanted, if that is
// given; else the only one of its name that has not expired, or of several the one that the
// registry knows as its. Incus keeps what a failed join has left under the same name, and does not
// rename a certificate with its member.
func (f *found) certificateOf(member, wanted string, known func(fingerprint, member string) bool) (*x509.Certificate, error) {
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
			others = append(others, c.certificate) // that of a member that was renamed may be among them
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
	who := "member " + limited(member, maxText)
	switch {
	case wanted != "":
		return nil, fmt.Errorf("%s: the cluster's trust store has no certificate %.12s of a server: %w", who, wanted, opscenter.ErrNoCertificate)
	case len(candidates) > 0:
		return nil, fmt.Errorf("%s: the cluster's trust store has several certificates under its name: %s: %w", who, described(candidates), ErrAmbiguousCertificate)
	case len(others) > 0:
		return nil, fmt.Errorf("%s: the cluster's trust store has none under its name, and others that are no member's: %s: %w", who, described(others), ErrAmbiguousCertificate)
	}
	return nil, fmt.Errorf("%s: the cluster has no certificate of it: %w", who, opscenter.ErrNoCertificate)
}

// maxDescribed bounds how many certificates an error describes.
const maxDescribed = 5

func described(list []*x509.Certificate) string {
	var out []string
	for _, c := range list[:min(len(list), maxDescribed)] {
		out = append(out, fmt.Sprintf("%s (%s, made %s)", opscenter.Fingerprint(c), limited(c.Subject.CommonName, maxText), c.NotBefore.UTC().Format(time.DateOnly)))
	}
	return strings.Join(out, ", ")
}

// adoptedNames returns what the adopted servers are called in the registry: those that were there
// already may have other names.
func adoptedNames(ctx context.Context, registry *opscenter.Registry, a *opscenter.Adoption) (out []string, err error) {
	for _, s := range a.Servers {
		info, err := registry.ServerByFingerprint(ctx, opscenter.Fingerprint(s.Certificate))
		if err != nil {
			return nil, err
		}
		out = append(out, info.Name)
	}
	return out, nil
}
