package seed

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// Security configures which certificate authorities the server trusts.
type Security struct {
	Version Version `json:"version"`
	// CustomCACerts are further trusted certificates, in PEM form.
	CustomCACerts []string `json:"custom_ca_certs,omitempty"`
	// EncryptionRecoveryKeys must be empty: a server generates its own keys and rejects a seed with keys.
	EncryptionRecoveryKeys []Secret `json:"encryption_recovery_keys,omitempty"`
}

func (s *Security) validate(v *validation) {
	for i, text := range s.CustomCACerts {
		v.certificate(fmt.Sprintf("custom_ca_certs[%d]", i), text)
	}
	if len(s.EncryptionRecoveryKeys) > 0 {
		v.add("encryption_recovery_keys", "they must not be set in a seed: the server generates its own keys")
	}
}

// certificate rejects a text unless it has one or more certificates in PEM form and nothing else.
func (v *validation) certificate(field, text string) {
	rest := []byte(text)
	for n := 0; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if n == 0 {
				v.add(field, "it must be a certificate in PEM form")
			}
			return
		}
		if _, err := x509.ParseCertificate(block.Bytes); block.Type != "CERTIFICATE" || err != nil {
			v.add(field, "it must contain only certificates")
			return
		}
	}
}
