// Package smimetest makes the certificates of a publisher of updates, for tests and for simulated publishers.
package smimetest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"time"

	"github.com/opscenter-go/sdk/internal/smime"
)

// Authority signs certificates and messages with a P-256 key, as the publisher of IncusOS does.
type Authority struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
	Issuer      *Authority // nil: the certificate is self-signed
}

// Validity is the time for which a certificate is valid. Default: from an hour ago to 20 years from now.
type Validity struct{ From, To time.Time }

// New makes a self-signed root.
func New(name string, validity Validity) (*Authority, error) { return issue(nil, name, validity) }

// Issue makes a certificate under this one. The new certificate may issue further ones.
func (a *Authority) Issue(name string, validity Validity) (*Authority, error) {
	return issue(a, name, validity)
}

// issue makes a certificate under issuer; nil: a self-signed one.
func issue(issuer *Authority, name string, validity Validity) (*Authority, error) {
	if validity.From.IsZero() {
		validity.From = time.Now().Add(-time.Hour)
	}
	if validity.To.IsZero() {
		validity.To = time.Now().AddDate(20, 0, 0)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: validity.From, NotAfter: validity.To,
		BasicConstraintsValid: true, IsCA: true}
	out := &Authority{Key: key, Issuer: issuer}
	parent, signer := template, crypto.Signer(key)
	if issuer != nil {
		parent, signer = issuer.Certificate, issuer.Key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	out.Certificate, err = x509.ParseCertificate(der)
	return out, err
}

// Signer returns a signer with this certificate. Its Chain has the intermediate authorities, without the root.
func (a *Authority) Signer() smime.Signer {
	out := smime.Signer{Certificate: a.Certificate, Key: a.Key}
	for up := a.Issuer; up != nil && up.Issuer != nil; up = up.Issuer {
		out.Chain = append(out.Chain, up.Certificate)
	}
	return out
}
