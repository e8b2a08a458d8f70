package opscenter_test

import (
	"context"
	"fmt"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// Each decision and each change is an event, with its reason.
func ExampleRegistry_ListEvents() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	check(registry.Channels().Publish(ctx, "stable", "202610150000", "os", "incus"))
	events, err := registry.ListEvents(ctx, opscenter.EventFilter{})
	check(err)
	for _, e := range events {
		fmt.Println(e.Kind, e.Reason)
	}
	// Output:
	// update-published version 202610150000 of [os incus] in channel stable
}

// WatchEvents yields the stored events after a sequence number, and then each new one, until the context ends.
func ExampleRegistry_WatchEvents() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	exampleServer(ctx, registry, 0)
	for e, err := range registry.WatchEvents(ctx, 0) {
		check(err)
		fmt.Println(e.Kind)
		if e.Kind == event.ServerRegistered {
			break
		}
	}
	// Output:
	// token-created
	// server-registered
}

// Revision tells where Watch begins. Watch names changed rows, and the caller reads them. It merges the changes that a slow caller
// has not taken.
func ExampleRegistry_Watch() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	revision, err := registry.Revision(ctx)
	check(err)
	exampleServer(ctx, registry, 0)
	for changes, err := range registry.Watch(ctx, revision) {
		check(err)
		for _, name := range changes.Servers {
			server, err := registry.Server(ctx, name)
			check(err)
			fmt.Println(server.Name, server.State.Status)
		}
		break
	}
	// Output:
	// server00 ready
}

// A program raises a warning of its own kind, and an operator acknowledges it. The warning stays until it is cleared.
func ExampleWarnings() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	exampleServer(ctx, registry, 0)
	warnings := registry.Warnings()
	for range 2 { // the second one is counted
		check(warnings.Raise(ctx, "server00", warning.Input{Kind: "Disk worn", Message: "drive 3 has 2 % of its life left"}))
	}
	list, err := warnings.List(ctx, opscenter.WarningFilter{Server: "server00"}, opscenter.Page{})
	check(err)
	for _, w := range list.Warnings {
		check(warnings.Acknowledge(ctx, w.UUID, true, nil))
		w, err := warnings.Get(ctx, w.UUID)
		check(err)
		fmt.Printf("%s: %s (%d times, acknowledged: %t)\n", w.Kind, w.Message, w.Count, w.Acknowledged)
	}
	fmt.Println(warnings.Counts())
	check(warnings.Clear(ctx, "server00", "Disk worn"))
	fmt.Println(warnings.Counts())
	// Output:
	// Disk worn: drive 3 has 2 % of its life left (2 times, acknowledged: true)
	// map[Disk worn:1]
	// map[]
}
