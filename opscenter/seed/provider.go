package seed

import (
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"slices"
)

// Provider configures the source of applications and updates, at which the server also registers. Without this file, and
// without a stored provider, the server uses the public server of IncusOS.
type Provider struct {
	Version Version           `json:"version"`
	Name    string            `json:"name"`
	Config  map[string]Secret `json:"config,omitempty"`
}

// Names of providers, and keys of Provider.Config.
const (
	ProviderOperationsCenter = "operations-center"
	ProviderImages           = "images"
	ProviderDebug            = "debug"

	ConfigServerURL         = "server_url"
	ConfigServerToken       = "server_token"
	ConfigServerCertificate = "server_certificate"
)

// providerKeys are the keys of each provider's Config.
var providerKeys = map[string][]string{
	ProviderOperationsCenter: {ConfigServerURL, ConfigServerToken, ConfigServerCertificate},
	ProviderImages:           {ConfigServerURL, "token", "update_ca", "authentication_by_query_param"},
}

// OperationsCenterProvider returns the provider for a control plane at serverURL. The token admits the server. The server
// pins the certificate of the control plane; nil: the server's system trusts the certificate already.
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
		v.add("name", "it must be the name of a provider, such as %s", ProviderOperationsCenter)
	case p.Name != ProviderDebug && !known:
		v.add("name", "%s is not a known provider", shown(p.Name))
	}
	for key, value := range sorted(p.Config) {
		field := "config." + key
		switch {
		case known && !slices.Contains(keys, key):
			v.add(field, "provider %s has no such key", p.Name)
		case key == ConfigServerURL:
			if u, err := url.Parse(string(value)); err != nil || u.Scheme != "https" && (u.Scheme != "http" || p.Name != ProviderImages) || u.Host == "" || u.User != nil {
				v.add(field, "it must be an https URL")
			}
		case key == ConfigServerCertificate || key == "update_ca":
			v.certificate(field, string(value))
		}
	}
	if p.Name == ProviderOperationsCenter {
		for _, key := range []string{ConfigServerURL, ConfigServerToken} {
			if p.Config[key] == "" {
				v.add("config."+key, "it is missing: the server can't register without it")
			}
		}
	}
}
