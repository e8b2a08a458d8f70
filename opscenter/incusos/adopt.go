package incusos

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
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
	// name, or that of the first of a cluster's members.
	Name string
	// Channel for them. Default: the registry's.
	Channel string
}

// Adopt takes an Incus server, or all members of an Incus cluster, into the registry: ones
// that don't register themselves, as those that are not on IncusOS. The trust token is what
// `incus config trust add` prints there. Its fingerprint is that of the certificate the server
// must present, before it is told anything. where is its URL; empty: the first of the token's addresses that
// answers. From then on they are polled, and have an inventory, as all others.
//
// Again, with the same token, is no error: members that are new are added. It returns the names of the servers. Errors: ErrTrustToken,
// ErrTrustTokenExpired, opscenter.ErrUnreachable, with ErrCertificate if another server answers
// there, opscenter.ErrRefused if it does not take the token, and those of Registry.Adopt.
func (c *Client) Adopt(ctx context.Context, registry *opscenter.Registry, where, trustToken string, options AdoptOptions) ([]string, error) {
	token, err := parseTrustToken(trustToken)
	if err != nil {
		return nil, err
	}
	// Before the token is spent, all is checked that can be.
	if err := registry.CheckAdoption(ctx, token.Fingerprint, options.Name, options.Channel); err != nil {
		return nil, err
	}
	addresses := token.Addresses
	if where != "" {
		u, err := url.Parse(where)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("the URL of an Incus server is https://, a host and a port: %w", opscenter.ErrInvalidURL)
		}
		addresses = []string{u.Host}
	}
	if len(addresses) == 0 {
		return nil, fmt.Errorf("%w: it has no addresses, and no URL is given", ErrTrustToken)
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
		adoption, err := found.adoption(target, options)
		if err != nil {
			return nil, unreachable(err)
		}
		if err := registry.Adopt(ctx, *adoption); err != nil {
			return nil, err
		}
		return adoptedNames(ctx, registry, adoption)
	}
	return nil, unreachable(failed)
}

// maxAddresses is how many of a token's addresses are tried.
const maxAddresses = 16

func unreachable(err error) error {
	if errors.Is(err, opscenter.ErrRefused) {
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
	if !token.ExpiresAt.IsZero() && time.Now().After(token.ExpiresAt) {
		return nil, fmt.Errorf("%w: at %s", ErrTrustTokenExpired, token.ExpiresAt.Format(time.RFC3339))
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
func (f *found) adoption(target opscenter.Target, options AdoptOptions) (*opscenter.Adoption, error) {
	presented, err := opscenter.ParseCertificate(f.Environment.Certificate)
	if err != nil {
		return nil, fmt.Errorf("%s: its certificate: %w", target.Name, err)
	}
	if opscenter.Fingerprint(presented) != target.Fingerprint {
		return nil, fmt.Errorf("%s says it has another certificate than it presents: %w", target.Name, ErrCertificate)
	}
	out := &opscenter.Adoption{Channel: options.Channel}
	if !f.Environment.Clustered {
		name := options.Name
		if name == "" {
			name = f.Environment.Name
		}
		out.Servers = []opscenter.AdoptedServer{{Name: name, ConnectionURL: target.ConnectionURL, Certificate: presented}}
		return out, nil
	}
	out.Cluster, out.Certificate = options.Name, presented
	for i := range f.members {
		m := &f.members[i]
		if out.Cluster == "" {
			out.Cluster = m.ServerName
		}
		own, err := f.certificateOf(m.ServerName)
		if err != nil {
			return nil, err
		}
		out.Servers = append(out.Servers, opscenter.AdoptedServer{Name: m.ServerName, ConnectionURL: m.URL, Certificate: own, MemberName: m.ServerName})
	}
	return out, nil
}

func (f *found) certificateOf(member string) (*x509.Certificate, error) {
	for i := range f.certificates {
		if c := &f.certificates[i]; c.Type == api.CertificateTypeServer && c.Name == member {
			return opscenter.ParseCertificate(c.Certificate)
		}
	}
	return nil, fmt.Errorf("member %s: the cluster has no certificate of it: %w", limited(member, maxText), opscenter.ErrNoCertificate)
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
