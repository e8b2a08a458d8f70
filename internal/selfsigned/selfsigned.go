// Package selfsigned makes certificates that sign themselves, as IncusOS servers and control
// planes present them to each other: ECDSA P-384.
package selfsigned

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/opscenter-go/sdk/internal/durable"
)

// validity of a new certificate.
const validity = 10 * 365 * 24 * time.Hour

// New makes a certificate for use on either side of a connection. hosts are the names and
// addresses it is for.
func New(commonName string, hosts ...string) (tls.Certificate, error) {
	return newUntil(time.Now().Add(validity), commonName, hosts)
}

// Expired makes a certificate that expired a minute ago.
func Expired(commonName string, hosts ...string) (tls.Certificate, error) {
	return newUntil(time.Now().Add(-time.Minute), commonName, hosts)
}

func newUntil(notAfter time.Time, commonName string, hosts []string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: commonName},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// Load reads the certificate kept as name.crt and name.key in dir, and makes it where there is none.
func Load(dir, name string, hosts ...string) (tls.Certificate, error) {
	certPath, keyPath := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	// A certificate without its key is an identity that was lost, and not one to replace
	// without a word; a key without its certificate is what a crash leaves of a first start.
	if _, err := os.Stat(certPath); !errors.Is(err, os.ErrNotExist) {
		return tls.LoadX509KeyPair(certPath, keyPath)
	}
	made, err := New(name, hosts...)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(made.PrivateKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	// The key first: a certificate without one would be of no use, and is what Load looks for.
	err = write(keyPath, "PRIVATE KEY", key)
	if err == nil {
		err = write(certPath, "CERTIFICATE", made.Certificate[0])
	}
	return made, err
}

// write stores a PEM block whole or not at all, for its owner only.
func write(path, kind string, der []byte) error {
	temporary := path + ".new"
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(pem.Encode(file, &pem.Block{Type: kind, Bytes: der}), file.Sync(), file.Close())
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}
