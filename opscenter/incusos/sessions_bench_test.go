package incusos

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"testing"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
)

// BenchmarkSessions fills the cache with 100,000 copies of a session from a real handshake with a client
// certificate. It reports the memory per session.
func BenchmarkSessions(b *testing.B) {
	const n = 100_000
	identity, err := selfsigned.New("control plane")
	if err != nil {
		b.Fatal(err)
	}
	server, err := selfsigned.New("server")
	if err != nil {
		b.Fatal(err)
	}
	web := httptest.NewUnstartedServer(http.NotFoundHandler())
	web.TLS = &tls.Config{Certificates: []tls.Certificate{server}, MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert}
	web.StartTLS()
	defer web.Close()
	client := New(Options{Certificate: &identity})
	defer client.Close()
	where := opscenter.Target{Name: "s", ID: "s", ConnectionURL: web.URL, Fingerprint: opscenter.Fingerprint(server.Leaf)}
	client.Probe(b.Context(), where)
	peer, err := client.fleet.peer(where)
	if err != nil {
		b.Fatal(err)
	}
	one, ok := client.fleet.sessions.lru.Get(peer.session)
	if !ok {
		b.Fatal("no session")
	}
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		s := newSessions(n, DefaultSessionLifetime)
		for key := range uint64(n) {
			s.lru.Add(key, slices.Clone(one))
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(s)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/session")
	b.ReportMetric(float64(len(one)), "B-encoded")
}
