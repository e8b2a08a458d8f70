package httpapi_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

// listed is how many servers the lists of BenchmarkLists have.
const listed = 1000

// fleetOnDisk fills a registry on Badger with servers that have facts.
func fleetOnDisk(b *testing.B, n int) (*opscenter.Registry, *spied) {
	b.Helper()
	disk, err := badgerstore.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { disk.Close() })
	store := &spied{Store: disk, tables: map[string]*storage.TableSchema{}}
	registry, err := opscenter.NewRegistry(store, opscenter.Options{})
	if err != nil {
		b.Fatal(err)
	}
	token, err := registry.CreateToken(b.Context(), opscenter.TokenSpec{Uses: opscenter.MaxTokenUses})
	if err != nil {
		b.Fatal(err)
	}
	identity := newCertificate(b, "shared key")
	var all []lifecycle.Observation
	for i := range n {
		certificate := &x509.Certificate{Raw: append(fmt.Appendf(nil, "%06d", i), identity.Leaf.Raw...), PublicKey: identity.Leaf.PublicKey}
		registered, err := registry.Register(b.Context(), opscenter.Registration{Token: token.UUID, Certificate: certificate, Name: fmt.Sprintf("server%06d", i),
			ConnectionURL: fmt.Sprintf("https://10.%d.%d.%d:8443", i>>16, i>>8&0xff, i&0xff), MachineID: fmt.Sprintf("%032x", i+1)})
		if err != nil {
			b.Fatal(err)
		}
		info, err := registry.Server(b.Context(), registered.Name)
		if err != nil {
			b.Fatal(err)
		}
		kind, none, member := lifecycle.TypeIncus, lifecycle.NotInMaintenance, info.Name
		all = append(all, lifecycle.Observation{Server: info.Name, ID: info.ID, At: time.Now(), Ready: true, Type: &kind, Maintenance: &none, MemberName: &member,
			Versions: &lifecycle.Versions{OS: lifecycle.OSVersion{Name: lifecycle.OSName, Version: "202610010000"}, Applications: []lifecycle.ApplicationVersion{{Name: "incus", Version: "202610010000", Primary: true}}},
			Facts:    &lifecycle.Facts{Hardware: incusostest.Hardware(uint64(i + 1)), Network: json.RawMessage(`{"config":{}}`)}})
	}
	if err := registry.Observer().Record(b.Context(), all...); err != nil {
		b.Fatal(err)
	}
	return registry, store
}

// fetch returns a function that gets a path, writes the body to out, and returns its size.
func fetch(b *testing.B, handler http.Handler, own, operator tls.Certificate, coding string, out io.Writer) func(path string) int64 {
	b.Helper()
	listener, url := controltest.Listen(b)
	controltest.Serve(b, listener, handler, own, nil)
	roots := x509.NewCertPool()
	roots.AddCert(own.Leaf)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{operator}}, DisableCompression: true}
	b.Cleanup(transport.CloseIdleConnections)
	return func(path string) int64 {
		req, err := http.NewRequest("GET", url+path, nil)
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Accept-Encoding", coding)
		resp, err := transport.RoundTrip(req)
		if err != nil {
			b.Fatal(err)
		}
		defer resp.Body.Close()
		n, err := io.Copy(out, resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			b.Fatal(resp.Status, err)
		}
		return n
	}
}

// BenchmarkLists compares lists of servers on Badger with their limits: a bare handler that writes the same bytes, the
// encoding of the same documents, and an iteration over the keys.
func BenchmarkLists(b *testing.B) {
	registry, store := fleetOnDisk(b, listed)
	own, operator := newCertificate(b, "control plane"), newCertificate(b, "operator")
	handler, err := httpapi.New(registry, httpapi.Options{ClientCertificate: own.Leaf, Authorize: httpapi.TrustCertificates(operator.Leaf)})
	if err != nil {
		b.Fatal(err)
	}
	const servers = "/1.0/provisioning/servers"
	for _, c := range []struct{ name, path, coding string }{{"names", servers, ""}, {"list/facts=0", servers + "?recursion=1&facts=0", ""}, {"list/facts", servers + "?recursion=1", ""},
		{"list/facts, zstd", servers + "?recursion=1", "zstd"}, {"get/facts", servers + "/server000500", ""}, {"get/facts, zstd", servers + "/server000500", "zstd"}, {"get/facts=0", servers + "/server000500?facts=0", ""}} {
		get := fetch(b, handler, own, operator, c.coding, io.Discard)
		size := get(c.path)
		bare := fetch(b, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, size)) }), own, operator, c.coding, io.Discard)
		b.Run(c.name+"/same bytes", func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				bare("/")
			}
		})
		b.Run(c.name+"/endpoint", func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				get(c.path)
			}
		})
	}
	b.Run("encoding the documents", func(b *testing.B) {
		var body bytes.Buffer
		fetch(b, handler, own, operator, "", &body)(servers + "?recursion=1&facts=0")
		var list struct{ Metadata []httpapi.ServerDocument }
		if err := json.Unmarshal(body.Bytes(), &list); err != nil || len(list.Metadata) != listed {
			b.Fatal(len(list.Metadata), err)
		}
		for b.Loop() {
			for i := range list.Metadata {
				if _, err := json.Marshal(&list.Metadata[i]); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("iterating over the keys", func(b *testing.B) {
		table := store.tables["servers"].Primary
		for b.Loop() {
			n := 0
			err := store.View(context.Background(), func(tx storage.ReadTx) error {
				for _, err := range tx.Keys(table, storage.Range{}) {
					if err != nil {
						return err
					}
					n++
				}
				return nil
			})
			if err != nil || n != listed {
				b.Fatal(n, err)
			}
		}
	})
}
