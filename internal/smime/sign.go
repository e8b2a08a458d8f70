package smime

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/smallstep/pkcs7"
)

// Signer signs messages.
type Signer struct {
	// Certificate and Key belong together. Key must be a crypto.Signer.
	Certificate *x509.Certificate
	Key         crypto.PrivateKey
	// Chain has the authorities to include in the signature, beginning with the issuer of Certificate.
	Chain []*x509.Certificate
}

// Sign returns content as a signed message of the form. Errors: those of the key, and an error for an unknown form.
func (s Signer) Sign(content []byte, form Form) ([]byte, error) {
	part := canonical(append([]byte("Content-Type: text/plain\n\n"), content...))
	data, err := pkcs7.NewSignedData(part)
	if err != nil {
		return nil, err
	}
	data.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	if err := data.AddSigner(s.Certificate, s.Key, pkcs7.SignerInfoConfig{}); err != nil {
		return nil, err
	}
	for _, certificate := range s.Chain {
		data.AddCertificate(certificate)
	}
	if form == Detached {
		data.Detach()
	}
	signature, err := data.Finish()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.WriteString("MIME-Version: 1.0\n")
	switch form {
	case Opaque:
		out.WriteString("Content-Disposition: attachment; filename=\"smime.p7m\"\nContent-Type: application/x-pkcs7-mime; smime-type=signed-data; name=\"smime.p7m\"\nContent-Transfer-Encoding: base64\n\n")
		writeBase64(&out, signature)
	case Detached:
		random := make([]byte, 16)
		_, _ = rand.Read(random)
		boundary := "----" + hex.EncodeToString(random)
		fmt.Fprintf(&out, "Content-Type: multipart/signed; protocol=\"application/x-pkcs7-signature\"; micalg=\"sha-256\"; boundary=%q\n\nThis is an S/MIME signed message\n\n", boundary)
		fmt.Fprintf(&out, "--%s\n%s\n--%s\n", boundary, bytes.ReplaceAll(part, []byte("\r\n"), []byte("\n")), boundary)
		out.WriteString("Content-Type: application/x-pkcs7-signature; name=\"smime.p7s\"\nContent-Transfer-Encoding: base64\nContent-Disposition: attachment; filename=\"smime.p7s\"\n\n")
		writeBase64(&out, signature)
		fmt.Fprintf(&out, "\n--%s--\n\n", boundary)
	default:
		return nil, errors.New("form is neither detached nor opaque")
	}
	return out.Bytes(), nil
}

// writeBase64 writes data as base64, in lines of 64 characters.
func writeBase64(out *bytes.Buffer, data []byte) {
	text := base64.StdEncoding.EncodeToString(data)
	for len(text) > 64 {
		out.WriteString(text[:64] + "\n")
		text = text[64:]
	}
	out.WriteString(text + "\n")
}
