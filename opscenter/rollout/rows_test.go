package rollout_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// oldUnits are the rows of units as earlier releases defined them: with their members inside.
var oldUnits = storage.NewTable("rollout_units", func(u *rollout.Unit) storage.Key {
	return storage.StringKey(u.Rollout).Uint(uint64(u.Index))
})

// memberKeys are the rows of members, as far as a test needs them.
var memberKeys = storage.NewTable("rollout_members", func(m *memberKey) storage.Key {
	return storage.StringKey(m.Rollout).Uint(uint64(m.Unit)).Uint(uint64(m.Position))
}).Compact()

type memberKey struct {
	Rollout        string
	Unit, Position int
}

// failing fails the evacuation of one server.
type failing struct {
	*instant
	id string // of the server; empty: none
}

func (f *failing) Evacuate(ctx context.Context, t opscenter.Target, mode string) error {
	if t.ID == f.id {
		return errors.New("an instance could not be moved")
	}
	return f.instant.Evacuate(ctx, t, mode)
}

// TestRowsOfEarlierReleases: a rollout whose units have their members inside goes on, before it has begun and in the middle.
// An earlier release refuses the rows of this one.
func TestRowsOfEarlierReleases(t *testing.T) {
	dir := t.TempDir()
	fleet := &failing{instant: &instant{offered: oldVersion, servers: map[string]*machine{}}}
	session := func(do func(*opscenter.Registry, *poller.Poller, *rollout.Manager)) {
		t.Helper()
		store, err := badgerstore.Open(dir, badgerstore.Options{MinFree: 1})
		require.NoError(t, err)
		defer func() { require.NoError(t, store.Close()) }()
		registry, err := opscenter.NewRegistry(store, opscenter.Options{})
		require.NoError(t, err)
		polls, err := poller.New(registry, fleet, poller.Options{})
		require.NoError(t, err)
		manager, err := rollout.New(opscenter.NewUpdatePlanner(registry, fleet), rollout.Options{Poller: polls, PollInterval: 20 * time.Millisecond})
		require.NoError(t, err)
		for name := range registered(t, registry) {
			_, err = polls.Poll(t.Context(), name)
			require.NoError(t, err)
		}
		do(registry, polls, manager)
	}
	// earlier gives all units the form of earlier releases. apart of them have the present form.
	earlier := func(list []*rollout.Unit, apart int) {
		t.Helper()
		store, err := badgerstore.Open(dir, badgerstore.Options{MinFree: 1})
		require.NoError(t, err)
		defer func() { require.NoError(t, store.Close()) }()
		require.NoError(t, store.Attach(t.Context(), oldUnits.Schema(), memberKeys.Schema()))
		require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
			refused := 0
			for _, u := range list {
				row, err := oldUnits.Get(tx, storage.StringKey(u.Rollout).Uint(uint64(u.Index)))
				if err == nil {
					require.Equal(t, u, row)
					continue
				}
				require.ErrorIs(t, err, storage.ErrCorrupt)
				refused++
			}
			require.Equal(t, apart, refused, "an earlier release must not take these for units without members")
			var rows []*memberKey
			for row, err := range memberKeys.Scan(tx, storage.Range{}) {
				require.NoError(t, err)
				rows = append(rows, row)
			}
			require.Len(t, rows, 3*apart, "a row for each member")
			for _, row := range rows {
				require.NoError(t, memberKeys.Delete(tx, memberKeys.Schema().Key(row)))
			}
			for _, u := range list {
				require.NoError(t, oldUnits.Put(tx, u))
			}
			return nil
		}))
	}
	var id string
	var list []*rollout.Unit
	session(func(registry *opscenter.Registry, polls *poller.Poller, m *rollout.Manager) {
		fleet.fill(t, registry, polls, 2, 3)
		info, err := registry.Server(t.Context(), "server00001")
		require.NoError(t, err)
		fleet.id = info.ID
		r, err := m.Start(t.Context(), everything, rolling.Policy{Goal: rolling.GoalReboot, Retries: -1})
		require.NoError(t, err)
		id = r.ID
		list, err = m.Units(t.Context(), id, 0, 0)
		require.NoError(t, err)
		require.Len(t, list, 2)
	})
	earlier(list, 2)
	session(func(_ *opscenter.Registry, _ *poller.Poller, m *rollout.Manager) {
		now, err := m.Units(t.Context(), id, 0, 0)
		require.NoError(t, err)
		require.Equal(t, list, now)
		defer run(t, m)()
		r := awaitReal(t, m, id)
		require.Equal(t, rolling.StatusPaused, r.State.Status)
		require.Contains(t, r.State.Reason, "an instance could not be moved")
		list, err = m.Units(t.Context(), id, 0, 0)
		require.NoError(t, err)
	})
	earlier(list, 1) // the second unit has not begun
	fleet.id = ""
	session(func(_ *opscenter.Registry, _ *poller.Poller, m *rollout.Manager) {
		now, err := m.Units(t.Context(), id, 0, 0)
		require.NoError(t, err)
		require.Equal(t, list, now)
		_, err = m.Forecast(t.Context(), id)
		require.NoError(t, err)
		require.NoError(t, m.Resume(t.Context(), id))
		defer run(t, m)()
		r := awaitReal(t, m, id)
		require.Equal(t, rolling.StatusDone, r.State.Status, r.State.Reason)
		list, err = m.Units(t.Context(), id, 0, 0)
		require.NoError(t, err)
		require.Len(t, list, 2)
		for _, u := range list {
			require.Equal(t, rolling.UnitDone, u.Status)
			for _, member := range u.Members {
				require.True(t, member.Rebooted, member.Server)
			}
		}
	})
}

// awaitReal waits, in real time, until a rollout has ended or is paused.
func awaitReal(t *testing.T, m *rollout.Manager, id string) (r *rollout.Rollout) {
	t.Helper()
	require.Eventually(t, func() bool {
		var err error
		r, err = m.Get(t.Context(), id)
		require.NoError(t, err)
		return r.State.Status.Ended() || r.State.Status == rolling.StatusPaused
	}, time.Minute, 5*time.Millisecond)
	return r
}

// registered returns the names of all servers.
func registered(t *testing.T, registry *opscenter.Registry) map[string]bool {
	names := map[string]bool{}
	for info, err := range registry.Servers(t.Context(), opscenter.ServerFilter{}) {
		require.NoError(t, err)
		names[info.Name] = true
	}
	return names
}

// TestLargeUnitOfSmallStore: the members of a unit stay in its row in a store that can't write a row for each of them at once.
func TestLargeUnitOfSmallStore(t *testing.T) {
	identity(t, 12)
	synctest.Test(t, func(t *testing.T) {
		memory := memstore.New(memstore.Options{DetectMutation: true})
		defer memory.Close()
		f := newFleet()
		f.open(t, memory, rollout.Options{})
		f.register(t, "c1", "a", "b", "c", "d", "e", "g")
		store := controltest.Limit(memory, storage.Limits{MaxTxWrites: 36})
		m := f.open(t, store, rollout.Options{})
		for name := range f.servers {
			_, err := f.Poll(t.Context(), name)
			require.NoError(t, err)
		}
		r, err := m.Start(t.Context(), everything, rolling.Policy{Goal: rolling.GoalReboot})
		require.NoError(t, err)
		stop := run(t, m)
		await(t, m, r.ID, 5*time.Hour, rolling.StatusDone)
		stop()
		for _, s := range f.all() {
			require.Equal(t, 1, s.reboots, s.name)
		}
		require.Zero(t, store.Refused(), "transactions over the limits")
		over, cancel := context.WithCancel(t.Context())
		cancel()
		for batch, err := range memory.Watch(over, 0, "rollout_members") {
			require.ErrorIs(t, err, context.Canceled, "a member has a row of its own: %v", batch.Changes)
		}
	})
}
