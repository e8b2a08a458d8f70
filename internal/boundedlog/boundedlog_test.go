package boundedlog_test

import (
	"context"
	"errors"
	"iter"
	"slices"
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

func newest(rows []entry) iter.Seq2[*entry, error] {
	return func(yield func(*entry, error) bool) {
		for i := range slices.Backward(rows) {
			if !yield(&rows[i], nil) {
				return
			}
		}
	}
}

// TestSurplus compares with a model that adds one row after the other, and drops the oldest of a share that is too large.
func TestSurplus(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := map[string]int{"a": rapid.IntRange(1, 12).Draw(t, "limit of a"), "b": rapid.IntRange(0, 12).Draw(t, "limit of b")}
		share := rapid.IntRange(1, 5).Draw(t, "share")
		of := func(e *entry) (uint64, []boundedlog.Share) {
			shares := []boundedlog.Share{{Name: e.Class, Max: limit[e.Class]}}
			if e.Owner != "" {
				shares = append(shares, boundedlog.Share{Name: "of " + e.Owner, Max: share})
			}
			return e.Number, shares
		}
		var rows, model []entry
		trim := func(of func(entry) bool, most int) {
			n := 0
			for i := len(model) - 1; i >= 0; i-- {
				if of(model[i]) {
					if n++; n > most {
						model = slices.Delete(model, i, i+1)
					}
				}
			}
		}
		for number := uint64(1); number <= 60; number++ {
			e := entry{Number: number, Class: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "class"), Owner: rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "owner")}
			if e.Owner != "" {
				e.Class = "a" // the rows of an owner are of one class
			}
			rows, model = append(rows, e), append(model, e)
			if e.Owner != "" {
				trim(func(o entry) bool { return o.Owner == e.Owner }, share)
			}
		}
		for class, most := range limit {
			if most > 0 {
				trim(func(o entry) bool { return o.Class == class }, most)
			}
		}
		surplus, err := boundedlog.Surplus(newest(rows), of)
		if err != nil {
			t.Fatal(err)
		}
		kept := slices.DeleteFunc(slices.Clone(rows), func(e entry) bool { return slices.Contains(surplus, e.Number) })
		if !slices.Equal(kept, model) {
			t.Fatalf("kept %v, wanted %v", kept, model)
		}
	})
}

func TestSurplusReturnsErrors(t *testing.T) {
	broken := errors.New("broken")
	_, err := boundedlog.Surplus(func(yield func(*entry, error) bool) { yield(nil, broken) }, func(*entry) (uint64, []boundedlog.Share) { return 0, nil })
	require.ErrorIs(t, err, broken)
}

func TestDue(t *testing.T) {
	d := boundedlog.NewDue(10)
	require.False(t, d.Any())
	require.False(t, d.Appended(5))
	require.True(t, d.Any())
	require.True(t, d.Appended(3), "half as many more")
	require.True(t, d.Appended(3), "until one looks")
	require.False(t, d.Appended(0), "a writer of other rows")
	failed := d.Look()
	require.False(t, d.Any())
	require.False(t, d.Appended(1))
	failed()
	require.True(t, d.Appended(1), "it is due still")
	d.Look()
	require.False(t, d.Appended(5))
	require.True(t, d.Appended(1))
}

// TestRetired: the counters of earlier releases are deleted, by each registry over a store, and once.
func TestRetired(t *testing.T) {
	retired := boundedlog.NewRetired("things", "counters")
	store := memstore.New()
	require.NoError(t, retired.Clear(t.Context(), store), "a new store")
	type count struct{ Class string }
	counts := storage.NewTable("things_counts", func(c *count) storage.Key { return storage.StringKey(c.Class) })
	old := memstore.New()
	require.NoError(t, old.Attach(t.Context(), counts.Schema()))
	schemas := slices.Clone(retired)
	schemas[0] = counts.Schema() // as the earlier release attached it
	require.NoError(t, old.Update(t.Context(), func(tx storage.WriteTx) error {
		for i := range 1200 {
			if err := counts.Put(tx, &count{string(rune('a' + i))}); err != nil {
				return err
			}
		}
		return nil
	}))
	for range 2 {
		require.NoError(t, schemas.Clear(context.Background(), old))
	}
	require.NoError(t, old.View(t.Context(), func(tx storage.ReadTx) error {
		for range counts.Scan(tx, storage.Range{}) {
			t.Error("a counter is left")
		}
		return nil
	}))
}
