package poller_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// The recorder may store an observation before the loop receives the first result of its poll.
func TestStoredBeforePollIsOver(t *testing.T) {
	for range 20 {
		inBubble(t, poller.Options{BatchSize: 1, FastInterval: 1}, func(w *world) {
			for n := range 20 {
				w.register(n)
			}
			for range 20 {
				for n := range 20 {
					require.NoError(t, w.registry.SelfUpdate(t.Context(), certificates()[n].Certificate, opscenter.SelfUpdate{Cause: lifecycle.CauseOSUpdateApplied}))
				}
				time.Sleep(time.Millisecond)
			}
			synctest.Wait()
			require.Zero(t, w.poller.Stats().Running)
		})
	}
}

// A poll that waited for another poll of the same server still has its full timeout.
func TestTimeoutStartsAfterWait(t *testing.T) {
	inBubble(t, poller.Options{Timeout: 30 * time.Second}, func(w *world) {
		reg := w.register(0)
		time.Sleep(time.Minute)
		w.set(func(ctx context.Context, target opscenter.Target) *lifecycle.Failure {
			select {
			case <-time.After(20 * time.Second):
				return nil
			case <-ctx.Done():
				return refuse
			}
		})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			o, err := w.poller.Poll(w.t.Context(), "server00")
			require.NoError(t, err)
			require.Nil(t, o.Failure)
		}()
		time.Sleep(time.Second)
		require.NoError(t, w.registry.SelfUpdate(t.Context(), reg.Certificate, opscenter.SelfUpdate{}))
		<-ended
		time.Sleep(25 * time.Second)
		synctest.Wait()
		require.Zero(t, w.state(0).Failures)
		require.Zero(t, w.poller.Stats().Failed)
		require.WithinDuration(t, time.Now(), w.state(0).LastSeen, 30*time.Second)
	})
}

// The next poll reads the facts again if some were unreadable. It does not wait for FactsInterval.
func TestUnreadFactsAreReadAtNextPoll(t *testing.T) {
	var heavy atomic.Int32
	options := poller.Options{Interval: time.Minute, FactsInterval: 24 * time.Hour, OnPoll: func(o *lifecycle.Observation) {
		if !o.Light {
			heavy.Add(1)
		}
	}}
	inBubble(t, options, func(w *world) {
		w.facts, w.unread = true, 3
		w.register(0)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		require.EqualValues(t, 4, heavy.Load())
	})
}

// Facts are read once per FactsInterval, and at once after a self update.
func TestFactsInterval(t *testing.T) {
	var light, heavy atomic.Int32
	options := poller.Options{Interval: time.Minute, FactsInterval: 10 * time.Minute, OnPoll: func(o *lifecycle.Observation) {
		if o.Light {
			light.Add(1)
		} else {
			heavy.Add(1)
		}
	}}
	inBubble(t, options, func(w *world) {
		w.facts = true
		reg := w.register(0)
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		require.InDelta(t, 7, heavy.Load(), 1)
		require.InDelta(t, 54, light.Load(), 2)
		before := heavy.Load()
		require.NoError(t, w.registry.SelfUpdate(t.Context(), reg.Certificate, opscenter.SelfUpdate{Cause: lifecycle.CauseStorageConfigChanged}))
		synctest.Wait()
		require.Equal(t, before+1, heavy.Load())
	})
}

// A light poll that finds news is followed by one that reads the facts.
func TestNewsIsFollowedByFacts(t *testing.T) {
	var light, heavy atomic.Int32
	options := poller.Options{Interval: time.Minute, OnPoll: func(o *lifecycle.Observation) {
		if o.Light {
			light.Add(1)
		} else {
			heavy.Add(1)
		}
	}}
	inBubble(t, options, func(w *world) {
		w.facts = true
		w.register(0)
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		before := heavy.Load()
		require.LessOrEqual(t, before, int32(2), "most polls are light, within the default FactsInterval")
		w.mu.Lock()
		w.version = "202612010000"
		w.mu.Unlock()
		lightBefore := light.Load()
		time.Sleep(2*time.Minute + time.Second)
		synctest.Wait()
		require.Equal(t, before+1, heavy.Load())
		require.Equal(t, lightBefore+1, light.Load(), "the one that found the news")
		require.Equal(t, "202612010000", w.state(0).State.Versions.OS.Version)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		require.Equal(t, before+1, heavy.Load())
	})
}

// A batch is stored when it is full, or when BatchDelay has passed.
func TestBatches(t *testing.T) {
	for name, test := range map[string]struct {
		options poller.Options
		after   time.Duration
	}{"by count": {poller.Options{BatchSize: 1, BatchDelay: time.Hour}, 0}, "by time": {poller.Options{BatchSize: 50, BatchDelay: 2 * time.Second}, 2 * time.Second}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, test.options, func(w *world) {
				w.register(0)
				synctest.Wait()
				if test.after > 0 {
					require.Equal(t, lifecycle.StatusPending, w.state(0).State.Status)
					time.Sleep(test.after)
					synctest.Wait()
				}
				require.Equal(t, lifecycle.StatusReady, w.state(0).State.Status)
			})
		})
	}
}

// Run can be called again after it returned.
func TestRunAgain(t *testing.T) {
	certificates()
	synctest.Test(t, func(t *testing.T) {
		registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
		require.NoError(t, err)
		w := &world{t: t, registry: registry, began: time.Now(), polls: map[string][]time.Duration{}}
		p, err := poller.New(registry, w, poller.Options{})
		require.NoError(t, err)
		w.register(0)
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			err := p.Run(ctx)
			cancel()
			require.True(t, errors.Is(err, context.DeadlineExceeded))
		}
		require.GreaterOrEqual(t, len(w.times("server00")), 6)
	})
}

// Run returns within its grace, even if a prober ignores the end of its context.
func TestGrace(t *testing.T) {
	certificates()
	synctest.Test(t, func(t *testing.T) {
		registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
		require.NoError(t, err)
		w := &world{t: t, registry: registry, began: time.Now(), polls: map[string][]time.Duration{}}
		release := make(chan struct{})
		w.set(func(context.Context, opscenter.Target) *lifecycle.Failure { <-release; return nil })
		p, err := poller.New(registry, w, poller.Options{Grace: 3 * time.Second})
		require.NoError(t, err)
		w.register(0)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		time.Sleep(time.Second)
		cancel()
		begun := time.Now()
		err = <-ended
		require.Equal(t, 3*time.Second, time.Since(begun))
		require.ErrorIs(t, err, poller.ErrGrace)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorContains(t, err, "1 polls")
		close(release)
		synctest.Wait() // the remaining goroutines end when the prober returns
	})
}

// One poll does not end. The observations of the others are stored all the same.
func TestGraceStoresOtherObservations(t *testing.T) {
	certificates()
	synctest.Test(t, func(t *testing.T) {
		registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
		require.NoError(t, err)
		w := &world{t: t, registry: registry, began: time.Now(), polls: map[string][]time.Duration{}}
		release := make(chan struct{})
		w.set(func(_ context.Context, target opscenter.Target) *lifecycle.Failure {
			if target.Name == "server00" {
				<-release
			}
			return nil
		})
		p, err := poller.New(registry, w, poller.Options{Grace: 4 * time.Second, BatchDelay: time.Hour})
		require.NoError(t, err)
		for n := range 10 {
			w.register(n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		time.Sleep(time.Second)
		cancel()
		begun := time.Now()
		require.ErrorIs(t, <-ended, poller.ErrGrace)
		require.Equal(t, 4*time.Second, time.Since(begun))
		for n := 1; n < 10; n++ {
			require.Equal(t, lifecycle.StatusReady, w.state(n).State.Status)
		}
		again, err := opscenter.NewRegistry(registry.Store(), opscenter.Options{})
		require.NoError(t, err)
		info, err := again.Server(context.Background(), "server01")
		require.NoError(t, err)
		require.WithinDuration(t, w.began, info.LastSeen, time.Millisecond)
		close(release)
		synctest.Wait()
	})
}

// All observations are stored when Run returns, even if BatchDelay has not passed.
func TestStopStoresObservations(t *testing.T) {
	certificates()
	synctest.Test(t, func(t *testing.T) {
		registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
		require.NoError(t, err)
		w := &world{t: t, registry: registry, began: time.Now(), polls: map[string][]time.Duration{}}
		p, err := poller.New(registry, w, poller.Options{BatchDelay: time.Hour})
		require.NoError(t, err)
		for n := range 10 {
			w.register(n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		time.Sleep(time.Second)
		require.Equal(t, lifecycle.StatusPending, w.state(0).State.Status)
		require.Equal(t, 10, p.Stats().Pending)
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
		for n := range 10 {
			require.Equal(t, lifecycle.StatusReady, w.state(n).State.Status)
		}
		again, err := opscenter.NewRegistry(registry.Store(), opscenter.Options{})
		require.NoError(t, err)
		info, err := again.Server(context.Background(), "server00")
		require.NoError(t, err)
		require.WithinDuration(t, w.began, info.LastSeen, time.Millisecond, "last-seen times are stored")
	})
}
