package main

import (
	"context"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/devcert"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
)

// TestRun: it serves, and stops when it is told to.
func TestRun(t *testing.T) {
	t.Chdir(t.TempDir())
	require.ErrorIs(t, run(t.Context(), "127.0.0.1:0"), os.ErrNotExist, "it needs a certificate")
	certificate, err := devcert.Load(".", "control-plane", "localhost")
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.ErrorContains(t, run(t.Context(), address), "in use")
	require.NoError(t, listener.Close())

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, address) }()
	config := httpapi.TLSConfig(certificate)
	config.InsecureSkipVerify = true
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	require.Eventually(t, func() bool {
		resp, err := client.Get("https://" + address + "/1.0")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}, 10*time.Second, 10*time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
}
