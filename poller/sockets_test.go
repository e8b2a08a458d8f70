package poller_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// Servers on real sockets: 30 healthy ones become ready, while one server with each fault becomes unresponsive.
func TestEveryFaultOverSockets(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) }) // after the servers have been closed
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	require.NoError(t, err)
	identity, err := selfsigned.New("control plane")
	require.NoError(t, err)
	client := controltest.Client(t, incusos.Options{Certificate: &identity, Timeout: time.Second})
	p, err := poller.New(registry, client, poller.Options{Interval: time.Hour, FastInterval: 50 * time.Millisecond, RetryInterval: 100 * time.Millisecond, Timeout: 2 * time.Second, Concurrency: 16})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()

	token, err := registry.CreateToken(ctx, opscenter.TokenSpec{Uses: 100})
	require.NoError(t, err)
	add := func(name string) *incusostest.Server {
		server := controltest.Server(t, incusostest.Options{Name: name})
		server.Trust(identity.Leaf)
		return server
	}
	register := func(server *incusostest.Server) {
		_, err := registry.Register(ctx, opscenter.Registration{Token: token.UUID, Certificate: server.Certificate(), Name: server.Name(),
			ConnectionURL: server.URL(), MachineID: server.MachineID(), SystemUUID: server.SystemUUID()})
		require.NoError(t, err)
	}
	faulty := 0
	for i, kind := range incusostest.Faults {
		server := add(fmt.Sprintf("faulty%02d", i))
		require.NoError(t, server.SetFault(incusostest.Fault{Kind: kind, Delay: 5 * time.Second}))
		register(server)
		faulty++
	}
	begun := time.Now()
	for i := range 30 {
		register(add(fmt.Sprintf("good%02d", i)))
	}
	count := func(filter opscenter.ServerFilter) int {
		page, err := registry.ListServers(context.Background(), filter, opscenter.Page{Limit: 1000})
		require.NoError(t, err)
		return len(page.Servers)
	}
	require.Eventually(t, func() bool { return count(opscenter.ServerFilter{Status: lifecycle.StatusReady}) == 30 }, 20*time.Second, 20*time.Millisecond)
	t.Logf("30 healthy servers were ready after %s, with %d faulty ones", time.Since(begun).Round(time.Millisecond), faulty)
	require.Eventually(t, func() bool {
		return count(opscenter.ServerFilter{StatusDetail: lifecycle.DetailUnresponsive}) == faulty
	}, 60*time.Second, 50*time.Millisecond)
	require.Equal(t, 30, count(opscenter.ServerFilter{Status: lifecycle.StatusReady}))
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
}
