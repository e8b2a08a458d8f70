package rollout_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/internal/mortal"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// TestSmallLimits: a rollout starts and is cancelled, also an incomplete one, within the limits of a store that has small ones.
func TestSmallLimits(t *testing.T) {
	for name, limits := range map[string]storage.Limits{"few writes": {MaxTxWrites: 36}, "few bytes": {MaxTxSize: 32 << 10}} {
		t.Run(name, func(t *testing.T) {
			identity(t, 79)
			synctest.Test(t, func(t *testing.T) {
				memory := memstore.New(memstore.Options{DetectMutation: true})
				defer memory.Close()
				f := newFleet()
				fate := mortal.New()
				names := f.cutStart(t, controltest.Limit(mortal.Store{Store: memory, Fate: fate}, limits), fate, 80, 5)

				store := controltest.Limit(memory, limits)
				m := f.open(t, store, rollout.Options{})
				for _, name := range names {
					_, err := f.Poll(t.Context(), name)
					require.NoError(t, err)
				}
				page, err := m.List(t.Context(), "", 0)
				require.NoError(t, err)
				require.Equal(t, rolling.StatusStarting, page.Rollouts[0].State.Status)
				require.NoError(t, m.Cancel(t.Context(), page.Rollouts[0].ID, rolling.CancelFinish), "the stored part is removed")

				r, err := m.Start(t.Context(), everything, rolling.Policy{Goal: rolling.GoalReboot, Parallel: 3})
				require.NoError(t, err)
				require.Equal(t, len(names), r.State.Units)
				stop := run(t, m)
				time.Sleep(time.Minute)
				require.NoError(t, m.Cancel(t.Context(), r.ID, rolling.CancelRestore))
				await(t, m, r.ID, time.Hour, rolling.StatusCancelled)
				stop()
				_, err = m.Start(t.Context(), everything, rolling.Policy{Goal: rolling.GoalReboot})
				require.NoError(t, err, "no claim is left")
				require.Zero(t, store.Refused(), "transactions over the limits")
			})
		})
	}
}
