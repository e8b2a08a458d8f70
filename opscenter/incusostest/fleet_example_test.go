package incusostest_test

import (
	"context"
	"fmt"
	"log"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// A Fleet simulates two days of a rollout over three clusters in less than a second. One cluster is the canary. The
// policy has windows at night and a soak time. One server does not come back from its reboot until an operator repairs it.
func ExampleFleet() {
	synctest.Test(new(testing.T), func(*testing.T) { twoDays() }) // in a real test, pass its t
	// Output:
	// reboot of server c3-b in cluster c3 (attempt 1): not back from rebooting by its deadline. What to do: look at the server's console; resume once it is back: if it is on the version it should be on, it is restored, else it is rebooted once more
	// Sat 01:06 evacuate c1-a
	// Sat 01:11 reboot c1-a
	// Sat 01:17 restore c1-a
	// Sat 01:22 evacuate c1-b
	// Sat 01:27 reboot c1-b
	// Sat 01:33 restore c1-b
	// Sat 01:38 evacuate c1-c
	// Sat 01:43 reboot c1-c
	// Sat 01:49 restore c1-c
	// Sat 22:06 evacuate c2-a
	// Sat 22:11 reboot c2-a
	// Sat 22:17 restore c2-a
	// Sat 22:22 evacuate c2-b
	// Sat 22:27 reboot c2-b
	// Sat 22:33 restore c2-b
	// Sat 22:38 evacuate c2-c
	// Sat 22:43 reboot c2-c
	// Sat 22:49 restore c2-c
	// Sat 23:00 evacuate c3-a
	// Sat 23:05 reboot c3-a
	// Sat 23:11 restore c3-a
	// Sat 23:16 evacuate c3-b
	// Sat 23:21 reboot c3-b
	// Sun 00:30 restore c3-b
	// Sun 00:35 evacuate c3-c
	// Sun 00:40 reboot c3-c
	// Sun 00:46 restore c3-c
	// done
}

// twoDays runs the rollout of ExampleFleet, and prints it.
func twoDays() {
	ctx, stop := context.WithCancel(context.Background())
	store := memstore.New()
	defer store.Close()
	registry, err := opscenter.NewRegistry(store, opscenter.Options{})
	check(err)
	defer registry.Close()
	fleet := incusostest.NewFleet(registry)
	defer fleet.Close()
	token, err := registry.CreateToken(ctx, opscenter.TokenSpec{Uses: 9})
	check(err)
	polls, err := poller.New(registry, fleet, poller.Options{Interval: 30 * time.Minute})
	check(err)
	rollouts, err := rollout.New(opscenter.NewUpdatePlanner(registry, fleet), rollout.Options{Poller: polls, Lease: time.Hour})
	check(err)
	ended := make(chan error, 2)
	go func() { ended <- polls.Run(ctx) }()
	go func() { ended <- rollouts.Run(ctx) }()
	defer func() { stop(); <-ended; <-ended }()

	var servers []*incusostest.Server
	for _, cluster := range []string{"c1", "c2", "c3"} {
		first := len(servers)
		for _, member := range "abc" {
			s, err := fleet.Add(ctx, token.UUID, incusostest.Options{Name: fmt.Sprintf("%s-%c", cluster, member), Standalone: true,
				UpdateDelay: 2 * time.Minute, EvacuateDelay: 5 * time.Minute, RebootDelay: 3 * time.Minute})
			check(err)
			s.Offer("202610150000")
			servers = append(servers, s)
		}
		check(fleet.Form(ctx, cluster, opscenter.ClusterSpec{}, servers[first:]...))
	}
	dead := servers[7] // c3-b
	dead.SetTrouble(incusostest.TroubleReboot)
	check(registry.Channels().Publish(ctx, "stable", "202610150000", "os", "incus"))
	time.Sleep(time.Hour)
	started, err := rollouts.Start(ctx, rolling.Selector{All: true}, rolling.Policy{
		Canaries: []string{"c1"}, Soak: 6 * time.Hour, Windows: []rolling.Window{{Start: "22:00", End: "04:00"}}})
	check(err)
	for begun := time.Now(); time.Since(begun) < 48*time.Hour; time.Sleep(time.Hour) {
		now, err := rollouts.Get(ctx, started.ID)
		check(err)
		if now.State.Status == rolling.StatusPaused {
			fmt.Println(now.State.Reason)
			dead.SetTrouble(incusostest.TroubleNone) // the operator repairs the server
			time.Sleep(30 * time.Minute)
			check(rollouts.Resume(ctx, started.ID))
		}
	}
	for _, call := range fleet.Calls() {
		if call.Action != lifecycle.ActionUpdate {
			fmt.Println(call)
		}
	}
	now, err := rollouts.Get(ctx, started.ID)
	check(err)
	fmt.Println(now.State.Status)
}

func check(err error) {
	if err != nil {
		log.Panic(err)
	}
}
