package opscenter_test

import (
	"context"
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// The Registry does not close its store. Options returns the options in force, defaults included.
func ExampleNewRegistry() {
	store := memstore.New()
	defer store.Close()
	registry, err := opscenter.NewRegistry(store, opscenter.Options{OfflineThreshold: 5})
	check(err)
	defer registry.Close() // before the store
	fmt.Println(registry.Store() == store, registry.Options().OfflineThreshold, registry.Options().RebootTimeout)
	// Output:
	// true 5 15m0s
}

// A planner without an actuator recommends and plans. With an incusos.Client it acts, too.
func ExampleUpdatePlanner() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	exampleServer(ctx, registry, 0)
	check(registry.Channels().Publish(ctx, registry.Channels().Default(), "202610150000", lifecycle.ComponentOS))
	planner := opscenter.NewUpdatePlanner(registry, nil)
	recommended, err := planner.Recommend(ctx, "server00")
	check(err)
	fmt.Println("next:", recommended.Action)
	plan, err := planner.Plan(ctx, rolling.Selector{All: true}, rolling.Policy{})
	check(err)
	for _, step := range plan.Steps {
		fmt.Println(step.Server, step.Action)
	}
	// Output:
	// next: update
	// server00 update
	// server00 evacuate
	// server00 reboot
	// server00 restore
}

// A channel names the newest version of each component. Servers that follow it and have an older one need an update.
func ExampleChannels() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	channels := registry.Channels()
	check(channels.Create(ctx, "testing", ""))
	check(channels.Edit(ctx, "testing", "next releases", nil))
	check(channels.Publish(ctx, "testing", "202610150000", "os", "incus"))
	list, err := channels.List(ctx)
	check(err)
	for _, channel := range list {
		fmt.Println(channel.Name, channel.Versions, "default:", channel.Name == channels.Default())
	}
	testing, err := channels.Get(ctx, "testing")
	check(err)
	fmt.Println(testing.Description)
	// Output:
	// stable map[] default: true
	// testing map[incus:202610150000 os:202610150000] default: false
	// next releases
}

// One transaction reserves a server, stores the intent to act on it, and records an event. The action follows the commit,
// and a second transaction stores its outcome. UpdatePlanner.Act and package rollout do all of this.
func ExampleTx() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	server := exampleServer(ctx, registry, 0)
	var operation *lifecycle.Operation
	check(registry.Write(ctx, func(tx *opscenter.Tx) (err error) {
		if err := tx.Claim(opscenter.Claim{Unit: server.ID, Owner: "maintenance1", What: "maintenance", Since: time.Now()}); err != nil {
			return err
		}
		if err := tx.Record(event.Event{At: time.Now(), Kind: "maintenance", Server: server.Name, Reason: "a fan is replaced"}); err != nil {
			return err
		}
		operation, _, err = tx.Begin(opscenter.Intent{ServerID: server.ID, Action: lifecycle.ActionPowerOff, Owner: "maintenance1"})
		return err
	}))
	_, err := registry.CreateCluster(ctx, "cluster1", opscenter.ClusterSpec{}, server.Name)
	fmt.Println("busy:", err != nil)
	failure := error(nil) // the answer of the server
	check(registry.Write(ctx, func(tx *opscenter.Tx) error {
		if err := tx.End(server, operation.ID, failure); err != nil {
			return err
		}
		return tx.Release("maintenance1", server.ID, false)
	}))
	registry.Observer().Acted(server.ID) // from now on polls judge it
	events, err := registry.ListEvents(ctx, opscenter.EventFilter{Server: server.Name, Newest: true, Limit: 4})
	check(err)
	for _, e := range events {
		fmt.Println(e.Kind, e.Reason)
	}
	// Output:
	// busy: true
	// action-finished poweroff: the server has accepted it
	// action-started poweroff, a step of rollout maintenance1
	// status-changed offline (shut down), was ready: asked to power off
	// maintenance a fan is replaced
}
