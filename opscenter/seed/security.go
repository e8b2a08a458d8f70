package seed

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// Security is whom the server trusts.
type Security struct {
	Version Version `json:"version"`
	// CustomCACerts are certificates in PEM form that the server trusts besides those of its system.
	CustomCACerts []string `json:"custom_ca_certs,omitempty"`
	// EncryptionRecoveryKeys are refused by a server: it makes its own.
	EncryptionRecoveryKeys []Secret `json:"encryption_recovery_keys,omitempty"`
}

func (s *Security) validate(v *validation) {
	for i, text := range s.CustomCACerts {
		v.certificate(fmt.Sprintf("custom_ca_certs[%d]", i), text)
	}
	if len(s.EncryptionRecoveryKeys) > 0 {
		v.add("encryption_recovery_keys", "they can't be given in a seed: the server makes its own, and refuses these")
	}
}

// certificate wants one or more certificates in PEM form.
func (v *validation) certificate(field, text string) {
	rest := []byte(text)
	for n := 0; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if n == 0 {
				v.add(field, "a certificate in PEM form is wanted")
			}
			return
		}
		if _, err := x509.ParseCertificate(block.Bytes); block.Type != "CERTIFICATE" || err != nil {
			v.add(field, "it holds something else than certificates")
			return
		}
	}
}
