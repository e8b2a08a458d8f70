package seed

import "fmt"

// MigrationManager is how Migration Manager begins.
type MigrationManager struct {
	Version Version `json:"version"`
	// TrustedClientCertificates are those of its first users, in PEM form.
	TrustedClientCertificates []string                 `json:"trusted_client_certificates,omitempty"`
	ApplyDefaults             bool                     `json:"apply_defaults,omitempty"`
	Preseed                   *MigrationManagerPreseed `json:"preseed,omitempty"`
}

// MigrationManagerPreseed is its first configuration.
type MigrationManagerPreseed struct {
	SystemCertificate *SystemCertificate             `json:"system_certificate,omitempty"`
	SystemNetwork     *MigrationManagerSystemNetwork `json:"system_network,omitempty"`
	SystemSecurity    *SystemSecurity                `json:"system_security,omitempty"`
}

// MigrationManagerSystemNetwork is where it listens, and where its workers find it.
type MigrationManagerSystemNetwork struct {
	RestServerAddress string `json:"rest_server_address,omitempty"`
	WorkerEndpoint    string `json:"worker_endpoint,omitempty"`
}

// OperationsCenter is how Operations Center begins.
type OperationsCenter struct {
	Version Version `json:"version"`
	// TrustedClientCertificates are those of its first users, in PEM form.
	TrustedClientCertificates []string                 `json:"trusted_client_certificates,omitempty"`
	ApplyDefaults             bool                     `json:"apply_defaults,omitempty"`
	Preseed                   *OperationsCenterPreseed `json:"preseed,omitempty"`
}

// OperationsCenterPreseed is its first configuration.
type OperationsCenterPreseed struct {
	SystemCertificate *SystemCertificate             `json:"system_certificate,omitempty"`
	SystemNetwork     *OperationsCenterSystemNetwork `json:"system_network,omitempty"`
	SystemSecurity    *SystemSecurity                `json:"system_security,omitempty"`
	SystemUpdates     *SystemUpdates                 `json:"system_updates,omitempty"`
	SystemSettings    *SystemSettings                `json:"system_settings,omitempty"`
}

// OperationsCenterSystemNetwork is where it listens, and where its servers find it.
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

// SystemSettings are Operations Center's other settings.
type SystemSettings struct {
	LogLevel                    string `json:"log_level,omitempty"`
	ServerRegistrationScriptlet string `json:"server_registration_scriptlet,omitempty"`
}

// SystemCertificate is the certificate of an application, in PEM form.
type SystemCertificate struct {
	Certificate string `json:"certificate"`
	Key         Secret `json:"key"`
	// CA is known to Migration Manager alone.
	CA string `json:"ca,omitempty"`
}

// SystemSecurity is whom an application trusts.
type SystemSecurity struct {
	TrustedTLSClientCertFingerprints []string `json:"trusted_tls_client_cert_fingerprints,omitempty"`
	TrustedHTTPSProxies              []string `json:"trusted_https_proxies,omitempty"`
	OIDC                             *OIDC    `json:"oidc,omitempty"`
	OpenFGA                          *OpenFGA `json:"openfga,omitempty"`
	ACME                             *ACME    `json:"acme,omitempty"`
}

// OIDC is an OpenID Connect server that vouches for users.
type OIDC struct {
	Issuer   string `json:"issuer,omitempty"`
	ClientID string `json:"client_id,omitempty"`
	Scopes   string `json:"scopes,omitempty"`
	Audience string `json:"audience,omitempty"`
	Claim    string `json:"claim,omitempty"`
}

// OpenFGA is an OpenFGA server that says what users may do.
type OpenFGA struct {
	APIToken Secret `json:"api_token,omitempty"`
	APIURL   string `json:"api_url,omitempty"`
	StoreID  string `json:"store_id,omitempty"`
}

// ACME is an authority that the application gets its certificate from.
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

func (v *validation) clients(certificates []string) {
	for i, text := range certificates {
		v.certificate(fmt.Sprintf("trusted_client_certificates[%d]", i), text)
	}
}

func (v *validation) certified(field string, c *SystemCertificate) {
	if c == nil {
		return
	}
	v.certificate(field+".certificate", c.Certificate)
	v.wanted(field+".key", string(c.Key))
	if c.CA != "" {
		v.certificate(field+".ca", c.CA)
	}
}
