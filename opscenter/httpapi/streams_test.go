package httpapi_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
)

// TestStreamsThatAreNotRead: a client opens HTTP/2 streams with a window of zero, and reads nothing. The streams, and the resources behind
// them, are free again after WriteTimeout.
func TestStreamsThatAreNotRead(t *testing.T) {
	p := start(t, func(o *httpapi.Options) { o.WriteTimeout = 300 * time.Millisecond })
	certificates := make([]tls.Certificate, 100)
	for i := range certificates {
		certificates[i] = newCertificate(t, fmt.Sprint("s", i))
	}
	token := p.token(100)
	for i := range 100 {
		_, err := p.registry.Register(t.Context(), opscenter.Registration{Token: token, Certificate: certificates[i].Leaf, Name: fmt.Sprintf("s%03d", i),
			ConnectionURL: "https://10.0.0.1:8443", Description: strings.Repeat("d", 1000)})
		require.NoError(t, err)
	}
	var active, begun atomic.Int64
	listener, url := controltest.Listen(t)
	controltest.Serve(t, listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		active.Add(1)
		begun.Add(1)
		defer active.Add(-1)
		p.handler.ServeHTTP(w, r)
	}), p.own, nil)
	roots := x509.NewCertPool()
	roots.AddCert(p.own.Leaf)
	transport := &http.Transport{ForceAttemptHTTP2: true, HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 16 << 10},
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{p.operator}}}
	t.Cleanup(transport.CloseIdleConnections)
	for _, path := range []string{"/1.0/provisioning/servers?recursion=1", "/1.0/provisioning/servers?recursion=1&limit=100", "/1.0/provisioning/servers"} {
		begun.Store(0)
		var bodies []io.Closer
		for range 20 {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+path, nil)
			require.NoError(t, err)
			resp, err := transport.RoundTrip(req)
			require.NoError(t, err)
			require.Equal(t, 2, resp.ProtoMajor)
			bodies = append(bodies, resp.Body)
		}
		require.EqualValues(t, 20, begun.Load())
		require.Eventually(t, func() bool { return active.Load() == 0 }, 5*time.Second, 10*time.Millisecond, path)
		for _, body := range bodies {
			body.Close()
		}
	}
}
