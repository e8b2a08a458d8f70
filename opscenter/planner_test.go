package opscenter_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// actuator does what the test says.
type actuator func(action lifecycle.Action, target opscenter.Target) error

func (a actuator) Update(_ context.Context, t opscenter.Target) error {
	return a(lifecycle.ActionUpdate, t)
}
func (a actuator) Evacuate(_ context.Context, t opscenter.Target, _ string) error {
	return a(lifecycle.ActionEvacuate, t)
}
func (a actuator) Restore(_ context.Context, t opscenter.Target, _ string) error {
	return a(lifecycle.ActionRestore, t)
}
func (a actuator) PowerOff(_ context.Context, t opscenter.Target) error {
	return a(lifecycle.ActionPowerOff, t)
}
func (a actuator) Suspend(_ context.Context, t opscenter.Target) error {
	return a(lifecycle.ActionSuspend, t)
}
func (a actuator) RunningInstances(context.Context, opscenter.Target) ([]lifecycle.Instance, error) {
	return nil, nil
}
func (a actuator) StopInstance(context.Context, opscenter.Target, lifecycle.Instance) error {
	return nil
}
func (a actuator) StartInstance(context.Context, opscenter.Target, lifecycle.Instance) error {
	return nil
}
func (a actuator) Reboot(_ context.Context, t opscenter.Target) error {
	return a(lifecycle.ActionReboot, t)
}

func TestAct(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		info := w.ready(t, 0)
		require.NoError(t, w.Channels().Publish(t.Context(), "stable", "202610150000", "os", "incus"))
		var result error
		var during *opscenter.ServerInfo
		planner := opscenter.NewUpdatePlanner(w.Registry, actuator(func(action lifecycle.Action, target opscenter.Target) error {
			require.Equal(t, info.Fingerprint, target.Fingerprint)
			during = w.get(t, target.Name)
			return result
		}))
		act := func(a lifecycle.Action) error { return planner.Act(t.Context(), "server00", a) }
		idle := func() {
			t.Helper()
			s := w.get(t, "server00").State
			require.Equal(t, ready, s.Status)
			require.Equal(t, none, s.StatusDetail)
			require.Nil(t, s.Operation)
		}

		// The intent is stored before the effect.
		require.NoError(t, act(lifecycle.ActionUpdate))
		require.Equal(t, lifecycle.DetailUpdating, during.State.StatusDetail)
		require.Equal(t, map[string]string{"os": "202610150000", "incus": "202610150000"}, during.State.Operation.Targets)
		require.Equal(t, lifecycle.ActionNone, w.get(t, "server00").Recommendation().Action)
		require.ErrorIs(t, act(lifecycle.ActionReboot), opscenter.ErrNotReady, "one at a time")
		o := answer(info)
		w.observe(t, o)
		require.Equal(t, lifecycle.DetailUpdating, w.get(t, "server00").State.StatusDetail, "not done, yet")
		o.Versions.Applications[0].Version, o.Versions.OS.VersionNext, o.Versions.OS.NeedsReboot = "202610150000", "202610150000", true
		w.observe(t, o)
		idle()

		require.NoError(t, act(lifecycle.ActionEvacuate))
		require.Equal(t, lifecycle.DetailEvacuating, during.State.StatusDetail)
		idle()
		require.Equal(t, lifecycle.MaintenanceEvacuated, w.get(t, "server00").State.Maintenance)
		require.Equal(t, lifecycle.ActionReboot, w.get(t, "server00").Recommendation().Action)

		require.NoError(t, act(lifecycle.ActionReboot))
		require.Equal(t, offline, during.State.Status)
		require.Equal(t, lifecycle.DetailRebooting, during.State.StatusDetail)
		evacuated := lifecycle.MaintenanceEvacuated
		o = answer(info)
		o.Versions.OS.Version, o.Versions.Applications[0].Version, o.Maintenance, o.BootedAt = "202610150000", "202610150000", &evacuated, time.Now()
		w.observe(t, o)
		idle()
		require.Equal(t, lifecycle.ActionRestore, w.get(t, "server00").Recommendation().Action)
		require.NoError(t, act(lifecycle.ActionRestore))
		idle()
		require.Equal(t, lifecycle.ActionNone, w.get(t, "server00").Recommendation().Action)

		// A refusal leaves the server as it was, and says so.
		result = errors.New("no")
		require.ErrorIs(t, act(lifecycle.ActionReboot), result)
		idle()
		require.Contains(t, w.events(t, event.ActionFailed)[0].Reason, "reboot: no")
		// An answer that was lost is for polls to resolve.
		result = fmt.Errorf("cut: %w", opscenter.ErrOutcomeUnknown)
		require.ErrorIs(t, act(lifecycle.ActionReboot), opscenter.ErrOutcomeUnknown)
		require.Equal(t, lifecycle.DetailRebooting, w.get(t, "server00").State.StatusDetail)
		o.BootedAt, o.At = time.Now(), time.Now()
		w.observe(t, o)
		idle()
		result = nil

		require.ErrorIs(t, act("dance"), opscenter.ErrNotApplicable)
		require.ErrorIs(t, planner.Act(t.Context(), "missing", lifecycle.ActionReboot), opscenter.ErrNotFound)
		require.ErrorIs(t, opscenter.NewUpdatePlanner(w.Registry, nil).Act(t.Context(), "server00", lifecycle.ActionReboot), opscenter.ErrInvalidOptions)
		alone := ""
		o.MemberName = &alone
		w.observe(t, o)
		kind := lifecycle.TypeMigrationManager
		o.Type = &kind
		w.observe(t, o)
		require.ErrorIs(t, act(lifecycle.ActionRestore), opscenter.ErrNotApplicable)
		require.NoError(t, act(lifecycle.ActionReboot))
	})
}

// A controller that dies between the intent and the outcome leaves an operation that polls
// end, when they see it done, or its deadline.
func TestActSurvivesACrash(t *testing.T) {
	store := memstore.New()
	start := func() *world {
		registry, err := opscenter.NewRegistry(store, opscenter.Options{})
		require.NoError(t, err)
		return &world{Registry: registry, store: store, log: &controltest.Log{}}
	}
	w := start()
	info := w.ready(t, 0)
	_, _, err := w.BeginAction(t.Context(), "server00", lifecycle.ActionEvacuate)
	require.NoError(t, err)

	next := start()
	s := next.get(t, "server00").State
	require.Equal(t, lifecycle.DetailEvacuating, s.StatusDetail)
	next.observe(t, answer(info))
	require.Equal(t, lifecycle.DetailEvacuating, next.get(t, "server00").State.StatusDetail)
	evacuated := lifecycle.MaintenanceEvacuated
	o := answer(info)
	o.Maintenance = &evacuated
	next.observe(t, o)
	s = next.get(t, "server00").State
	require.Nil(t, s.Operation)
	require.Equal(t, none, s.StatusDetail)

	_, _, err = next.BeginAction(t.Context(), "server00", lifecycle.ActionRestore)
	require.NoError(t, err)
	last := start()
	o.At = time.Now().Add(2 * time.Hour)
	last.observe(t, o)
	s = last.get(t, "server00").State
	require.Nil(t, s.Operation, "its deadline has passed")
	require.Contains(t, last.events(t, event.ActionFailed)[0].Reason, "deadline")
}
