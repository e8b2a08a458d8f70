package opscenter_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

func TestRenameDuringAnActionIsRefused(t *testing.T) {
	w := memoryWorld(t)
	w.ready(t, 0)
	operation, server, err := w.BeginAction(t.Context(), "server00", lifecycle.ActionEvacuate)
	require.NoError(t, err)
	require.ErrorIs(t, w.RenameServer(t.Context(), "server00", "renamed", nil), opscenter.ErrNotReady)
	require.NoError(t, w.EndAction(t.Context(), server, operation, nil))
	refused := errors.New("refused")
	require.ErrorIs(t, w.RenameServer(t.Context(), "server00", "renamed", func(*opscenter.ServerInfo) error { return refused }), refused)
	require.NoError(t, w.RenameServer(t.Context(), "server00", "renamed", nil))
}

func TestAFailedActionDoesNotRaiseTheDead(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	operation, server, err := w.BeginAction(t.Context(), "server00", lifecycle.ActionEvacuate)
	require.NoError(t, err)
	w.observe(t, failed(info), failed(info), failed(info))
	require.Equal(t, lifecycle.DetailUnresponsive, w.get(t, "server00").State.StatusDetail)
	require.NotNil(t, w.get(t, "server00").State.Operation, "who carries it out says when it ends")
	require.NoError(t, w.EndAction(t.Context(), server, operation, errors.New("connection lost")))
	s := w.get(t, "server00").State
	require.Equal(t, lifecycle.DetailUnresponsive, s.StatusDetail)
	require.Nil(t, s.Operation)
}

// An actuator that never returns, or panics, does not keep the server busy for ever.
func TestActionsEndByTheirDeadline(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	_, _, err := w.BeginAction(t.Context(), "server00", lifecycle.ActionEvacuate)
	require.NoError(t, err)
	o := answer(info)
	evacuated := lifecycle.MaintenanceEvacuated
	o.Maintenance = &evacuated
	w.observe(t, o)
	require.NotNil(t, w.get(t, "server00").State.Operation, "it shows before the operation ends")
	o.At = time.Now().Add(2 * time.Hour)
	w.observe(t, o)
	require.Nil(t, w.get(t, "server00").State.Operation)

	w = memoryWorld(t)
	w.ready(t, 0)
	planner := opscenter.NewUpdatePlanner(w.Registry, actuator(func(lifecycle.Action, opscenter.Target) error { panic("a bug in the actuator") }))
	require.Panics(t, func() { _ = planner.Act(t.Context(), "server00", lifecycle.ActionEvacuate) })
	o = answer(w.get(t, "server00"))
	o.Maintenance = &evacuated
	w.observe(t, o)
	require.Nil(t, w.get(t, "server00").State.Operation, "polls settle what became of it")
}
