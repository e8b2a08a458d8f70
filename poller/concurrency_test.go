package poller_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// hang is the answer of a server that stays silent until the deadline of the poll.
func hang(ctx context.Context, _ opscenter.Target) *lifecycle.Failure {
	<-ctx.Done()
	return &lifecycle.Failure{Kind: lifecycle.FailureTimeout, Message: "no answer"}
}

// Half of the servers hang, more than Concurrency. The others are still polled in time.
func TestHangingServersDoNotDelayHealthyOnes(t *testing.T) {
	inBubble(t, poller.Options{Concurrency: 4, SlowConcurrency: 30, RetryConcurrency: 8, OfflineConcurrency: 2, Interval: time.Minute}, func(w *world) {
		dead := map[string]bool{}
		for n := range 60 {
			w.register(n)
			if n%2 == 0 {
				dead[certificates()[n].Name] = true
			}
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		// From now on half of them hang: too few at a time to count as an outage of the fleet.
		w.set(func(ctx context.Context, target opscenter.Target) *lifecycle.Failure {
			if dead[target.Name] {
				return hang(ctx, target)
			}
			return nil
		})
		before := time.Since(w.began)
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		for n := range 60 {
			name := certificates()[n].Name
			if dead[name] {
				continue
			}
			var last time.Duration
			polls := 0
			for _, at := range w.times(name) {
				if at < before {
					last = at
					continue
				}
				polls++
				// Healthy servers may be polled early. They are late only by the second after which
				// the first hanging polls count as slow.
				require.LessOrEqual(t, at-last, time.Minute+10*time.Second, "%s at %s", name, at)
				last = at
			}
			require.GreaterOrEqual(t, polls, 29)
		}
		require.LessOrEqual(t, w.most.Load(), int32(44))
	})
}

// Each class of servers has its own limit. Many hanging servers delay neither retries nor new servers.
func TestEachClassHasItsOwnLimit(t *testing.T) {
	inBubble(t, poller.Options{Concurrency: 2, SlowConcurrency: 4, RetryConcurrency: 4, OfflineConcurrency: 2, Interval: 5 * time.Minute, RetryInterval: time.Second, MaxBackoff: time.Second}, func(w *world) {
		for n := range 50 {
			w.register(n)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		// 20 servers fail one after the other, too far apart to count as an outage of the fleet.
		var dead atomic.Int32
		w.set(func(ctx context.Context, target opscenter.Target) *lifecycle.Failure {
			for n := range dead.Load() {
				if target.Name == certificates()[n].Name {
					return hang(ctx, target)
				}
			}
			return nil
		})
		for range 20 {
			dead.Add(1)
			time.Sleep(10 * time.Minute)
		}
		synctest.Wait()
		require.False(t, w.registry.Observer().FleetUnreachable())
		for n := range 20 {
			require.Equal(t, lifecycle.DetailUnresponsive, w.state(n).State.StatusDetail, "server %d", n)
		}
		// One server fails once. Its retry is in time, although 20 servers hang.
		var once atomic.Bool
		w.set(func(ctx context.Context, target opscenter.Target) *lifecycle.Failure {
			for n := range 20 {
				if target.Name == certificates()[n].Name {
					return hang(ctx, target)
				}
			}
			if target.Name == "server30" && !once.Swap(true) {
				return refuse
			}
			return nil
		})
		reg := certificates()[30]
		begun := time.Since(w.began)
		require.NoError(t, w.registry.SelfUpdate(t.Context(), reg.Certificate, opscenter.SelfUpdate{}))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		times := w.times("server30")
		require.Less(t, times[len(times)-1], begun+2*time.Second, "the retry is in time")
		require.Zero(t, w.state(30).Failures)
		// The first poll of a new server often fails. Such a server is polled again soon.
		w.set(func(ctx context.Context, target opscenter.Target) *lifecycle.Failure {
			if target.Name == "server55" && len(w.times("server55")) == 1 {
				return refuse
			}
			for n := range 20 {
				if target.Name == certificates()[n].Name {
					return hang(ctx, target)
				}
			}
			return nil
		})
		w.register(55)
		time.Sleep(7 * time.Second)
		synctest.Wait()
		require.Equal(t, lifecycle.StatusReady, w.state(55).State.Status)
		require.LessOrEqual(t, w.most.Load(), int32(12))
		require.Zero(t, w.poller.Stats().Lag)
		require.Positive(t, w.poller.Stats().OfflineLag, "20 that hang for 30 s each, 2 at a time")
	})
}

// All servers are slow, and fill their limits. A server that failed once is still polled again.
func TestSlowServersDoNotDelayRetries(t *testing.T) {
	inBubble(t, poller.Options{Concurrency: 4, SlowConcurrency: 4, Interval: time.Minute}, func(w *world) {
		var failed atomic.Bool
		w.set(func(ctx context.Context, target opscenter.Target) *lifecycle.Failure {
			time.Sleep(8 * time.Second)
			if target.Name == "server00" && !failed.Swap(true) {
				return refuse
			}
			return nil
		})
		for n := range 60 {
			w.register(n)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		require.Equal(t, lifecycle.StatusReady, w.state(0).State.Status)
		require.True(t, w.poller.Stats().Behind, "the poller reports that it is behind")
	})
}

// Run clears the warning Behind that an earlier process left.
func TestBehindWarningOfEarlierRunIsCleared(t *testing.T) {
	inBubble(t, poller.Options{}, func(w *world) {
		require.NoError(t, w.registry.Warnings().Raise(t.Context(), "", warning.Input{Kind: warning.Behind}))
	})
	certificates()
	synctest.Test(t, func(t *testing.T) {
		registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
		require.NoError(t, err)
		require.NoError(t, registry.Warnings().Raise(t.Context(), "", warning.Input{Kind: warning.Behind}))
		w := &world{t: t, registry: registry, began: time.Now(), polls: map[string][]time.Duration{}}
		p, err := poller.New(registry, w, poller.Options{})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, p.Run(ctx), context.DeadlineExceeded)
		require.Empty(t, w.warnings())
	})
}

// A poller that is behind polls the most overdue server first. It raises one warning, and clears it later.
func TestBehindSchedule(t *testing.T) {
	inBubble(t, poller.Options{Concurrency: 1, Interval: 50 * time.Second, SlowAfter: time.Hour}, func(w *world) {
		for n := range 60 {
			w.register(n)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Empty(t, w.warnings())
		w.set(func(context.Context, opscenter.Target) *lifecycle.Failure { time.Sleep(2 * time.Second); return nil })
		time.Sleep(20 * time.Minute) // 60 polls of 2 s are due every 50 s
		synctest.Wait()
		require.Equal(t, []warning.Kind{warning.Behind}, w.warnings())
		least, most := 1000, 0
		for n := range 60 {
			polls := 0
			for _, at := range w.times(certificates()[n].Name) {
				if at > 5*time.Minute {
					polls++
				}
			}
			least, most = min(least, polls), max(most, polls)
		}
		require.LessOrEqual(t, most-least, 1, "all servers are polled equally often")
		w.set(nil)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Empty(t, w.warnings())
		events, err := w.registry.ListEvents(context.Background(), opscenter.EventFilter{Limit: 1000, Newest: true})
		require.NoError(t, err)
		raised := 0
		for _, e := range events {
			if e.Kind == event.WarningRaised {
				raised++
			}
		}
		require.Equal(t, 1, raised)
	})
}

// warnings lists the kinds of open warnings, except those of unreachable servers.
func (w *world) warnings() []warning.Kind {
	w.t.Helper()
	page, err := w.registry.Warnings().List(context.Background(), opscenter.WarningFilter{}, opscenter.Page{Limit: 1000})
	require.NoError(w.t, err)
	var out []warning.Kind
	for _, one := range page.Warnings {
		if one.Kind != warning.Unreachable {
			out = append(out, one.Kind)
		}
	}
	return out
}
