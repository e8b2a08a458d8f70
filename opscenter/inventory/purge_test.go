package inventory_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

// purging writes a unit of n objects, removes it, and returns how long each took.
func purging(tb testing.TB, n int) (wrote, removed time.Duration) {
	store, err := badgerstore.Open(tb.TempDir(), badgerstore.Options{})
	require.NoError(tb, err)
	defer func() { require.NoError(tb, store.Close()) }()
	registry, err := opscenter.NewRegistry(store, opscenter.Options{})
	require.NoError(tb, err)
	m, err := inventory.New(registry, nil, inventory.Options{MaxObjects: 1 << 30, MaxSize: 1 << 40})
	require.NoError(tb, err)
	documents := map[inventory.Kind][]json.RawMessage{}
	for i := range n {
		documents[inventory.KindProfile] = append(documents[inventory.KindProfile], json.RawMessage(fmt.Sprintf(`{"name":"p%06d","description":"of %d"}`, i, n)))
	}
	begun := time.Now()
	require.NoError(tb, m.Fill(tb.Context(), "unit", documents))
	wrote = time.Since(begun)
	begun = time.Now()
	require.NoError(tb, m.Purge(tb.Context(), "unit"))
	removed = time.Since(begun)
	left := 0
	require.NoError(tb, registry.Read(tb.Context(), func(s *opscenter.Snapshot) error {
		left = inventory.Stored(s)
		return nil
	}))
	require.Zero(tb, left)
	return wrote, removed
}

// TestPurge: to remove a unit is no more work than to write it, however many objects it has.
func TestPurge(t *testing.T) {
	var ratio float64
	for range 3 { // something else may have been in the way
		wrote, removed := purging(t, 20_000)
		t.Logf("20,000 objects: written in %s, removed in %s", wrote.Round(time.Millisecond), removed.Round(time.Millisecond))
		if ratio = removed.Seconds() / wrote.Seconds(); ratio <= 2 {
			return
		}
	}
	require.LessOrEqual(t, ratio, 2.0)
}

// BenchmarkPurge compares removing a unit of 100,000 objects with writing it: the limit is twice as long.
func BenchmarkPurge(b *testing.B) {
	var ratio float64
	for b.Loop() {
		wrote, removed := purging(b, 100_000)
		ratio = removed.Seconds() / wrote.Seconds()
	}
	b.ReportMetric(ratio, "removing/writing")
}
