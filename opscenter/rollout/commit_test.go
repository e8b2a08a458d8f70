package rollout_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// TestDecisionsShareCommits: units whose decisions are due together share a commit, and there is one in 10 ms at the most.
func TestDecisionsShareCommits(t *testing.T) {
	identity(t, 40)
	synctest.Test(t, func(t *testing.T) {
		memory := memstore.New(memstore.Options{DetectMutation: true})
		defer memory.Close()
		store := &decisionStore{Store: memory}
		f := newFleet()
		m := f.open(t, store, rollout.Options{})
		var names []string
		for i := range 40 {
			names = append(names, fmt.Sprintf("s%02d", i))
		}
		f.register(t, "", names...)
		f.before = func(call string) error { // half of them act in step, and the others a little apart
			i := slices.Index(names, call[strings.Index(call, " ")+1:])
			time.Sleep(time.Duration(max(0, i-20)) * time.Millisecond)
			return nil
		}
		r, err := m.Start(t.Context(), everything, rolling.Policy{Goal: rolling.GoalReboot, Parallel: 40})
		require.NoError(t, err)
		store.take()
		stop := run(t, m)
		r = await(t, m, r.ID, 5*time.Hour, rolling.StatusDone)
		stop()
		require.Equal(t, 120, r.State.StepsDone)
		commits := store.take()
		require.Less(t, len(commits), 60, "120 steps begin, and 120 end")
		for i := range commits[1:] {
			require.GreaterOrEqual(t, commits[i+1].Sub(commits[i]), 10*time.Millisecond)
		}
	})
}

// TestStepThatCannotBeStoredAmongOthers: a unit whose next step can't be stored fails alone. The others, which share its
// commits, go on.
func TestStepThatCannotBeStoredAmongOthers(t *testing.T) {
	bubble(t, rollout.Options{}, func(t *testing.T, f *fleet, m *rollout.Manager) {
		f.register(t, "c1", "a", "b")
		f.register(t, "c2", "c", "d")
		f.register(t, "", "e")
		r, err := m.Start(t.Context(), everything, rolling.Policy{Goal: rolling.GoalReboot, Parallel: 3, StopThreshold: 2})
		require.NoError(t, err)
		require.NoError(t, f.registry.Write(t.Context(), func(tx *opscenter.Tx) error {
			if err := tx.Release(r.ID, "c1", true); err != nil {
				return err
			}
			return tx.Claim(opscenter.Claim{Unit: "c1", Cluster: true, Owner: "other", What: "a network change", Since: time.Now()})
		}))
		defer run(t, m)()
		time.Sleep(time.Second)
		require.Contains(t, f.called(), "evacuate c")
		require.Contains(t, f.called(), "reboot e")
		r = await(t, m, r.ID, 5*time.Hour, rolling.StatusPaused)
		require.Contains(t, r.State.Reason, "1 of 3 failed, all others are done")
		for _, name := range []string{"c", "d", "e"} {
			require.Equal(t, 1, f.server(name).reboots, name)
		}
		list, err := m.Units(t.Context(), r.ID, 0, 0)
		require.NoError(t, err)
		for _, u := range list {
			if u.Name == "c1" {
				require.Contains(t, u.Failure.Reason, "a network change is under way")
			}
		}
	})
}

// interrupted is a store that calls before just before its Update of that number, from 1, since the number was set.
type interrupted struct {
	storage.Store
	left   atomic.Int64
	before func()
}

func (s *interrupted) Update(ctx context.Context, fn func(storage.WriteTx) error) error {
	if s.left.Add(-1) == 0 {
		s.before()
	}
	return s.Store.Update(ctx, fn)
}

// beforeWrites calls test with a fleet, and a store whose write of that number can be interrupted, for each of the first writes.
// With the race detector it is each second of them.
func beforeWrites(t *testing.T, writes int64, test func(t *testing.T, f *fleet, m *rollout.Manager, store *interrupted, number int64)) {
	identity(t, 12)
	for number := int64(1); number <= writes; number++ {
		if raceEnabled && number%2 == 0 {
			continue
		}
		synctest.Test(t, func(t *testing.T) {
			memory := memstore.New(memstore.Options{DetectMutation: true})
			defer memory.Close()
			store := &interrupted{Store: memory}
			f := newFleet()
			test(t, f, f.open(t, store, rollout.Options{}), store, number)
		})
	}
}

// TestPausedBeforeCommit pauses a rollout after a decision, and before each of the first commits. No step begins after that,
// until Resume.
func TestPausedBeforeCommit(t *testing.T) {
	beforeWrites(t, 8, func(t *testing.T, f *fleet, m *rollout.Manager, store *interrupted, number int64) {
		f.register(t, "c1", "a", "b")
		f.register(t, "", "d", "e")
		r, err := m.Start(t.Context(), everything, rolling.Policy{Goal: rolling.GoalReboot, Parallel: 3})
		require.NoError(t, err)
		var before atomic.Int64
		before.Store(-1)
		store.before = func() {
			if m.Pause(context.Background(), r.ID, "") == nil {
				before.Store(int64(f.begun()))
			}
		}
		store.left.Store(number)
		defer run(t, m)()
		time.Sleep(20 * time.Minute)
		require.Equal(t, before.Load(), int64(f.begun()), "actions that began after the pause before write %d", number)
		require.NoError(t, m.Resume(t.Context(), r.ID))
		await(t, m, r.ID, 5*time.Hour, rolling.StatusDone)
		for _, s := range f.all() {
			require.Equal(t, 1, s.reboots, s.name)
		}
	})
}

// begun returns how many actions the registry has begun.
func (f *fleet) begun() (n int) {
	events, err := f.registry.ListEvents(context.Background(), opscenter.EventFilter{Limit: 1000})
	if err != nil {
		panic(err)
	}
	for _, e := range events {
		if e.Kind == event.ActionStarted {
			n++
		}
	}
	return n
}

// TestMemberDownBeforeCommit takes a member down after a decision, and before each of the first commits. No evacuation and no
// reboot of another member begins until it is back.
func TestMemberDownBeforeCommit(t *testing.T) {
	beforeWrites(t, 6, func(t *testing.T, f *fleet, m *rollout.Manager, store *interrupted, number int64) {
		f.register(t, "c1", "a", "b", "c")
		r, err := m.Start(t.Context(), everything, rolling.Policy{Goal: rolling.GoalReboot})
		require.NoError(t, err)
		var before atomic.Int64
		before.Store(-1)
		down := func(is bool) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.servers["b"].down = is
		}
		store.before = func() {
			down(true)
			for range 3 {
				_, _ = f.Poll(context.Background(), "b")
			}
			before.Store(int64(f.takenOut("a", "c")))
		}
		store.left.Store(number)
		defer run(t, m)()
		time.Sleep(20 * time.Minute)
		require.Equal(t, before.Load(), int64(f.takenOut("a", "c")), "evacuations and reboots that began after b was down, before write %d", number)
		down(false)
		_, err = f.Poll(t.Context(), "b")
		require.NoError(t, err)
		if got, err := m.Get(t.Context(), r.ID); err == nil && got.State.Status == rolling.StatusPaused {
			require.NoError(t, m.Resume(t.Context(), r.ID))
		}
		await(t, m, r.ID, 8*time.Hour, rolling.StatusDone)
	})
}

// takenOut returns how many evacuations and reboots of servers the registry has begun.
func (f *fleet) takenOut(names ...string) (n int) {
	events, err := f.registry.ListEvents(context.Background(), opscenter.EventFilter{Limit: 1000})
	if err != nil {
		panic(err)
	}
	for _, e := range events {
		if e.Kind == event.ActionStarted && slices.Contains(names, e.Server) && (strings.Contains(e.Reason, string(lifecycle.ActionEvacuate)) || strings.Contains(e.Reason, string(lifecycle.ActionReboot))) {
			n++
		}
	}
	return n
}
