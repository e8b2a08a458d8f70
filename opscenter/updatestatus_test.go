package opscenter_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// What IncusOS releases say of their checks for updates, of all ages.
var (
	runningStatuses = []string{"Running update check", "Checking for Secure Boot updates", "Checking for application updates", "Checking for OS updates",
		"Secure Boot update check completed", "Application update check completed"}
	idleStatuses = []string{"Update check completed", "IncusOS has been updated to version 2", "IncusOS has been updated to version ",
		"Skipping update check outside of maintenance window(s)", "Failed to check if a primary application is installed", "Failed to parse update frequency",
		"Failed to clear provider cache", "Failed to check for Secure Boot key updates", "Failed to check for application updates", "Failed to refresh system extensions",
		"Failed to check for OS updates", "Failed to check for update for application 'incus'", "some error of its own"}
)

func TestUpdateThatFails(t *testing.T) {
	const wanted = "2"
	checked := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC) // its clock may be a month behind
	updating := func(t *testing.T, before *lifecycle.UpdateStatus) *tale {
		s := begin(t, ready, lifecycle.DetailUpdating)
		s.state.UpdateStatus, s.state.Versions.OS = before, lifecycle.OSVersion{Name: lifecycle.OSName, Version: "1"}
		s.state.Operation = &lifecycle.Operation{ID: "x", Action: lifecycle.ActionUpdate, StartedAt: s.at, Deadline: s.at.Add(time.Hour), Targets: map[string]string{"os": wanted}, Before: before}
		return s
	}
	says := func(s *tale, status string, at time.Time, version string) *tale {
		kind, maintenance := lifecycle.TypeIncus, lifecycle.NotInMaintenance
		return s.apply(lifecycle.Observation{Ready: true, Type: &kind, Maintenance: &maintenance, UpdateStatus: &lifecycle.UpdateStatus{Status: status, LastCheck: at},
			Versions: &lifecycle.Versions{OS: lifecycle.OSVersion{Name: lifecycle.OSName, Version: "1", VersionNext: version, NeedsReboot: version != "1"}}})
	}
	before := &lifecycle.UpdateStatus{Status: "Update check completed", LastCheck: checked}
	for _, status := range idleStatuses {
		s := says(updating(t, before), status, checked.Add(time.Hour), "1")
		require.Nil(t, s.state.Operation, status)
		require.Contains(t, s.state.LastOperation.Failed, status)
		s.is(ready, none)

		s = says(updating(t, before), status, checked.Add(time.Hour), wanted)
		require.Empty(t, s.state.LastOperation.Failed, "it is there, whatever it says")
	}
	for _, status := range runningStatuses {
		s := says(updating(t, before), status, checked.Add(time.Hour), "1")
		require.NotNil(t, s.state.Operation, status)
	}
	t.Run("what it said before is no answer", func(t *testing.T) {
		s := says(updating(t, before), before.Status, checked, "1")
		require.NotNil(t, s.state.Operation)
		failed := &lifecycle.UpdateStatus{Status: "Failed to check for OS updates", LastCheck: checked}
		s = says(updating(t, failed), failed.Status, checked, "1")
		require.NotNil(t, s.state.Operation)
		s = says(s, failed.Status, checked.Add(time.Hour), "1")
		require.Nil(t, s.state.Operation, "it has failed again")
		// A check of its own was under way when it was asked: its end is not that of ours.
		s = says(updating(t, &lifecycle.UpdateStatus{Status: "Running update check", LastCheck: checked}), "Update check completed", checked, "1")
		require.NotNil(t, s.state.Operation)
	})
	t.Run("who does not tell has until the deadline", func(t *testing.T) {
		s := says(updating(t, nil), "Failed to check for OS updates", checked, "1")
		require.NotNil(t, s.state.Operation)
		kind := lifecycle.TypeIncus
		s = updating(t, before).apply(lifecycle.Observation{Ready: true, Type: &kind, UpdateStatus: &lifecycle.UpdateStatus{Status: "Failed", LastCheck: checked.Add(time.Hour)}})
		require.NotNil(t, s.state.Operation, "its versions were not read")
	})
}

// A server that says that it goes down, and answers, is up; should it go down after all, it is shut down.
func TestGoesDownByItsOwnWord(t *testing.T) {
	for _, cause := range []lifecycle.Cause{lifecycle.CauseSuspendTriggered, lifecycle.CauseSystemShutdownTriggered} {
		t.Run(string(cause), func(t *testing.T) {
			w := memoryWorld(t)
			info := w.ready(t, 0)
			at := time.Now()
			step := func(o lifecycle.Observation) lifecycle.ServerState {
				at = at.Add(time.Minute)
				o.At = at
				o.BootedAt = at.Add(-24 * time.Hour)
				if o.Failure != nil {
					o.BootedAt = time.Time{}
				}
				w.observe(t, o)
				return w.get(t, info.Name).State
			}
			require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: cause}))
			require.Equal(t, lifecycle.DetailShutDown, w.get(t, info.Name).State.StatusDetail)
			require.Equal(t, lifecycle.StatusReady, step(answer(info)).Status, "at the first good poll")
			require.Equal(t, lifecycle.StatusReady, step(failed(info)).Status)
			require.Equal(t, lifecycle.StatusReady, step(failed(info)).Status)
			state := step(failed(info))
			require.Equal(t, lifecycle.DetailShutDown, state.StatusDetail, "it had said so")
			require.Equal(t, lifecycle.StatusReady, step(answer(info)).Status)
			for range 20 {
				state = step(answer(info))
			}
			require.Nil(t, state.Announced, "it is forgotten in the end")
			for range 3 {
				state = step(failed(info))
			}
			require.Equal(t, lifecycle.DetailUnresponsive, state.StatusDetail)
		})
	}
}

// TestShutsDownInTheMiddle: an action that began after a server had said that it goes down, and answered, ends
// when it goes down after all.
func TestShutsDownInTheMiddle(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	at := time.Now()
	step := func(o lifecycle.Observation) lifecycle.ServerState {
		at = at.Add(time.Minute)
		o.At = at
		w.observe(t, o)
		return w.get(t, info.Name).State
	}
	require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: lifecycle.CauseSuspendTriggered}))
	require.Equal(t, lifecycle.StatusReady, step(answer(info)).Status)
	require.NoError(t, w.Write(t.Context(), func(tx *opscenter.Tx) error {
		_, _, err := tx.Begin(opscenter.Intent{Server: info.Name, Action: lifecycle.ActionUpdate, Timeout: time.Hour})
		return err
	}))
	require.NotNil(t, w.get(t, info.Name).State.Operation)
	var state lifecycle.ServerState
	for range 70 { // this process carries the action out: it has until its deadline to say how it ended
		state = step(failed(info))
	}
	require.Equal(t, lifecycle.DetailShutDown, state.StatusDetail)
	require.Nil(t, state.Operation)
	require.Contains(t, state.LastOperation.Failed, "shut down")
}
