package lifecycle_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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

func TestManagedUpdates(t *testing.T) {
	require.Equal(t, lifecycle.UpdateSettings{Channel: "stable", CheckFrequency: "never"}, lifecycle.ManagedUpdates("stable"))
	require.Equal(t, "channel stable, auto_reboot false, check_frequency never", lifecycle.ManagedUpdates("stable").String())
}

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
