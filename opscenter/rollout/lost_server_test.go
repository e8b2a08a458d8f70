package rollout_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
)

// TestLostServer: an operator deletes a dead server by force during its rollout, and the rollout continues without it. The
// server is alone, or a member of a cluster.
func TestLostServer(t *testing.T) {
	for _, clustered := range []bool{false, true} {
		name := map[bool]string{false: "alone", true: "in a cluster"}[clustered]
		t.Run(name, func(t *testing.T) {
			bubble(t, rollout.Options{}, func(t *testing.T, f *fleet, m *rollout.Manager) {
				cluster := map[bool]string{true: "c1"}[clustered]
				f.register(t, cluster, "a", "b", "d")
				f.register(t, "", "e")
				f.servers["a"].dead = true
				require.NoError(t, f.registry.Channels().Publish(t.Context(), "stable", newVersion, "os", "incus"))
				r, err := m.Start(t.Context(), everything, rolling.Policy{})
				require.NoError(t, err)
				defer run(t, m)()
				r = await(t, m, r.ID, 5*time.Hour, rolling.StatusPaused)
				require.Contains(t, r.State.Reason, "server a")
				info, err := f.registry.Server(t.Context(), "a")
				require.NoError(t, err)
				if clustered {
					require.ErrorIs(t, f.registry.DeleteServer(t.Context(), "a", true), opscenter.ErrClustered)
					require.ErrorIs(t, f.registry.RemoveClusterMembers(t.Context(), "c1", opscenter.MemberRemoval{}, "a"), opscenter.ErrBusy)
					require.NoError(t, f.registry.RemoveClusterMembers(t.Context(), "c1", opscenter.MemberRemoval{Left: true, Force: true}, "a"))
				} else {
					require.ErrorIs(t, f.registry.DeleteServer(t.Context(), "a", false), opscenter.ErrBusy)
				}
				require.NoError(t, f.registry.DeleteServer(t.Context(), "a", true))
				await(t, m, r.ID, 5*time.Hour, rolling.StatusDone)
				for _, server := range []string{"b", "d", "e"} {
					require.Equal(t, newVersion, f.server(server).version)
					require.False(t, f.server(server).evacuated)
				}
				require.NoError(t, f.registry.Read(t.Context(), func(s *opscenter.Snapshot) error {
					claim, err := s.ClaimOf(info.ID, false)
					require.Nil(t, claim)
					return err
				}))
			})
		})
	}
}

// TestUpdateThatFails: a failed check for updates ends the step within minutes, with the status as the reason.
func TestUpdateThatFails(t *testing.T) {
	bubble(t, rollout.Options{}, func(t *testing.T, f *fleet, m *rollout.Manager) {
		f.register(t, "", "d")
		f.servers["d"].failing = "Failed to check for OS updates"
		require.NoError(t, f.registry.Channels().Publish(t.Context(), "stable", newVersion, "os", "incus"))
		_, err := f.Poll(t.Context(), "d")
		require.NoError(t, err)
		r, err := m.Start(t.Context(), everything, rolling.Policy{Retries: -1})
		require.NoError(t, err)
		defer run(t, m)()
		begun := time.Now()
		r = await(t, m, r.ID, 20*time.Minute, rolling.StatusPaused)
		require.Less(t, time.Since(begun), 15*time.Minute, "the deadline is an hour")
		require.Contains(t, r.State.Reason, "Failed to check for OS updates")
		f.mu.Lock()
		f.servers["d"].failing = ""
		f.mu.Unlock()
		require.NoError(t, m.Resume(t.Context(), r.ID))
		await(t, m, r.ID, 5*time.Hour, rolling.StatusDone)
	})
}

// TestCancelledUpdate: the update of a cancelled rollout ends when a poll finds the server idle.
func TestCancelledUpdate(t *testing.T) {
	bubble(t, rollout.Options{}, func(t *testing.T, f *fleet, m *rollout.Manager) {
		f.register(t, "", "d")
		f.servers["d"].failing = "Update check completed"
		require.NoError(t, f.registry.Channels().Publish(t.Context(), "stable", newVersion, "os", "incus"))
		_, err := f.Poll(t.Context(), "d")
		require.NoError(t, err)
		r, err := m.Start(t.Context(), everything, rolling.Policy{})
		require.NoError(t, err)
		defer run(t, m)()
		awaitCall(t, f, "update d")
		require.NoError(t, m.Cancel(t.Context(), r.ID, rolling.CancelStop))
		begun := time.Now()
		await(t, m, r.ID, 20*time.Minute, rolling.StatusCancelled)
		require.Less(t, time.Since(begun), 15*time.Minute)
		info, err := f.registry.Server(t.Context(), "d")
		require.NoError(t, err)
		require.Nil(t, info.State.Operation)
	})
}
