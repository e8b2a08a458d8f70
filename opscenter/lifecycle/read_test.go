package lifecycle_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// TestRead: a change of what was read is stored, and some changes make an event.
func TestRead(t *testing.T) {
	incus, manager, none, member := lifecycle.TypeIncus, lifecycle.TypeMigrationManager, "", "node1"
	evacuated, normal, trusted := lifecycle.MaintenanceEvacuated, lifecycle.NotInMaintenance, true
	read := func(s *tale, o lifecycle.Observation) (reasons []string) {
		before := len(s.events)
		o.Ready = true
		s.apply(o)
		for _, e := range s.events[before:] {
			if e.Kind != event.StatusChanged {
				reasons = append(reasons, string(e.Kind)+": "+e.Reason)
			}
		}
		return reasons
	}
	s := begin(t, ready, lifecycle.DetailNone)
	s.state.Type = lifecycle.TypeUnknown
	require.Empty(t, read(s, lifecycle.Observation{Type: &incus}), "the first type is no change")
	require.Equal(t, []string{"type-changed: the primary application makes it migration-manager, it was incus"}, read(s, lifecycle.Observation{Type: &manager}))
	require.Equal(t, manager, s.state.Type)

	require.Equal(t, []string{"cluster-member-discovered: is member node1 of an Incus cluster"}, read(s, lifecycle.Observation{MemberName: &member}))
	require.Empty(t, read(s, lifecycle.Observation{MemberName: &member}))
	require.Equal(t, []string{"cluster-member-discovered: is in no Incus cluster any more, was member node1 of one"}, read(s, lifecycle.Observation{MemberName: &none}))

	read(s, lifecycle.Observation{Maintenance: &evacuated, MemberRoles: []string{"database"}})
	require.Equal(t, evacuated, s.state.Maintenance)
	require.Equal(t, []string{"database"}, s.state.MemberRoles)

	require.Empty(t, read(s, lifecycle.Observation{Update: &lifecycle.UpdateSettings{Channel: "stable", CheckFrequency: "never"}}), "the first settings are no change")
	require.Equal(t, []string{"update-settings-changed: updates itself as channel stable, auto_reboot true, check_frequency 6h, was channel stable, auto_reboot false, check_frequency never"},
		read(s, lifecycle.Observation{Update: &lifecycle.UpdateSettings{Channel: "stable", CheckFrequency: "6h", AutoReboot: true}}))

	status := lifecycle.UpdateStatus{Status: "Running update check", LastCheck: s.at}
	read(s, lifecycle.Observation{UpdateStatus: &status, Architecture: "aarch64", SystemStateTrusted: &trusted})
	require.Equal(t, status, *s.state.UpdateStatus)
	require.Equal(t, "aarch64", s.state.Architecture)
	require.True(t, s.state.SystemStateTrusted)
	read(s, lifecycle.Observation{})
	require.Equal(t, "aarch64", s.state.Architecture, "what was not read stays")
	require.True(t, s.state.SystemStateTrusted)

	// Incus does not know that a standalone server is evacuated.
	s.state.Stopped = &lifecycle.Stopped{}
	read(s, lifecycle.Observation{Maintenance: &normal})
	require.Equal(t, evacuated, s.state.Maintenance)
	read(s, lifecycle.Observation{MemberName: &member, Maintenance: &normal})
	require.Nil(t, s.state.Stopped, "its cluster knows")
	require.Equal(t, normal, s.state.Maintenance)

	// A server that is not on IncusOS has no update settings.
	read(s, lifecycle.Observation{Versions: &lifecycle.Versions{OS: lifecycle.OSVersion{Name: "Debian", Plain: true}}})
	require.Nil(t, s.state.Update)
	require.Nil(t, s.state.UpdateStatus)
}

// TestSecureBootKey: a key that an update applies ends the operation, waits for a reboot, and is done after it.
func TestSecureBootKey(t *testing.T) {
	incus, maintenance := lifecycle.TypeIncus, lifecycle.NotInMaintenance
	s := begin(t, ready, lifecycle.DetailUpdating)
	before := &lifecycle.UpdateStatus{Status: "Update check completed", LastCheck: s.at.Add(-time.Hour)}
	s.state.UpdateStatus = before
	s.state.Operation = &lifecycle.Operation{ID: "x", Action: lifecycle.ActionUpdate, StartedAt: s.at, Deadline: s.at.Add(time.Hour), Targets: map[string]string{"os": "2"}, Before: before, Keys: true}
	reads := func(os lifecycle.OSVersion) {
		os.Name = lifecycle.OSName
		s.apply(lifecycle.Observation{Ready: true, Type: &incus, Maintenance: &maintenance, Versions: &lifecycle.Versions{OS: os},
			UpdateStatus: &lifecycle.UpdateStatus{Status: "Update check completed", LastCheck: s.at}})
	}
	reads(lifecycle.OSVersion{Version: "1", VersionNext: "1", NeedsReboot: true})
	require.Nil(t, s.state.Operation)
	require.Empty(t, s.state.LastOperation.Failed)
	require.True(t, s.state.KeyWaits)
	s.is(ready, none)

	reads(lifecycle.OSVersion{Version: "1"})
	require.False(t, s.state.KeyWaits, "it has booted")

	next := lifecycle.Tell(s.state, lifecycle.CauseSecureBootUpdateApplied, lifecycle.Telling{At: s.at})
	require.True(t, next.State.KeyWaits, "the server says that it has applied one")
}
