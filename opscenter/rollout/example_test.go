package rollout_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// Example prints the plan of a rolling update, and starts it.
func Example() {
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	if err != nil {
		log.Fatal(err)
	}
	client := incusos.New(incusos.Options{})
	defer client.Close()
	polls, err := poller.New(registry, client, poller.Options{})
	if err != nil {
		log.Fatal(err)
	}
	planner := opscenter.NewUpdatePlanner(registry, client)
	rollouts, err := rollout.New(planner, rollout.Options{Poller: polls})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go rollouts.Run(ctx) // carries out rollouts that are started here, or before a restart

	plan, err := planner.Plan(ctx, rolling.Selector{All: true}, rolling.Policy{
		Parallel: 5,              // clusters at the same time; the members of a cluster go one after another
		Canaries: nil,            // clusters that go first
		Soak:     24 * time.Hour, // pause after the canaries
		Windows:  []rolling.Window{{Days: []string{"sat", "sun"}, Start: "22:00", End: "04:00", Zone: "Europe/Berlin"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	_ = plan.Write(os.Stdout)
	started, err := rollouts.StartPlan(ctx, plan) // ErrStale if the fleet has changed since
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(started.State.Status, started.State.Reason)
	// Output:
	// Plan: update, 0 steps, 0 servers
	// done there is nothing to do
}
