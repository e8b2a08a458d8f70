package opscenter_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// BenchmarkPlan plans an update of a fleet in clusters of ten, out of the registry: all is
// read from the store. Per server it must not grow.
func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprintf("servers=%d", n), func(b *testing.B) {
			registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
			if err != nil {
				b.Fatal(err)
			}
			fill(b, registry, n, false)
			for i := 0; i < n; i += 10 {
				var members []string
				for k := range 10 {
					members = append(members, name(i+k))
				}
				if _, err := registry.CreateCluster(b.Context(), fmt.Sprintf("cluster%05d", i/10), opscenter.ClusterSpec{}, members...); err != nil {
					b.Fatal(err)
				}
			}
			if err := registry.Channels().Publish(b.Context(), "stable", "202610150000", "os", "incus"); err != nil {
				b.Fatal(err)
			}
			// Until a poll has found them good once more.
			for info, err := range registry.Servers(b.Context(), opscenter.ServerFilter{}) {
				if err != nil {
					b.Fatal(err)
				}
				o := answer(info)
				if !registry.Observer().RecordUnchanged(&o) {
					if err := registry.Observer().Record(b.Context(), o); err != nil {
						b.Fatal(err)
					}
				}
			}
			planner := opscenter.NewUpdatePlanner(registry, nil)
			runtime.GC() // what it took to get here is not measured
			b.ReportAllocs()
			for b.Loop() {
				plan, err := planner.Plan(b.Context(), rolling.Selector{All: true}, rolling.Policy{Parallel: 50})
				if err != nil || len(plan.Steps) != 4*n || plan.End.IsZero() {
					b.Fatal(err, len(plan.Steps), plan.Blocked()[:min(3, len(plan.Blocked()))])
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(n), "µs/server")
		})
	}
}
