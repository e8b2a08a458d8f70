package storetest_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
	"github.com/opscenter-go/sdk/storage/storetest"
)

// remote is a store whose engine can be out of reach. Each second Update that it can't carry out has been
// committed nevertheless, and its answer is lost.
type remote struct {
	*memstore.Store
	away     atomic.Bool
	attempts atomic.Int64
}

func (r *remote) Update(ctx context.Context, fn func(storage.WriteTx) error) error {
	if !r.away.Load() {
		return r.Store.Update(ctx, fn)
	}
	if r.attempts.Add(1)%2 == 0 {
		return fmt.Errorf("remote: %w", storage.ErrUnavailable)
	}
	return errors.Join(storage.ErrUnknown, r.Store.Update(ctx, fn))
}

// TestNetwork runs the cases that need an engine behind a network.
func TestNetwork(t *testing.T) {
	storetest.RunShared(t, func(t *testing.T) storetest.Engine {
		engine := memstore.New()
		t.Cleanup(func() { _ = engine.Close() })
		return storetest.Engine{
			Open: func() (storage.Store, error) { return &remote{Store: engine.Open()}, nil },
			Cut: func(store storage.Store) func() {
				r := store.(*remote)
				r.away.Store(true)
				return func() { r.away.Store(false) }
			},
			Compact: func() error { return nil }, // memory has no revisions to forget
		}
	})
}
