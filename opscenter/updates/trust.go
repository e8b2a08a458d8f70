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

// DefaultGrace is for how long after its end a signing certificate counts, see Trust.
const DefaultGrace = 30 * 24 * time.Hour

// Trust is whose signatures count. The zero value is that of IncusOS: its root certificate.
//
// The certificates must be valid when a signature is verified: an old signature does not count for ever. So that a
// publisher who is late does not stop the mirror in the night in which its certificate ends, what it has signed before
// counts Grace longer. A warning stands from 90 days before the end (opscenter.WarningSigner). What says that it was signed
// after the end is refused.
type Trust struct {
	// Root under which the signing certificate must be. Default: "Incus OS - Root E1".
	Root *x509.Certificate
	// Through, if any are given, are intermediate certificates of which the chain must hold one, as IncusOS itself
	// wants it.
	Through []*x509.Certificate
	// Grace is for how long after its end a certificate still counts. Default 30 days; below 0: not at all.
	Grace time.Duration
}

//go:embed root-e1.pem
var rootE1 []byte

// IncusOSRoot is the root under which IncusOS and its updates are signed, "Incus OS - Root E1".
var IncusOSRoot = sync.OnceValue(func() *x509.Certificate {
	root, err := parseCertificate(rootE1)
	if err != nil {
		panic(err) // it is in this package
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

// verify reads a signed message. Only what was verified is returned.
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
		return nil, nil, fmt.Errorf("%w; what counts is signed under %q", err, t.Root.Subject.CommonName)
	}
	return signed.Content, &Signature{Name: signed.Name, Ends: signed.Ends, Late: signed.Late}, nil
}

// Index verifies a signed index, index.sjson, and reads it: for a Source of your own. Errors: ErrSignature, ErrInvalid.
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
