package rollout

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
)

type cacheRow struct {
	Name, ID string
	Number   int
}

// TestRowCache compares what two snapshots tell, one through a cache, while other goroutines change, rename and delete rows.
func TestRowCache(t *testing.T) {
	for name, options := range map[string]memstore.Options{"follows": {}, "is reset": {FeedSize: 4}} {
		t.Run(name, func(t *testing.T) {
			rows := storage.NewTable("rows", func(r *cacheRow) storage.Key { return storage.StringKey(r.Name) })
			byID := rows.Unique("id", func(r *cacheRow) []storage.Key { return []storage.Key{storage.StringKey(r.ID)} })
			store := memstore.New(options)
			defer store.Close()
			require.NoError(t, store.Attach(t.Context(), rows.Schema()))
			const n = 8
			change := func(ctx context.Context, random *rand.Rand) error {
				return store.Update(ctx, func(tx storage.WriteTx) error {
					id := fmt.Sprint("id", random.IntN(n))
					old, err := byID.Find(tx, storage.StringKey(id))
					if err != nil {
						return err
					}
					if old != nil {
						if err := rows.Delete(tx, storage.StringKey(old.Name)); err != nil || random.IntN(4) == 0 {
							return err
						}
					}
					next := &cacheRow{Name: fmt.Sprint("name", random.IntN(2*n)), ID: id, Number: random.Int()}
					if taken, err := rows.Find(tx, storage.StringKey(next.Name)); err != nil || taken != nil {
						return err
					}
					return rows.Put(tx, next)
				})
			}
			ctx, stop := context.WithCancel(t.Context())
			var group errgroup.Group
			for seed := range uint64(2) {
				group.Go(func() error {
					random := rand.New(rand.NewPCG(seed, 1))
					for ctx.Err() == nil {
						if err := change(context.WithoutCancel(ctx), random); err != nil {
							return err
						}
					}
					return nil
				})
			}
			cache := newRowCache(store, "rows")
			hits := 0
			for range 500 {
				require.NoError(t, store.View(t.Context(), func(tx storage.ReadTx) error {
					cached, err := cache.over(tx)
					require.NoError(t, err)
					for i := range n {
						key := storage.StringKey(fmt.Sprint("id", i))
						want, err := byID.Find(tx, key)
						require.NoError(t, err)
						before := cache.rows
						got, err := byID.Find(cached, key)
						require.NoError(t, err)
						require.Equal(t, want, got)
						if want == nil {
							continue
						}
						if cache.rows == before {
							hits++
						}
						got, err = rows.Find(cached, storage.StringKey(want.Name))
						require.NoError(t, err)
						require.Equal(t, want, got)
					}
					return nil
				}))
			}
			stop()
			require.NoError(t, group.Wait())
			require.Positive(t, hits)
		})
	}
}

// TestRowCacheIsBounded: a cache that is full begins anew.
func TestRowCacheIsBounded(t *testing.T) {
	rows := storage.NewTable("rows", func(r *cacheRow) storage.Key { return storage.StringKey(r.Name) })
	store := memstore.New()
	defer store.Close()
	require.NoError(t, store.Attach(t.Context(), rows.Schema()))
	var names []string
	for i := range maxCachedRows + 10 {
		names = append(names, fmt.Sprint("name", i))
	}
	for step := range slices.Chunk(names, 10_000) {
		require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
			for _, name := range step {
				if err := rows.Put(tx, &cacheRow{Name: name}); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	cache := newRowCache(store, "rows")
	require.NoError(t, store.View(t.Context(), func(tx storage.ReadTx) error {
		cached, err := cache.over(tx)
		require.NoError(t, err)
		for _, name := range names {
			row, err := rows.Get(cached, storage.StringKey(name))
			require.NoError(t, err)
			require.Equal(t, name, row.Name)
			require.LessOrEqual(t, cache.rows, maxCachedRows)
		}
		require.Equal(t, 10, cache.rows)
		return nil
	}))
}
