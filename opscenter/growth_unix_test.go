//go:build unix

package opscenter_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

// BenchmarkGrowth measures what a server costs in fleets of three sizes, on Badger. Each figure is the median of three
// times, by the number of servers. The last line is the cost in the largest fleet by that in the smallest.
//
//	go test -run '^$' -bench Growth -benchtime 1x -timeout 60m ./opscenter
func BenchmarkGrowth(b *testing.B) {
	var all []map[string]float64
	for _, n := range []int{1_000, 10_000, fleetSize} {
		b.Run(fmt.Sprintf("servers=%d", n), func(b *testing.B) {
			for b.Loop() {
				costs := growth(b, n)
				for name, cost := range costs {
					b.ReportMetric(cost, name)
				}
				all = append(all, costs)
			}
		})
	}
	b.Run("ratio", func(b *testing.B) {
		for b.Loop() {
			for name := range all[0] {
				b.ReportMetric(all[len(all)-1][name]/all[0][name], name)
			}
		}
	})
}

// growth returns the costs of a server in a fleet of n.
func growth(b *testing.B, n int) map[string]float64 {
	b.Helper()
	out := map[string]float64{}
	median := func(name string, per int, do func()) {
		var took []time.Duration
		for range 3 {
			begun := time.Now()
			do()
			took = append(took, time.Since(begun))
		}
		slices.Sort(took)
		out[name] = float64(took[1].Nanoseconds()) / 1000 / float64(per)
	}
	must := func(err error) {
		if err != nil {
			b.Helper()
			b.Fatal(err)
		}
	}
	ctx, dir := b.Context(), b.TempDir()
	before := heapInUse()
	store, err := badgerstore.Open(dir)
	must(err)
	defer func() { must(store.Close()) }()
	registry, err := opscenter.NewRegistry(store, opscenter.Options{})
	must(err)
	fill(b, registry, n, false)
	out["heap-B"] = float64(heapInUse()-before) / float64(n)
	out["disk-B"] = float64(usedOf(b, dir)) / float64(n)

	list := func(filter opscenter.ServerFilter, wanted int) func() {
		return func() {
			found := 0
			for _, err := range registry.Servers(ctx, filter) {
				must(err)
				found++
			}
			if found != wanted {
				b.Fatalf("%d servers, %d are wanted", found, wanted)
			}
		}
	}
	median("list-µs", n, list(opscenter.ServerFilter{}, n))
	median("filter-µs", n, list(opscenter.ServerFilter{Expression: `name == "none"`}, 0))
	median("names-µs", n, func() {
		must(registry.Read(ctx, func(s *opscenter.Snapshot) error {
			page, found := opscenter.Page{Limit: opscenter.MaxPageSize}, 0
			for {
				names, next, err := s.ServerNames(ctx, opscenter.ServerFilter{}, page)
				must(err)
				if found += len(names); next == "" {
					break
				}
				page.Cursor = next
			}
			if found != n {
				b.Fatal(found)
			}
			return nil
		}))
	})
	var observations []lifecycle.Observation
	for info, err := range registry.Servers(ctx, opscenter.ServerFilter{}) {
		must(err)
		observations = append(observations, answer(info))
	}
	poll := func() {
		for i := range observations {
			observations[i].At = time.Now()
			if !registry.Observer().RecordUnchanged(&observations[i]) {
				must(registry.Observer().Record(ctx, observations[i]))
			}
		}
	}
	poll()
	median("poll-µs", n, poll)
	const more = 500
	next := n
	median("register-µs", more, func() {
		registerMany(b, registry, next, more, func(int, string) error { return nil })
		next += more
	})
	must(registry.Channels().Publish(ctx, "stable", "202610150000", "os", "incus"))
	planner := opscenter.NewUpdatePlanner(registry, nil)
	median("plan-µs", n, func() {
		_, err := planner.Plan(ctx, rolling.Selector{All: true}, rolling.Policy{Parallel: 50})
		must(err)
	})
	must(registry.Close())
	median("open-µs", n, func() {
		again, err := opscenter.NewRegistry(store, opscenter.Options{})
		must(err)
		must(again.Close())
	})
	return out
}

// usedOf returns how many bytes the file system has given to the files of a directory: Badger's logs are sparse.
func usedOf(b *testing.B, dir string) (n int64) {
	b.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, os.ErrNotExist) {
			return nil // a compaction removed it
		}
		if err == nil {
			n += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return n
}
