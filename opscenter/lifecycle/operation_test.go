package lifecycle_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// TestOperation: Begin and End write down an action, and give the status back.
func TestOperation(t *testing.T) {
	at := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	later := at.Add(5 * time.Minute)
	state := lifecycle.ServerState{Name: "a", Status: ready, Took: map[lifecycle.Action]time.Duration{lifecycle.ActionUpdate: time.Minute}}
	start := func(from lifecycle.ServerState, id string, action lifecycle.Action) lifecycle.Transition {
		return lifecycle.Begin(from, &lifecycle.Operation{ID: id, Action: action, Owner: "r1", StartedAt: at, Deadline: at.Add(time.Hour)}, "for a test")
	}
	t.Run("success", func(t *testing.T) {
		begun := start(state, "x", lifecycle.ActionEvacuate)
		require.Equal(t, []event.Kind{event.StatusChanged, event.ActionStarted}, []event.Kind{begun.Events[0].Kind, begun.Events[1].Kind})
		require.Equal(t, "for a test", begun.Events[1].Reason)
		ended := lifecycle.End(begun.State, "x", later, nil, false).State
		require.Nil(t, ended.Operation)
		require.Equal(t, lifecycle.MaintenanceEvacuated, ended.Maintenance)
		require.Equal(t, lifecycle.Outcome{ID: "x", Action: lifecycle.ActionEvacuate, Owner: "r1", StartedAt: at, EndedAt: later}, *ended.LastOperation)
		require.Equal(t, map[lifecycle.Action]time.Duration{lifecycle.ActionUpdate: time.Minute, lifecycle.ActionEvacuate: 5 * time.Minute}, ended.Took)
		require.Len(t, state.Took, 1, "the argument stays")
		require.Equal(t, later, ended.PollRequested)
		require.Equal(t, later, ended.NotBefore)
		ended.Stopped = &lifecycle.Stopped{}
		restored := lifecycle.End(start(ended, "y", lifecycle.ActionRestore).State, "y", later, nil, false).State
		require.Equal(t, lifecycle.NotInMaintenance, restored.Maintenance)
		require.Nil(t, restored.Stopped)
	})
	t.Run("failure", func(t *testing.T) {
		ended := lifecycle.End(start(state, "x", lifecycle.ActionReboot).State, "x", later, errors.New(strings.Repeat("e", 2*lifecycle.MaxReason)), false)
		require.Equal(t, ready, ended.State.Status)
		require.Nil(t, ended.State.Announced)
		require.LessOrEqual(t, len(ended.State.LastOperation.Failed), lifecycle.MaxReason+len("…"))
		require.Equal(t, event.ActionFailed, ended.Events[0].Kind)
		require.NotContains(t, ended.State.Took, lifecycle.ActionReboot, "a failure does not tell how long it takes")
	})
	t.Run("a failure with an unknown outcome", func(t *testing.T) {
		ended := lifecycle.End(start(state, "x", lifecycle.ActionReboot).State, "x", later, errors.New("no answer"), true)
		require.NotNil(t, ended.State.Operation, "polls and the deadline decide")
		require.Equal(t, later, ended.State.PollRequested)
	})
	t.Run("an operation that is over", func(t *testing.T) {
		ended := lifecycle.End(start(state, "x", lifecycle.ActionUpdate).State, "y", later, errors.New("refused"), false)
		require.Equal(t, "x", ended.State.Operation.ID)
		require.Empty(t, ended.Events)
		require.Equal(t, later, ended.State.PollRequested)
	})
	t.Run("forced", func(t *testing.T) {
		down := state
		down.Status, down.StatusDetail = offline, lifecycle.DetailUnresponsive
		reboots := start(down, "x", lifecycle.ActionReboot)
		require.Equal(t, offline, reboots.State.Operation.Was)
		instead := start(reboots.State, "y", lifecycle.ActionUpdate)
		require.Equal(t, "x", instead.State.LastOperation.ID)
		require.Equal(t, "update took its place", instead.State.LastOperation.Failed)
		ended := lifecycle.End(instead.State, "y", later, errors.New("refused"), false).State
		require.Equal(t, offline, ended.Status)
		require.Equal(t, lifecycle.DetailUnresponsive, ended.StatusDetail, "as before the first of them")
	})
	t.Run("a status that came for another reason stays", func(t *testing.T) {
		lost := lifecycle.MarkLost(start(state, "x", lifecycle.ActionReboot).State, at, "not seen").State
		require.Equal(t, "not seen", lost.StatusReason)
		ended := lifecycle.End(lost, "x", later, errors.New("refused"), false).State
		require.Equal(t, lifecycle.DetailUnresponsive, ended.StatusDetail)
	})
}
