package poller_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/badgerstore"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// socketFleet is a fleet of simulated servers on real sockets, with a running poller.
type socketFleet struct {
	t        *testing.T
	registry *opscenter.Registry
	client   *incusos.Client
	poller   *poller.Poller
	servers  []*incusostest.Server
	token    string
	stop     func()
}

func startSocketFleet(t *testing.T, n int, options poller.Options, client incusos.Options) *socketFleet {
	t.Helper()
	// On a busy machine, servers may miss such short deadlines. Disable flap detection, which would
	// hold these servers back, and has its own tests.
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{FlapThreshold: -1})
	require.NoError(t, err)
	identity, err := selfsigned.New("control plane")
	require.NoError(t, err)
	client.Certificate = &identity
	r := &socketFleet{t: t, registry: registry, client: incusos.New(client)}
	t.Cleanup(func() { r.client.Close() })
	r.poller, err = poller.New(registry, r.client, options)
	require.NoError(t, err)
	token, err := registry.CreateToken(t.Context(), opscenter.TokenSpec{Uses: 1000})
	require.NoError(t, err)
	r.token = token.UUID
	for i := range n {
		server := controltest.Server(t, incusostest.Options{Name: fmt.Sprintf("server%02d", i), RebootDelay: 300 * time.Millisecond})
		server.Trust(identity.Leaf)
		r.servers = append(r.servers, server)
		r.register(server)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.poller.Run(ctx) }()
	stopped := false
	r.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.ErrorIs(t, <-ended, context.Canceled)
		}
	}
	t.Cleanup(r.stop)
	return r
}

func (r *socketFleet) register(server *incusostest.Server) {
	r.t.Helper()
	_, err := r.registry.Register(r.t.Context(), opscenter.Registration{Token: r.token, Certificate: server.Certificate(), Name: server.Name(),
		ConnectionURL: server.URL(), MachineID: server.MachineID(), SystemUUID: server.SystemUUID()})
	require.NoError(r.t, err)
}

func (r *socketFleet) count(status lifecycle.Status) (n int) {
	for _, c := range r.registry.Counts() {
		if c.Status == status {
			n += c.Count
		}
	}
	return n
}

func (r *socketFleet) eventually(done func() bool, what string) {
	r.t.Helper()
	require.Eventually(r.t, done, 30*time.Second, 5*time.Millisecond, what)
}

func (r *socketFleet) get(name string) *opscenter.ServerInfo {
	r.t.Helper()
	info, err := r.registry.Server(context.Background(), name)
	require.NoError(r.t, err)
	return info
}

// quick has short intervals, for tests with real time.
var quick = poller.Options{Interval: 200 * time.Millisecond, FastInterval: 20 * time.Millisecond, RetryInterval: 30 * time.Millisecond, Timeout: time.Second, Concurrency: 16}

// fail sets a fault on some servers, at the same time.
func (r *socketFleet) fail(servers []*incusostest.Server, kind incusostest.FaultKind) {
	r.t.Helper()
	var group errgroup.Group
	for _, server := range servers {
		group.Go(func() error { return server.SetFault(incusostest.Fault{Kind: kind}) })
	}
	require.NoError(r.t, group.Wait())
}

// calm has more time between the first failure of a server and the one that makes it offline. Few polls run at a time: the
// full handshakes of a whole fleet take longer than patient, on two cores and with -race, and would all fail again and again.
var calm = poller.Options{Interval: 2 * time.Second, FastInterval: 20 * time.Millisecond, RetryInterval: time.Second, Timeout: 2 * time.Second,
	Concurrency: 3, RetryConcurrency: 3, OfflineConcurrency: 3}

// patient bounds a handshake, and the wait of a poll for a silent server.
const patient = 500 * time.Millisecond

// The whole fleet fails and returns. No server becomes offline, and a warning is raised meanwhile.
func TestWholeFleetFailsAndReturns(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]incusostest.FaultKind{"refused": incusostest.FaultDown, "silent": incusostest.FaultSilent} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startSocketFleet(t, 12, calm, incusos.Options{Timeout: patient})
			r.eventually(func() bool { return r.count(lifecycle.StatusReady) == 12 }, "all ready")
			r.fail(r.servers, fault)
			r.eventually(r.registry.Observer().FleetUnreachable, "an outage of the fleet is suspected")
			polls := r.poller.Stats().Failed
			r.eventually(func() bool { return r.poller.Stats().Failed > polls+40 }, "polls go on")
			require.Equal(t, 12, r.count(lifecycle.StatusReady), "no server is offline")
			require.Positive(t, r.registry.Warnings().Counts()[warning.Fleet])
			r.fail(r.servers, incusostest.FaultNone)
			r.eventually(func() bool {
				return !r.registry.Observer().FleetUnreachable() && len(r.registry.Warnings().Counts()) == 0
			}, "the outage is over")
			require.Equal(t, 12, r.count(lifecycle.StatusReady))
		})
	}
}

// A third of the fleet fails. These servers become offline, and no others.
func TestPartOfFleetFails(t *testing.T) {
	t.Parallel()
	r := startSocketFleet(t, 12, calm, incusos.Options{Timeout: patient})
	r.eventually(func() bool { return r.count(lifecycle.StatusReady) == 12 }, "all ready")
	r.fail(r.servers[:2], incusostest.FaultDown)
	r.fail(r.servers[2:4], incusostest.FaultSilent)
	r.eventually(func() bool { return r.count(lifecycle.StatusOffline) == 4 }, "four are offline")
	require.False(t, r.registry.Observer().FleetUnreachable())
	require.Equal(t, 4, r.registry.Warnings().Counts()[warning.Unreachable])
	r.fail(r.servers, incusostest.FaultNone)
	r.eventually(func() bool { return r.count(lifecycle.StatusReady) == 12 }, "all are ready again")
	r.eventually(func() bool { return len(r.registry.Warnings().Counts()) == 0 }, "no warning is left")
}

// More than half of the fleet fails. No server becomes offline until enough of them answer again.
func TestHalfOfFleetFails(t *testing.T) {
	t.Parallel()
	r := startSocketFleet(t, 12, calm, incusos.Options{Timeout: patient})
	r.eventually(func() bool { return r.count(lifecycle.StatusReady) == 12 }, "all ready")
	r.fail(r.servers[:7], incusostest.FaultDown)
	r.eventually(r.registry.Observer().FleetUnreachable, "an outage of the fleet is suspected")
	failed := r.poller.Stats().Failed
	r.eventually(func() bool { return r.poller.Stats().Failed > failed+25 }, "polls go on")
	require.Zero(t, r.count(lifecycle.StatusOffline))
	require.NoError(t, r.servers[0].SetFault(incusostest.Fault{}))
	require.NoError(t, r.servers[1].SetFault(incusostest.Fault{}))
	r.eventually(func() bool { return r.count(lifecycle.StatusOffline) == 5 }, "five of twelve are offline")
	require.False(t, r.registry.Observer().FleetUnreachable())
}

// A server is deleted, renamed, installed anew or moved during its poll.
func TestChangesDuringPoll(t *testing.T) {
	slow := incusostest.Fault{Kind: incusostest.FaultSlow, Delay: 300 * time.Millisecond, Path: "/os/1.0/system/storage"}
	begin := func(t *testing.T) (*socketFleet, *incusostest.Server) {
		options := quick
		options.Interval, options.Timeout = 10*time.Second, 5*time.Second
		r := startSocketFleet(t, 1, options, incusos.Options{})
		r.eventually(func() bool { return r.count(lifecycle.StatusReady) == 1 }, "ready")
		server := r.servers[0]
		require.NoError(t, server.SetFault(slow))
		before := server.Requests("/os/1.0/system/storage")
		require.NoError(t, r.registry.SelfUpdate(t.Context(), server.Certificate(), opscenter.SelfUpdate{Cause: lifecycle.CauseStorageConfigChanged}))
		r.eventually(func() bool { return server.Requests("/os/1.0/system/storage") > before }, "the slow request is active")
		return r, server
	}
	idle := func(r *socketFleet) func() bool { return func() bool { return r.poller.Stats().Running == 0 } }

	t.Run("deleted", func(t *testing.T) {
		r, _ := begin(t)
		require.NoError(t, r.registry.DeleteServer(t.Context(), "server00", false))
		r.eventually(idle(r), "the poll is over")
		require.Empty(t, r.registry.Counts())
		r.eventually(func() bool { return r.poller.Stats().Servers == 0 }, "no longer polled")
	})
	t.Run("renamed", func(t *testing.T) {
		r, server := begin(t)
		require.NoError(t, r.registry.RenameServer(t.Context(), "server00", "other", nil))
		r.eventually(idle(r), "the poll is over")
		require.NoError(t, server.SetFault(incusostest.Fault{Kind: incusostest.FaultDown}))
		require.NoError(t, r.registry.SelfUpdate(t.Context(), server.Certificate(), opscenter.SelfUpdate{}))
		r.eventually(func() bool { return r.get("other").State.Status == lifecycle.StatusOffline }, "polled under its new name")
	})
	t.Run("installed anew", func(t *testing.T) {
		r, server := begin(t)
		require.NoError(t, r.registry.AllowReinstall(t.Context(), "server00", true))
		require.NoError(t, server.Reinstall())
		r.register(server)
		require.Equal(t, lifecycle.StatusPending, r.get("server00").State.Status)
		r.eventually(func() bool { return r.get("server00").Failures > 0 }, "the new installation does not trust the control plane yet")
		require.Equal(t, opscenter.Fingerprint(server.Certificate()), r.get("server00").Fingerprint)
	})
	t.Run("moved", func(t *testing.T) {
		r, server := begin(t)
		elsewhere, err := incusostest.New(incusostest.Options{Name: "elsewhere"})
		require.NoError(t, err)
		t.Cleanup(elsewhere.Close)
		// The new address belongs to another server, which has another certificate.
		require.NoError(t, r.registry.SelfUpdate(t.Context(), server.Certificate(), opscenter.SelfUpdate{ConnectionURL: elsewhere.URL()}))
		r.eventually(func() bool { return r.get("server00").State.StatusDetail == lifecycle.DetailUnresponsive }, "unresponsive at the wrong address")
		require.Contains(t, r.get("server00").State.StatusReason, incusos.ErrCertificate.Error())
		require.Equal(t, 1, r.registry.Warnings().Counts()[warning.Certificate])
		require.NoError(t, r.registry.SelfUpdate(t.Context(), server.Certificate(), opscenter.SelfUpdate{ConnectionURL: server.URL()}))
		r.eventually(func() bool { return r.count(lifecycle.StatusReady) == 1 }, "ready at its old address")
		require.Empty(t, r.registry.Warnings().Counts())
	})
}

// A poll that fails partly keeps the facts that it could not read, and raises a warning.
func TestPartialPollKeepsFacts(t *testing.T) {
	options := quick
	options.Timeout, options.FactsInterval = 10*time.Second, time.Nanosecond
	r := startSocketFleet(t, 1, options, incusos.Options{})
	r.eventually(func() bool {
		return r.count(lifecycle.StatusReady) == 1 && strings.Contains(r.get("server00").State.FactsHash, "hardware=") && len(r.registry.Warnings().Counts()) == 0
	}, "ready")
	before, err := r.registry.ServerFacts(t.Context(), "server00")
	require.NoError(t, err)
	for _, path := range []string{"/os/1.0/applications", "/os/1.0/system/resources", "/os/1.0/system/update"} {
		require.NoError(t, r.servers[0].SetFault(incusostest.Fault{Kind: incusostest.FaultError, Path: path}))
		// Setting the fault cuts an active poll. That poll may raise a warning about another path first.
		r.eventually(func() bool {
			page, err := r.registry.Warnings().List(context.Background(), opscenter.WarningFilter{Kind: warning.Unreadable}, opscenter.Page{})
			require.NoError(t, err)
			return len(page.Warnings) == 1 && strings.Contains(page.Warnings[0].Message, path)
		}, "the warning names the path")
		s := r.get("server00").State
		require.Equal(t, lifecycle.TypeIncus, s.Type)
		require.Equal(t, lifecycle.StatusReady, s.Status)
		require.Equal(t, "202610010000", s.Versions.OS.Version)
		after, err := r.registry.ServerFacts(t.Context(), "server00")
		require.NoError(t, err)
		require.Equal(t, before.Hardware, after.Hardware)
		require.NoError(t, r.servers[0].SetFault(incusostest.Fault{}))
		r.eventually(func() bool { return len(r.registry.Warnings().Counts()) == 0 }, "the warning is cleared")
	}
}

// files counts the open file descriptors of the process.
func files(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc to count descriptors in")
	}
	return len(entries)
}

// A thousand failed polls leak no goroutines or descriptors, and neither does Run.
func TestNoLeaks(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	options := quick
	options.MaxBackoff, options.Concurrency = 30*time.Millisecond, 3 // see calm
	r := startSocketFleet(t, 30, options, incusos.Options{Timeout: patient / 2})
	r.eventually(func() bool { return r.count(lifecycle.StatusReady) == 30 }, "ready")
	for _, server := range r.servers {
		require.NoError(t, server.SetFault(incusostest.Fault{Kind: incusostest.FaultSilent}))
	}
	grow := func(n int64) {
		failed := r.poller.Stats().Failed
		r.eventually(func() bool { return r.poller.Stats().Failed >= failed+n }, "failed polls")
	}
	grow(100)
	goroutines, descriptors := runtime.NumGoroutine(), files(t)
	grow(1000)
	// The simulated servers keep their ends of connections open until they go down.
	for _, server := range r.servers {
		require.NoError(t, server.SetFault(incusostest.Fault{Kind: incusostest.FaultDown}))
	}
	r.eventually(func() bool { return runtime.NumGoroutine() <= goroutines && files(t) <= descriptors }, "no growth over 1,000 failed polls")
	begun := time.Now()
	r.stop()
	require.Less(t, time.Since(begun), poller.DefaultGrace)
	require.NoError(t, r.client.Close())
	r.eventually(func() bool { return r.client.Stats().Open == 0 }, "all connections are closed")
	require.Zero(t, r.poller.Stats().Running)
}

// Polls without news commit nothing to Badger, and resume their TLS sessions.
func TestUnchangedPollsWriteNothing(t *testing.T) {
	store, err := badgerstore.Open(t.TempDir(), badgerstore.Options{})
	require.NoError(t, err)
	defer store.Close()
	registry, err := opscenter.NewRegistry(store, opscenter.Options{})
	require.NoError(t, err)
	identity, err := selfsigned.New("control plane")
	require.NoError(t, err)
	client := incusos.New(incusos.Options{Certificate: &identity, MaxIdleConns: 1})
	defer client.Close()
	token, err := registry.CreateToken(t.Context(), opscenter.TokenSpec{Uses: 10})
	require.NoError(t, err)
	for i := range 5 {
		server := controltest.Server(t, incusostest.Options{Name: fmt.Sprintf("quiet%d", i)})
		server.Trust(identity.Leaf)
		_, err = registry.Register(t.Context(), opscenter.Registration{Token: token.UUID, Certificate: server.Certificate(), Name: server.Name(), ConnectionURL: server.URL(), MachineID: server.MachineID()})
		require.NoError(t, err)
	}
	p, err := poller.New(registry, client, poller.Options{Interval: 10 * time.Millisecond})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	require.Eventually(t, func() bool { return p.Stats().Unchanged >= 20 }, 20*time.Second, 5*time.Millisecond)
	commits, full := store.Stats().Commits, client.Stats().FullHandshakes
	polls := p.Stats().Polls
	require.Eventually(t, func() bool { return p.Stats().Polls >= polls+200 }, 20*time.Second, 5*time.Millisecond)
	require.Equal(t, commits, store.Stats().Commits, "changing counters in the facts are no news")
	require.Equal(t, full, client.Stats().FullHandshakes)
	require.Positive(t, client.Stats().ResumedHandshakes)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	require.Greater(t, store.Stats().Commits, commits, "last-seen times are stored at the end")
}
