package rollout_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/opscenter-go/sdk/internal/cputime"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

// BenchmarkSteps carries out rollouts over 200 clusters of 10 servers, whose actions end at once, on Badger. All clusters are
// worked on at the same time. The limit is bare Badger: as many synced commits of the same bytes, one after the other.
// decision-commits are those of the rollout, and commits are all: outcomes of actions and polls share theirs, too.
func BenchmarkSteps(b *testing.B) {
	for _, goal := range []rolling.Goal{rolling.GoalReboot, rolling.GoalUpdate} {
		b.Run(string(goal), func(b *testing.B) { benchmarkSteps(b, goal, 200, 10) })
	}
}

func benchmarkSteps(b *testing.B, goal rolling.Goal, clusters, members int) {
	disk, err := badgerstore.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer disk.Close()
	store := &decisionStore{Store: disk}
	registry, err := opscenter.NewRegistry(store, opscenter.Options{})
	if err != nil {
		b.Fatal(err)
	}
	fleet := &instant{offered: oldVersion, servers: map[string]*machine{}}
	polls, err := poller.New(registry, fleet, poller.Options{})
	if err != nil {
		b.Fatal(err)
	}
	manager, err := rollout.New(opscenter.NewUpdatePlanner(registry, fleet), rollout.Options{Poller: polls, MaxPolls: clusters, PollInterval: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	fleet.fill(b, registry, polls, clusters, members)
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- manager.Run(ctx) }()
	defer func() {
		cancel()
		<-ended
	}()
	steps, elapsed, cpu, version := 0, time.Duration(0), time.Duration(0), time.Date(2026, 10, 15, 0, 0, 0, 0, time.UTC)
	var commits, written uint64
	decisions := 0
	for b.Loop() {
		b.StopTimer()
		version = version.Add(24 * time.Hour)
		fleet.mu.Lock()
		fleet.offered = version.Format("200601021504")
		fleet.mu.Unlock()
		if err := registry.Channels().Publish(b.Context(), "stable", fleet.offered, "os", "incus"); err != nil {
			b.Fatal(err)
		}
		before, begun, used := disk.Stats(), time.Now(), cputime.Used(b)
		store.take()
		b.StartTimer()
		r, err := manager.Start(b.Context(), everything, rolling.Policy{Goal: goal, Parallel: clusters})
		if err != nil {
			b.Fatal(err)
		}
		for !r.State.Status.Ended() {
			time.Sleep(10 * time.Millisecond)
			if r, err = manager.Get(b.Context(), r.ID); err != nil || r.State.Status == rolling.StatusPaused {
				b.Fatal(err, r)
			}
		}
		elapsed += time.Since(begun)
		cpu += cputime.Used(b) - used
		after := disk.Stats()
		steps += r.State.StepsDone
		commits, written, decisions = commits+after.Commits-before.Commits, written+after.Written-before.Written, decisions+len(store.take())
	}
	b.StopTimer()
	if steps == 0 {
		b.Fatal("no step was done")
	}
	seconds := elapsed.Seconds()
	b.ReportMetric(float64(steps)/seconds, "steps/s")
	b.ReportMetric(float64(cpu.Microseconds())/float64(steps), "cpu-µs/step")
	b.ReportMetric(float64(commits)/seconds, "commits/s")
	b.ReportMetric(float64(decisions)/seconds, "decision-commits/s")
	b.ReportMetric(float64(written)/float64(steps), "bytes/step")
	limit := rawCommits(b, int(commits), int(written))
	b.ReportMetric(float64(steps)/limit.Seconds(), "limit-steps/s")
	b.ReportMetric(seconds/limit.Seconds(), "x-limit")
}

// rawCommits writes so many bytes to a bare Badger, in rows of 500 bytes and in so many synced commits, and returns the time.
func rawCommits(b *testing.B, commits, bytes int) time.Duration {
	const row = 500
	db, err := badger.Open(badger.DefaultOptions(b.TempDir()).WithSyncWrites(true).WithLogger(nil))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	value := make([]byte, row-16)
	begun, number := time.Now(), 0
	for commit := range commits {
		batch := db.NewTransaction(true)
		for ; number < bytes/row*(commit+1)/commits; number++ {
			if err := batch.Set(fmt.Appendf(nil, "%016d", number), value); err != nil {
				b.Fatal(err)
			}
		}
		if err := batch.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(begun)
}
