package boundedlog_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/opscenter-go/sdk/internal/boundedlog"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
)

type entry struct {
	Number       uint64
	Class, Owner string
}

var entries = storage.NewTable("entries", func(e *entry) storage.Key { return storage.UintKey(e.Number) })

func remove(tx storage.WriteTx, class string, number uint64) (bool, error) {
	found, err := entries.Find(tx, storage.UintKey(number))
	if err != nil || found == nil || found.Class != class {
		return false, err
	}
	return true, entries.Delete(tx, storage.UintKey(number))
}

// TestLog compares with a model that looks at all there is.
func TestLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := map[string]uint64{"a": rapid.Uint64Range(1, 12).Draw(t, "limit of a"), "b": rapid.Uint64Range(1, 12).Draw(t, "limit of b")}
		share := rapid.Uint64Range(1, 5).Draw(t, "share")
		log := boundedlog.New("log", remove)
		store := memstore.New(memstore.Options{})
		require.NoError(t, store.Attach(t.Context(), append(log.Schemas(), entries.Schema())...))
		var model []entry
		drop := func(of func(entry) bool, most uint64) {
			n := uint64(0)
			for i := len(model) - 1; i >= 0; i-- {
				if of(model[i]) {
					if n++; n > most {
						model = append(model[:i:i], model[i+1:]...)
					}
				}
			}
		}
		for number := uint64(1); number <= 60; number++ {
			e := entry{Number: number, Class: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "class"), Owner: rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "owner")}
			if e.Owner != "" {
				e.Class = "a"
			}
			require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
				if err := entries.Put(tx, &e); err != nil {
					return err
				}
				return log.Added(tx, number, boundedlog.Limits{Class: e.Class, Max: limit[e.Class], Owner: e.Owner, Share: share})
			}))
			model = append(model, e)
			if e.Owner != "" {
				drop(func(o entry) bool { return o.Owner == e.Owner }, share)
			}
			drop(func(o entry) bool { return o.Class == e.Class }, limit[e.Class])
			require.Equal(t, model, all(t, store))
		}
		if rapid.Bool().Draw(t, "lower") {
			for class := range limit {
				lower := rapid.Uint64Range(1, 6).Draw(t, "lower limit")
				require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
					more, err := log.Shrink(tx, class, lower, 60)
					require.False(t, more)
					return err
				}))
				drop(func(o entry) bool { return o.Class == class }, lower)
			}
			require.Equal(t, model, all(t, store))
		}
	})
}

func all(t require.TestingT, store storage.Store) (out []entry) {
	require.NoError(t, store.View(context.Background(), func(tx storage.ReadTx) error {
		out = nil
		for e, err := range entries.Scan(tx, storage.Range{}) {
			if err != nil {
				return err
			}
			out = append(out, *e)
		}
		return nil
	}))
	return out
}

// TestForget: what is known of an owner goes in steps, however much that is.
func TestForget(t *testing.T) {
	log := boundedlog.New("log", remove)
	store := memstore.New(memstore.Options{})
	require.NoError(t, store.Attach(t.Context(), append(log.Schemas(), entries.Schema())...))
	for number := uint64(1); number <= 2000; number++ {
		require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
			return log.Added(tx, number, boundedlog.Limits{Max: 1 << 40, Owner: fmt.Sprint(number % 2), Share: 1 << 40})
		}))
	}
	steps := 0
	for more := true; more; steps++ {
		require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) (err error) {
			more, err = log.Forget(tx, "0")
			return err
		}))
	}
	require.Equal(t, 2, steps)
}
