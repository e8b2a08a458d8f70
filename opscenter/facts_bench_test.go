package opscenter_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

// BenchmarkNewFacts stores the first facts of servers, in batches and at a time as a poller does. The limit compresses the same
// facts, and writes them to a bare Badger, in synced transactions of the same size.
func BenchmarkNewFacts(b *testing.B) {
	const fleet = 2000
	all := make([]*lifecycle.Facts, fleet)
	for i := range all {
		all[i] = &lifecycle.Facts{Hardware: incusostest.Hardware(uint64(i + 1))}
	}
	batches := func(do func(from, to int) error) {
		var group errgroup.Group
		group.SetLimit(4)
		for from := 0; from < fleet; from += opscenter.MaxObservations {
			group.Go(func() error { return do(from, min(from+opscenter.MaxObservations, fleet)) })
		}
		if err := group.Wait(); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("limit", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			db, err := badger.Open(badger.DefaultOptions(b.TempDir()).WithLogger(nil).WithSyncWrites(true).WithMemTableSize(32 << 20).WithMetricsEnabled(false))
			if err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			batches(func(from, to int) error {
				return db.Update(func(txn *badger.Txn) error {
					for i := from; i < to; i++ {
						if err := txn.Set(fmt.Appendf(nil, "%d", i), facts.Compress(all[i].Hardware)); err != nil {
							return err
						}
					}
					return nil
				})
			})
			b.StopTimer()
			if err := db.Close(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
		b.ReportMetric(fleet*float64(b.N)/b.Elapsed().Seconds(), "servers/s")
	})
	b.Run("registry", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			store, err := badgerstore.Open(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			registry, err := opscenter.NewRegistry(store, opscenter.Options{})
			if err != nil {
				b.Fatal(err)
			}
			fill(b, registry, fleet, false)
			var observations []lifecycle.Observation
			for info, err := range registry.Servers(b.Context(), opscenter.ServerFilter{}) {
				if err != nil {
					b.Fatal(err)
				}
				o := answer(info)
				o.Facts = all[len(observations)]
				observations = append(observations, o)
			}
			b.StartTimer()
			batches(func(from, to int) error {
				return registry.Observer().Record(context.Background(), slices.Clone(observations[from:to])...)
			})
			b.StopTimer()
			if err := store.Close(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
		b.ReportMetric(fleet*float64(b.N)/b.Elapsed().Seconds(), "servers/s")
	})
}
