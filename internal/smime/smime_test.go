package smime_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/smime"
	"github.com/opscenter-go/sdk/internal/smime/smimetest"
)

const index = "{\"format\":\"1.0\",\n\"updates\":[]}\n"

// pki is a root, an authority under it, and a signing certificate under that.
type pki struct{ root, middle, leaf *smimetest.Authority }

func newPKI(t testing.TB, leaf smimetest.Validity) pki {
	var p pki
	var err error
	p.root, err = smimetest.New("root", smimetest.Validity{})
	require.NoError(t, err)
	p.middle, err = p.root.Issue("update", smimetest.Validity{})
	require.NoError(t, err)
	p.leaf, err = p.middle.Issue("update 2026", leaf)
	require.NoError(t, err)
	return p
}

func (p pki) sign(t testing.TB, form smime.Form) []byte {
	message, err := p.leaf.Signer().Sign([]byte(index), form)
	require.NoError(t, err)
	return message
}

func TestVerify(t *testing.T) {
	p, other := newPKI(t, smimetest.Validity{}), newPKI(t, smimetest.Validity{})
	trust := smime.Trust{Root: p.root.Certificate}
	both := func(t *testing.T, do func(t *testing.T, message []byte)) {
		for _, form := range []smime.Form{smime.Detached, smime.Opaque} {
			t.Run(string(form), func(t *testing.T) { do(t, p.sign(t, form)) })
		}
	}
	good := func(t *testing.T, message []byte, trust smime.Trust) *smime.Signed {
		signed, err := smime.Verify(message, trust)
		require.NoError(t, err)
		require.JSONEq(t, index, string(signed.Content))
		require.Equal(t, "update 2026", signed.Name)
		require.WithinDuration(t, time.Now(), signed.At, time.Minute)
		return signed
	}
	refused := func(t *testing.T, message []byte, trust smime.Trust, want string) {
		_, err := smime.Verify(message, trust)
		require.ErrorIs(t, err, smime.ErrSignature)
		require.ErrorContains(t, err, want)
	}
	t.Run("unchanged", func(t *testing.T) {
		both(t, func(t *testing.T, message []byte) { require.False(t, good(t, message, trust).Late) })
	})
	t.Run("with CRLF", func(t *testing.T) {
		both(t, func(t *testing.T, message []byte) {
			good(t, bytes.ReplaceAll(message, []byte("\n"), []byte("\r\n")), trust)
		})
	})
	t.Run("wrong root", func(t *testing.T) {
		both(t, func(t *testing.T, message []byte) {
			refused(t, message, smime.Trust{Root: other.root.Certificate}, "unknown authority")
			refused(t, message, smime.Trust{}, "no root")
		})
	})
	t.Run("intermediate missing", func(t *testing.T) {
		alone := smime.Signer{Certificate: p.leaf.Certificate, Key: p.leaf.Key}
		for _, form := range []smime.Form{smime.Detached, smime.Opaque} {
			message, err := alone.Sign([]byte(index), form)
			require.NoError(t, err)
			refused(t, message, trust, "unknown authority")
		}
	})
	t.Run("intermediate required", func(t *testing.T) {
		both(t, func(t *testing.T, message []byte) {
			good(t, message, smime.Trust{Root: p.root.Certificate, Through: []*x509.Certificate{other.middle.Certificate, p.middle.Certificate}})
			refused(t, message, smime.Trust{Root: p.root.Certificate, Through: []*x509.Certificate{other.middle.Certificate}}, "through a required intermediate")
			refused(t, message, smime.Trust{Root: p.root.Certificate, Through: []*x509.Certificate{p.leaf.Certificate}}, "through a required intermediate")
		})
		direct, err := p.root.Issue("direct", smimetest.Validity{})
		require.NoError(t, err)
		message, err := direct.Signer().Sign([]byte(index), smime.Detached)
		require.NoError(t, err)
		refused(t, message, smime.Trust{Root: p.root.Certificate, Through: []*x509.Certificate{p.middle.Certificate}}, "through a required intermediate")
	})
	t.Run("expired", func(t *testing.T) {
		both(t, func(t *testing.T, message []byte) {
			ends := p.leaf.Certificate.NotAfter
			trust := trust
			trust.Grace = 30 * 24 * time.Hour
			trust.Now = ends.Add(-time.Minute)
			signed := good(t, message, trust)
			require.False(t, signed.Late)
			require.True(t, ends.Equal(signed.Ends), "the leaf expires first")
			trust.Now = ends.Add(29 * 24 * time.Hour)
			require.True(t, good(t, message, trust).Late)
			trust.Now = ends.Add(31 * 24 * time.Hour)
			refused(t, message, trust, "expired")
			trust.Now, trust.Grace = ends.Add(time.Minute), 0
			refused(t, message, trust, "expired")
			trust.Now, trust.Grace = p.leaf.Certificate.NotBefore.Add(-24*time.Hour), 30*24*time.Hour
			refused(t, message, trust, "not yet valid")
		})
	})
	t.Run("unrelated certificates in the message", func(t *testing.T) {
		signer := other.leaf.Signer()
		signer.Chain = append(signer.Chain, p.middle.Certificate, p.leaf.Certificate)
		message, err := signer.Sign([]byte(index), smime.Opaque)
		require.NoError(t, err)
		refused(t, message, trust, "unknown authority")
	})
	t.Run("each byte of the content changed", func(t *testing.T) {
		message := p.sign(t, smime.Detached)
		begin, end := bytes.Index(message, []byte("Content-Type: text/plain")), bytes.Index(message, []byte(`"updates":[]}`))+len(`"updates":[]}`)
		for at := begin; at < end; at++ {
			tampered := bytes.Clone(message)
			tampered[at] ^= 1
			_, err := smime.Verify(tampered, trust)
			require.Error(t, err, "byte %d, %q", at, message[at])
		}
	})
	t.Run("header stripped", func(t *testing.T) {
		message := bytes.Replace(p.sign(t, smime.Detached), []byte("Content-Type: text/plain\n\n"), nil, 1)
		refused(t, message, trust, "")
	})
	t.Run("content in a detached signature", func(t *testing.T) {
		opaque, detached := p.sign(t, smime.Opaque), string(p.sign(t, smime.Detached))
		_, inner, _ := bytes.Cut(opaque, []byte("\n\n"))
		at := strings.LastIndex(detached, "\n\n--")
		begin := strings.LastIndex(detached[:at], "\n\n") + 2
		_, err := smime.Verify([]byte(detached[:begin]+string(inner)+detached[at:]), trust)
		require.ErrorIs(t, err, smime.ErrMalformed)
	})
}

// TestPublicIndex verifies a real index of the public server under the root certificate of IncusOS.
func TestPublicIndex(t *testing.T) {
	message, err := os.ReadFile(filepath.Join("testdata", "index.sjson"))
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join("testdata", "root-e1.pem"))
	require.NoError(t, err)
	block, _ := pem.Decode(text)
	root, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	signed, err := smime.Verify(message, smime.Trust{Root: root, Now: time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)})
	require.NoError(t, err)
	require.Equal(t, "Incus OS - Update 2025 E1", signed.Name)
	require.Equal(t, "2027-06-26", signed.Ends.Format(time.DateOnly))
	require.Equal(t, "2025-07-03T05:29:04Z", signed.At.Format(time.RFC3339))
	require.True(t, bytes.HasPrefix(signed.Content, []byte(`{"format":"1.0","updates":[{`)))
	_, err = smime.Verify(bytes.Replace(message, []byte("234952160"), []byte("234952161"), 1), smime.Trust{Root: root, Now: signed.At})
	require.ErrorIs(t, err, smime.ErrSignature)
}

func TestMalformed(t *testing.T) {
	p := newPKI(t, smimetest.Validity{})
	message := string(p.sign(t, smime.Detached))
	for name, text := range map[string]string{
		"empty": "", "no header": "\n", "JSON": index, "text": "Content-Type: text/plain\n\n" + index, "no body": "Content-Type: multipart/signed; boundary=x\n\n",
		"no boundary": strings.Replace(message, "boundary=", "border=", 1), "cut": message[:len(message)/2], "closing boundary cut": strings.TrimSuffix(strings.TrimSpace(message), "--"),
		"too long":            "Content-Type: application/pkcs7-mime\n\n" + strings.Repeat("x", smime.MaxMessage),
		"endless header line": "a: b\n" + strings.Repeat(" \n", smime.MaxMessage/2-10) + "\n",
		"header":              strings.Repeat("a: b\n", 10) + strings.Repeat("c", 2000) + ": d\n\n",
		"encoding":            strings.Replace(message, "Encoding: base64", "Encoding: quoted-printable", 1),
		"third part":          strings.Replace(message, "\nContent-Type: application/x-pkcs7-signature", "\nContent-Type: text/plain\n\n\n"+message[strings.Index(message, "------"):strings.Index(message, "\nContent-Type: text")]+"\nContent-Type: application/x-pkcs7-signature", 1),
	} {
		_, err := smime.Verify([]byte(text), smime.Trust{Root: p.root.Certificate})
		require.ErrorIs(t, err, smime.ErrMalformed, name)
	}
}

// TestDepth: Verify rejects each of these signatures, which would end the process without the limits.
func TestDepth(t *testing.T) {
	p := newPKI(t, smimetest.Validity{})
	header := "Content-Type: application/pkcs7-mime\n\n"
	for name, part := range map[string]string{
		"nested":                    "\x30\x80",
		"nested and empty":          "\x30\x80\x00\x00",
		"beyond the enclosing part": "\x30\x02\x04\x7f\x30\x80",
		"of definite length":        "\x30\x83\xff\xff\xff",
		"long tags":                 "\x3f\xff\xff\x01\x80",
		"many small parts":          "\x02\x01\x01",
	} {
		_, err := smime.Verify([]byte(header+strings.Repeat(part, (smime.MaxMessage-len(header))/len(part))), smime.Trust{Root: p.root.Certificate})
		require.ErrorIs(t, err, smime.ErrMalformed, name)
	}
}

func FuzzVerify(f *testing.F) {
	p := newPKI(f, smimetest.Validity{})
	f.Add(p.sign(f, smime.Detached))
	f.Add(p.sign(f, smime.Opaque))
	f.Add([]byte("Content-Type: application/pkcs7-mime\n\n\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02\xa0\x80\x30\x80\x02\x01\x01\x31\x00\x30\x80\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, message []byte) {
		signed, err := smime.Verify(message, smime.Trust{Root: p.root.Certificate})
		if err == nil && strings.ReplaceAll(string(signed.Content), "\r\n", "\n") != index {
			t.Fatalf("accepted unsigned content: %q", signed.Content)
		}
	})
}
