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

// real is a fleet of simulated servers on real sockets, and a poller that runs.
type real struct {
	t        *testing.T
	registry *opscenter.Registry
	client   *incusos.Client
	poller   *poller.Poller
	servers  []*incusostest.Server
	token    string
	stop     func()
}

func startReal(t *testing.T, n int, options poller.Options, client incusos.Options) *real {
	t.Helper()
	// On a busy machine servers may well miss deadlines this short; being held for that is
	// another matter, and has its own tests.
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{FlapThreshold: -1})
	require.NoError(t, err)
	identity, err := selfsigned.New("control plane")
	require.NoError(t, err)
	client.Certificate = &identity
	r := &real{t: t, registry: registry, client: incusos.New(client)}
	t.Cleanup(func() { r.client.Close() })
	r.poller, err = poller.New(registry, r.client, options)
	require.NoError(t, err)
	token, err := registry.CreateToken(t.Context(), opscenter.TokenSpec{Uses: 1000})
	require.NoError(t, err)
	r.token = token.UUID
	for i := range n {
		server, err := incusostest.New(incusostest.Options{Name: fmt.Sprintf("server%02d", i), RebootDelay: 300 * time.Millisecond})
		require.NoError(t, err)
		t.Cleanup(server.Close)
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

func (r *real) register(server *incusostest.Server) {
	r.t.Helper()
	_, err := r.registry.Register(r.t.Context(), opscenter.Registration{Token: r.token, Certificate: server.Certificate(), Name: server.Name(),
		ConnectionURL: server.URL(), MachineID: server.MachineID(), SystemUUID: server.SystemUUID()})
	require.NoError(r.t, err)
}

func (r *real) count(status lifecycle.Status) (n int) {
	for _, c := range r.registry.Counts() {
		if c.Status == status {
			n += c.Count
		}
	}
	return n
}

func (r *real) eventually(done func() bool, what string) {
	r.t.Helper()
	require.Eventually(r.t, done, 30*time.Second, 5*time.Millisecond, what)
}

func (r *real) get(name string) *opscenter.ServerInfo {
	r.t.Helper()
	info, err := r.registry.Server(context.Background(), name)
	require.NoError(r.t, err)
	return info
}

var quick = poller.Options{Interval: 200 * time.Millisecond, FastInterval: 20 * time.Millisecond, RetryInterval: 30 * time.Millisecond, Timeout: time.Second, Concurrency: 16}

// fail switches a fault on for some servers, at once.
func (r *real) fail(servers []*incusostest.Server, kind incusostest.FaultKind) {
	r.t.Helper()
	var group errgroup.Group
	for _, server := range servers {
		group.Go(func() error { return server.SetFault(incusostest.Fault{Kind: kind}) })
	}
	require.NoError(r.t, group.Wait())
}

// calm leaves time between the first failure of a server and the one that makes it offline.
var calm = poller.Options{Interval: 2 * time.Second, FastInterval: 20 * time.Millisecond, RetryInterval: time.Second, Timeout: time.Second, Concurrency: 16}

// The whole fleet goes, and comes back: nobody became offline, and it was told.
func TestTheWholeFleetGoesAndComesBack(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]incusostest.FaultKind{"refused": incusostest.FaultDown, "silent": incusostest.FaultSilent} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startReal(t, 12, calm, incusos.Options{Timeout: 150 * time.Millisecond})
			r.eventually(func() bool { return r.count(lifecycle.StatusReady) == 12 }, "all ready")
			r.fail(r.servers, fault)
			r.eventually(r.registry.FleetUnreachable, "suspected")
			polls := r.poller.Stats().Failed
			r.eventually(func() bool { return r.poller.Stats().Failed > polls+40 }, "asked again and again")
			require.Equal(t, 12, r.count(lifecycle.StatusReady), "nobody is offline")
			require.Positive(t, r.registry.CountWarnings()[warning.Fleet])
			r.fail(r.servers, incusostest.FaultNone)
			r.eventually(func() bool { return !r.registry.FleetUnreachable() && len(r.registry.CountWarnings()) == 0 }, "clear again")
			require.Equal(t, 12, r.count(lifecycle.StatusReady))
		})
	}
}

// Less than half of the fleet goes: those are down, and only those.
func TestPartOfTheFleetGoes(t *testing.T) {
	t.Parallel()
	r := startReal(t, 12, calm, incusos.Options{Timeout: 150 * time.Millisecond})
	r.eventually(func() bool { return r.count(lifecycle.StatusReady) == 12 }, "all ready")
	r.fail(r.servers[:2], incusostest.FaultDown)
	r.fail(r.servers[2:4], incusostest.FaultSilent)
	r.eventually(func() bool { return r.count(lifecycle.StatusOffline) == 4 }, "four are down")
	require.False(t, r.registry.FleetUnreachable())
	require.Equal(t, 4, r.registry.CountWarnings()[warning.Unreachable])
	r.fail(r.servers, incusostest.FaultNone)
	r.eventually(func() bool { return r.count(lifecycle.StatusReady) == 12 }, "all back")
	r.eventually(func() bool { return len(r.registry.CountWarnings()) == 0 }, "and nothing to warn of")
}

// Half of the fleet goes for good: it is held, and told.
func TestHalfOfTheFleetGoes(t *testing.T) {
	t.Parallel()
	r := startReal(t, 12, calm, incusos.Options{Timeout: 150 * time.Millisecond})
	r.eventually(func() bool { return r.count(lifecycle.StatusReady) == 12 }, "all ready")
	r.fail(r.servers[:7], incusostest.FaultDown)
	r.eventually(r.registry.FleetUnreachable, "suspected")
	failed := r.poller.Stats().Failed
	r.eventually(func() bool { return r.poller.Stats().Failed > failed+25 }, "asked on")
	require.Zero(t, r.count(lifecycle.StatusOffline))
	require.NoError(t, r.servers[0].SetFault(incusostest.Fault{}))
	require.NoError(t, r.servers[1].SetFault(incusostest.Fault{}))
	r.eventually(func() bool { return r.count(lifecycle.StatusOffline) == 5 }, "five of twelve are down for real")
	require.False(t, r.registry.FleetUnreachable())
}

// What happens to a server in the middle of its poll.
func TestChangesInTheMiddleOfAPoll(t *testing.T) {
	slow := incusostest.Fault{Kind: incusostest.FaultSlow, Delay: 300 * time.Millisecond, Path: "/os/1.0/system/storage"}
	begin := func(t *testing.T) (*real, *incusostest.Server) {
		options := quick
		options.Interval, options.Timeout = 10*time.Second, 5*time.Second
		r := startReal(t, 1, options, incusos.Options{})
		r.eventually(func() bool { return r.count(lifecycle.StatusReady) == 1 }, "ready")
		server := r.servers[0]
		require.NoError(t, server.SetFault(slow))
		before := server.Requests("/os/1.0/system/storage")
		require.NoError(t, r.registry.SelfUpdate(t.Context(), server.Certificate(), opscenter.SelfUpdate{Cause: lifecycle.CauseStorageConfigChanged}))
		r.eventually(func() bool { return server.Requests("/os/1.0/system/storage") > before }, "in the middle")
		return r, server
	}
	idle := func(r *real) func() bool { return func() bool { return r.poller.Stats().Running == 0 } }

	t.Run("deleted", func(t *testing.T) {
		r, _ := begin(t)
		require.NoError(t, r.registry.DeleteServer(t.Context(), "server00"))
		r.eventually(idle(r), "over")
		require.Empty(t, r.registry.Counts())
		r.eventually(func() bool { return r.poller.Stats().Servers == 0 }, "polled no more")
	})
	t.Run("renamed", func(t *testing.T) {
		r, server := begin(t)
		require.NoError(t, r.registry.RenameServer(t.Context(), "server00", "other", nil))
		r.eventually(idle(r), "over")
		require.NoError(t, server.SetFault(incusostest.Fault{Kind: incusostest.FaultDown}))
		require.NoError(t, r.registry.SelfUpdate(t.Context(), server.Certificate(), opscenter.SelfUpdate{}))
		r.eventually(func() bool { return r.get("other").State.Status == lifecycle.StatusOffline }, "polled by its new name")
	})
	t.Run("installed anew", func(t *testing.T) {
		r, server := begin(t)
		require.NoError(t, r.registry.AllowReinstall(t.Context(), "server00", true))
		require.NoError(t, server.Reinstall())
		r.register(server)
		require.Equal(t, lifecycle.StatusPending, r.get("server00").State.Status)
		r.eventually(func() bool { return r.get("server00").Failures > 0 }, "it does not trust us, so far")
		require.Equal(t, opscenter.Fingerprint(server.Certificate()), r.get("server00").Fingerprint)
	})
	t.Run("moved", func(t *testing.T) {
		r, server := begin(t)
		elsewhere, err := incusostest.New(incusostest.Options{Name: "elsewhere"})
		require.NoError(t, err)
		t.Cleanup(elsewhere.Close)
		// The address is another's, which is found out by its certificate.
		require.NoError(t, r.registry.SelfUpdate(t.Context(), server.Certificate(), opscenter.SelfUpdate{ConnectionURL: elsewhere.URL()}))
		r.eventually(func() bool { return r.get("server00").State.StatusDetail == lifecycle.DetailUnresponsive }, "not there")
		require.Contains(t, r.get("server00").State.StatusReason, incusos.ErrCertificate.Error())
		require.Equal(t, 1, r.registry.CountWarnings()[warning.Certificate])
		require.NoError(t, r.registry.SelfUpdate(t.Context(), server.Certificate(), opscenter.SelfUpdate{ConnectionURL: server.URL()}))
		r.eventually(func() bool { return r.count(lifecycle.StatusReady) == 1 }, "back where it was")
		require.Empty(t, r.registry.CountWarnings())
	})
}

// A poll that fails half-way keeps what it did not read, and says so.
func TestHalfAPoll(t *testing.T) {
	options := quick
	options.Timeout = 10 * time.Second
	r := startReal(t, 1, options, incusos.Options{})
	r.eventually(func() bool {
		return r.count(lifecycle.StatusReady) == 1 && strings.Contains(r.get("server00").State.FactsHash, "hardware=") && len(r.registry.CountWarnings()) == 0
	}, "ready")
	before, err := r.registry.ServerFacts(t.Context(), "server00")
	require.NoError(t, err)
	for _, path := range []string{"/os/1.0/applications", "/os/1.0/system/resources", "/os/1.0/system/update"} {
		require.NoError(t, r.servers[0].SetFault(incusostest.Fault{Kind: incusostest.FaultError, Path: path}))
		// A poll under way when the fault is switched on is cut, and tells of something else first.
		r.eventually(func() bool {
			page, err := r.registry.ListWarnings(context.Background(), opscenter.WarningFilter{Kind: warning.Unreadable}, opscenter.Page{})
			require.NoError(t, err)
			return len(page.Warnings) == 1 && strings.Contains(page.Warnings[0].Message, path)
		}, "told")
		s := r.get("server00").State
		require.Equal(t, lifecycle.TypeIncus, s.Type)
		require.Equal(t, lifecycle.StatusReady, s.Status)
		require.Equal(t, "202610010000", s.Versions.OS.Version)
		after, err := r.registry.ServerFacts(t.Context(), "server00")
		require.NoError(t, err)
		require.Equal(t, before.Hardware, after.Hardware)
		require.NoError(t, r.servers[0].SetFault(incusostest.Fault{}))
		r.eventually(func() bool { return len(r.registry.CountWarnings()) == 0 }, "and over")
	}
}

func files(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc to count descriptors in")
	}
	return len(entries)
}

// A thousand failed polls leave nothing, and neither does Run.
func TestNothingIsLeft(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	options := quick
	options.MaxBackoff = 30 * time.Millisecond
	r := startReal(t, 30, options, incusos.Options{Timeout: 150 * time.Millisecond})
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
	// The simulated servers hold what was opened to them: until they let go, it counts twice.
	for _, server := range r.servers {
		require.NoError(t, server.SetFault(incusostest.Fault{Kind: incusostest.FaultDown}))
	}
	r.eventually(func() bool { return runtime.NumGoroutine() <= goroutines && files(t) <= descriptors }, "flat over 1,000 failed polls")
	begun := time.Now()
	r.stop()
	require.Less(t, time.Since(begun), poller.DefaultGrace)
	require.NoError(t, r.client.Close())
	r.eventually(func() bool { return r.client.Stats().Open == 0 }, "no connection is left")
	require.Zero(t, r.poller.Stats().Running)
}

// A sweep over Badger that finds nothing new commits nothing, and resumes every handshake.
func TestUnchangedPollsAreQuiet(t *testing.T) {
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
		server, err := incusostest.New(incusostest.Options{Name: fmt.Sprintf("quiet%d", i)})
		require.NoError(t, err)
		t.Cleanup(server.Close)
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
	require.Equal(t, commits, store.Stats().Commits, "the simulated counters run all the time, and are no change")
	require.Equal(t, full, client.Stats().FullHandshakes)
	require.Positive(t, client.Stats().ResumedHandshakes)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	require.Greater(t, store.Stats().Commits, commits, "but for when they were last seen, at the end")
}
