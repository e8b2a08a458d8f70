package lifecycle_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// TestResetNeverBegun: a server that is up as before long after it was asked for a factory reset was not reset.
func TestResetNeverBegun(t *testing.T) {
	begun := time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	kind, policy := lifecycle.TypeIncus, lifecycle.Policy{OfflineThreshold: 3, RebootTimeout: 15 * time.Minute}
	at := func(after time.Duration, booted time.Time) *lifecycle.ServerState {
		state := lifecycle.ServerState{Status: lifecycle.StatusPending, StatusDetail: lifecycle.DetailRegistering, Type: kind,
			Operation: &lifecycle.Operation{ID: "x", Action: lifecycle.ActionFactoryReset, StartedAt: begun, Deadline: begun.Add(time.Hour)}}
		next := lifecycle.Apply(state, lifecycle.Contact{}, lifecycle.Observation{At: begun.Add(after), Ready: true, Type: &kind, BootedAt: booted}, policy)
		return &next.State
	}
	before := begun.Add(-24 * time.Hour)
	require.NotNil(t, at(14*time.Minute, before).Operation, "it may take its time")
	require.NotNil(t, at(16*time.Minute, time.Time{}).Operation, "it does not tell when it booted")
	over := at(15*time.Minute, before)
	require.Nil(t, over.Operation)
	require.Equal(t, "the server has not gone down", over.LastOperation.Failed)
	require.Equal(t, ready, over.Status)
}
