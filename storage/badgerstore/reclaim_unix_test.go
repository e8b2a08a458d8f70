//go:build unix

package badgerstore_test

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

// onDisk returns how many bytes the files in a directory take; files that are sparse take less than they are long.
func onDisk(tb testing.TB, dir string) (n int64) {
	entries, err := os.ReadDir(dir)
	require.NoError(tb, err)
	for _, entry := range entries {
		info, err := os.Stat(filepath.Join(dir, entry.Name()))
		if err != nil {
			continue // gone meanwhile
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			n += stat.Blocks * 512
		} else {
			n += info.Size()
		}
	}
	return n
}

// churn writes rows of a size again and again, n times.
func churn(tb testing.TB, store *badgerstore.Store, rows, size, n int) {
	data := make([]byte, size)
	_, _ = rand.Read(data)
	for i := range n {
		data[i%size]++
		require.NoError(tb, store.Update(tb.Context(), func(tx storage.WriteTx) error {
			return blobs.Put(tx, &blob{Name: fmt.Sprint(i % rows), Data: data})
		}))
	}
}

// TestDiskIsGivenBack: whatever is written again and again, the directory stays within three times what is in it and
// 256 MiB, while the store is open, and after it was opened again.
func TestDiskIsGivenBack(t *testing.T) {
	const within = 256 << 20
	dir := t.TempDir()
	store, err := badgerstore.Open(dir, badgerstore.Options{})
	require.NoError(t, err)
	require.NoError(t, store.Attach(t.Context(), blobs.Schema()))
	churn(t, store, 7, 300_000, 1000)
	live := int64(7 * 400_000) // JSON makes four bytes of three
	small := func() bool { return onDisk(t, dir) <= 3*live+within }
	require.Eventually(t, small, 30*time.Second, 100*time.Millisecond, "%d", onDisk(t, dir))
	t.Logf("400 MB were written, and take %d MiB", onDisk(t, dir)>>20)
	churn(t, store, 7, 300_000, 200)
	require.NoError(t, store.Close())
	store, err = badgerstore.Open(dir, badgerstore.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	require.NoError(t, store.Attach(t.Context(), blobs.Schema()))
	require.Eventually(t, small, 30*time.Second, 100*time.Millisecond)
	n := 0
	require.NoError(t, store.View(t.Context(), func(tx storage.ReadTx) error {
		n = 0
		for b, err := range blobs.Scan(tx, storage.Range{}) {
			require.NoError(t, err)
			require.Len(t, b.Data, 300_000)
			n++
		}
		return nil
	}))
	require.Equal(t, 7, n)
}

// BenchmarkDisk writes fleets that don't change, that churn, and that have large facts, and reports how many bytes the
// directory takes for each byte in it; the limit is 3, and 256 MiB.
func BenchmarkDisk(b *testing.B) {
	for _, fleet := range []struct {
		name             string
		rows, size, each int
	}{{"unchanged", 10_000, 3_000, 1}, {"churning", 1_000, 3_000, 100}, {"large facts", 100, 300_000, 20}} {
		b.Run(fleet.name, func(b *testing.B) {
			for b.Loop() {
				dir := b.TempDir()
				store, err := badgerstore.Open(dir, badgerstore.Options{})
				require.NoError(b, err)
				require.NoError(b, store.Attach(b.Context(), blobs.Schema()))
				churn(b, store, fleet.rows, fleet.size, fleet.rows*fleet.each)
				live := int64(fleet.rows) * int64(fleet.size) * 4 / 3
				deadline := time.Now().Add(time.Minute)
				for onDisk(b, dir) > 3*live+256<<20 && time.Now().Before(deadline) {
					time.Sleep(100 * time.Millisecond)
				}
				b.ReportMetric(float64(onDisk(b, dir))/float64(live), "bytes/byte")
				b.ReportMetric(float64(onDisk(b, dir)>>20), "MiB")
				require.NoError(b, store.Close())
			}
		})
	}
}
