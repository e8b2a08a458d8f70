package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// bubble runs a test in virtual time, with its own fleet, store and manager.
func bubble(t *testing.T, options rollout.Options, test func(t *testing.T, f *fleet, m *rollout.Manager)) {
	identity(t, 12) // certificates are made outside, in real time
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New(memstore.Options{DetectMutation: true})
		defer store.Close()
		f := newFleet()
		test(t, f, f.open(t, store, options))
	})
}

// run runs a manager until the test calls stop.
func run(t *testing.T, m *rollout.Manager) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	return func() {
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
	}
}

// await waits, in virtual time, until a rollout has one of the statuses.
func await(t *testing.T, m *rollout.Manager, id string, limit time.Duration, statuses ...rolling.Status) *rollout.Rollout {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		r, err := m.Get(t.Context(), id)
		require.NoError(t, err)
		if slices.Contains(statuses, r.State.Status) {
			return r
		}
		if !time.Now().Before(deadline) {
			require.Fail(t, fmt.Sprintf("%s is %s (%s) after %s\n%s", id, r.State.Status, r.State.Reason, limit, waits(t, m, id)))
		}
		time.Sleep(time.Second)
	}
}

// awaitCall waits until the fleet has got that call, such as "update d".
func awaitCall(t *testing.T, f *fleet, call string) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Hour)
	for !slices.Contains(f.called(), call) {
		require.True(t, time.Now().Before(deadline), call)
		time.Sleep(time.Second)
	}
}

// waits describes the units of a rollout.
func waits(t *testing.T, m *rollout.Manager, id string) string {
	list, err := m.Units(t.Context(), id, 0, 0)
	require.NoError(t, err)
	var out []string
	for _, u := range list {
		out = append(out, fmt.Sprintf("%s %s: %s %+v", u.Name, u.Status, u.Waiting, u.Members))
	}
	return strings.Join(out, "\n")
}

var everything = rolling.Selector{All: true}

// TestRollingUpdate updates a cluster, and a server in no cluster, with exactly the steps of the plan.
func TestRollingUpdate(t *testing.T) {
	bubble(t, rollout.Options{}, func(t *testing.T, f *fleet, m *rollout.Manager) {
		f.register(t, "c1", "a", "b", "c")
		f.register(t, "", "d")
		one, two := lifecycle.Instance{Project: "default", Name: "one"}, lifecycle.Instance{Project: "p", Name: "two"}
		f.servers["d"].running = []lifecycle.Instance{one, two}
		require.NoError(t, f.registry.Channels().Publish(t.Context(), "stable", newVersion, "os", "incus"))
		plan, err := m.Planner().Plan(t.Context(), everything, rolling.Policy{PostRestoreDelay: time.Minute})
		require.NoError(t, err)
		var planned []string
		for _, s := range plan.Steps {
			planned = append(planned, fmt.Sprintf("%s %s", s.Action, s.Server))
		}
		require.Len(t, planned, 16, plan.String())

		r, err := m.StartPlan(opscenter.WithPrincipal(t.Context(), "alice"), plan)
		require.NoError(t, err)
		require.Equal(t, "alice", r.RequestedBy)
		_, err = m.Start(t.Context(), rolling.Selector{Clusters: []string{"c1"}}, rolling.Policy{})
		require.ErrorIs(t, err, opscenter.ErrBlocked)
		require.ErrorContains(t, err, "another operation is running")
		err = f.registry.Write(t.Context(), func(tx *opscenter.Tx) error {
			_, _, err := tx.Begin(opscenter.Intent{Server: "a", Action: lifecycle.ActionReboot})
			return err
		})
		require.ErrorIs(t, err, opscenter.ErrBusy)

		defer run(t, m)()
		require.NoError(t, f.registry.Channels().Publish(t.Context(), "stable", "202610160000", "os", "incus"), "a new version does not change a running rollout")
		r = await(t, m, r.ID, 3*time.Hour, rolling.StatusDone, rolling.StatusPaused)
		require.Equal(t, rolling.StatusDone, r.State.Status, r.State.Reason)
		var done []string
		for _, call := range f.called() {
			switch {
			case call == "stop d" && !slices.Contains(done, "evacuate d"):
				done = append(done, "evacuate d")
			case call == "start d" && !slices.Contains(done, "restore d"):
				done = append(done, "restore d")
			case !strings.HasPrefix(call, "st"):
				done = append(done, call)
			}
		}
		require.Equal(t, planned, done, "the steps are those of the plan")
		for _, s := range f.all() {
			require.Equal(t, 1, s.reboots)
			require.Equal(t, newVersion, s.version)
			require.False(t, s.evacuated)
		}
		require.ElementsMatch(t, []lifecycle.Instance{one, two}, f.server("d").running)
		require.Equal(t, r.State.Steps, r.State.StepsDone)
		list, err := m.Units(t.Context(), r.ID, 0, 0)
		require.NoError(t, err)
		require.Len(t, list, 2)
		for _, u := range list {
			require.Equal(t, rolling.UnitDone, u.Status)
			for _, member := range u.Members {
				require.Len(t, member.Done, 4)
				for _, step := range member.Done {
					require.Empty(t, step.Failed)
					require.False(t, step.EndedAt.Before(step.StartedAt))
					require.NotEmpty(t, step.Why)
				}
			}
		}
		events, err := f.registry.ListEvents(t.Context(), opscenter.EventFilter{Limit: 1000})
		require.NoError(t, err)
		steps := 0
		for _, e := range events {
			if e.Kind == event.RolloutStep && e.Rollout == r.ID {
				steps++
			}
		}
		require.GreaterOrEqual(t, steps, 32, "an event for each transition")
		// The next plan uses the measured durations.
		require.NoError(t, f.registry.Channels().Publish(t.Context(), "stable", "202610170000", "os"))
		plan, err = m.Planner().Plan(t.Context(), everything, rolling.Policy{})
		require.NoError(t, err)
		require.Less(t, plan.Steps[1].Start.Sub(plan.At), 3*time.Minute)
		// The cluster is no longer reserved.
		err = f.registry.Write(t.Context(), func(tx *opscenter.Tx) error {
			_, _, err := tx.Begin(opscenter.Intent{Server: "a", Action: lifecycle.ActionReboot})
			return err
		})
		require.NoError(t, err)
	})
}

// TestFailurePausesAndResumes: a server that does not come back pauses the rollout, with a reason for the operator. Once
// the server is back, Resume continues, and no server reboots twice.
func TestFailurePausesAndResumes(t *testing.T) {
	bubble(t, rollout.Options{}, func(t *testing.T, f *fleet, m *rollout.Manager) {
		f.register(t, "c1", "a", "b", "c")
		require.NoError(t, f.registry.Channels().Publish(t.Context(), "stable", newVersion, "os", "incus"))
		f.servers["b"].dead = true
		f.fails["evacuate a"] = errors.New("an instance could not be moved")
		r, err := m.Start(t.Context(), everything, rolling.Policy{})
		require.NoError(t, err)
		defer run(t, m)()
		r = await(t, m, r.ID, 5*time.Hour, rolling.StatusPaused)
		require.Contains(t, r.State.Reason, "reboot of server b in cluster c1 (attempt 1): not back from rebooting by its deadline")
		require.Contains(t, r.State.Reason, "What to do: look at the server's console")
		ahead, err := m.Forecast(t.Context(), r.ID)
		require.NoError(t, err)
		require.Zero(t, ahead.End, "the rollout waits for an operator")
		for _, c := range f.called() {
			require.NotEqual(t, "evacuate c", c)
		}
		require.ErrorIs(t, m.Pause(t.Context(), r.ID, ""), rolling.ErrState)

		f.mu.Lock()
		b := f.servers["b"]
		b.down, b.dead, b.bootedAt, b.version, b.staged = false, false, time.Now(), newVersion, ""
		f.mu.Unlock()
		_, err = f.Poll(t.Context(), "b")
		require.NoError(t, err)
		require.NoError(t, m.Resume(t.Context(), r.ID))
		require.ErrorIs(t, m.Resume(t.Context(), r.ID), rolling.ErrState)
		await(t, m, r.ID, 5*time.Hour, rolling.StatusDone)
		for _, s := range f.all() {
			require.Equal(t, 1, s.reboots, s.name)
			require.Equal(t, newVersion, s.version)
			require.False(t, s.evacuated)
		}
		require.ErrorIs(t, m.Cancel(t.Context(), r.ID, rolling.CancelStop), rolling.ErrState)
	})
}

// TestCancel cancels a rollout with each mode.
func TestCancel(t *testing.T) {
	for _, mode := range rolling.CancelModes {
		t.Run(string(mode), func(t *testing.T) {
			bubble(t, rollout.Options{}, func(t *testing.T, f *fleet, m *rollout.Manager) {
				f.register(t, "c1", "a", "b", "c")
				f.register(t, "", "d")
				require.NoError(t, f.registry.Channels().Publish(t.Context(), "stable", newVersion, "os", "incus"))
				r, err := m.Start(t.Context(), everything, rolling.Policy{})
				require.NoError(t, err)
				defer run(t, m)()
				awaitCall(t, f, "evacuate a")
				require.ErrorIs(t, m.Cancel(t.Context(), r.ID, "burn"), rolling.ErrInvalid)
				require.NoError(t, m.Cancel(t.Context(), r.ID, mode))
				await(t, m, r.ID, time.Hour, rolling.StatusCancelled)
				a := f.server("a")
				require.Equal(t, mode == rolling.CancelStop, a.evacuated)
				require.Equal(t, mode == rolling.CancelFinish, a.reboots == 1)
				require.Zero(t, f.server("b").reboots)
				require.NotContains(t, f.called(), "update d")
				err = f.registry.Write(t.Context(), func(tx *opscenter.Tx) error {
					_, _, err := tx.Begin(opscenter.Intent{Server: "d", Action: lifecycle.ActionReboot})
					return err
				})
				require.NoError(t, err, "no claim is left")
			})
		})
	}
}

// TestHealthGate: a closed gate keeps the work on a server from beginning. A gate that hangs or panics counts as closed.
func TestHealthGate(t *testing.T) {
	var mu sync.Mutex
	var closed error
	mode := ""
	set := func(to string, err error) {
		mu.Lock()
		defer mu.Unlock()
		mode, closed = to, err
	}
	options := rollout.Options{HealthGate: func(ctx context.Context, unit string, members []*opscenter.ServerInfo) error {
		if unit != "c1" || len(members) != 2 {
			return errors.New("another unit than c1")
		}
		mu.Lock()
		mode, err := mode, closed
		mu.Unlock()
		switch mode {
		case "hangs":
			<-ctx.Done()
		case "panics":
			panic("oops")
		}
		return err
	}}
	bubble(t, options, func(t *testing.T, f *fleet, m *rollout.Manager) {
		f.register(t, "c1", "a", "b")
		require.NoError(t, f.registry.Channels().Publish(t.Context(), "stable", newVersion, "os", "incus"))
		r, err := m.Start(t.Context(), everything, rolling.Policy{})
		require.NoError(t, err)
		set("", errors.New("the storage is rebalancing"))
		stop := run(t, m)
		for mode, text := range map[string]string{"": "the storage is rebalancing", "hangs": "no answer within 10s", "panics": "it panicked: oops"} {
			set(mode, errors.New("the storage is rebalancing"))
			time.Sleep(2 * time.Minute)
			require.Contains(t, waits(t, m, r.ID), text)
		}
		require.Empty(t, f.called())
		set("", nil)
		await(t, m, r.ID, 3*time.Hour, rolling.StatusDone)
		stop()
	})
}

// TestTwoControllers: one of two managers over one store acts. When it stops, the other one takes over, and no action is
// done twice.
func TestTwoControllers(t *testing.T) {
	identity(t, 12)
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		defer store.Close()
		f := newFleet()
		one := f.open(t, store, rollout.Options{})
		two := f.open(t, store, rollout.Options{})
		f.register(t, "c1", "a", "b", "c")
		require.NoError(t, f.registry.Channels().Publish(t.Context(), "stable", newVersion, "os", "incus"))
		r, err := one.Start(t.Context(), everything, rolling.Policy{})
		require.NoError(t, err)
		stopOne, stopTwo := run(t, one), run(t, two)
		awaitCall(t, f, "reboot a")
		counts := map[string]int{}
		for _, c := range f.called() {
			counts[c]++
			require.Equal(t, 1, counts[c], c)
		}
		stopOne()
		await(t, two, r.ID, 3*time.Hour, rolling.StatusDone)
		stopTwo()
		for _, s := range f.all() {
			require.Equal(t, 1, s.reboots, s.name)
		}
	})
}

// TestHistoryIsBounded: the newest ended rollouts are kept, up to MaxHistory.
func TestHistoryIsBounded(t *testing.T) {
	bubble(t, rollout.Options{MaxHistory: 2}, func(t *testing.T, f *fleet, m *rollout.Manager) {
		f.register(t, "c1", "a", "b")
		defer run(t, m)()
		var ids []string
		for range 4 {
			r, err := m.Start(t.Context(), everything, rolling.Policy{Goal: rolling.GoalReboot})
			require.NoError(t, err)
			await(t, m, r.ID, 3*time.Hour, rolling.StatusDone)
			ids = append(ids, r.ID)
		}
		time.Sleep(time.Minute)
		page, err := m.List(t.Context(), "", 1)
		require.NoError(t, err)
		require.Equal(t, ids[3], page.Rollouts[0].ID, "the newest first")
		page, err = m.List(t.Context(), page.Next, 10)
		require.NoError(t, err)
		require.Len(t, page.Rollouts, 1)
		require.Empty(t, page.Next)
		_, err = m.Units(t.Context(), ids[0], 0, 0)
		require.ErrorIs(t, err, opscenter.ErrNotFound)
	})
}

// TestManyUnits: many units are stored, and dropped, in several transactions.
func TestManyUnits(t *testing.T) {
	if testing.Short() {
		t.Skip("registers 450 servers")
	}
	bubble(t, rollout.Options{}, func(t *testing.T, f *fleet, m *rollout.Manager) {
		var names []string
		for i := range 450 {
			names = append(names, fmt.Sprintf("s%03d", i))
		}
		f.register(t, "", names...)
		r, err := m.Start(t.Context(), everything, rolling.Policy{Goal: rolling.GoalReboot, Parallel: 3})
		require.NoError(t, err)
		require.Equal(t, 450, r.State.Units)
		stop := run(t, m)
		time.Sleep(time.Minute)
		r, err = m.Get(t.Context(), r.ID)
		require.NoError(t, err)
		require.Equal(t, 3, r.State.Running)
		require.NoError(t, m.Cancel(t.Context(), r.ID, rolling.CancelRestore))
		await(t, m, r.ID, time.Hour, rolling.StatusCancelled)
		stop()
		_, err = m.Start(t.Context(), everything, rolling.Policy{Goal: rolling.GoalReboot})
		require.NoError(t, err, "no claim is left")
	})
}

// TestSingleActions: single actions obey the rules of rolling operations.
func TestSingleActions(t *testing.T) {
	bubble(t, rollout.Options{}, func(t *testing.T, f *fleet, m *rollout.Manager) {
		f.register(t, "c1", "a", "b", "c")
		defer run(t, m)()
		do := func(goal rolling.Goal, name string) error {
			r, err := m.Start(t.Context(), rolling.Selector{Servers: []string{name}}, rolling.Policy{Goal: goal})
			if err == nil {
				await(t, m, r.ID, time.Hour, rolling.StatusDone)
			}
			return err
		}
		require.NoError(t, do(rolling.GoalEvacuate, "a"))
		require.True(t, f.server("a").evacuated)
		require.ErrorIs(t, do(rolling.GoalEvacuate, "b"), opscenter.ErrBlocked, "a second member can't be evacuated")
		require.NoError(t, do(rolling.GoalRebootOnly, "a"))
		require.Equal(t, 1, f.server("a").reboots)
		require.NoError(t, do(rolling.GoalRestore, "a"))
		require.False(t, f.server("a").evacuated)
		require.NoError(t, do(rolling.GoalUpdateOnly, "a"), "the server is up to date, so there is no step")
		require.NoError(t, f.registry.Channels().Publish(t.Context(), "stable", newVersion, "os", "incus"))
		require.NoError(t, do(rolling.GoalUpdateOnly, "a"))
		require.Equal(t, newVersion, f.server("a").staged)
		require.NoError(t, do(rolling.GoalPowerOff, "b"))
		require.True(t, f.server("b").down)
		info, err := f.registry.Server(t.Context(), "b")
		require.NoError(t, err)
		require.Equal(t, lifecycle.DetailShutDown, info.State.StatusDetail)
	})
}

// TestStalePlan: a plan whose steps have changed is not started.
func TestStalePlan(t *testing.T) {
	bubble(t, rollout.Options{}, func(t *testing.T, f *fleet, m *rollout.Manager) {
		f.register(t, "c1", "a", "b")
		require.NoError(t, f.registry.Channels().Publish(t.Context(), "stable", newVersion, "os", "incus"))
		plan, err := m.Planner().Plan(t.Context(), everything, rolling.Policy{})
		require.NoError(t, err)
		require.NoError(t, f.registry.Channels().Publish(t.Context(), "stable", "202610160000", "os"))
		_, err = m.StartPlan(t.Context(), plan)
		require.ErrorIs(t, err, rollout.ErrStale)
		require.ErrorContains(t, err, "202610160000")
	})
}
