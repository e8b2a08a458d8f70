package httpapi_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/storage/badgerstore"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// clients is the number of servers that register at a time.
const clients = 16

// identities makes n certificates that differ, over one key, because making a key takes long.
func identities(b *testing.B, n int) []tls.Certificate {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	out := make([]tls.Certificate, n)
	for i := range out {
		template := &x509.Certificate{SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: "server"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			b.Fatal(err)
		}
		out[i] = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}
	return out
}

// register sends b.N registrations from 16 clients. Each has a connection and a certificate of its own, as servers do.
func register(b *testing.B, handler http.Handler, path string) {
	server := newCertificate(b, "control plane")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	web := httpapi.NewServer(handler, httpapi.TLSConfig(server), nil)
	go web.ServeTLS(listener, "", "")
	defer web.Close()
	certificates := identities(b, b.N)
	roots := x509.NewCertPool()
	roots.AddCert(server.Leaf)
	var next atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(max(1, clients/runtime.GOMAXPROCS(0)))
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := int(next.Add(1) - 1)
			transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificates[i]}}, DisableKeepAlives: true}
			body := fmt.Sprintf(`{"name":"server%07d","connection_url":"https://10.0.0.1:8443","machine_id":"%032x","system_uuid":"4c4c4544-0042-3510-8057-%012x"}`, i, i+1, i+1)
			req, _ := http.NewRequest("POST", "https://"+listener.Addr().String()+path, strings.NewReader(body))
			resp, err := transport.RoundTrip(req)
			if err != nil {
				b.Error(err)
				return
			}
			if text, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusCreated {
				b.Errorf("%s: %s, %v", resp.Status, text, err)
			}
			resp.Body.Close()
		}
	})
	b.StopTimer()
}

// BenchmarkRegister compares a registration through the endpoint, on Badger with synced
// writes, with its limit: the same TLS handshake, and one raw synced Badger write.
func BenchmarkRegister(b *testing.B) {
	b.Run("limit", func(b *testing.B) {
		db, err := badger.Open(badger.DefaultOptions(b.TempDir()).WithLogger(nil).WithSyncWrites(true).WithMemTableSize(32 << 20).WithMetricsEnabled(false))
		if err != nil {
			b.Fatal(err)
		}
		defer db.Close()
		var n atomic.Int64
		register(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var row map[string]any
			err := json.NewDecoder(r.Body).Decode(&row)
			if err == nil {
				row["certificate"] = r.TLS.PeerCertificates[0].Raw
				data, _ := json.Marshal(row)
				err = db.Update(func(txn *badger.Txn) error { return txn.Set(fmt.Appendf(nil, "server/%d", n.Add(1)), data) })
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.WriteHeader(http.StatusCreated)
		}), "/")
	})
	b.Run("endpoint", func(b *testing.B) {
		store, err := badgerstore.Open(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		defer store.Close()
		registry, err := opscenter.NewRegistry(store, opscenter.Options{})
		if err != nil {
			b.Fatal(err)
		}
		own := newCertificate(b, "client")
		handler, err := httpapi.New(registry, httpapi.Options{ClientCertificate: own.Leaf})
		if err != nil {
			b.Fatal(err)
		}
		token, err := registry.CreateToken(b.Context(), opscenter.TokenSpec{Uses: opscenter.MaxTokenUses})
		if err != nil {
			b.Fatal(err)
		}
		register(b, handler, registerPath(token.UUID))
	})
}

// BenchmarkFailures measures a failure from an unknown address, while few or many addresses are remembered.
func BenchmarkFailures(b *testing.B) {
	for _, remembered := range []int{10, 10_000} {
		b.Run(fmt.Sprint(remembered, " remembered"), func(b *testing.B) {
			registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
			if err != nil {
				b.Fatal(err)
			}
			handler, err := httpapi.New(registry, httpapi.Options{ClientCertificate: newCertificate(b, "control plane").Leaf, MaxAddresses: remembered})
			if err != nil {
				b.Fatal(err)
			}
			n := 0
			fail := func() {
				n++
				r := httptest.NewRequest("PUT", "/1.0/provisioning/servers/:self", nil)
				r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", n>>16&0xff, n>>8&0xff, n&0xff)
				handler.ServeHTTP(httptest.NewRecorder(), r)
			}
			for range remembered {
				fail()
			}
			b.ReportAllocs()
			for b.Loop() {
				fail()
			}
		})
	}
}
