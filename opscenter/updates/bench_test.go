package updates_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/updates"
)

// BenchmarkVerify compares Verify of a release with the bare SHA-256 of the same bytes.
func BenchmarkVerify(b *testing.B) {
	p := newPlane(b)
	p.publish(b, incusostest.Release{Version: "202610010000", Size: 32 << 20, Applications: []string{"incus"}})
	p.refresh(b)
	var contents [][]byte
	var size int64
	for _, f := range p.feed.Snapshot().Updates()[0].Files {
		content, err := os.ReadFile(filepath.Join(p.dir, "files", f.SHA256[:2], f.SHA256))
		require.NoError(b, err)
		contents = append(contents, content)
		size += f.Size
	}
	b.Run("bare", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			for _, content := range contents {
				sum := sha256.Sum256(content)
				if hex.EncodeToString(sum[:]) == "" {
					b.Fatal()
				}
			}
		}
	})
	b.Run("verify", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			require.NoError(b, p.feed.Verify(b.Context()))
		}
	})
}

// BenchmarkDownloads compares the feed with http.ServeFile: 64 clients fetch a file of 16 MiB, with and without TLS.
func BenchmarkDownloads(b *testing.B) {
	const clients = 64
	p := newPlane(b)
	p.publish(b, incusostest.Release{Version: "202610010000", Size: 16 << 20, Applications: []string{"incus"}, NoOS: true})
	p.refresh(b)
	u := p.feed.Snapshot().Updates()[0]
	certificate, err := selfsigned.New("control plane", "127.0.0.1")
	require.NoError(b, err)
	handler, err := httpapi.New(p.Registry, httpapi.Options{ClientCertificate: certificate.Leaf, Updates: p.feed})
	require.NoError(b, err)
	file := filepath.Join(p.dir, "files", u.Files[0].SHA256[:2], u.Files[0].SHA256)
	bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) })
	for _, c := range []struct {
		name, path string
		handler    http.Handler
	}{{"ServeFile", "/", bare}, {"feed", fmt.Sprintf("/1.0/provisioning/updates/%s/files/%s", u.UUID, u.Files[0].Filename), handler}} {
		for _, secure := range []bool{true, false} {
			b.Run(fmt.Sprintf("%s/tls=%t", c.name, secure), func(b *testing.B) {
				listener, err := net.Listen("tcp", "127.0.0.1:0")
				require.NoError(b, err)
				server := httpapi.NewServer(c.handler, httpapi.TLSConfig(certificate), nil)
				defer server.Close()
				url := "http://" + listener.Addr().String() + c.path
				if secure {
					url = "https://" + listener.Addr().String() + c.path
					go server.ServeTLS(listener, "", "")
				} else {
					server.TLSConfig = nil
					go server.Serve(listener)
				}
				transport := clientTransport(certificate.Leaf)
				defer transport.CloseIdleConnections()
				b.SetBytes(clients * u.Files[0].Size)
				for b.Loop() {
					var wait sync.WaitGroup
					for range clients {
						wait.Go(func() {
							r, err := http.NewRequest(http.MethodGet, url, nil)
							if err == nil {
								var resp *http.Response
								if resp, err = transport.RoundTrip(r); err == nil {
									var n int64
									if n, err = io.Copy(io.Discard, resp.Body); err == nil && (resp.StatusCode != http.StatusOK || n != u.Files[0].Size) {
										err = fmt.Errorf("status %d, %d bytes", resp.StatusCode, n)
									}
									resp.Body.Close()
								}
							}
							if err != nil {
								b.Error(err)
							}
						})
					}
					wait.Wait()
				}
			})
		}
	}
}

// BenchmarkMirror measures a refresh that fetches a release over loopback.
func BenchmarkMirror(b *testing.B) {
	p := newPlane(b)
	p.publish(b, incusostest.Release{Version: "202610010000", Size: 8 << 20, Applications: []string{"incus"}})
	p.refresh(b)
	b.SetBytes(p.feed.Snapshot().Updates()[0].Size())
	for b.Loop() {
		require.NoError(b, p.feed.Remove(b.Context()))
		require.NoError(b, p.feed.Refresh(b.Context(), updates.RefreshOptions{}))
	}
}
