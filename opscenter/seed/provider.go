package seed

import (
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"slices"
)

// Provider is where the server gets its applications and updates, and registers. Without the file, and where none is stored, that
// is the public server of IncusOS.
type Provider struct {
	Version Version           `json:"version"`
	Name    string            `json:"name"`
	Config  map[string]Secret `json:"config,omitempty"`
}

// Names of providers, and keys of their configurations.
const (
	ProviderOperationsCenter = "operations-center"
	ProviderImages           = "images"
	ProviderDebug            = "debug"

	ConfigServerURL         = "server_url"
	ConfigServerToken       = "server_token"
	ConfigServerCertificate = "server_certificate"
)

var providerKeys = map[string][]string{
	ProviderOperationsCenter: {ConfigServerURL, ConfigServerToken, ConfigServerCertificate},
	ProviderImages:           {ConfigServerURL, "token", "update_ca", "authentication_by_query_param"},
}

// OperationsCenterProvider is the control plane at a URL, with a token that admits the server. The certificate is that of the control
// plane, which the server pins; nil where its system trusts it.
func OperationsCenterProvider(serverURL, token string, certificate *x509.Certificate) *Provider {
	out := &Provider{Name: ProviderOperationsCenter, Config: map[string]Secret{ConfigServerURL: Secret(serverURL), ConfigServerToken: Secret(token)}}
	if certificate != nil {
		out.Config[ConfigServerCertificate] = Secret(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
	}
	return out
}

func (p *Provider) validate(v *validation) {
	keys, known := providerKeys[p.Name]
	switch {
	case p.Name == "":
		v.add("name", "the name of a provider is wanted, as %s", ProviderOperationsCenter)
	case p.Name != ProviderDebug && !known:
		v.add("name", "%s is no provider that is known", shown(p.Name))
	}
	for key, value := range sorted(p.Config) {
		field := "config." + key
		switch {
		case known && !slices.Contains(keys, key):
			v.add(field, "provider %s has no such key", p.Name)
		case key == ConfigServerURL:
			if u, err := url.Parse(string(value)); err != nil || u.Scheme != "https" && (u.Scheme != "http" || p.Name != ProviderImages) || u.Host == "" || u.User != nil {
				v.add(field, "an https URL is wanted")
			}
		case key == ConfigServerCertificate || key == "update_ca":
			v.certificate(field, string(value))
		}
	}
	if p.Name == ProviderOperationsCenter {
		for _, key := range []string{ConfigServerURL, ConfigServerToken} {
			if p.Config[key] == "" {
				v.add("config."+key, "it is missing: the server could not register")
			}
		}
	}
}
