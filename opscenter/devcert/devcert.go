// Package devcert makes certificates for development and first steps: ECDSA P-384, signed by their own key, valid for
// ten years, for either side of a connection. IncusOS servers pin the certificate of their control plane, so such a
// certificate also carries a fleet; a certificate of a public authority is wanted where servers do not pin it.
package devcert

import (
	"crypto/tls"
	"fmt"
	"os"

	"github.com/opscenter-go/sdk/internal/selfsigned"
)

// New returns a new certificate with the common name, for the hosts: DNS names and IP addresses. It keeps nothing on
// disk, so each start of a program has another identity, which earlier servers refuse. Load keeps one.
func New(commonName string, hosts ...string) (tls.Certificate, error) {
	return selfsigned.New(commonName, hosts...)
}

// Load returns the certificate in dir/name.crt with the key in dir/name.key, both in PEM. It makes both files if there is no
// certificate, with name as the common name, for the hosts. The files have mode 0600; dir has mode 0700 if Load makes it.
//
// A certificate that exists is returned as it is, for its first hosts, because servers pin it. Its Leaf.VerifyHostname tells
// whether it is for another host. To have a new one remove both files; each server that pins the old one must be told of the new one.
//
// Errors: those of the file system, and of a certificate whose key is missing or belongs to another one. Load replaces
// neither. A key without a certificate is a first start that was cut off: Load replaces it.
//
// Load is for one process at a time.
func Load(dir, name string, hosts ...string) (tls.Certificate, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate %s: %w", name, err)
	}
	certificate, err := selfsigned.Load(dir, name, hosts...)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate %s: %w", name, err)
	}
	return certificate, nil
}
