package rollout_test

import (
	"context"
	"fmt"
	"log"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// simulated calls use with a running Manager over a simulated cluster c1 of two servers, in virtual time.
func simulated(use func(ctx context.Context, rollouts *rollout.Manager)) {
	synctest.Test(new(testing.T), func(*testing.T) {
		ctx, stop := context.WithCancel(context.Background())
		store := memstore.New()
		defer store.Close()
		registry, err := opscenter.NewRegistry(store, opscenter.Options{})
		check(err)
		defer registry.Close()
		fleet := incusostest.NewFleet(registry)
		defer fleet.Close()
		polls, err := poller.New(registry, fleet, poller.Options{})
		check(err)
		rollouts, err := rollout.New(opscenter.NewUpdatePlanner(registry, fleet), rollout.Options{Poller: polls})
		check(err)
		ended := make(chan error, 2)
		go func() { ended <- polls.Run(ctx) }()
		go func() { ended <- rollouts.Run(ctx) }()
		defer func() { stop(); <-ended; <-ended }()
		token, err := registry.CreateToken(ctx, opscenter.TokenSpec{Uses: 2})
		check(err)
		var servers []*incusostest.Server
		for _, name := range []string{"server01", "server02"} {
			server, err := fleet.Add(ctx, token.UUID, incusostest.Options{Name: name, Standalone: true, EvacuateDelay: 5 * time.Minute, RebootDelay: 3 * time.Minute})
			check(err)
			servers = append(servers, server)
		}
		check(fleet.Form(ctx, "c1", opscenter.ClusterSpec{}, servers...))
		time.Sleep(time.Hour) // the poller finds the servers
		use(ctx, rollouts)
	})
}

func check(err error) {
	if err != nil {
		log.Panic(err)
	}
}

// ExampleManager_Start reboots a cluster, one member after another, and prints the steps.
func ExampleManager_Start() {
	simulated(func(ctx context.Context, rollouts *rollout.Manager) {
		started, err := rollouts.Start(ctx, rolling.Selector{Clusters: []string{"c1"}}, rolling.Policy{Goal: rolling.GoalReboot})
		check(err)
		time.Sleep(2 * time.Hour)
		units, err := rollouts.Units(ctx, started.ID, 0, 0)
		check(err)
		for _, unit := range units {
			fmt.Println(unit.Name, unit.Status)
			for _, member := range unit.Members {
				for _, step := range member.Done {
					fmt.Println(member.Server, step.Action)
				}
			}
		}
	})
	// Output:
	// c1 done
	// server01 evacuate
	// server01 reboot
	// server01 restore
	// server02 evacuate
	// server02 reboot
	// server02 restore
}

// ExampleManager_Pause pauses a rollout, resumes it, and cancels it after the current server.
func ExampleManager_Pause() {
	simulated(func(ctx context.Context, rollouts *rollout.Manager) {
		started, err := rollouts.Start(ctx, rolling.Selector{Clusters: []string{"c1"}}, rolling.Policy{Goal: rolling.GoalReboot})
		check(err)
		show := func() {
			now, err := rollouts.Get(ctx, started.ID)
			check(err)
			fmt.Println(now.State.Status)
		}
		check(rollouts.Pause(ctx, started.ID, "the operator checks server01"))
		show()
		check(rollouts.Resume(ctx, started.ID))
		show()
		check(rollouts.Cancel(ctx, started.ID, rolling.CancelFinish))
		time.Sleep(time.Hour)
		show()
	})
	// Output:
	// paused
	// running
	// cancelled
}
