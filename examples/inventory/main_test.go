package main

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/incusostest"
)

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestOnce(t *testing.T) {
	var out buffer
	require.NoError(t, run(t.Context(), []string{"-once"}, &out))
	for _, text := range []string{"Adopted sim1, sim2 (simulated).", "cluster\n", "sim3\n", "  instances\n", "    c0001 in project web on sim1", "    local/custom/data0000 in project default", "    net0/192.0.2.10 in project default", "objects\n"} {
		require.Contains(t, out.String(), text)
	}
	out = buffer{}
	require.NoError(t, run(t.Context(), []string{"-once", "-filter", `object.config["ipv4.address"] == "10.115.25.1/24"`}, &out))
	require.Contains(t, out.String(), "\n2 objects\n")
	require.ErrorContains(t, run(t.Context(), []string{"-once", "-filter", `nmae == "x"`}, &out), "line 1, column 1")
	require.ErrorContains(t, run(t.Context(), []string{"-url", "https://127.0.0.1:1"}, &out), "-token")
	require.ErrorContains(t, run(t.Context(), []string{"-token", "x"}, &out), "trust token")
}

// TestFollow adopts a server with a token, keeps it in a directory, and shows what changes.
func TestFollow(t *testing.T) {
	server, err := incusostest.New(incusostest.Options{Name: "real", Standalone: true})
	require.NoError(t, err)
	defer server.Close()
	dir := t.TempDir()
	var out buffer
	require.NoError(t, run(t.Context(), []string{"-data", dir, "-once", "-url", server.URL(), "-token", server.TrustToken("x")}, &out))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"-data", dir}, &out) }()
	until(t, &out, "Following changes")
	server.AddInstance("default", "fresh", true)
	until(t, &out, "real created: instance fresh in project default (event) by tls/operator")
	cancel()
	require.NoError(t, <-ended)
}

func until(t *testing.T, out *buffer, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(out.String(), text) }, 20*time.Second, 20*time.Millisecond, "%s", text)
}
