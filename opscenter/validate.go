package opscenter

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Limits of what the Registry takes, in bytes where nothing else is said. Beyond them: ErrTooLong.
const (
	MaxNameLength        = 253
	MaxLabelLength       = 63 // of each part of a name between dots
	MaxURLLength         = 2048
	MaxDescriptionLength = 4096
	MaxProperties        = 64 // number of them
	MaxPropertyKey       = 128
	MaxPropertyValue     = 4096
	MaxCertificateSize   = 16 << 10 // of the DER form
	MaxTokenUses         = 1_000_000
)

// checkServerName applies Incus's rules for host names: 1 to 63 letters, digits and hyphens,
// no hyphen at either end, not a number. A fully qualified name, as servers may send it, is
// a sequence of such labels; of those, only the whole must not be a number. A name that
// begins with ":" could be mistaken for an endpoint, as ":self", and is none of these.
func checkServerName(name string) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("server name %q: %s: %w", cut(name), fmt.Sprintf(format, args...), ErrInvalidName)
	}
	if name == "" {
		return bad("must not be empty")
	}
	if len(name) > MaxNameLength {
		return fmt.Errorf("server name %q: %d bytes, at most %d are allowed: %w: %w", cut(name), len(name), MaxNameLength, ErrInvalidName, ErrTooLong)
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) < 1 || len(label) > MaxLabelLength {
			return bad("each part must have 1 to %d characters", MaxLabelLength)
		}
		if label[0] == '-' || label[len(label)-1] == '-' {
			return bad(`must not start or end with "-"`)
		}
		for _, c := range []byte(label) {
			if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
				return bad("only letters, digits and hyphens are allowed")
			}
		}
	}
	if _, err := strconv.ParseUint(name, 10, 64); err == nil {
		return bad("must not be a number")
	}
	return nil
}

// checkObjectName is for the names of channels and clusters.
func checkObjectName(what, name string) error {
	if err := checkLength(what+" name", name, MaxLabelLength); err != nil {
		return err
	}
	for i, r := range name {
		if !(r == '-' || r == '_' || r == '.') && !(r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r))) || i == 0 && r == '-' {
			return fmt.Errorf("%s name %q: only letters, digits, hyphens, underscores and dots are allowed: %w", what, cut(name), ErrInvalidName)
		}
	}
	if strings.Trim(name, ".") == "" {
		return fmt.Errorf("%s name %q: must not be empty, or dots alone: %w", what, name, ErrInvalidName)
	}
	return nil
}

// checkURL wants an absolute https URL with a host, and nothing that names a user.
func checkURL(what, raw string) error {
	if err := checkLength(what, raw, MaxURLLength); err != nil {
		return err
	}
	bad := func(why string) error { return fmt.Errorf("%s: %s: %w", what, why, ErrInvalidURL) }
	u, err := url.Parse(raw)
	if err != nil {
		return bad("not a URL") // the parser's error repeats it, with what secrets it may hold
	}
	switch {
	case u.Scheme != "https":
		return bad(fmt.Sprintf("scheme %q, https is wanted", u.Scheme))
	case u.User != nil:
		return bad("must not hold a user or a password")
	case u.Hostname() == "":
		return bad("has no host")
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return bad("must have neither query nor fragment")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return bad(fmt.Sprintf("port %q", cut(port)))
		}
	} else if strings.HasSuffix(u.Host, ":") {
		return bad("has a colon without a port")
	}
	return nil
}

func checkLength(what, value string, limit int) error {
	if len(value) > limit {
		return fmt.Errorf("%s: %d bytes, at most %d are allowed: %w", what, len(value), limit, ErrTooLong)
	}
	if !utf8.ValidString(value) {
		return fmt.Errorf("%s: %w", what, errNotText)
	}
	return nil
}

var errNotText = fmt.Errorf("not valid UTF-8: %w", ErrInvalidName)

func checkProperties(properties map[string]string) error {
	if len(properties) > MaxProperties {
		return fmt.Errorf("%d properties, at most %d are allowed: %w", len(properties), MaxProperties, ErrTooLong)
	}
	for key, value := range properties {
		if key == "" {
			return fmt.Errorf("a property has an empty name: %w", ErrInvalidName)
		}
		if err := checkLength("property name", key, MaxPropertyKey); err != nil {
			return err
		}
		if err := checkLength("property "+key, value, MaxPropertyValue); err != nil {
			return err
		}
	}
	return nil
}

// placeholderUUIDs are what firmware says that was never given a UUID. They identify nobody.
var placeholderUUIDs = map[string]bool{
	"00000000-0000-0000-0000-000000000000": true,
	"ffffffff-ffff-ffff-ffff-ffffffffffff": true,
	"03000200-0400-0500-0006-000700080009": true,
	"12345678-1234-5678-90ab-cddeefaabbcc": true,
	"fefefefe-fefe-fefe-fefe-fefefefefefe": true,
}

// normalSystemUUID returns the canonical form, and "" for none.
func normalSystemUUID(value string) (string, error) {
	if value == "" {
		return "", nil
	}
	u, err := uuid.Parse(value)
	if err != nil || len(value) != 36 {
		return "", fmt.Errorf("system UUID %q: a UUID is wanted: %w", cut(value), ErrInvalidSystemUUID)
	}
	if placeholderUUIDs[u.String()] {
		return "", nil
	}
	return u.String(), nil
}

// normalMachineID returns the lower-case form, and "" for none.
func normalMachineID(value string) (string, error) {
	if value == "" {
		return "", nil
	}
	raw, err := hex.DecodeString(value)
	if err != nil || len(raw) != 16 {
		return "", fmt.Errorf("machine ID %q: 32 hexadecimal digits are wanted: %w", cut(value), ErrInvalidMachineID)
	}
	if strings.Trim(value, "0") == "" {
		return "", nil
	}
	return strings.ToLower(value), nil
}

// checkFingerprint returns a fingerprint in lower case; empty is allowed.
func checkFingerprint(fingerprint string) (string, error) {
	if raw, err := hex.DecodeString(fingerprint); err != nil || len(raw) != 0 && len(raw) != sha256.Size {
		return "", fmt.Errorf("fingerprint %q, SHA-256 in 64 hexadecimal digits is wanted: %w", cut(fingerprint), ErrInvalidCertificate)
	}
	return strings.ToLower(fingerprint), nil
}

// Fingerprint returns the SHA-256 fingerprint of a certificate in hexadecimal digits, as Incus writes it.
func Fingerprint(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.Raw)
	return hex.EncodeToString(sum[:])
}

// EncodeCertificate returns the PEM form.
func EncodeCertificate(certificate *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
}

// ParseCertificate reads one certificate in PEM form. ErrInvalidCertificate if there is none, or more than one.
func ParseCertificate(text string) (*x509.Certificate, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("no PEM certificate: %w", ErrInvalidCertificate)
	}
	if strings.TrimSpace(string(rest)) != "" {
		return nil, fmt.Errorf("more than one certificate, or text behind it: %w", ErrInvalidCertificate)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidCertificate, err)
	}
	return certificate, nil
}

// ParseCertificates reads certificates in PEM form, one at least.
func ParseCertificates(text string) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		one, err := ParseCertificate(string(pem.EncodeToMemory(block)))
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no PEM certificate: %w", ErrInvalidCertificate)
	}
	return out, nil
}

func checkCertificate(certificate *x509.Certificate) error {
	if certificate == nil || len(certificate.Raw) == 0 {
		return ErrNoCertificate
	}
	if len(certificate.Raw) > MaxCertificateSize {
		return fmt.Errorf("certificate: %d bytes, at most %d are allowed: %w: %w", len(certificate.Raw), MaxCertificateSize, ErrInvalidCertificate, ErrTooLong)
	}
	if certificate.PublicKey == nil {
		return fmt.Errorf("certificate without a key of a known kind: %w", ErrInvalidCertificate)
	}
	return nil
}

// cut shortens a value for an error.
func cut(value string) string { return cutTo(value, 80) }

// cutTo shortens a text to that many bytes, about, of valid UTF-8.
func cutTo(value string, limit int) string {
	if len(value) > limit {
		value = value[:limit] + "…"
	}
	return strings.ToValidUTF8(value, "�")
}
