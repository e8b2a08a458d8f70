package lifecycle_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

func TestTell(t *testing.T) {
	at := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	telling := lifecycle.Telling{At: at, Event: true, Poll: 5 * time.Second, RebootTimeout: 15 * time.Minute}
	state := lifecycle.ServerState{Name: "a", Status: ready}

	t.Run("a reboot", func(t *testing.T) {
		next := lifecycle.Tell(state, lifecycle.CauseSystemRebootTriggered, telling)
		require.Equal(t, lifecycle.Announcement{At: at, Deadline: at.Add(15 * time.Minute)}, *next.State.Announced)
		longer := state
		longer.Operation = &lifecycle.Operation{Action: lifecycle.ActionReboot, Deadline: at.Add(time.Hour)}
		require.Equal(t, at.Add(time.Hour), lifecycle.Tell(longer, lifecycle.CauseSystemRebootTriggered, telling).State.Announced.Deadline, "the action gives it more time")
	})
	t.Run("a shutdown", func(t *testing.T) {
		next := lifecycle.Tell(state, lifecycle.CauseSystemShutdownTriggered, telling).State
		require.True(t, next.Announced.Unasked)
		require.Equal(t, "the server said that it goes down: system-shutdown-triggered", next.StatusReason)
		asked := lifecycle.Begin(state, &lifecycle.Operation{ID: "x", Action: lifecycle.ActionPowerOff, StartedAt: at}, "").State
		require.False(t, lifecycle.Tell(asked, lifecycle.CauseSystemShutdownTriggered, telling).State.Announced.Unasked)
		reboots := lifecycle.Begin(state, &lifecycle.Operation{ID: "x", Action: lifecycle.ActionReboot, StartedAt: at, Deadline: at.Add(time.Hour)}, "").State
		rebooting := lifecycle.Tell(reboots, lifecycle.CauseSystemShutdownTriggered, telling).State.Announced
		require.Equal(t, lifecycle.Announcement{At: at, Deadline: at.Add(time.Hour)}, *rebooting, "an action reboots it, so that it should be back")
	})
	t.Run("back again", func(t *testing.T) {
		down := lifecycle.Tell(state, lifecycle.CauseSystemRebootTriggered, telling).State
		back := lifecycle.Tell(down, lifecycle.CauseSystemIsReady, telling).State
		require.True(t, back.Announced.WentDown)
		require.Equal(t, down.Announced.Deadline, back.Announced.Deadline)
		require.Equal(t, offline, back.Status, "a poll makes it ready")
	})
	t.Run("any other cause", func(t *testing.T) {
		for _, cause := range lifecycle.Causes {
			require.True(t, cause.Known(), cause)
			if cause.GoesDown() {
				continue
			}
			next := lifecycle.Tell(state, cause, telling)
			require.Equal(t, ready, next.State.Status, cause)
			require.Equal(t, at.Add(5*time.Second), next.State.PollRequested, cause)
			require.Equal(t, at, next.State.LastUpdated, cause)
			require.Equal(t, []event.Event{{At: at, Kind: event.SelfUpdate, Server: "a", Reason: string(cause)}}, next.Events)
		}
		quiet := lifecycle.Tell(state, lifecycle.CauseStorageConfigChanged, lifecycle.Telling{At: at, Poll: -1})
		require.Empty(t, quiet.Events)
		require.Zero(t, quiet.State.PollRequested)
		require.False(t, lifecycle.Cause("of-a-newer-release").Known())
	})
}
