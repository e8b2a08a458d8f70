package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/storage"
)

func (s *suite) uniqueKey(t *testing.T) {
	store, ts := s.store(t)
	put(t, store, ts, &item{ID: "a", Owner: "o"})
	err := store.Update(t.Context(), func(tx storage.WriteTx) error { return ts.items.Put(tx, &item{ID: "b", Owner: "o"}) })
	require.ErrorIs(t, err, storage.ErrExists)
	require.ErrorContains(t, err, "items.owner: o")
	row := view(t, store, func(tx storage.ReadTx) (*item, error) { return ts.byOwner.Get(tx, storage.StringKey("o")) })
	require.Equal(t, "a", row.ID, "the holder keeps its key")
	// A transaction may go on after a refusal, and is whole.
	require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
		require.ErrorIs(t, ts.items.Put(tx, &item{ID: "b", Owner: "o", Tags: []string{"x"}}), storage.ErrExists)
		return ts.items.Put(tx, &item{ID: "c"})
	}))
	view(t, store, func(tx storage.ReadTx) (any, error) {
		got, err := ids(ts.items.Scan(tx, storage.Range{}))
		require.NoError(t, err)
		require.Equal(t, []string{"a", "c"}, got)
		got, err = ids(ts.byTag.Scan(tx, storage.Range{}))
		require.NoError(t, err)
		require.Empty(t, got)
		return nil, nil
	})
	put(t, store, ts, &item{ID: "a", Owner: "p"})
	put(t, store, ts, &item{ID: "b", Owner: "o"})
	require.ErrorIs(t, store.Update(t.Context(), func(tx storage.WriteTx) error { return ts.items.Insert(tx, &item{ID: "b"}) }), storage.ErrExists)
}

func (s *suite) uniqueRace(t *testing.T) {
	store, ts := s.store(t)
	const rounds, racers = 20, 16
	for round := range rounds {
		var won atomic.Int32
		var wg sync.WaitGroup
		for racer := range racers {
			wg.Go(func() {
				err := store.Update(context.Background(), func(tx storage.WriteTx) error {
					return ts.items.Put(tx, &item{ID: fmt.Sprint(round, " ", racer), Owner: fmt.Sprint(round)})
				})
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, storage.ErrExists) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, won.Load())
	}
	all := view(t, store, func(tx storage.ReadTx) ([]string, error) { return ids(ts.items.Scan(tx, storage.Range{})) })
	require.Len(t, all, rounds)
}

func (s *suite) lostUpdates(t *testing.T) {
	store, ts := s.store(t)
	const writers, each = 8, 50
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				err := store.Update(context.Background(), func(tx storage.WriteTx) error {
					row, err := ts.counter.Find(tx, itemKey("n"))
					if err != nil {
						return err
					}
					n := uint64(0)
					if row != nil {
						n = row.Size
					}
					return ts.counter.Put(tx, &item{ID: "n", Size: n + 1})
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	// A phantom: "insert if the scan finds none" must hold for one of them only.
	var inserted atomic.Int32
	for racer := range writers {
		wg.Go(func() {
			err := store.Update(context.Background(), func(tx storage.WriteTx) error {
				for _, err := range ts.byTag.Scan(tx, storage.Range{Prefix: storage.StringKey("leader")}) {
					if err != nil {
						return err
					}
					return errors.New("taken")
				}
				return ts.items.Put(tx, &item{ID: fmt.Sprint(racer), Tags: []string{"leader"}})
			})
			if err == nil {
				inserted.Add(1)
			}
		})
	}
	wg.Wait()
	row := view(t, store, func(tx storage.ReadTx) (*item, error) { return ts.counter.Get(tx, itemKey("n")) })
	require.EqualValues(t, writers*each, row.Size)
	require.EqualValues(t, 1, inserted.Load())
}

// watchComplete lets readers of different speed follow writers, and compares what they end with.
func (s *suite) watchComplete(t *testing.T) {
	store, ts := s.store(t)
	start := revision(t, store)
	const writers, each = 4, 100
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var readers, wg sync.WaitGroup
	for slow := range 3 {
		readers.Go(func() {
			latest := map[string]uint64{}
			seen, last := 0, start
			for batch, err := range store.Watch(ctx, start, "items") {
				if err != nil {
					t.Errorf("reader %d ended with %d of %d: %v", slow, seen, writers, err)
					return
				}
				if batch.Revision <= last || batch.Reset {
					t.Errorf("revision %d after %d, reset %v", batch.Revision, last, batch.Reset)
				}
				last = batch.Revision
				err := store.View(ctx, func(tx storage.ReadTx) error {
					if tx.Revision() < batch.Revision {
						return fmt.Errorf("told of revision %d before it could be read (%d)", batch.Revision, tx.Revision())
					}
					for _, change := range batch.Changes {
						id, _ := change.Key.FirstString()
						row, err := ts.items.Get(tx, change.Key)
						if err != nil {
							return err
						}
						if row.Size < latest[id] {
							return fmt.Errorf("%s went back", id)
						}
						latest[id] = row.Size
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				seen = 0
				for _, n := range latest {
					if n == each {
						seen++
					}
				}
				if seen == writers {
					return
				}
				for range slow * 2 { // a slow reader: other work between two looks
					_ = view(t, store, func(tx storage.ReadTx) ([]string, error) { return ids(ts.items.Scan(tx, storage.Range{})) })
				}
			}
		})
	}
	for writer := range writers {
		wg.Go(func() {
			for i := range each {
				put(t, store, ts, &item{ID: fmt.Sprint("w", writer), Size: uint64(i + 1)})
			}
		})
	}
	wg.Wait()
	readers.Wait()
}
