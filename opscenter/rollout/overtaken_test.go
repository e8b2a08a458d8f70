package rollout_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// lateStore is a store whose Update returns late after the commit that ends an evacuation.
type lateStore struct {
	storage.Store
	mu    sync.Mutex
	ended map[string]bool // IDs of the evacuations
}

func (s *lateStore) Update(ctx context.Context, fn func(storage.WriteTx) error) error {
	var tx *lateTx
	err := s.Store.Update(ctx, func(w storage.WriteTx) error {
		tx = &lateTx{WriteTx: w}
		return fn(tx)
	})
	s.mu.Lock()
	late := err == nil && tx.ended != "" && !s.ended[tx.ended]
	if late {
		s.ended[tx.ended] = true
	}
	s.mu.Unlock()
	if late {
		time.Sleep(5 * time.Second)
	}
	return err
}

// lateTx remembers the evacuation that it ends.
type lateTx struct {
	storage.WriteTx
	ended string
}

func (t *lateTx) Put(table *storage.TableSchema, row any) error {
	if s, ok := row.(*lifecycle.ServerState); ok && s.Operation == nil && s.LastOperation != nil && s.LastOperation.Action == lifecycle.ActionEvacuate {
		t.ended = s.LastOperation.ID
	}
	return t.WriteTx.Put(table, row)
}

// TestOvertaken: the outcome of an evacuation shows before its goroutine has ended, and the reboot begins and is polled
// meanwhile. No such poll ends the reboot. The poll that does comes as soon as the goroutine has ended, not after PollInterval.
func TestOvertaken(t *testing.T) {
	identity(t, 2)
	synctest.Test(t, func(t *testing.T) {
		memory := memstore.New(memstore.Options{DetectMutation: true})
		defer memory.Close()
		store := &lateStore{Store: memory, ended: map[string]bool{}}
		registry, err := opscenter.NewRegistry(store, opscenter.Options{})
		require.NoError(t, err)
		defer registry.Close()
		fleet := &instant{offered: oldVersion, servers: map[string]*machine{}}
		polls, err := poller.New(registry, fleet, poller.Options{})
		require.NoError(t, err)
		m, err := rollout.New(opscenter.NewUpdatePlanner(registry, fleet), rollout.Options{Poller: polls, PollInterval: time.Hour})
		require.NoError(t, err)
		fleet.fill(t, registry, polls, 1, 2)
		defer run(t, m)()
		r, err := m.Start(t.Context(), everything, rolling.Policy{Goal: rolling.GoalReboot})
		require.NoError(t, err)
		r = await(t, m, r.ID, 10*time.Minute, rolling.StatusDone)
		require.Equal(t, 6, r.State.StepsDone)
		require.Len(t, store.ended, 2)
	})
}
