package system_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// TestSmallLimits: changes of all members of a cluster, the removal of old changes and that of removed servers keep to the
// limits of a store that has small ones.
func TestSmallLimits(t *testing.T) {
	const writes = 60
	store := controltest.Limit(memstore.New(memstore.Options{DetectMutation: true}), storage.Limits{MaxTxWrites: writes})
	p := newPlaneOver(t, store, system.Options{LeaveUpdates: true})
	p.cluster("c1", "a", "b", "c")
	kernel := func(systems *system.Manager, i int) {
		t.Helper()
		_, err := systems.SetClusterKernel(t.Context(), "c1", system.KernelConfig{BlacklistModules: []string{fmt.Sprint("m", i)}}, system.SetOptions{})
		require.NoError(t, err)
	}
	for i := range writes / 3 {
		kernel(p.systems, i)
	}
	list, err := p.systems.Changes(t.Context(), "", "", 0)
	require.NoError(t, err)
	require.Len(t, list, writes)
	require.NoError(t, p.systems.Tell(t.Context(), 2*writes))
	few, err := system.New(p.Registry, p.Client, withShortTimes(system.Options{MaxChanges: 1, Audit: p.log, Provider: p.systems.Options().Provider}))
	require.NoError(t, err)
	for i := range 3 {
		kernel(few, writes+i)
	}
	list, err = few.Changes(t.Context(), "", "", 0)
	require.NoError(t, err)
	require.Less(t, len(list), 5)
	controltest.Background(t, few.Run)
	require.Eventually(t, func() bool {
		n, err := few.Told(t.Context())
		return err == nil && n <= 3
	}, patience, 5*time.Millisecond)
	require.Zero(t, store.Refused(), "transactions over the limits")
}
