package poller_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// These tests check timers, in a synctest bubble with a fake clock. Their prober opens no sockets,
// because real sockets do not work in a bubble. Tests with sockets are in sockets_test.go.

// world is a registry, a poller, and the simulated answers of servers. It implements poller.Prober.
type world struct {
	t        *testing.T
	registry *opscenter.Registry
	began    time.Time

	mu       sync.Mutex
	polls    map[string][]time.Duration // name → times of polls, since began
	probe    func(ctx context.Context, target opscenter.Target) *lifecycle.Failure
	active   atomic.Int32
	most     atomic.Int32
	facts    bool              // answers have facts
	unread   int               // number of further answers with unreadable facts
	version  string            // of the OS
	versions map[string]string // of the OS, by server name, instead of version
	poller   *poller.Poller
}

func (w *world) Probe(ctx context.Context, target opscenter.Target) lifecycle.Observation {
	if n := w.active.Add(1); n > w.most.Load() {
		w.most.Store(n)
	}
	defer w.active.Add(-1)
	at := time.Now()
	w.mu.Lock()
	w.polls[target.Name] = append(w.polls[target.Name], at.Sub(w.began))
	probe, version, facts := w.probe, w.version, w.facts
	if own := w.versions[target.Name]; own != "" {
		version = own
	}
	w.mu.Unlock()
	kind, maintenance := lifecycle.TypeIncus, lifecycle.NotInMaintenance
	o := lifecycle.Observation{Server: target.Name, ID: target.ID, At: at, Light: target.Light}
	if probe != nil {
		o.Failure = probe(ctx, target)
	}
	if o.Failure == nil {
		o.Ready, o.Type, o.Maintenance = true, &kind, &maintenance
		o.Versions = &lifecycle.Versions{OS: lifecycle.OSVersion{Version: version}}
		if facts && !target.Light {
			o.Facts = &lifecycle.Facts{Hardware: json.RawMessage(`{"cpu":1}`)}
			w.mu.Lock()
			if w.unread > 0 {
				w.unread--
				o.Unread = []string{"network: reset"}
			}
			w.mu.Unlock()
		}
	}
	return o
}

func (w *world) set(probe func(context.Context, opscenter.Target) *lifecycle.Failure) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.probe = probe
}

func (w *world) times(name string) []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]time.Duration(nil), w.polls[name]...)
}

var refuse = &lifecycle.Failure{Kind: lifecycle.FailureConnect, Message: "refused"}

var certificates = sync.OnceValue(func() []opscenter.Registration {
	var out []opscenter.Registration
	for n := range 60 {
		made, err := selfsigned.New(fmt.Sprint("server ", n))
		if err != nil {
			panic(err)
		}
		out = append(out, opscenter.Registration{Certificate: made.Leaf, Name: fmt.Sprintf("server%02d", n), ConnectionURL: "https://127.0.0.1:1"})
	}
	return out
})

// inBubble runs a test with a registry and a running poller, in a synctest bubble.
func inBubble(t *testing.T, options poller.Options, test func(w *world)) {
	certificates()
	synctest.Test(t, func(t *testing.T) {
		registry, err := opscenter.NewRegistry(memstore.New(memstore.Options{DetectMutation: true}), opscenter.Options{})
		require.NoError(t, err)
		w := &world{t: t, registry: registry, began: time.Now(), polls: map[string][]time.Duration{}}
		p, err := poller.New(registry, w, options)
		require.NoError(t, err)
		w.poller = p
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		synctest.Wait()
		require.ErrorIs(t, p.Run(ctx), poller.ErrRunning)
		test(w)
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
		require.Zero(t, w.active.Load(), "Run waits for its polls")
	})
}

func (w *world) register(n int) opscenter.Registration {
	token, err := w.registry.CreateToken(w.t.Context(), opscenter.TokenSpec{})
	require.NoError(w.t, err)
	reg := certificates()[n]
	reg.Token = token.UUID
	_, err = w.registry.Register(w.t.Context(), reg)
	require.NoError(w.t, err)
	return reg
}

func (w *world) state(n int) *opscenter.ServerInfo {
	info, err := w.registry.Server(w.t.Context(), certificates()[n].Name)
	require.NoError(w.t, err)
	return info
}

func TestNewServerIsPolledAtOnce(t *testing.T) {
	inBubble(t, poller.Options{}, func(w *world) {
		w.register(0)
		synctest.Wait()
		require.Equal(t, []time.Duration{0}, w.times("server00"))
		time.Sleep(poller.DefaultBatchDelay)
		synctest.Wait()
		require.Equal(t, lifecycle.StatusReady, w.state(0).State.Status)
		time.Sleep(time.Hour)
		synctest.Wait()
		times := w.times("server00")
		require.Len(t, times, 13)
		for i := 2; i < len(times); i++ {
			require.Equal(t, 5*time.Minute, times[i]-times[i-1], "the default interval")
		}
	})
}

func TestBackoffAndReturn(t *testing.T) {
	inBubble(t, poller.Options{}, func(w *world) {
		w.register(0)
		synctest.Wait()
		w.set(func(context.Context, opscenter.Target) *lifecycle.Failure { return refuse })
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		require.Equal(t, lifecycle.DetailUnresponsive, w.state(0).State.StatusDetail)
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		times := w.times("server00")
		var gaps []time.Duration
		for i := 2; i < len(times); i++ {
			gaps = append(gaps, times[i]-times[i-1])
		}
		require.Equal(t, []time.Duration{10 * time.Second, 10 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second,
			160 * time.Second, 320 * time.Second, 640 * time.Second, 15 * time.Minute, 15 * time.Minute}, gaps[:11])
		w.set(nil)
		time.Sleep(15 * time.Minute)
		synctest.Wait()
		require.Equal(t, lifecycle.StatusReady, w.state(0).State.Status)
	})
}

// A self update causes a poll at once. Ten self updates during that poll cause one more.
func TestSelfUpdatesPollAtOnce(t *testing.T) {
	inBubble(t, poller.Options{Interval: 10_000 * time.Hour}, func(w *world) {
		reg := w.register(0)
		synctest.Wait()
		time.Sleep(time.Second)
		w.set(func(ctx context.Context, _ opscenter.Target) *lifecycle.Failure {
			time.Sleep(2 * time.Second)
			return nil
		})
		for range 10 {
			require.NoError(t, w.registry.SelfUpdate(t.Context(), reg.Certificate, opscenter.SelfUpdate{Cause: lifecycle.CauseStorageConfigChanged}))
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		times := w.times("server00")
		require.Len(t, times, 3)
		require.Equal(t, []time.Duration{0, time.Second}, times[:2])
		require.InDelta(t, 3*time.Second, times[2], float64(100*time.Millisecond), "after the active poll is stored")
	})
}

func TestRebootingServerIsPolledFast(t *testing.T) {
	inBubble(t, poller.Options{}, func(w *world) {
		reg := w.register(0)
		synctest.Wait()
		require.NoError(t, w.registry.SelfUpdate(t.Context(), reg.Certificate, opscenter.SelfUpdate{Cause: lifecycle.CauseSystemRebootTriggered}))
		w.set(func(context.Context, opscenter.Target) *lifecycle.Failure { return refuse })
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Len(t, w.times("server00"), 13, "FastInterval while rebooting")
		require.Equal(t, lifecycle.DetailRebooting, w.state(0).State.StatusDetail)
		w.set(nil)
		time.Sleep(5*time.Second + 2*poller.DefaultBatchDelay)
		synctest.Wait()
		require.Equal(t, lifecycle.StatusReady, w.state(0).State.Status)
		// A server that never returns becomes unresponsive.
		require.NoError(t, w.registry.SelfUpdate(t.Context(), reg.Certificate, opscenter.SelfUpdate{Cause: lifecycle.CauseSystemRebootTriggered}))
		w.set(func(context.Context, opscenter.Target) *lifecycle.Failure { return refuse })
		time.Sleep((15 * time.Minute) + 10*time.Second)
		synctest.Wait()
		require.Equal(t, lifecycle.DetailUnresponsive, w.state(0).State.StatusDetail)
	})
}

// Hanging servers delay no other new server, and become unresponsive.
func TestHangingServersDoNotDelayNewOnes(t *testing.T) {
	inBubble(t, poller.Options{Concurrency: 20, Timeout: 30 * time.Second, Interval: 10_000 * time.Hour}, func(w *world) {
		hangs := map[string]bool{}
		for n := range 10 {
			hangs[certificates()[n].Name] = true
		}
		w.set(func(ctx context.Context, target opscenter.Target) *lifecycle.Failure {
			if !hangs[target.Name] {
				return nil
			}
			<-ctx.Done()
			return &lifecycle.Failure{Kind: lifecycle.FailureTimeout, Message: "no answer"}
		})
		for n := range 50 {
			w.register(n)
		}
		time.Sleep(poller.DefaultBatchDelay)
		synctest.Wait()
		for n := 10; n < 50; n++ {
			require.Equal(t, []time.Duration{0}, w.times(certificates()[n].Name), "at once, while 10 others hang")
			require.Equal(t, lifecycle.StatusReady, w.state(n).State.Status)
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		for n := range 10 {
			require.Equal(t, lifecycle.DetailUnresponsive, w.state(n).State.StatusDetail)
		}
		require.LessOrEqual(t, w.most.Load(), int32(30))
	})
}

func TestConcurrencyIsBounded(t *testing.T) {
	// The interval is longer than the test, so each server is polled once.
	inBubble(t, poller.Options{Concurrency: 7, Interval: 10_000 * time.Hour}, func(w *world) {
		w.set(func(context.Context, opscenter.Target) *lifecycle.Failure {
			time.Sleep(900 * time.Millisecond)
			return nil
		})
		for n := range 60 {
			w.register(n)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		for n := range 60 {
			require.Len(t, w.times(certificates()[n].Name), 1)
		}
		require.EqualValues(t, 7, w.most.Load())
	})
}

func TestRemovedAndRenamedServers(t *testing.T) {
	inBubble(t, poller.Options{}, func(w *world) {
		w.register(0)
		w.register(1)
		synctest.Wait()
		require.NoError(t, w.registry.DeleteServer(t.Context(), "server00", false))
		require.NoError(t, w.registry.RenameServer(t.Context(), "server01", "renamed", nil))
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Len(t, w.times("server00"), 1)
		require.Len(t, w.times("server01"), 1)
		require.InDelta(t, 12, len(w.times("renamed")), 1)
		// Pre-registered servers are not polled before they register.
		_, err := w.registry.PreRegister(t.Context(), opscenter.PreRegistration{Name: "expected", MachineID: "0123456789abcdef0123456789abcdef"})
		require.NoError(t, err)
		time.Sleep(time.Hour)
		require.Empty(t, w.times("expected"))
	})
}

// Each server keeps its phase over a restart. So a restart causes few early polls.
func TestRestartKeepsPhases(t *testing.T) {
	certificates()
	synctest.Test(t, func(t *testing.T) {
		registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
		require.NoError(t, err)
		w := &world{t: t, registry: registry, began: time.Now(), polls: map[string][]time.Duration{}}
		p, err := poller.New(registry, w, poller.Options{})
		require.NoError(t, err)
		run := func(d time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			require.ErrorIs(t, p.Run(ctx), context.DeadlineExceeded)
		}
		for n := range 50 {
			w.register(n)
		}
		run(time.Hour)
		before := map[string]int{}
		for n := range 50 {
			name := certificates()[n].Name
			before[name] = len(w.times(name))
		}
		run(time.Second)
		early := 0
		for name, n := range before {
			early += len(w.times(name)) - n
		}
		require.Less(t, early, 5, "polls of 50 servers in the first second")
		run(5 * time.Minute)
		for name, n := range before {
			times := w.times(name)
			require.Greater(t, len(times), n)
			require.Zero(t, (times[len(times)-1]-times[n-1])%(5*time.Minute), "the phase is kept")
		}
	})
}

func TestPoll(t *testing.T) {
	certificates()
	synctest.Test(t, func(t *testing.T) {
		registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
		require.NoError(t, err)
		w := &world{t: t, registry: registry, began: time.Now(), polls: map[string][]time.Duration{}}
		p, err := poller.New(registry, w, poller.Options{Timeout: 10 * time.Second})
		require.NoError(t, err)
		w.register(0)
		o, err := p.Poll(t.Context(), "server00")
		require.NoError(t, err)
		require.Nil(t, o.Failure)
		require.Equal(t, lifecycle.StatusReady, w.state(0).State.Status)
		_, err = p.Poll(t.Context(), "missing")
		require.ErrorIs(t, err, opscenter.ErrNotFound)
		_, err = registry.PreRegister(t.Context(), opscenter.PreRegistration{Name: "expected", MachineID: "0123456789abcdef0123456789abcdef"})
		require.NoError(t, err)
		_, err = p.Poll(t.Context(), "expected")
		require.ErrorIs(t, err, poller.ErrNotRegistered)

		w.set(func(ctx context.Context, _ opscenter.Target) *lifecycle.Failure { <-ctx.Done(); return refuse })
		begun := time.Now()
		o, err = p.Poll(t.Context(), "server00")
		require.NoError(t, err)
		require.NotNil(t, o.Failure)
		require.Equal(t, 10*time.Second, time.Since(begun), "Options.Timeout applies")
		require.Equal(t, 1, w.state(0).Failures)
		// A cancelled poll does not count as a failure of the server.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = p.Poll(ctx, "server00")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 1, w.state(0).Failures)
		// Polls of the same server run one after the other.
		w.most.Store(0)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { _, _ = p.Poll(t.Context(), "server00") })
		}
		wg.Wait()
		require.EqualValues(t, 1, w.most.Load())
		require.EqualValues(t, 5, p.Stats().Polls)
	})
}

func TestOptions(t *testing.T) {
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	require.NoError(t, err)
	for _, options := range []poller.Options{{Interval: -1}, {FastInterval: -1}, {RetryInterval: -1}, {MaxBackoff: -1}, {Timeout: -1}, {Concurrency: -1},
		{SlowConcurrency: -1}, {RetryConcurrency: -1}, {OfflineConcurrency: -1}, {SlowAfter: -1}, {BatchSize: -1}, {BatchDelay: -1}, {MaxPending: -1}, {MaxPendingSize: -1}, {Grace: -1}, {FactsInterval: -1}, {MaxLag: -1}} {
		_, err := poller.New(registry, nil, options)
		require.ErrorIs(t, err, opscenter.ErrInvalidOptions)
	}
}

// Run goes on polling after the store was closed.
func TestClosedStore(t *testing.T) {
	certificates()
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		registry, err := opscenter.NewRegistry(store, opscenter.Options{})
		require.NoError(t, err)
		w := &world{t: t, registry: registry, began: time.Now(), polls: map[string][]time.Duration{}}
		p, err := poller.New(registry, w, poller.Options{})
		require.NoError(t, err)
		w.register(0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		time.AfterFunc(time.Minute, func() { store.Close() })
		err = p.Run(ctx)
		require.True(t, errors.Is(err, context.DeadlineExceeded))
	})
}
