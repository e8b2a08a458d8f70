package opscenter_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// What comes late, twice, or in the middle of something else.

func TestAPollBegunBeforeSaysNothingNew(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	old := answer(info) // reads "not in maintenance", and is recorded late
	operation, server, err := w.BeginAction(t.Context(), "server00", lifecycle.ActionEvacuate)
	require.NoError(t, err)
	require.NoError(t, w.EndAction(t.Context(), server, operation, nil))
	w.observe(t, old)
	require.Equal(t, lifecycle.MaintenanceEvacuated, w.get(t, "server00").State.Maintenance)
	w.observe(t, answer(info))
	require.Equal(t, lifecycle.NotInMaintenance, w.get(t, "server00").State.Maintenance, "a later one does")

	// Nor does a poll of the installation that was there before.
	require.NoError(t, w.AllowReinstall(t.Context(), "server00", true))
	old = answer(info)
	w.observe(t, failed(info), failed(info))
	require.Equal(t, 2, w.get(t, "server00").Failures, "several in one call count up")
	time.Sleep(time.Millisecond)
	reg := registration(0, w.token(t, 1))
	reg.Certificate = certificate(1)
	_, err = w.Register(t.Context(), reg)
	require.NoError(t, err)
	w.observe(t, old)
	got := w.get(t, "server00")
	require.Equal(t, pending, got.State.Status)
	require.Zero(t, got.Failures, "a new installation begins anew")
	w.observe(t, failed(info))
	require.Equal(t, pending, w.get(t, "server00").State.Status)
}

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

func TestReinstallWithoutASystemUUID(t *testing.T) {
	w := memoryWorld(t)
	reg := registration(0, w.token(t, 3))
	reg.SystemUUID = ""
	_, err := w.Register(t.Context(), reg)
	require.NoError(t, err)
	before := w.get(t, "server00")
	reg.Certificate, reg.MachineID = certificate(1), machineID(70)
	_, err = w.Register(t.Context(), reg)
	require.ErrorIs(t, err, opscenter.ErrNameTaken)
	require.NoError(t, w.AllowReinstall(t.Context(), "server00", true))
	_, err = w.Register(t.Context(), reg)
	require.NoError(t, err)
	after := w.get(t, "server00")
	require.Equal(t, before.ID, after.ID)
	require.Equal(t, machineID(70), after.MachineID)
}

func TestALoweredEventLimitTakesEffect(t *testing.T) {
	store := memstore.New()
	first, err := opscenter.NewRegistry(store, opscenter.Options{})
	require.NoError(t, err)
	for i := range 100 {
		require.NoError(t, first.Channels().Publish(t.Context(), "stable", fmt.Sprint(i+1), "os"))
	}
	second, err := opscenter.NewRegistry(store, opscenter.Options{MaxEvents: 10})
	require.NoError(t, err)
	left, err := second.ListEvents(t.Context(), opscenter.EventFilter{Limit: 1000})
	require.NoError(t, err)
	require.Len(t, left, 10)
}

func TestSecretsByAnyName(t *testing.T) {
	for _, key := range []string{"wakeonlan_password", "Password", "encryption_key", "server_token", "PRIVATE_KEY", "pool_recovery_keys"} {
		out, err := facts.RedactSecrets(json.RawMessage(fmt.Sprintf(`{"a":[{%q:"hunter2","kept":1}]}`, key)))
		require.NoError(t, err)
		require.JSONEq(t, `{"a":[{"kept":1}]}`, string(out), key)
	}
	kept := `{"encryption_recovery_keys_retrieved":true,"tpm_public_key":"p","public_key":"q"}`
	out, err := facts.RedactSecrets(json.RawMessage(kept))
	require.NoError(t, err)
	require.Equal(t, kept, string(out))
}
