package incusos

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/lxc/incus/v6/shared/api"

	"github.com/opscenter-go/sdk/opscenter"
)

// Errors of Adopt.
var (
	// ErrTrustToken: the text is no trust token of Incus's.
	ErrTrustToken = errors.New("invalid trust token")
	// ErrTrustTokenExpired: it was one.
	ErrTrustTokenExpired = errors.New("the trust token has expired")
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
// must present, before it is told anything; empty url: the first of the token's addresses that
// answers. From then on they are polled, and have an inventory, as all others.
//
// Again, with the same token, is no error: members that are new are added. It returns the names of the servers. Errors: ErrTrustToken,
// ErrTrustTokenExpired, ErrCertificate if another server answers there, opscenter.ErrRefused
// if it does not take the token, and those of Registry.Adopt.
func (c *Client) Adopt(ctx context.Context, registry *opscenter.Registry, url, trustToken string, options AdoptOptions) ([]string, error) {
	token, err := parseTrustToken(trustToken)
	if err != nil {
		return nil, err
	}
	addresses := token.Addresses
	if url != "" {
		addresses = []string{strings.TrimPrefix(strings.TrimSuffix(url, "/"), "https://")}
	}
	var failed error
	for _, address := range addresses {
		target := opscenter.Target{Name: address, ID: "adopt " + address, ConnectionURL: "https://" + address, Fingerprint: token.Fingerprint}
		found, err := c.introduce(ctx, target, token, trustToken)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", address, err))
			if errors.Is(err, errDial) || errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				continue
			}
			return nil, failed
		}
		adoption, err := found.adoption(target, options)
		if err != nil {
			return nil, err
		}
		if err := registry.Adopt(ctx, *adoption); err != nil {
			return nil, err
		}
		return adoptedNames(ctx, registry, adoption)
	}
	if failed == nil {
		failed = fmt.Errorf("%w: it has no addresses, and no URL is given", ErrTrustToken)
	}
	return nil, failed
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
		if _, err := s.call(http.MethodPost, "/1.0/certificates", put); err != nil {
			return nil, unlessRefused(err)
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
