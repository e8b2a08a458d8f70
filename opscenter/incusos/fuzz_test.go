package incusos_test

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
)

// FuzzProbe answers every request of a probe with the same bytes: it must end, and make sense of it or not.
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
		if o.Failure == nil && o.Versions != nil && o.Type == nil && o.UnreadVersions&opscenter.VersionsApplications == 0 {
			t.Fatal("versions of applications that were not read")
		}
		if o.Failure != nil && (o.Failure.Kind == "" || o.Failure.Message == "") {
			t.Fatal("a failure that says nothing")
		}
	})
}
