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
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

func hang(ctx context.Context, _ opscenter.Target) *lifecycle.Failure {
	<-ctx.Done()
	return &lifecycle.Failure{Kind: lifecycle.FailureTimeout, Message: "no answer"}
}

// More servers hang than there is concurrency, and the living are polled in time.
func TestTheDeadDoNotStarveTheLiving(t *testing.T) {
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
		// From now on half of them hang: too few at a time for the guard, which is not the matter here.
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
				// Others may be asked earlier than their turn; nobody later, but for the second
				// in which the first of the dead are found to be slow.
				require.LessOrEqual(t, at-last, time.Minute+10*time.Second, "%s at %s", name, at)
				last = at
			}
			require.GreaterOrEqual(t, polls, 29)
		}
		require.LessOrEqual(t, w.most.Load(), int32(44))
	})
}

// However many are dead, and however slow, each class of servers has a budget of its own.
func TestEachClassHasItsBudget(t *testing.T) {
	inBubble(t, poller.Options{Concurrency: 2, SlowConcurrency: 4, RetryConcurrency: 4, OfflineConcurrency: 2, Interval: 5 * time.Minute, RetryInterval: time.Second, MaxBackoff: time.Second}, func(w *world) {
		for n := range 50 {
			w.register(n)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		// 20 die one after the other, too far apart for the guard.
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
		require.False(t, w.registry.FleetUnreachable())
		for n := range 20 {
			require.Equal(t, lifecycle.DetailUnresponsive, w.state(n).State.StatusDetail, "server %d", n)
		}
		// One fails once: it is looked at again in time, beside 20 that hang.
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
		require.Less(t, times[len(times)-1], begun+2*time.Second, "the second look")
		require.Zero(t, w.state(30).Failures)
		// A new server whose first poll fails, as it is usual, is polled again soon.
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

// Servers that answer, but slowly, keep their budget busy, and a failed one gets its second look.
func TestSlowServersDoNotStarveSecondLooks(t *testing.T) {
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
		require.True(t, w.poller.Stats().Behind, "and it is told that it is all too much")
	})
}

// A recorder may store an outcome before the loop has heard that the poll is over.
func TestStoredBeforeOver(t *testing.T) {
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

// A poll that had to wait for another of the same server has all of its time.
func TestWaitingForAnotherPollCostsNoTime(t *testing.T) {
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

// Facts that could not be read are asked for again at the next poll, not at their interval.
func TestFactsThatFailedAreReadSoon(t *testing.T) {
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

// A warning of being behind that an earlier process left is cleared.
func TestBehindOfAnEarlierRun(t *testing.T) {
	inBubble(t, poller.Options{}, func(w *world) {
		require.NoError(t, w.registry.Warn(t.Context(), "", warning.Input{Kind: warning.Behind}))
	})
	certificates()
	synctest.Test(t, func(t *testing.T) {
		registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
		require.NoError(t, err)
		require.NoError(t, registry.Warn(t.Context(), "", warning.Input{Kind: warning.Behind}))
		w := &world{t: t, registry: registry, began: time.Now(), polls: map[string][]time.Duration{}}
		p, err := poller.New(registry, w, poller.Options{})
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, p.Run(ctx), context.DeadlineExceeded)
		require.Empty(t, w.warnings())
	})
}

// One poll that does not end costs the others nothing: what they found is stored.
func TestGraceForTheOthers(t *testing.T) {
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

// Who waits the longest comes first, and being late is told, once, and when it is over.
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
		require.LessOrEqual(t, most-least, 1, "fair")
		w.set(nil)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Empty(t, w.warnings())
		events, err := w.registry.Events(context.Background(), opscenter.EventFilter{Limit: 1000, Newest: true})
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

func (w *world) warnings() []warning.Kind {
	w.t.Helper()
	page, err := w.registry.ListWarnings(context.Background(), opscenter.WarningFilter{}, opscenter.Page{Limit: 1000})
	require.NoError(w.t, err)
	var out []warning.Kind
	for _, one := range page.Warnings {
		if one.Kind != warning.Unreachable {
			out = append(out, one.Kind)
		}
	}
	return out
}

// Facts are asked for at their own interval, and at once when the server says something.
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

// The first failure has others asked at once: an outage of ours shows before a server is
// given up, however few are due.
func TestOthersAreAskedWhenOneFails(t *testing.T) {
	inBubble(t, poller.Options{Interval: time.Hour}, func(w *world) {
		for n := range 30 {
			w.register(n)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		w.set(func(context.Context, opscenter.Target) *lifecycle.Failure { return refuse })
		time.Sleep(time.Hour)
		synctest.Wait()
		page, err := w.registry.ListServers(t.Context(), opscenter.ServerFilter{Status: lifecycle.StatusOffline}, opscenter.Page{})
		require.NoError(t, err)
		require.Empty(t, page.Servers, "30 servers polled once an hour, and none was taken for dead")
		require.True(t, w.registry.FleetUnreachable())
		w.set(nil)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		require.False(t, w.registry.FleetUnreachable())
		require.Empty(t, w.warnings())
		// One that is dead is found out.
		w.set(func(_ context.Context, target opscenter.Target) *lifecycle.Failure {
			if target.Name == "server07" {
				return refuse
			}
			return nil
		})
		time.Sleep(time.Hour + time.Minute)
		synctest.Wait()
		require.Equal(t, lifecycle.DetailUnresponsive, w.state(7).State.StatusDetail)
		require.False(t, w.registry.FleetUnreachable())
	})
}

// Run ends within its grace, even if a prober does not keep its word.
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
		synctest.Wait() // and what is left ends when the prober does
	})
}

// A batch is stored when it is full, or when its time has come.
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
