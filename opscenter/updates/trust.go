package updates

import (
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"fmt"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/internal/smime"
)

// DefaultGrace is the default of Trust.Grace.
const DefaultGrace = 30 * 24 * time.Hour

// Trust decides which signatures are accepted. The zero value trusts the root certificate of IncusOS.
//
// The certificates must be valid at the time of verification, so an old signature expires. Trust accepts a certificate for
// Grace after its expiry, so that a publisher that renews late does not stop the mirror. It rejects a signature that claims
// a signing time after the expiry. The Manager raises warning.Signer 90 days before the expiry.
type Trust struct {
	// Root is the root certificate of accepted signatures. Default: IncusOSRoot.
	Root *x509.Certificate
	// Through are intermediate certificates, of which the chain must contain at least one. IncusOS has the same rule.
	// Empty: any chain to Root is accepted.
	Through []*x509.Certificate
	// Grace is how long an expired certificate is still accepted. Default 30 days; below 0: not at all.
	Grace time.Duration
}

//go:embed root-e1.pem
var rootE1 []byte

// IncusOSRoot returns the root certificate of IncusOS and its updates, "Incus OS - Root E1".
var IncusOSRoot = sync.OnceValue(func() *x509.Certificate {
	root, err := parseCertificate(rootE1)
	if err != nil {
		panic(err) // the certificate is embedded above
	}
	return root
})

func parseCertificate(text []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("no certificate in PEM form: %w", ErrInvalid)
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, fmt.Errorf("more than one certificate: %w", ErrInvalid)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	return certificate, nil
}

// verify verifies a signed message and returns its content.
func (t Trust) verify(message []byte) ([]byte, *Signature, error) {
	if t.Root == nil {
		t.Root = IncusOSRoot()
	}
	switch {
	case t.Grace == 0:
		t.Grace = DefaultGrace
	case t.Grace < 0:
		t.Grace = 0
	}
	signed, err := smime.Verify(message, smime.Trust{Root: t.Root, Through: t.Through, Grace: t.Grace})
	if err != nil {
		return nil, nil, fmt.Errorf("%w; accepted signatures chain to %q", err, t.Root.Subject.CommonName)
	}
	return signed.Content, &Signature{Name: signed.Name, Ends: signed.Ends, Late: signed.Late}, nil
}

// Index verifies and reads a signed index, index.sjson. A custom Source can call it. Errors: ErrSignature, ErrInvalid.
func (t Trust) Index(message []byte) (*Index, error) {
	content, signature, err := t.verify(message)
	if err != nil {
		return nil, err
	}
	list, err := ParseIndex(content)
	if list == nil && err != nil {
		return nil, err
	}
	return &Index{Updates: list, Unusable: err, Signature: signature}, nil
}
