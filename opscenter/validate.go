package opscenter

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/internal/truncate"
)

// Limits of values, in bytes unless noted. A value over its limit is ErrTooLong.
const (
	MaxNameLength        = 253
	MaxLabelLength       = 63 // of names of channels and clusters, and of kinds
	MaxURLLength         = 2048
	MaxDescriptionLength = 4096
	MaxProperties        = 64 // number of them
	MaxPropertyKey       = 128
	MaxPropertyValue     = 4096
	MaxCertificateSize   = 16 << 10 // of the DER form
	MaxTokenUses         = 1_000_000
	MaxTokenApplications = 16
)

// checkServerName accepts the names that IncusOS and Operations Center accept, except those that break a path or a
// certificate. IncusOS checks no host name. A name has 1 to MaxNameLength visible ASCII characters, without slash,
// backslash, "?", "#", "%" and "*". "." and ".." are parts of paths. A name that begins with ":" could be mistaken for an
// endpoint, as ":self".
func checkServerName(name string) error {
	bad := func(why string) error {
		return fmt.Errorf("server name %q: %s: %w", truncate.Name(name), why, ErrInvalidName)
	}
	switch {
	case name == "":
		return bad("must not be empty")
	case len(name) > MaxNameLength:
		return fmt.Errorf("server name %q: %d bytes, at most %d are allowed: %w: %w", truncate.Name(name), len(name), MaxNameLength, ErrInvalidName, ErrTooLong)
	case name == "." || name == "..":
		return bad("is a part of paths")
	case name[0] == ':':
		return bad(`must not begin with ":"`)
	}
	for i := range len(name) {
		if !isNameByte(name[i]) {
			return bad(`only visible ASCII characters except / \ ? # % * are allowed`)
		}
	}
	return nil
}

func isNameByte(c byte) bool { return c > ' ' && c < 0x7f && strings.IndexByte(`/\?#%*`, c) < 0 }

// checkObjectName checks the names of channels, clusters, seeds and components.
func checkObjectName(what, name string) error {
	if err := checkLength(what+" name", name, MaxLabelLength); err != nil {
		return err
	}
	for i := range len(name) {
		if !isObjectNameByte(name[i]) || i == 0 && name[i] == '-' {
			return fmt.Errorf("%s name %q: only letters, digits, hyphens, underscores and dots are allowed: %w", what, truncate.Name(name), ErrInvalidName)
		}
	}
	if strings.Trim(name, ".") == "" {
		return fmt.Errorf("%s name %q: must not be empty, or only dots: %w", what, name, ErrInvalidName)
	}
	return nil
}

func isObjectNameByte(c byte) bool {
	return c == '-' || c == '_' || c == '.' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// checkURL accepts an absolute https URL with a host, without a user, a query or a fragment.
func checkURL(what, raw string) error {
	if err := checkLength(what, raw, MaxURLLength); err != nil {
		return err
	}
	bad := func(why string) error { return fmt.Errorf("%s: %s: %w", what, why, ErrInvalidURL) }
	u, err := url.Parse(raw)
	if err != nil {
		return bad("not a URL") // the parser's error contains the URL, which may hold secrets
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
	if why := noServers(u.Hostname()); why != "" {
		return bad(fmt.Sprintf("host %q: %s", truncate.Name(u.Hostname()), why))
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return bad(fmt.Sprintf("port %q", truncate.Name(port)))
		}
	} else if strings.HasSuffix(u.Host, ":") {
		return bad("has a colon without a port")
	}
	return nil
}

// CheckURL checks the form of a URL of a server. what names the URL in errors. Errors: ErrInvalidURL, ErrTooLong.
func CheckURL(what, raw string) error { return checkURL(what, raw) }

// noServers returns the reason why no server can have a host as its address. Empty: one can.
func noServers(host string) string {
	address, err := netip.ParseAddr(host)
	if err != nil {
		// Resolvers take "0", "0x0" and "127.1" for addresses. No host name ends in a number.
		last := strings.TrimSuffix(host, ".")
		last = last[strings.LastIndexByte(last, '.')+1:]
		if last == "" || last[0] >= '0' && last[0] <= '9' && strings.Trim(strings.ToLower(last), "0123456789abcdefx") == "" && (strings.HasPrefix(strings.ToLower(last), "0x") || strings.Trim(last, "0123456789") == "") {
			return "it is neither a name nor a complete IP address"
		}
		return ""
	}
	zone := address.Zone()
	switch address = address.Unmap(); {
	case address.IsUnspecified(), address.Is4() && address.As4()[0] == 0:
		return "the unspecified address is no server's"
	case address.IsMulticast(), address == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "a multicast address is no single server's"
	case address.IsLinkLocalUnicast() && address.Is4(): // the metadata services of clouds are among them
		return "an IPv4 link-local address is no server's"
	case address.IsLinkLocalUnicast() && zone == "":
		return "a link-local address needs a zone"
	}
	return ""
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

// checkShared checks the fields that the specs of servers and clusters share.
func checkShared(description string, properties map[string]string, connectionURL string) error {
	if err := checkLength("description", description, MaxDescriptionLength); err != nil {
		return err
	}
	if err := checkProperties(properties); err != nil {
		return err
	}
	if connectionURL == "" {
		return nil
	}
	return checkURL("connection URL", connectionURL)
}

func checkSpec(spec *ServerSpec) error {
	if err := checkShared(spec.Description, spec.Properties, spec.ConnectionURL); err != nil {
		return err
	}
	if spec.PublicConnectionURL != "" {
		if err := checkURL("public connection URL", spec.PublicConnectionURL); err != nil {
			return err
		}
	}
	return nil
}

// placeholderUUIDs are the UUIDs of firmware that was never given one. They identify no machine.
var placeholderUUIDs = map[string]bool{
	"00000000-0000-0000-0000-000000000000": true,
	"ffffffff-ffff-ffff-ffff-ffffffffffff": true,
	"03000200-0400-0500-0006-000700080009": true,
	"12345678-1234-5678-90ab-cddeefaabbcc": true,
	"fefefefe-fefe-fefe-fefe-fefefefefefe": true,
}

// normalSystemUUID returns the canonical form. It returns "" for an empty value or a placeholder.
func normalSystemUUID(value string) (string, error) {
	if value == "" {
		return "", nil
	}
	u, err := uuid.Parse(value)
	if err != nil || len(value) != 36 {
		return "", fmt.Errorf("system UUID %q: a UUID is required: %w", truncate.Name(value), ErrInvalidSystemUUID)
	}
	if placeholderUUIDs[u.String()] {
		return "", nil
	}
	return u.String(), nil
}

// tokenID returns the canonical form of a token. Its error does not contain the value.
func tokenID(value string) (string, error) {
	id, err := uuid.Parse(value)
	if err != nil || len(value) != 36 {
		return "", ErrTokenMalformed
	}
	return id.String(), nil
}

// normalMachineID returns the form in lower case. It returns "" for an empty value or zeros.
func normalMachineID(value string) (string, error) {
	if value == "" {
		return "", nil
	}
	raw, err := hex.DecodeString(value)
	if err != nil || len(raw) != 16 {
		return "", fmt.Errorf("machine ID %q: 32 hexadecimal digits are required: %w", truncate.Name(value), ErrInvalidMachineID)
	}
	if strings.Trim(value, "0") == "" {
		return "", nil
	}
	return strings.ToLower(value), nil
}

// checkFingerprint returns a fingerprint in lower case. An empty one is allowed.
func checkFingerprint(fingerprint string) (string, error) {
	if raw, err := hex.DecodeString(fingerprint); err != nil || len(raw) != 0 && len(raw) != sha256.Size {
		return "", fmt.Errorf("fingerprint %q, SHA-256 in 64 hexadecimal digits is required: %w", truncate.Name(fingerprint), ErrInvalidCertificate)
	}
	return strings.ToLower(fingerprint), nil
}

// Fingerprint returns the SHA-256 fingerprint of a certificate in 64 hexadecimal digits, in the form that Incus uses.
func Fingerprint(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.Raw)
	return hex.EncodeToString(sum[:])
}

// EncodeCertificate returns a certificate in PEM form.
func EncodeCertificate(certificate *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
}

// ParseCertificate reads one certificate in PEM form. Errors: ErrInvalidCertificate for none, or more than one.
func ParseCertificate(text string) (*x509.Certificate, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("no PEM certificate: %w", ErrInvalidCertificate)
	}
	if strings.TrimSpace(string(rest)) != "" {
		return nil, fmt.Errorf("more than one certificate, or text after it: %w", ErrInvalidCertificate)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidCertificate, err)
	}
	return certificate, nil
}

// ParseCertificates reads one or more certificates in PEM form. Errors: ErrInvalidCertificate.
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

// checkVersion accepts a number in decimal digits.
func checkVersion(version string) error {
	if _, err := strconv.ParseUint(version, 10, 64); err != nil || version[0] == '+' {
		return fmt.Errorf("version %q: digits are required, as in 202610150000: %w", version, ErrInvalidVersion)
	}
	return nil
}
