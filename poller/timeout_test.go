package poller_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// answerAfter is the answer of a server that takes that time.
func answerAfter(ctx context.Context, takes time.Duration) *lifecycle.Failure {
	timer := time.NewTimer(takes)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return &lifecycle.Failure{Kind: lifecycle.FailureTimeout, Message: "no answer"}
	}
}

// sweep requests a poll of all servers, and returns the time until each had a poll that ended.
func (w *world) sweep(names []string, answer func(context.Context, opscenter.Target) *lifecycle.Failure) time.Duration {
	var mu sync.Mutex
	ended := map[string]bool{}
	w.set(func(ctx context.Context, target opscenter.Target) *lifecycle.Failure {
		defer func() {
			mu.Lock()
			defer mu.Unlock()
			ended[target.Name] = true
		}()
		return answer(ctx, target)
	})
	begun := time.Now()
	require.NoError(w.t, w.registry.Observer().RequestPoll(w.t.Context(), names...))
	for range 600 {
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		mu.Lock()
		n := len(ended)
		mu.Unlock()
		if n == len(names) {
			return time.Since(begun)
		}
	}
	require.Fail(w.t, "the sweep did not end in a minute")
	return 0
}

// A sweep over many servers ends soon, although a tenth of them has fallen silent. All silent servers become
// unresponsive, and no other does.
func TestSilentTenth(t *testing.T) {
	for _, c := range []struct {
		name        string
		factor      float64
		least, most time.Duration // by how much the sweep takes longer
	}{
		{"usual durations", 0, 0, 3 * time.Second}, // 0.6 s until the last begins, and DefaultMinTimeout
		{"always Timeout", -1, 25 * time.Second, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, poller.Options{Interval: time.Hour, TimeoutFactor: c.factor}, func(w *world) {
				answer := func(ctx context.Context, _ opscenter.Target) *lifecycle.Failure {
					return answerAfter(ctx, 100*time.Millisecond)
				}
				w.set(answer)
				names := w.registerMany(1000)
				time.Sleep(time.Minute)
				synctest.Wait()
				without := w.sweep(names, answer)
				silent := map[string]bool{}
				for i := 0; i < len(names); i += 10 {
					silent[names[i]] = true
				}
				with := w.sweep(names, func(ctx context.Context, target opscenter.Target) *lifecycle.Failure {
					if silent[target.Name] {
						return hang(ctx, target)
					}
					return answer(ctx, target)
				})
				t.Log("a sweep takes", without, "and with a silent tenth", with)
				require.GreaterOrEqual(t, with-without, c.least)
				require.LessOrEqual(t, with-without, c.most)
				require.Empty(t, w.offline())
				time.Sleep(3 * time.Minute)
				synctest.Wait()
				require.Len(t, w.offline(), len(silent))
				for _, name := range w.offline() {
					require.True(t, silent[name])
				}
				if c.factor == 0 {
					require.EqualValues(t, len(silent), w.poller.Stats().Cut, "failed servers have the full timeout")
				}
				require.False(t, w.registry.Observer().FleetUnreachable())
			})
		})
	}
}

// What waits for the same deadline as the context of a poll may notice it before the context does. The poll is cut all the same.
func TestCutAtTheDeadline(t *testing.T) {
	inBubble(t, poller.Options{Interval: time.Hour}, func(w *world) {
		answer := func(ctx context.Context, _ opscenter.Target) *lifecycle.Failure {
			return answerAfter(ctx, 100*time.Millisecond)
		}
		w.set(answer)
		names := w.registerMany(500)
		time.Sleep(time.Minute)
		synctest.Wait()
		w.sweep(names, answer)
		w.sweep(names, func(ctx context.Context, target opscenter.Target) *lifecycle.Failure {
			deadline, _ := ctx.Deadline()
			if left := time.Until(deadline); left < 10*time.Second {
				time.Sleep(left)
				return &lifecycle.Failure{Kind: lifecycle.FailureTimeout, Message: "no answer"}
			}
			return answer(ctx, target)
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Zero(t, w.poller.Stats().Failed)
		require.GreaterOrEqual(t, w.poller.Stats().Cut, int64(len(names)))
	})
}

// A server that becomes ten times slower is polled successfully. It never counts as failed, and one poll is cut.
func TestSlowerServerNeverFails(t *testing.T) {
	var failures atomic.Int32
	options := poller.Options{Interval: time.Minute, OnPoll: func(o *lifecycle.Observation) {
		if o.Failure != nil {
			failures.Add(1)
		}
	}}
	inBubble(t, options, func(w *world) {
		var takes atomic.Int64
		takes.Store(int64(500 * time.Millisecond))
		w.set(func(ctx context.Context, _ opscenter.Target) *lifecycle.Failure {
			return answerAfter(ctx, time.Duration(takes.Load()))
		})
		w.register(0)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		require.Zero(t, w.poller.Stats().Cut)
		takes.Store(int64(5 * time.Second))
		polled := len(w.times("server00"))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		times := w.times("server00")[polled:]
		require.GreaterOrEqual(t, len(times), 2)
		require.InDelta(t, 2*time.Second, times[1]-times[0], float64(100*time.Millisecond), "the retry follows at once")
		time.Sleep(time.Hour)
		synctest.Wait()
		s := w.poller.Stats()
		require.EqualValues(t, 1, s.Cut, "the new duration is the usual one")
		require.Zero(t, s.Failed)
		require.Zero(t, failures.Load())
		require.Zero(t, w.state(0).Failures)
		require.Equal(t, lifecycle.StatusReady, w.state(0).State.Status)
		require.InDelta(t, 74, len(w.times("server00")), 2, "polled each minute")
	})
}

// Whatever durations a server's polls have, each below Timeout, no poll counts as failed, also while servers report
// changes.
func TestTimeoutsNeverFailServers(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex
	inBubble(t, poller.Options{Interval: 2 * time.Minute, FactsInterval: 10 * time.Minute, Concurrency: 8, RetryConcurrency: 8}, func(w *world) {
		w.facts = true
		w.set(func(ctx context.Context, _ opscenter.Target) *lifecycle.Failure {
			mu.Lock()
			takes := time.Duration(math.Pow(10, random.Float64()*4.47) * float64(time.Millisecond)) // 1 ms to 29.5 s
			mu.Unlock()
			return answerAfter(ctx, takes)
		})
		for n := range 20 {
			w.register(n)
		}
		for range 400 {
			mu.Lock()
			n, pause := random.IntN(20), time.Duration(random.Int64N(int64(time.Minute)))
			mu.Unlock()
			require.NoError(t, w.registry.SelfUpdate(t.Context(), certificates()[n].Certificate, opscenter.SelfUpdate{Cause: lifecycle.CauseStorageConfigChanged}))
			time.Sleep(pause)
		}
		synctest.Wait()
		s := w.poller.Stats()
		require.Zero(t, s.Failed)
		require.Greater(t, s.Cut, int64(100))
		require.Greater(t, s.Polls, 2*s.Cut, "a cut poll is followed by one with the full timeout")
		require.Empty(t, w.offline())
		events, err := w.registry.ListEvents(t.Context(), opscenter.EventFilter{Limit: 1000})
		require.NoError(t, err)
		require.False(t, slices.ContainsFunc(events, func(e event.Event) bool { return e.Kind == event.WarningRaised }))
	})
}

// The first poll of a server has the full timeout, because its usual duration is not known.
func TestFirstPollHasTheFullTimeout(t *testing.T) {
	inBubble(t, poller.Options{Interval: time.Hour}, func(w *world) {
		w.set(func(ctx context.Context, _ opscenter.Target) *lifecycle.Failure {
			return answerAfter(ctx, 25*time.Second)
		})
		w.register(0)
		time.Sleep(26 * time.Second)
		synctest.Wait()
		require.Equal(t, lifecycle.StatusReady, w.state(0).State.Status)
		require.Zero(t, w.poller.Stats().Cut)
		require.Len(t, w.times("server00"), 1)
	})
}

// Polls with facts and light ones have usual durations of their own. The short ones do not cut the long ones, and the long
// ones do not lengthen the timeout of the short ones.
func TestEachKindOfPollHasItsUsualDuration(t *testing.T) {
	inBubble(t, poller.Options{Interval: time.Minute, FactsInterval: 10 * time.Minute}, func(w *world) {
		w.facts = true
		answer := func(ctx context.Context, target opscenter.Target) *lifecycle.Failure {
			if target.Light {
				return answerAfter(ctx, 100*time.Millisecond)
			}
			return answerAfter(ctx, 10*time.Second)
		}
		w.set(answer)
		w.register(0)
		time.Sleep(65 * time.Minute)
		synctest.Wait()
		require.Zero(t, w.poller.Stats().Cut, "polls with facts after light ones")
		var cut time.Duration // how long the light poll took that was cut
		w.set(func(ctx context.Context, target opscenter.Target) *lifecycle.Failure {
			if cut == 0 && target.Light {
				begun := time.Now()
				<-ctx.Done()
				cut = time.Since(begun)
				return refuse
			}
			return answer(ctx, target)
		})
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		require.EqualValues(t, 1, w.poller.Stats().Cut)
		require.InDelta(t, poller.DefaultMinTimeout, cut, float64(100*time.Millisecond))
	})
}

// A poll that is cut between two of its parts is dropped: the missing part raises no warning. A failure that is known
// before the timeout counts at once.
func TestCutObservationsAreDropped(t *testing.T) {
	inBubble(t, poller.Options{Interval: time.Minute, FactsInterval: time.Nanosecond}, func(w *world) {
		w.facts = true
		w.register(0)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		w.mu.Lock()
		w.unread = 1 // of the poll that is cut
		w.mu.Unlock()
		var polled atomic.Int32
		w.set(func(ctx context.Context, _ opscenter.Target) *lifecycle.Failure {
			if polled.Add(1) == 1 {
				<-ctx.Done()
			}
			return nil
		})
		stored := w.poller.Stats().Stored
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		require.EqualValues(t, 1, w.poller.Stats().Cut)
		require.Equal(t, stored, w.poller.Stats().Stored)
		require.Empty(t, w.warnings())
		w.set(func(context.Context, opscenter.Target) *lifecycle.Failure { return refuse })
		time.Sleep(61 * time.Second)
		synctest.Wait()
		require.Positive(t, w.state(0).Failures)
		require.EqualValues(t, 1, w.poller.Stats().Cut)
	})
}

// A server that is removed or renamed while its cut poll is repeated causes no further poll of its former name.
func TestRemovedWhileInDoubt(t *testing.T) {
	inBubble(t, poller.Options{Interval: time.Minute}, func(w *world) {
		for n := range 2 {
			w.register(n)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		w.set(hang)
		require.NoError(t, w.registry.Observer().RequestPoll(t.Context(), "server00", "server01"))
		time.Sleep(3 * time.Second) // both are in doubt
		synctest.Wait()
		require.EqualValues(t, 2, w.poller.Stats().Cut)
		require.NoError(t, w.registry.DeleteServer(t.Context(), "server00", false))
		require.NoError(t, w.registry.RenameServer(t.Context(), "server01", "renamed", nil))
		before := len(w.times("server00")) + len(w.times("server01"))
		w.set(nil)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		require.Equal(t, before, len(w.times("server00"))+len(w.times("server01")))
		require.NotEmpty(t, w.times("renamed"))
		info, err := w.registry.Server(t.Context(), "renamed")
		require.NoError(t, err)
		require.Equal(t, lifecycle.StatusReady, info.State.Status)
	})
}

func TestTimeoutOptions(t *testing.T) {
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	require.NoError(t, err)
	for _, factor := range []float64{0.5, math.NaN()} {
		_, err := poller.New(registry, nil, poller.Options{TimeoutFactor: factor})
		require.ErrorIs(t, err, opscenter.ErrInvalidOptions)
		require.ErrorContains(t, err, fmt.Sprintf("TimeoutFactor is %v", factor))
	}
	for _, options := range []poller.Options{{TimeoutFactor: -1}, {TimeoutFactor: 1}, {TimeoutFactor: math.Inf(1)}, {MinTimeout: time.Hour}, {MinTimeout: 1}} {
		_, err := poller.New(registry, nil, options)
		require.NoError(t, err)
	}
	_, err = poller.New(registry, nil, poller.Options{MinTimeout: -1})
	require.ErrorIs(t, err, opscenter.ErrInvalidOptions)
}
