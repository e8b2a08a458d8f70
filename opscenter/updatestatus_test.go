package opscenter_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
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
	updating := func(t *testing.T, before *opscenter.UpdateStatus) *tale {
		s := begin(t, ready, opscenter.DetailUpdating)
		s.state.UpdateStatus, s.state.Versions.OS = before, opscenter.OSVersion{Name: opscenter.OSName, Version: "1"}
		s.state.Operation = &opscenter.Operation{ID: "x", Action: opscenter.ActionUpdate, StartedAt: s.at, Deadline: s.at.Add(time.Hour), Targets: map[string]string{"os": wanted}, Before: before}
		return s
	}
	says := func(s *tale, status string, at time.Time, version string) *tale {
		kind, maintenance := opscenter.TypeIncus, opscenter.NotInMaintenance
		return s.apply(opscenter.Observation{Ready: true, Type: &kind, Maintenance: &maintenance, UpdateStatus: &opscenter.UpdateStatus{Status: status, LastCheck: at},
			Versions: &opscenter.Versions{OS: opscenter.OSVersion{Name: opscenter.OSName, Version: "1", VersionNext: version, NeedsReboot: version != "1"}}})
	}
	before := &opscenter.UpdateStatus{Status: "Update check completed", LastCheck: checked}
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
		failed := &opscenter.UpdateStatus{Status: "Failed to check for OS updates", LastCheck: checked}
		s = says(updating(t, failed), failed.Status, checked, "1")
		require.NotNil(t, s.state.Operation)
		s = says(s, failed.Status, checked.Add(time.Hour), "1")
		require.Nil(t, s.state.Operation, "it has failed again")
		// A check of its own was under way when it was asked: its end is not that of ours.
		s = says(updating(t, &opscenter.UpdateStatus{Status: "Running update check", LastCheck: checked}), "Update check completed", checked, "1")
		require.NotNil(t, s.state.Operation)
	})
	t.Run("who does not tell has until the deadline", func(t *testing.T) {
		s := says(updating(t, nil), "Failed to check for OS updates", checked, "1")
		require.NotNil(t, s.state.Operation)
		kind := opscenter.TypeIncus
		s = updating(t, before).apply(opscenter.Observation{Ready: true, Type: &kind, UpdateStatus: &opscenter.UpdateStatus{Status: "Failed", LastCheck: checked.Add(time.Hour)}})
		require.NotNil(t, s.state.Operation, "its versions were not read")
	})
}

// A server that says that it goes down, and answers, is up; should it go down after all, it is shut down.
func TestGoesDownByItsOwnWord(t *testing.T) {
	for _, cause := range []opscenter.Cause{opscenter.CauseSuspendTriggered, opscenter.CauseSystemShutdownTriggered} {
		t.Run(string(cause), func(t *testing.T) {
			w := memoryWorld(t)
			info := w.ready(t, 0)
			at := time.Now()
			step := func(o opscenter.Observation) opscenter.ServerState {
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
			require.Equal(t, opscenter.DetailShutDown, w.get(t, info.Name).State.StatusDetail)
			require.Equal(t, opscenter.StatusReady, step(answer(info)).Status, "at the first good poll")
			require.Equal(t, opscenter.StatusReady, step(failed(info)).Status)
			require.Equal(t, opscenter.StatusReady, step(failed(info)).Status)
			state := step(failed(info))
			require.Equal(t, opscenter.DetailShutDown, state.StatusDetail, "it had said so")
			require.Equal(t, opscenter.StatusReady, step(answer(info)).Status)
			for range 20 {
				state = step(answer(info))
			}
			require.Nil(t, state.Announced, "it is forgotten in the end")
			for range 3 {
				state = step(failed(info))
			}
			require.Equal(t, opscenter.DetailUnresponsive, state.StatusDetail)
		})
	}
}

// TestShutsDownInTheMiddle: an action that began after a server had said that it goes down, and answered, ends
// when it goes down after all.
func TestShutsDownInTheMiddle(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	at := time.Now()
	step := func(o opscenter.Observation) opscenter.ServerState {
		at = at.Add(time.Minute)
		o.At = at
		w.observe(t, o)
		return w.get(t, info.Name).State
	}
	require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: opscenter.CauseSuspendTriggered}))
	require.Equal(t, opscenter.StatusReady, step(answer(info)).Status)
	require.NoError(t, w.Write(t.Context(), func(tx *opscenter.Tx) error {
		_, _, err := tx.Begin(opscenter.Intent{Server: info.Name, Action: opscenter.ActionUpdate, Timeout: time.Hour})
		return err
	}))
	require.NotNil(t, w.get(t, info.Name).State.Operation)
	var state opscenter.ServerState
	for range 70 { // this process carries the action out: it has until its deadline to say how it ended
		state = step(failed(info))
	}
	require.Equal(t, opscenter.DetailShutDown, state.StatusDetail)
	require.Nil(t, state.Operation)
	require.Contains(t, state.LastOperation.Failed, "shut down")
}
