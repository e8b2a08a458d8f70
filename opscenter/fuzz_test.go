package opscenter_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
)

func FuzzParseCertificate(f *testing.F) {
	f.Add(opscenter.EncodeCertificate(certificate(0)))
	f.Add("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := opscenter.ParseCertificate(text)
		if err != nil {
			return
		}
		again, err := opscenter.ParseCertificate(opscenter.EncodeCertificate(parsed))
		if err != nil || !again.Equal(parsed) {
			t.Fatalf("a certificate does not survive: %v", err)
		}
	})
}

func FuzzRedactSecrets(f *testing.F) {
	f.Add(`{"a":{"password":"x"},"b":[{"private_key":1}]}`)
	f.Add(`{"encryption_recovery_keys":["k"]}`)
	f.Fuzz(func(t *testing.T, text string) {
		out, err := facts.RedactSecrets(json.RawMessage(text))
		if err != nil {
			return
		}
		again, err := facts.RedactSecrets(out)
		if err != nil {
			t.Fatalf("redacted once, and unreadable: %v", err)
		}
		var doc any
		if json.Unmarshal(again, &doc) == nil && holdsSecret(doc) {
			t.Fatalf("a secret is left in %s", again)
		}
	})
}

func holdsSecret(doc any) bool {
	switch d := doc.(type) {
	case map[string]any:
		for key, value := range d {
			if key == "password" || key == "private_key" || key == "encryption_recovery_keys" || holdsSecret(value) {
				return true
			}
		}
	case []any:
		for _, value := range d {
			if holdsSecret(value) {
				return true
			}
		}
	}
	return false
}

func FuzzListCursor(f *testing.F) {
	w := memoryWorld(f)
	f.Add("MXNlcnZlcjAx", 3)
	f.Add("", -1)
	f.Fuzz(func(t *testing.T, cursor string, limit int) {
		page, err := w.ListServers(t.Context(), opscenter.ServerFilter{}, opscenter.Page{Cursor: cursor, Limit: limit})
		if err == nil && len(page.Servers) != 0 {
			t.Fatal("servers out of nowhere")
		}
		if err != nil && !strings.Contains(err.Error(), "cursor") {
			t.Fatalf("an error that doesn't name what was wrong: %v", err)
		}
	})
}
