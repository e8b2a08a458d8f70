// Package smime reads and writes signed messages (S/MIME, RFC 8551). It supports the two forms in which the publisher of
// IncusOS signs its index and its releases:
//
//   - Detached: multipart/signed, with the signature as a separate part, smime.p7s,
//   - Opaque: application/x-pkcs7-mime, with the content inside the signature.
//
// In both forms the signed data is a MIME part with its own header, "Content-Type: text/plain". The signature is computed over
// lines that end with CRLF, even if the message arrives with other line ends.
package smime

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"mime"
	"net/textproto"
	"strings"
	"time"

	"github.com/smallstep/pkcs7"
)

// Form is the place of the signature in a message.
type Form string

// The forms. See the package comment.
const (
	Detached Form = "detached"
	Opaque   Form = "opaque"
)

// Limits of Verify.
const (
	// MaxMessage is the maximum size of a message, in bytes.
	MaxMessage = 8 << 20
	// MaxSignature is the maximum size of a detached signature, in bytes.
	MaxSignature = 64 << 10
	// MaxCertificates is the maximum number of certificates in a signature.
	MaxCertificates = 16

	maxHeader = 16 << 10
)

// ErrMalformed: the data is not a signed message in one of the two forms, or exceeds a limit.
var ErrMalformed = errors.New("is no signed message")

// ErrSignature: the signature does not match the content, or its certificate is not trusted.
var ErrSignature = errors.New("the signature is refused")

// Trust decides which signatures are accepted.
type Trust struct {
	// Root is the authority to which the signing certificate must chain. Required.
	Root *x509.Certificate
	// Through are authorities under Root, of which the chain must contain at least one. Empty: any chain is accepted.
	Through []*x509.Certificate
	// Now is the time at which the certificates must be valid. Default: the present.
	Now time.Time
	// Grace is how long an expired certificate is still accepted. Default: not at all.
	Grace time.Duration
}

// Signed is a verified message.
type Signed struct {
	// Content of the signed part, without its header. Its lines end with CRLF.
	Content []byte
	// Ends is the earliest expiry of a certificate in the chain.
	Ends time.Time
	// Late: a certificate of the chain has expired before Trust.Now, by less than Trust.Grace.
	Late bool
	// Name is the common name of the signing certificate.
	Name string
	// At is the signing time that the signature claims; zero: it claims none.
	At time.Time
}

// Verify verifies a signed message and returns its content. Errors: ErrMalformed, ErrSignature.
func Verify(message []byte, trust Trust) (*Signed, error) {
	if len(message) > MaxMessage {
		return nil, fmt.Errorf("a message of %d bytes, at most %d are read: %w", len(message), MaxMessage, ErrMalformed)
	}
	header, body, err := head(message)
	if err != nil {
		return nil, err
	}
	media, parameters, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil {
		return nil, fmt.Errorf("header Content-Type: %w: %v", ErrMalformed, err)
	}
	var part, signature []byte
	switch media {
	case "multipart/signed":
		part, signature, err = parts(body, parameters["boundary"])
	case "application/x-pkcs7-mime", "application/pkcs7-mime":
		signature, err = decoded(header, body)
	default:
		err = fmt.Errorf("content type %.80q: %w", media, ErrMalformed)
	}
	if err != nil {
		return nil, err
	}
	if media == "multipart/signed" && len(signature) > MaxSignature {
		return nil, fmt.Errorf("a signature of %d bytes, at most %d are read: %w", len(signature), MaxSignature, ErrMalformed)
	}
	return check(part, signature, trust)
}

// check verifies a signature over part. If part is nil, the signature contains the signed data.
func check(part, signature []byte, trust Trust) (*Signed, error) {
	p7, err := parse(signature)
	if err != nil {
		return nil, err
	}
	if part != nil {
		if len(p7.Content) > 0 {
			return nil, fmt.Errorf("the detached signature contains other content: %w", ErrMalformed)
		}
		p7.Content = part
	}
	if len(p7.Signers) != 1 {
		return nil, fmt.Errorf("%d signers instead of one: %w", len(p7.Signers), ErrSignature)
	}
	switch digest := p7.Signers[0].DigestAlgorithm.Algorithm; {
	case digest.Equal(pkcs7.OIDDigestAlgorithmSHA256), digest.Equal(pkcs7.OIDDigestAlgorithmSHA384), digest.Equal(pkcs7.OIDDigestAlgorithmSHA512):
	default:
		return nil, fmt.Errorf("digest algorithm %v is not accepted: %w", digest, ErrSignature)
	}
	leaf := p7.GetOnlySigner()
	if leaf == nil {
		return nil, fmt.Errorf("the signing certificate is missing: %w", ErrSignature)
	}
	if err := guarded(p7.Verify); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrSignature, err)
	}
	out := &Signed{Name: leaf.Subject.CommonName}
	chain, late, err := trust.chain(leaf, p7.Certificates)
	if err != nil {
		return nil, err
	}
	out.Late, out.Ends = late, leaf.NotAfter
	for _, certificate := range chain {
		if certificate.NotAfter.Before(out.Ends) {
			out.Ends = certificate.NotAfter
		}
	}
	_ = p7.UnmarshalSignedAttribute(pkcs7.OIDAttributeSigningTime, &out.At)
	if out.Content, err = content(p7.Content); err != nil {
		return nil, err
	}
	return out, nil
}

// chain returns the certificates from the leaf to the root, and whether one of them has expired.
func (t Trust) chain(leaf *x509.Certificate, certificates []*x509.Certificate) ([]*x509.Certificate, bool, error) {
	now := t.Now
	if now.IsZero() {
		now = time.Now()
	}
	if t.Root == nil {
		return nil, false, fmt.Errorf("no root is trusted: %w", ErrSignature)
	}
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	options.Roots.AddCert(t.Root)
	for _, certificate := range certificates {
		options.Intermediates.AddCert(certificate)
	}
	chains, err := leaf.Verify(options)
	late := false
	if invalid := (x509.CertificateInvalidError{}); errors.As(err, &invalid) && invalid.Reason == x509.Expired && t.Grace > 0 {
		options.CurrentTime = now.Add(-t.Grace)
		if again, failure := leaf.Verify(options); failure == nil {
			chains, late, err = again, true, nil
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("certificate %.80q: %w: %v", leaf.Subject.CommonName, ErrSignature, err)
	}
	for _, chain := range chains {
		if t.through(chain) {
			return chain, late, nil
		}
	}
	return nil, false, fmt.Errorf("certificate %.80q does not chain through a required intermediate certificate: %w", leaf.Subject.CommonName, ErrSignature)
}

// through reports whether the chain contains one of t.Through, or t.Through is empty.
func (t Trust) through(chain []*x509.Certificate) bool {
	for _, required := range t.Through {
		for _, certificate := range chain[1:] {
			if certificate.Equal(required) {
				return true
			}
		}
	}
	return len(t.Through) == 0
}

// parse reads a signature after checkDepth, since the library recurses into nested parts.
func parse(signature []byte) (p7 *pkcs7.PKCS7, err error) {
	if err := checkDepth(signature); err != nil {
		return nil, err
	}
	err = guarded(func() (err error) {
		p7, err = pkcs7.Parse(signature)
		return err
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("the signature: %w: %v", ErrMalformed, err)
	case len(p7.Certificates) > MaxCertificates:
		return nil, fmt.Errorf("the signature holds %d certificates, at most %d are read: %w", len(p7.Certificates), MaxCertificates, ErrMalformed)
	}
	return p7, nil
}

// guarded turns a panic of the library, which reads untrusted input, into an error.
func guarded(do func() error) (err error) {
	defer func() {
		if caught := recover(); caught != nil {
			err = fmt.Errorf("%w: the reader failed: %v", ErrMalformed, caught)
		}
	}()
	return do()
}

// head splits a message, or a part of one, at the empty line after its header.
func head(message []byte) (textproto.MIMEHeader, []byte, error) {
	header := textproto.MIMEHeader{}
	last := ""
	for rest := message; ; {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			return nil, nil, fmt.Errorf("there is no empty line behind the header: %w", ErrMalformed)
		}
		if len(message)-len(rest)+end > maxHeader {
			return nil, nil, fmt.Errorf("the header is longer than %d bytes: %w", maxHeader, ErrMalformed)
		}
		line := string(bytes.TrimSuffix(rest[:end], []byte("\r")))
		rest = rest[end+1:]
		name, value, ok := strings.Cut(line, ":")
		switch {
		case line == "":
			return header, rest, nil
		case len(header) > 50 || len(line) > 1000:
			return nil, nil, fmt.Errorf("the header is too long: %w", ErrMalformed)
		case (line[0] == ' ' || line[0] == '\t') && last != "": // continues the previous line
			header.Set(last, header.Get(last)+" "+strings.TrimSpace(line))
		case !ok:
			return nil, nil, fmt.Errorf("a line of the header without a colon: %w", ErrMalformed)
		default:
			last = textproto.TrimString(name)
			header.Set(last, textproto.TrimString(value))
		}
	}
}

// parts returns the signed part of a multipart message, with canonical line ends, and its signature.
func parts(body []byte, boundary string) (part, signature []byte, err error) {
	if boundary == "" {
		return nil, nil, fmt.Errorf("there is no boundary: %w", ErrMalformed)
	}
	found := sections(body, boundary)
	if len(found) != 2 {
		return nil, nil, fmt.Errorf("%d parts instead of two: %w", len(found), ErrMalformed)
	}
	header, encoded, err := head(append(found[1], '\n'))
	if err != nil {
		return nil, nil, err
	}
	if media, _, _ := mime.ParseMediaType(header.Get("Content-Type")); media != "application/x-pkcs7-signature" && media != "application/pkcs7-signature" {
		return nil, nil, fmt.Errorf("the second part is of type %.80q: %w", media, ErrMalformed)
	}
	signature, err = decoded(header, encoded)
	return canonical(found[0]), signature, err
}

// sections returns the data between the lines of the boundary, without the line ends next to them.
func sections(body []byte, boundary string) (out [][]byte) {
	delimiter := []byte("--" + boundary)
	begin := -1
	for at := 0; at < len(body); {
		end := bytes.IndexByte(body[at:], '\n')
		next := at + end + 1
		if end < 0 {
			next = len(body)
		}
		line := bytes.TrimRight(body[at:next], "\r\n \t")
		if closing := bytes.HasSuffix(line, []byte("--")) && bytes.Equal(line[:len(line)-2], delimiter); closing || bytes.Equal(line, delimiter) {
			if begin >= 0 {
				section := body[begin:max(begin, at)]
				section = bytes.TrimSuffix(bytes.TrimSuffix(section, []byte("\n")), []byte("\r"))
				out = append(out, section[:len(section):len(section)])
			}
			if begin = next; closing || len(out) > 2 {
				return out
			}
		}
		at = next
	}
	return nil // the closing boundary is missing
}

// canonical ends each line with CRLF, as in the signed data.
func canonical(part []byte) []byte {
	return bytes.ReplaceAll(bytes.ReplaceAll(part, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
}

// decoded decodes the body of a part by its transfer encoding.
func decoded(header textproto.MIMEHeader, body []byte) ([]byte, error) {
	switch encoding := strings.ToLower(header.Get("Content-Transfer-Encoding")); encoding {
	case "base64":
		out, err := base64.StdEncoding.DecodeString(string(bytes.ReplaceAll(body, []byte(" "), nil))) // DecodeString skips line ends
		if err != nil {
			return nil, fmt.Errorf("the signature: %w: %v", ErrMalformed, err)
		}
		return out, nil
	case "binary", "8bit", "7bit", "":
		return body, nil
	default:
		return nil, fmt.Errorf("transfer encoding %.40q: %w", encoding, ErrMalformed)
	}
}

// content returns the signed data without the header of its part.
func content(part []byte) ([]byte, error) {
	if begin := bytes.TrimLeft(part, " \t\r\n"); len(begin) > 0 && (begin[0] == '{' || begin[0] == '[') {
		return part, nil // JSON without a header
	}
	header, body, err := head(part)
	if err != nil {
		return nil, fmt.Errorf("the signed part: %w", err)
	}
	if encoding := header.Get("Content-Transfer-Encoding"); encoding != "" && !strings.EqualFold(encoding, "7bit") && !strings.EqualFold(encoding, "8bit") && !strings.EqualFold(encoding, "binary") {
		return nil, fmt.Errorf("the signed part has transfer encoding %.40q: %w", encoding, ErrMalformed)
	}
	return body, nil
}
