package incusos_test

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// FuzzProbe answers every request of a probe with the same bytes. The probe must end with a consistent observation.
func FuzzProbe(f *testing.F) {
	identity, err := selfsigned.New("fuzzed")
	if err != nil {
		f.Fatal(err)
	}
	answer := make(chan []byte, 1)
	answer <- nil
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		data := <-answer
		answer <- data
		_, _ = w.Write(data)
	}))
	web.TLS = &tls.Config{Certificates: []tls.Certificate{identity}}
	web.StartTLS()
	f.Cleanup(web.Close)
	client := incusos.New(incusos.Options{Timeout: 5 * time.Second})
	f.Cleanup(func() { client.Close() })
	where := opscenter.Target{Name: "fuzzed", ID: "fuzzed", ConnectionURL: web.URL, Fingerprint: opscenter.Fingerprint(identity.Leaf)}
	f.Add([]byte(`{"type":"sync","status_code":200,"metadata":{"environment":{"os_name":"IncusOS","uptime":"12","system_is_ready":true},"config":{},"state":{"is_primary":true}}}`))
	f.Add([]byte(`{"type":"sync","metadata":["/os/1.0/applications/incus"]}`))
	f.Add([]byte(`{"type":"error","error":"System isn't running IncusOS"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		<-answer
		answer <- data
		o := client.Probe(t.Context(), where)
		if o.Failure == nil && o.Versions != nil && o.Type == nil && o.UnreadVersions&lifecycle.VersionsApplications == 0 {
			t.Fatal("unread applications are not marked as unread")
		}
		if o.Failure != nil && (o.Failure.Kind == "" || o.Failure.Message == "") {
			t.Fatal("a failure without kind or message")
		}
	})
}

// FuzzList reads lists. Each entry must be valid and within the limit, and an invalid list must be an error.
func FuzzList(f *testing.F) {
	f.Add([]byte(`{"type":"sync","status_code":200,"metadata":[{"name":"a"},null,"b",[1,2]]}`))
	f.Add([]byte(`{"metadata":[1],"type":"sync"}`))
	f.Add([]byte(`{"type":"error","error":"no","error_code":404}`))
	f.Add([]byte(`{"type":"sync","metadata":[{"name":"` + strings.Repeat("a", 300) + `"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		enough := errors.New("enough")
		n := 0
		err := incusos.ReadList(data, 200, func(entry json.RawMessage) error {
			if len(entry) > 200 || !json.Valid(entry) {
				t.Fatalf("entry %q", entry)
			}
			if n++; n == 100 {
				return enough
			}
			return nil
		})
		if err == nil && !json.Valid(bytes.TrimSpace(data)) && json.Valid(data) {
			t.Fatal("an invalid document is no error")
		}
	})
}

// FuzzTrustToken parses trust tokens. An error must not contain the text, which is a secret.
func FuzzTrustToken(f *testing.F) {
	f.Add(base64.StdEncoding.EncodeToString([]byte(`{"client_name":"x","fingerprint":"` + strings.Repeat("a", 64) + `","addresses":["127.0.0.1:8443"],"secret":"s3cr3t"}`)))
	f.Add("eyJ9")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := incusos.ParseTrustToken(text)
		if err != nil && len(text) > 8 && strings.Contains(err.Error(), text) {
			t.Fatal("the error repeats the token")
		}
		if err == nil && (token.Secret == "" || len(token.Fingerprint) != 64) {
			t.Fatal("a token without a secret, or a fingerprint")
		}
	})
}

// FuzzAdoption makes adoptions from the answers of a cluster. Each server must get a certificate and a URL that the
// registry accepts.
func FuzzAdoption(f *testing.F) {
	made, err := selfsigned.New("m1", "127.0.0.1")
	if err != nil {
		f.Fatal(err)
	}
	certificate := opscenter.EncodeCertificate(made.Leaf)
	text, _ := json.Marshal(certificate)
	f.Add([]byte(`{"auth":"trusted","environment":{"certificate":`+string(text)+`,"server_name":"m1","server_clustered":true}}`),
		[]byte(`[{"server_name":"m1","url":"https://127.0.0.1:8443","status":"Online"}]`), []byte(`[{"name":"m1","type":"server","certificate":`+string(text)+`}]`))
	f.Add([]byte(`{"auth":"trusted","environment":{"certificate":`+string(text)+`,"server_name":"s"}}`), []byte(`[]`), []byte(`[]`))
	target := opscenter.Target{Name: "t", ConnectionURL: "https://127.0.0.1:8443", Fingerprint: opscenter.Fingerprint(made.Leaf)}
	f.Fuzz(func(t *testing.T, server, members, certificates []byte) {
		adoption, err := incusos.Adoption(server, members, certificates, target, incusos.AdoptOptions{})
		if err != nil {
			return
		}
		for _, s := range adoption.Servers {
			if s.Certificate == nil {
				t.Fatalf("server %q without a certificate", s.Suggested)
			}
			if err := opscenter.CheckURL("URL", s.ConnectionURL); err != nil {
				t.Fatal(err)
			}
		}
	})
}
