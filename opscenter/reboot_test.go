package opscenter_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// A steady server's polls are compared by a digest, and not stored: what changes is seen all the same.
func TestSteadyPollSeesEverything(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		info := w.ready(t, 0)
		boot := time.Now().Add(-24 * time.Hour)
		seen := func(change func(*lifecycle.Observation)) {
			o := answer(info)
			o.BootedAt = boot
			o.Update = &lifecycle.UpdateSettings{Channel: "stable", CheckFrequency: "never"}
			if change != nil {
				change(&o)
			}
			w.observe(t, o)
		}
		for range 4 {
			seen(nil)
		}
		before := w.revision(t)
		o := answer(info)
		o.BootedAt, o.Update = boot.Add(time.Second), &lifecycle.UpdateSettings{Channel: "stable", CheckFrequency: "never"}
		require.True(t, w.Observer().RecordUnchanged(&o), "it is steady")
		require.Equal(t, before, w.revision(t))

		seen(func(o *lifecycle.Observation) { o.Update.AutoReboot = true })
		require.True(t, w.get(t, info.Name).State.Update.AutoReboot)
		require.Contains(t, w.events(t, event.UpdateSettings)[0].Reason, "auto_reboot true")
		for range 4 {
			seen(nil)
		}
		booted := time.Now().Add(-time.Minute)
		seen(func(o *lifecycle.Observation) { o.BootedAt = booted })
		require.WithinDuration(t, booted, w.get(t, info.Name).State.BootedAt, time.Second)
		require.Len(t, w.events(t, event.ServerRebooted), 1)
	})
}

// A poll that a reboot fell into has read a part before it and a part after it: what it found is
// no word on how the server came back.
func TestPollAcrossReboot(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		info := w.ready(t, 0)
		say := func(cause lifecycle.Cause) {
			require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: cause}))
		}
		staged := func() lifecycle.Observation {
			o := answer(info)
			o.Versions.OS.NeedsReboot = true // and no BootedAt: the release does not tell
			return o
		}
		w.observe(t, staged())
		say(lifecycle.CauseSystemRebootTriggered)
		goesDown, across := staged(), staged()
		w.observe(t, goesDown)
		require.Zero(t, w.get(t, info.Name).GoodPolls, "it is about to go down: what it is like does not last")
		say(lifecycle.CauseSystemIsReady)
		w.observe(t, across)
		require.Zero(t, w.get(t, info.Name).GoodPolls, "it began before the server was back")
		require.Equal(t, lifecycle.StatusOffline, w.get(t, info.Name).State.Status)
		w.observe(t, answer(info))
		info = w.get(t, info.Name)
		require.Equal(t, 1, info.GoodPolls)
		require.Equal(t, lifecycle.StatusReady, info.State.Status)
		require.False(t, info.NeedsReboot())
	})
}

func TestBackupImage(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	require.NoError(t, w.Channels().Publish(t.Context(), "stable", "202610150000", "os"))
	o := answer(info)
	o.Versions.OS.VersionNext, o.Versions.OS.BackupImage = "202610150000", true
	w.observe(t, o)
	info = w.get(t, info.Name)
	require.False(t, info.NeedsReboot())
	require.False(t, info.NeedsUpdate(), "IncusOS does not install again what did not boot")
	recommended := info.Recommendation()
	require.Equal(t, lifecycle.ActionNone, recommended.Action)
	require.Contains(t, recommended.Reason, "from its backup image, 202610150000 did not boot")
	list, err := w.Warnings().List(t.Context(), opscenter.WarningFilter{Server: info.Name}, opscenter.Page{})
	require.NoError(t, err)
	require.Len(t, list.Warnings, 1)
	require.Equal(t, warning.BackupImage, list.Warnings[0].Kind)

	plan, err := opscenter.NewUpdatePlanner(w.Registry, nil).Plan(t.Context(), rolling.Selector{All: true}, rolling.Policy{})
	require.NoError(t, err)
	require.Len(t, plan.Blockers, 1)
	require.Contains(t, plan.Blockers[0].Reason, "IncusOS does not install it again")

	o = answer(info)
	o.Versions = &lifecycle.Versions{Applications: o.Versions.Applications, UpdateChannel: "stable"}
	o.UnreadVersions, o.Unread = lifecycle.VersionsOS, []string{"os_version: it is not told"}
	w.observe(t, o)
	require.True(t, w.get(t, info.Name).State.Versions.OS.BackupImage, "an unread value stays")

	w.observe(t, answer(info))
	require.False(t, w.get(t, info.Name).State.Versions.OS.BackupImage)
	list, err = w.Warnings().List(t.Context(), opscenter.WarningFilter{Server: info.Name, Kind: warning.BackupImage}, opscenter.Page{})
	require.NoError(t, err)
	require.Empty(t, list.Warnings)
}

// TestShutdownInsteadOfReboot: a server that is rebooted by us, and says that it shuts down, is not back
// because it answers still.
func TestShutdownInsteadOfReboot(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	operation, server, err := w.BeginAction(t.Context(), info.Name, lifecycle.ActionReboot)
	require.NoError(t, err)
	require.NoError(t, w.EndAction(t.Context(), server, operation, nil))
	require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: lifecycle.CauseSystemShutdownTriggered}))
	o := answer(info)
	o.BootedAt = time.Now().Add(-time.Hour)
	w.observe(t, o)
	require.NotNil(t, w.get(t, info.Name).State.Operation, "it has not gone down")
	o = answer(info)
	o.BootedAt = time.Now()
	w.observe(t, o)
	require.Nil(t, w.get(t, info.Name).State.Operation)
	require.Equal(t, lifecycle.StatusReady, w.get(t, info.Name).State.Status)
}
