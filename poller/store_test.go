package poller_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// hanging is a store whose updates block until the test releases them.
type hanging struct {
	storage.Store
	hang atomic.Pointer[chan struct{}]
}

func (s *hanging) Update(ctx context.Context, fn func(storage.WriteTx) error) error {
	if released := s.hang.Load(); released != nil {
		<-*released
	}
	return s.Store.Update(ctx, fn)
}

// While the store hangs, polls without news go on, and Run can still end.
func TestStoreHangs(t *testing.T) {
	certificates()
	synctest.Test(t, func(t *testing.T) {
		store := &hanging{Store: memstore.New()}
		registry, err := opscenter.NewRegistry(store, opscenter.Options{})
		require.NoError(t, err)
		w := &world{t: t, registry: registry, began: time.Now(), polls: map[string][]time.Duration{}}
		p, err := poller.New(registry, w, poller.Options{Interval: time.Minute, BatchSize: 1, Concurrency: 4, SlowConcurrency: 4, Timeout: 5 * time.Second})
		require.NoError(t, err)
		for n := range 40 {
			w.register(n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		released := make(chan struct{})
		store.hang.Store(&released)
		w.mu.Lock()
		w.versions = map[string]string{} // half of the servers have news
		for n := range 20 {
			w.versions[certificates()[n].Name] = "202611010000"
		}
		w.mu.Unlock()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		for n := 20; n < 40; n++ {
			require.WithinDuration(t, time.Now(), w.state(n).LastSeen, 2*time.Minute, "server %d", n)
		}
		cancel()
		begun := time.Now()
		require.ErrorIs(t, <-ended, poller.ErrGrace)
		require.LessOrEqual(t, time.Since(begun), poller.DefaultGrace)
		close(released)
		synctest.Wait()
	})
}

// refusing is a store that refuses writes while refuse is set, as one on a full disk does.
type refusing struct {
	storage.Store
	refuse atomic.Bool
	with   error
}

func (s *refusing) Update(ctx context.Context, fn func(storage.WriteTx) error) error {
	if s.refuse.Load() {
		return fmt.Errorf("refusing: %w", s.with)
	}
	return s.Store.Update(ctx, fn)
}

// While the store refuses writes, the poller holds a bounded number of observations. It stores or repeats all of them later.
func TestStoreRefusesTemporarily(t *testing.T) {
	for name, refusal := range map[string]error{
		"disk full": storage.ErrDiskFull,
		// The cause, which would be lasting by itself, does not matter.
		"unavailable": fmt.Errorf("%w: %w", storage.ErrUnavailable, storage.ErrCorrupt),
		"unknown":     fmt.Errorf("%w: %w", storage.ErrUnknown, storage.ErrCorrupt),
	} {
		t.Run(name, func(t *testing.T) { testTemporaryRefusal(t, refusal) })
	}
}

func testTemporaryRefusal(t *testing.T, refusal error) {
	certificates()
	synctest.Test(t, func(t *testing.T) {
		store := &refusing{Store: memstore.New(), with: refusal}
		registry, err := opscenter.NewRegistry(store, opscenter.Options{})
		require.NoError(t, err)
		w := &world{t: t, registry: registry, began: time.Now(), polls: map[string][]time.Duration{}}
		// MaxPending is so small that some observations are dropped, and some servers polled again.
		p, err := poller.New(registry, w, poller.Options{Interval: time.Minute, MaxPending: 16, BatchSize: 4})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		for n := range 60 {
			w.register(n)
		}
		// settled waits until no observation is pending. A new one may wait for BatchDelay.
		settled := func() {
			t.Helper()
			for range 10 {
				synctest.Wait()
				if p.Stats().Pending == 0 {
					return
				}
				time.Sleep(poller.DefaultBatchDelay)
			}
			require.Zero(t, p.Stats().Pending)
		}
		time.Sleep(2 * time.Minute)
		settled()
		revision, err := registry.Revision(ctx)
		require.NoError(t, err)

		store.refuse.Store(true)
		w.mu.Lock()
		w.version = "202611010000"
		w.mu.Unlock()
		before := p.Stats()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		held := p.Stats()
		require.LessOrEqual(t, held.Pending, 16, "at most MaxPending")
		require.Positive(t, held.Pending)
		require.Positive(t, held.Dropped-before.Dropped)
		require.Positive(t, held.Refused)
		now, err := registry.Revision(ctx)
		require.NoError(t, err)
		require.Equal(t, revision, now)

		store.refuse.Store(false)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		for n := range 60 {
			require.Equal(t, "202611010000", w.state(n).State.Versions.OS.Version, "nothing is lost")
			require.Zero(t, w.state(n).Failures)
		}
		settled()

		// The store also refuses writes while Run ends. Run returns its error.
		store.refuse.Store(true)
		w.mu.Lock()
		w.version = "202612010000"
		w.mu.Unlock()
		time.Sleep(2 * time.Minute)
		cancel()
		err = <-ended
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, refusal, "the error says that last-seen times are not stored")
	})
}

// rejecting is a store that always rejects the ready state of one server.
type rejecting struct {
	storage.Store
}

func (s *rejecting) Update(ctx context.Context, fn func(storage.WriteTx) error) error {
	return s.Store.Update(ctx, func(tx storage.WriteTx) error { return fn(&rejectingTx{tx}) })
}

type rejectingTx struct{ storage.WriteTx }

func (tx *rejectingTx) Put(table *storage.TableSchema, row any) error {
	if state, ok := row.(*lifecycle.ServerState); ok && state.Name == "server03" && state.Status == lifecycle.StatusReady {
		return fmt.Errorf("rejecting: %w", storage.ErrTooLarge)
	}
	return tx.WriteTx.Put(table, row)
}

// An observation that the store rejects for good is dropped. The rest of its batch is stored.
func TestOneInvalidObservation(t *testing.T) {
	certificates()
	synctest.Test(t, func(t *testing.T) {
		registry, err := opscenter.NewRegistry(&rejecting{memstore.New()}, opscenter.Options{})
		require.NoError(t, err)
		w := &world{t: t, registry: registry, began: time.Now(), polls: map[string][]time.Duration{}}
		p, err := poller.New(registry, w, poller.Options{})
		require.NoError(t, err)
		for n := range 10 {
			w.register(n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, p.Run(ctx), context.DeadlineExceeded)
		for n := range 10 {
			want := lifecycle.StatusReady
			if n == 3 {
				want = lifecycle.StatusPending
			}
			require.Equal(t, want, w.state(n).State.Status)
		}
		require.Positive(t, p.Stats().Dropped)
	})
}
