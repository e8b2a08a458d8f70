// Package controltest starts the parts of control planes that tests of several packages need alike. Each part ends with its
// test. A test puts its own control plane together from them.
package controltest

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/poller"
)

// Background calls functions as Poller.Run until the test ends, or until stop is called. stop waits for their ends, and may be
// called again. A function that ends with another error than context.Canceled fails the test.
func Background(t testing.TB, runs ...func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, len(runs))
	for _, run := range runs {
		go func() { ended <- run(ctx) }()
	}
	stop = sync.OnceFunc(func() {
		cancel()
		for range runs {
			require.ErrorIs(t, <-ended, context.Canceled)
		}
	})
	t.Cleanup(stop)
	return stop
}

// Client returns a client of servers.
func Client(t testing.TB, options incusos.Options) *incusos.Client {
	client := incusos.New(options)
	t.Cleanup(func() { client.Close() })
	return client
}

// Server starts a simulated server.
func Server(t testing.TB, options incusostest.Options) *incusostest.Server {
	t.Helper()
	server, err := incusostest.New(options)
	require.NoError(t, err)
	t.Cleanup(server.Close)
	return server
}

// Listen returns a listener for Serve, and the URL of the endpoint there.
func Listen(t testing.TB) (listener net.Listener, url string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return listener, "https://" + listener.Addr().String()
}

// Serve serves a control plane's endpoint until the test ends, or until stop is called. logger may be nil.
func Serve(t testing.TB, listener net.Listener, handler http.Handler, certificate tls.Certificate, logger *slog.Logger) (stop func()) {
	server := httpapi.NewServer(handler, httpapi.TLSConfig(certificate), logger)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.ServeTLS(listener, "", "") // it ends with Close alone
	}()
	stop = sync.OnceFunc(func() {
		server.Close()
		<-ended
	})
	t.Cleanup(stop)
	return stop
}

// Poll polls a server, which must answer.
func Poll(t testing.TB, polls *poller.Poller, name string) lifecycle.Observation {
	t.Helper()
	o, err := polls.Poll(t.Context(), name)
	require.NoError(t, err)
	require.Nil(t, o.Failure, "%s: %+v", name, o.Failure)
	return o
}

// Log keeps the text that a logger writes. It may be used concurrently.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String returns the text so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
