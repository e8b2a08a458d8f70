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

// purging writes a unit of n objects, removes it, and returns both durations.
func purging(tb testing.TB, n int) (wrote, removed time.Duration) {
	store, err := badgerstore.Open(tb.TempDir(), badgerstore.Options{})
	require.NoError(tb, err)
	defer func() { require.NoError(tb, store.Close()) }()
	registry, err := opscenter.NewRegistry(store, opscenter.Options{})
	require.NoError(tb, err)
	m, err := inventory.New(registry, nil, inventory.Options{MaxObjects: 1 << 30, MaxSize: 1 << 30})
	require.NoError(tb, err)
	begun := time.Now()
	require.NoError(tb, m.Fill(tb.Context(), "unit", profiles(n)))
	wrote = time.Since(begun)
	begun = time.Now()
	require.NoError(tb, m.Purge(tb.Context(), "unit"))
	removed = time.Since(begun)
	require.Zero(tb, stored(tb, registry))
	return wrote, removed
}

// profiles returns n small documents.
func profiles(n int) map[inventory.Kind][]json.RawMessage {
	out := map[inventory.Kind][]json.RawMessage{}
	for i := range n {
		out[inventory.KindProfile] = append(out[inventory.KindProfile], json.RawMessage(fmt.Sprintf(`{"name":"p%06d","description":"of %d"}`, i, n)))
	}
	return out
}

// stored counts the objects of all units.
func stored(tb testing.TB, registry *opscenter.Registry) (n int) {
	require.NoError(tb, registry.Read(tb.Context(), func(s *opscenter.Snapshot) error {
		n = inventory.Stored(s)
		return nil
	}))
	return n
}

// TestPurgeDelaysNoServer: a server is followed while a large unit without servers is still being removed.
func TestPurgeDelaysNoServer(t *testing.T) {
	const objects = 20_000
	beside := false
	for range 3 { // the removal may end too soon
		p := newPlane(t, inventory.Options{})
		large, err := inventory.New(p.Registry, nil, inventory.Options{MaxObjects: 1 << 30, MaxSize: 1 << 30})
		require.NoError(t, err)
		require.NoError(t, large.Fill(t.Context(), "gone", profiles(objects)))
		p.adopt(t, boot(t, "sim"), "")
		p.run(t)
		p.following(t, "sim", 20*time.Second)
		beside = beside || stored(t, p.Registry) > objects/10
		require.Eventually(t, func() bool { return stored(t, p.Registry) < objects/10 }, 30*time.Second, 50*time.Millisecond)
		if beside {
			return
		}
	}
	require.True(t, beside, "the server had to wait for the removal")
}

// TestPurge: the time to remove a unit is in proportion to the time to write it.
func TestPurge(t *testing.T) {
	var ratio float64
	for range 3 { // other programs may have disturbed the measurement
		wrote, removed := purging(t, 20_000)
		t.Logf("20,000 objects: written in %s, removed in %s", wrote.Round(time.Millisecond), removed.Round(time.Millisecond))
		if ratio = removed.Seconds() / wrote.Seconds(); ratio <= 2 {
			return
		}
	}
	require.LessOrEqual(t, ratio, 2.0)
}

// BenchmarkPurge compares the removal of a unit of 100,000 objects with its writing. The limit is twice the time.
func BenchmarkPurge(b *testing.B) {
	var ratio float64
	for b.Loop() {
		wrote, removed := purging(b, 100_000)
		ratio = removed.Seconds() / wrote.Seconds()
	}
	b.ReportMetric(ratio, "removing/writing")
}
