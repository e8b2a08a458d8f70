// Package smime reads and writes signed messages (S/MIME, RFC 8551), in the two forms in which the publisher of
// IncusOS signs its index and its releases:
//
//   - Detached: multipart/signed, the signature lies in a part of its own, smime.p7s,
//   - Opaque: application/x-pkcs7-mime, the signature holds the content.
//
// What is signed in both is a part with a header of its own, "Content-Type: text/plain", in which every line ends with
// CRLF, however the message arrives.
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

// Form is where the signature lies.
type Form string

// The forms.
const (
	Detached Form = "detached"
	Opaque   Form = "opaque"
)

// Limits of Verify.
const (
	// MaxMessage is the size of a message, in bytes.
	MaxMessage = 8 << 20
	// MaxSignature is the size of a detached signature, in bytes.
	MaxSignature = 64 << 10
	// MaxCertificates is how many certificates a signature may hold.
	MaxCertificates = 16

	maxHeader = 16 << 10
)

// ErrMalformed: this is no signed message that can be read.
var ErrMalformed = errors.New("is no signed message")

// ErrSignature: the signature is not that of the content, or not by a certificate that is trusted.
var ErrSignature = errors.New("the signature is refused")

// Trust is whose signatures count.
type Trust struct {
	// Root is the authority under which the signing certificate must be. Required.
	Root *x509.Certificate
	// Through, if any are given, are authorities under Root of which the chain must hold one.
	Through []*x509.Certificate
	// Now is the time at which the certificates must be valid. Default: the clock's.
	Now time.Time
	// Grace is for how long after its end a certificate still counts.
	Grace time.Duration
}

// Signed is a message whose signature counts.
type Signed struct {
	// Content of the signed part, without its header. Its lines end with CRLF.
	Content []byte
	// Ends is when the first certificate of the chain ends.
	Ends time.Time
	// Late: that was before Trust.Now, by less than Trust.Grace.
	Late bool
	// Name is the subject of the signing certificate.
	Name string
	// At is when the signature was made, as it says itself; zero: it does not.
	At time.Time
}

// Verify reads a signed message, and returns what is signed. Errors: ErrMalformed, ErrSignature.
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

// check verifies a signature over part; nil: over what the signature itself holds.
func check(part, signature []byte, trust Trust) (*Signed, error) {
	p7, err := parse(signature)
	if err != nil {
		return nil, err
	}
	if part != nil {
		if len(p7.Content) > 0 {
			return nil, fmt.Errorf("the detached signature holds a content of its own: %w", ErrMalformed)
		}
		p7.Content = part
	}
	if len(p7.Signers) != 1 {
		return nil, fmt.Errorf("%d signers, one is wanted: %w", len(p7.Signers), ErrSignature)
	}
	switch digest := p7.Signers[0].DigestAlgorithm.Algorithm; {
	case digest.Equal(pkcs7.OIDDigestAlgorithmSHA256), digest.Equal(pkcs7.OIDDigestAlgorithmSHA384), digest.Equal(pkcs7.OIDDigestAlgorithmSHA512):
	default:
		return nil, fmt.Errorf("digest algorithm %v is none that counts: %w", digest, ErrSignature)
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

// chain returns the certificates from the leaf to the root, and whether one of them has ended.
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
	return nil, false, fmt.Errorf("certificate %.80q is under none of the required intermediate ones: %w", leaf.Subject.CommonName, ErrSignature)
}

func (t Trust) through(chain []*x509.Certificate) bool {
	for _, wanted := range t.Through {
		for _, certificate := range chain[1:] {
			if certificate.Equal(wanted) {
				return true
			}
		}
	}
	return len(t.Through) == 0
}

// parse reads a signature, whose parts lie in one another no deeper than is usual: the library follows each depth.
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

// guarded turns a panic of the library into an error: the library reads untrusted input.
func guarded(do func() error) (err error) {
	defer func() {
		if caught := recover(); caught != nil {
			err = fmt.Errorf("%w: the reader failed: %v", ErrMalformed, caught)
		}
	}()
	return do()
}

// head splits a message, or a part of one, at the empty line behind its header.
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
		case (line[0] == ' ' || line[0] == '\t') && last != "": // goes on
			header.Set(last, header.Get(last)+" "+strings.TrimSpace(line))
		case !ok:
			return nil, nil, fmt.Errorf("a line of the header without a colon: %w", ErrMalformed)
		default:
			last = textproto.TrimString(name)
			header.Set(last, textproto.TrimString(value))
		}
	}
}

// parts returns the signed part of a multipart message, with CRLF at the end of each line, and its signature.
func parts(body []byte, boundary string) (part, signature []byte, err error) {
	if boundary == "" {
		return nil, nil, fmt.Errorf("there is no boundary: %w", ErrMalformed)
	}
	found := sections(body, boundary)
	if len(found) != 2 {
		return nil, nil, fmt.Errorf("%d parts, two are wanted: %w", len(found), ErrMalformed)
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

// sections returns what lies between the lines of the boundary, without the line ends next to those.
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
	return nil // it was cut
}

// canonical ends each line with CRLF, as what is signed does.
func canonical(part []byte) []byte {
	return bytes.ReplaceAll(bytes.ReplaceAll(part, []byte("\r\n"), []byte("\n")), []byte("\n"), []byte("\r\n"))
}

// decoded returns what the body of a part stands for.
func decoded(header textproto.MIMEHeader, body []byte) ([]byte, error) {
	switch encoding := strings.ToLower(header.Get("Content-Transfer-Encoding")); encoding {
	case "base64":
		out, err := base64.StdEncoding.DecodeString(string(bytes.ReplaceAll(body, []byte(" "), nil))) // which skips line ends
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

// content returns what was signed without the header of its part.
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
