package inventory_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"testing"

	incus "github.com/lxc/incus/v6/client"
	"github.com/stretchr/testify/require"
)

// keepAlive makes the bare client keep its connection, as a careful program does.
func keepAlive(t *http.Transport) incus.HTTPTransporter {
	t.DisableKeepAlives = false
	return &drained{t}
}

// drained reads each answer to its end, so that the connection can be used again.
type drained struct{ transport *http.Transport }

func (d *drained) Transport() *http.Transport { return d.transport }

func (d *drained) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := d.transport.RoundTrip(req)
	if err == nil {
		resp.Body = drainedBody{resp.Body}
	}
	return resp, err
}

type drainedBody struct{ io.ReadCloser }

func (b drainedBody) Close() error {
	_, _ = io.Copy(io.Discard, b.ReadCloser)
	return b.ReadCloser.Close()
}

func pemOf(tb testing.TB, identity *tls.Certificate) (certificate, key string) {
	tb.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(identity.PrivateKey)
	require.NoError(tb, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: identity.Certificate[0]})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
