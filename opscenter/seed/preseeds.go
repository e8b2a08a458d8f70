package seed

import "fmt"

// MigrationManager is the initial configuration of Migration Manager. The fields are those of its API.
type MigrationManager struct {
	Version Version `json:"version"`
	// TrustedClientCertificates are the certificates of its first users, in PEM form.
	TrustedClientCertificates []string                 `json:"trusted_client_certificates,omitempty"`
	ApplyDefaults             bool                     `json:"apply_defaults,omitempty"`
	Preseed                   *MigrationManagerPreseed `json:"preseed,omitempty"`
}

// MigrationManagerPreseed are the initial settings of Migration Manager.
type MigrationManagerPreseed struct {
	SystemCertificate *SystemCertificate             `json:"system_certificate,omitempty"`
	SystemNetwork     *MigrationManagerSystemNetwork `json:"system_network,omitempty"`
	SystemSecurity    *SystemSecurity                `json:"system_security,omitempty"`
}

// MigrationManagerSystemNetwork has the address at which Migration Manager listens, and the URL that its workers use.
type MigrationManagerSystemNetwork struct {
	RestServerAddress string `json:"rest_server_address,omitempty"`
	WorkerEndpoint    string `json:"worker_endpoint,omitempty"`
}

// OperationsCenter is the initial configuration of Operations Center. The fields are those of its API.
type OperationsCenter struct {
	Version Version `json:"version"`
	// TrustedClientCertificates are the certificates of its first users, in PEM form.
	TrustedClientCertificates []string                 `json:"trusted_client_certificates,omitempty"`
	ApplyDefaults             bool                     `json:"apply_defaults,omitempty"`
	Preseed                   *OperationsCenterPreseed `json:"preseed,omitempty"`
}

// OperationsCenterPreseed are the initial settings of Operations Center.
type OperationsCenterPreseed struct {
	SystemCertificate *SystemCertificate             `json:"system_certificate,omitempty"`
	SystemNetwork     *OperationsCenterSystemNetwork `json:"system_network,omitempty"`
	SystemSecurity    *SystemSecurity                `json:"system_security,omitempty"`
	SystemUpdates     *SystemUpdates                 `json:"system_updates,omitempty"`
	SystemSettings    *SystemSettings                `json:"system_settings,omitempty"`
}

// OperationsCenterSystemNetwork has the URL that servers use, and the address at which Operations Center listens.
type OperationsCenterSystemNetwork struct {
	Address           string `json:"address,omitempty"`
	RestServerAddress string `json:"rest_server_address,omitempty"`
}

// SystemUpdates are the settings of Operations Center's update feed.
type SystemUpdates struct {
	Source                                string `json:"source,omitempty"`
	SignatureVerificationRootCA           string `json:"signature_verification_root_ca,omitempty"`
	FilterExpression                      string `json:"filter_expression,omitempty"`
	FileFilterExpression                  string `json:"file_filter_expression,omitempty"`
	UpdatesDefaultChannel                 string `json:"updates_default_channel,omitempty"`
	ServerDefaultChannel                  string `json:"server_default_channel,omitempty"`
	ImageServerAuthenticationByQueryParam bool   `json:"image_server_authentication_by_query_param,omitempty"`
}

// SystemSettings are further settings of Operations Center.
type SystemSettings struct {
	LogLevel                    string `json:"log_level,omitempty"`
	ServerRegistrationScriptlet string `json:"server_registration_scriptlet,omitempty"`
}

// SystemCertificate is the server certificate of an application, in PEM form.
type SystemCertificate struct {
	Certificate string `json:"certificate"`
	Key         Secret `json:"key"`
	// CA is a field of Migration Manager only.
	CA string `json:"ca,omitempty"`
}

// SystemSecurity configures the clients and proxies that an application trusts, and the servers that authenticate users.
type SystemSecurity struct {
	TrustedTLSClientCertFingerprints []string `json:"trusted_tls_client_cert_fingerprints,omitempty"`
	TrustedHTTPSProxies              []string `json:"trusted_https_proxies,omitempty"`
	OIDC                             *OIDC    `json:"oidc,omitempty"`
	OpenFGA                          *OpenFGA `json:"openfga,omitempty"`
	ACME                             *ACME    `json:"acme,omitempty"`
}

// OIDC configures the OpenID Connect server that authenticates users.
type OIDC struct {
	Issuer   string `json:"issuer,omitempty"`
	ClientID string `json:"client_id,omitempty"`
	Scopes   string `json:"scopes,omitempty"`
	Audience string `json:"audience,omitempty"`
	Claim    string `json:"claim,omitempty"`
}

// OpenFGA configures the OpenFGA server that authorizes users.
type OpenFGA struct {
	APIToken Secret `json:"api_token,omitempty"`
	APIURL   string `json:"api_url,omitempty"`
	StoreID  string `json:"store_id,omitempty"`
}

// ACME configures the authority that issues the application's certificate.
type ACME struct {
	AgreeTOS             bool     `json:"agree_tos,omitempty"`
	CAURL                string   `json:"ca_url,omitempty"`
	Challenge            string   `json:"challenge,omitempty"`
	Domain               string   `json:"domain,omitempty"`
	Email                string   `json:"email,omitempty"`
	HTTPChallengeAddress string   `json:"http_challenge_address,omitempty"`
	Provider             string   `json:"provider,omitempty"`
	ProviderEnvironment  []Secret `json:"provider_environment,omitempty"`
	ProviderResolvers    []string `json:"provider_resolvers,omitempty"`
}

func (m *MigrationManager) validate(v *validation) {
	v.clients(m.TrustedClientCertificates)
	if p := m.Preseed; p != nil {
		v.certified("preseed.system_certificate", p.SystemCertificate)
	}
}

func (o *OperationsCenter) validate(v *validation) {
	v.clients(o.TrustedClientCertificates)
	p := o.Preseed
	if p == nil {
		return
	}
	if c := p.SystemCertificate; c != nil && c.CA != "" {
		v.add("preseed.system_certificate.ca", "Operations Center has no such field")
	} else {
		v.certified("preseed.system_certificate", c)
	}
	if p.SystemUpdates != nil && p.SystemUpdates.SignatureVerificationRootCA != "" {
		v.certificate("preseed.system_updates.signature_verification_root_ca", p.SystemUpdates.SignatureVerificationRootCA)
	}
}

// clients checks the certificates of clients.
func (v *validation) clients(certificates []string) {
	for i, text := range certificates {
		v.certificate(fmt.Sprintf("trusted_client_certificates[%d]", i), text)
	}
}

// certified checks a certificate and its key; nil is accepted.
func (v *validation) certified(field string, c *SystemCertificate) {
	if c == nil {
		return
	}
	v.certificate(field+".certificate", c.Certificate)
	v.require(field+".key", string(c.Key))
	if c.CA != "" {
		v.certificate(field+".ca", c.CA)
	}
}
