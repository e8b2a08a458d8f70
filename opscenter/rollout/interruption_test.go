package rollout_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/mortal"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// TestRestartedOften: a controller that is stopped again and again carries out each stored step
// exactly once.
func TestRestartedOften(t *testing.T) {
	for _, pause := range []time.Duration{13 * time.Second, 37 * time.Second, 61 * time.Second, 5 * time.Minute} {
		t.Run(pause.String(), func(t *testing.T) {
			bubble(t, rollout.Options{}, func(t *testing.T, f *fleet, m *rollout.Manager) {
				f.register(t, "c1", "a", "b", "c")
				require.NoError(t, f.registry.Channels().Publish(t.Context(), "stable", newVersion, "os", "incus"))
				r, err := m.Start(t.Context(), everything, rolling.Policy{})
				require.NoError(t, err)
				for range 2000 {
					stop := run(t, m)
					time.Sleep(pause)
					stop()
					if r, err = m.Get(t.Context(), r.ID); r.State.Status.Ended() || r.State.Status == rolling.StatusPaused {
						break
					}
				}
				require.NoError(t, err)
				require.Equal(t, rolling.StatusDone, r.State.Status, "%s\n%s", r.State.Reason, waits(t, m, r.ID))
				for _, s := range f.all() {
					require.Equal(t, 1, s.reboots, s.name)
					require.False(t, s.evacuated)
				}
			})
		})
	}
}

// TestStoppedAfterEachIntent stops a controller just after it has stored the intent of each action.
func TestStoppedAfterEachIntent(t *testing.T) {
	bubble(t, rollout.Options{}, func(t *testing.T, f *fleet, m *rollout.Manager) {
		f.register(t, "c1", "a", "b")
		r, err := m.Start(t.Context(), everything, rolling.Policy{Goal: rolling.GoalReboot})
		require.NoError(t, err)
		seen := map[string]bool{}
		for range 100 {
			stop := run(t, m)
			deadline := time.Now().Add(time.Hour)
			for time.Now().Before(deadline) {
				synctest.Wait()
				found := false
				for name := range f.servers {
					info, err := f.registry.Server(t.Context(), name)
					require.NoError(t, err)
					if op := info.State.Operation; op != nil && !seen[op.ID] {
						seen[op.ID], found = true, true
					}
				}
				r, err = m.Get(t.Context(), r.ID)
				require.NoError(t, err)
				if found || r.State.Status.Ended() {
					break
				}
				time.Sleep(time.Second)
			}
			stop()
			if r.State.Status.Ended() || r.State.Status == rolling.StatusPaused {
				break
			}
		}
		require.Equal(t, rolling.StatusDone, r.State.Status, r.State.Reason)
		require.Len(t, seen, 6)
		for _, s := range f.all() {
			require.Equal(t, 1, s.reboots, s.name)
		}
	})
}

// TestUnknownOutcome: an action whose answer was lost is tried again, long before the deadline of its step.
func TestUnknownOutcome(t *testing.T) {
	bubble(t, rollout.Options{}, func(t *testing.T, f *fleet, m *rollout.Manager) {
		f.register(t, "c1", "a", "b")
		require.NoError(t, f.registry.Channels().Publish(t.Context(), "stable", newVersion, "os", "incus"))
		lost := fmt.Errorf("the line was cut: %w", opscenter.ErrOutcomeUnknown)
		f.fails["update a"], f.fails["evacuate a"], f.fails["restore b"] = lost, lost, lost
		r, err := m.Start(t.Context(), everything, rolling.Policy{})
		require.NoError(t, err)
		defer run(t, m)()
		await(t, m, r.ID, 45*time.Minute, rolling.StatusDone)
		for _, s := range f.all() {
			require.Equal(t, 1, s.reboots, s.name)
		}
	})
}

// cutStart registers n servers, and starts a rollout over them whose store fails at the write of that number.
func (f *fleet) cutStart(t testing.TB, store storage.Store, fate *mortal.Fate, n, write int) (names []string) {
	t.Helper()
	m := f.open(t, store, rollout.Options{})
	for i := range n {
		names = append(names, fmt.Sprintf("s%03d", i))
	}
	f.register(t, "", names...)
	fate.Set(mortal.Point{Number: write})
	_, err := m.Start(t.Context(), everything, rolling.Policy{Goal: rolling.GoalReboot})
	require.Error(t, err)
	return names
}

// TestIncompleteStart: a rollout that was not stored completely is removed, and its claims with it.
func TestIncompleteStart(t *testing.T) {
	identity(t, 12)
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New()
		defer store.Close()
		f := newFleet()
		fate := mortal.New()
		names := f.cutStart(t, mortal.Store{Store: store, Fate: fate}, fate, 250, 2)

		m := f.open(t, store, rollout.Options{})
		for _, name := range names {
			_, err := f.Poll(t.Context(), name)
			require.NoError(t, err)
		}
		page, err := m.List(t.Context(), "", 0)
		require.NoError(t, err)
		require.Len(t, page.Rollouts, 1)
		require.Equal(t, rolling.StatusStarting, page.Rollouts[0].State.Status)
		_, err = m.Start(t.Context(), rolling.Selector{Servers: names[:1]}, rolling.Policy{Goal: rolling.GoalReboot})
		require.ErrorIs(t, err, opscenter.ErrBlocked)
		defer run(t, m)()
		time.Sleep(2 * time.Minute)
		_, err = m.Start(t.Context(), rolling.Selector{Servers: names[:1]}, rolling.Policy{Goal: rolling.GoalReboot})
		require.NoError(t, err)
	})
}

// TestEmptyRolloutsArePruned: rollouts without steps are bounded by MaxHistory, too.
func TestEmptyRolloutsArePruned(t *testing.T) {
	bubble(t, rollout.Options{MaxHistory: 3}, func(t *testing.T, f *fleet, m *rollout.Manager) {
		f.register(t, "c1", "a", "b")
		for range 10 {
			r, err := m.Start(t.Context(), everything, rolling.Policy{})
			require.NoError(t, err)
			require.Equal(t, rolling.StatusDone, r.State.Status)
			require.Equal(t, "there is nothing to do", r.State.Reason)
			time.Sleep(time.Second)
		}
		page, err := m.List(t.Context(), "", 0)
		require.NoError(t, err)
		require.Len(t, page.Rollouts, 3)
	})
}

// TestStepThatCannotBeStored: a unit whose next step can't be stored fails after some attempts, with that reason.
func TestStepThatCannotBeStored(t *testing.T) {
	bubble(t, rollout.Options{}, func(t *testing.T, f *fleet, m *rollout.Manager) {
		f.register(t, "c1", "a", "b")
		require.NoError(t, f.registry.Channels().Publish(t.Context(), "stable", newVersion, "os", "incus"))
		r, err := m.Start(t.Context(), everything, rolling.Policy{})
		require.NoError(t, err)
		// Another owner takes the claim.
		require.NoError(t, f.registry.Write(t.Context(), func(tx *opscenter.Tx) error {
			if err := tx.Release(r.ID, "c1", true); err != nil {
				return err
			}
			return tx.Claim(opscenter.Claim{Unit: "c1", Cluster: true, Owner: "other", What: "a network change", Since: time.Now()})
		}))
		defer run(t, m)()
		r = await(t, m, r.ID, time.Hour, rolling.StatusPaused)
		require.Contains(t, r.State.Reason, "the next step can't be stored")
		require.Contains(t, r.State.Reason, "a network change is under way")
		require.True(t, errors.Is(m.Pause(t.Context(), r.ID, ""), rolling.ErrState))
	})
}
