package opscenter_test

import (
	"context"
	"fmt"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// A program polls servers in a way of its own and records its observations. An observation without news costs no write.
func ExampleObserver() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{OfflineThreshold: 1})
	defer registry.Close()
	server := exampleServer(ctx, registry, 0)
	observer := registry.Observer()
	check(observer.RequestPoll(ctx, server.Name)) // Watch tells the poller
	found := answer(server)
	found.At = observer.Now() // before the server is asked
	if !observer.RecordUnchanged(&found) {
		check(observer.Record(ctx, found))
	}
	found = answer(server)
	fmt.Println("nothing new:", observer.RecordUnchanged(&found))
	check(observer.Maintain(ctx)) // now and then, if most observations are unchanged
	check(observer.Record(ctx, failed(server)))
	server, err := registry.Server(ctx, server.Name)
	check(err)
	fmt.Println(server.State.Status, server.State.StatusDetail)
	check(observer.Flush(ctx)) // so that the store has all times that servers were last seen
	// Output:
	// nothing new: true
	// offline unresponsive
}

// Six of twelve servers fail together. A poller that asks samples learns how many others to ask at once: their answers tell
// whether the servers or the control plane are at fault.
func ExampleObserver_SampleSize() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{OfflineThreshold: 1})
	defer registry.Close()
	observer := registry.Observer()
	observer.SetSampling(true)
	var servers []*opscenter.ServerInfo
	for n := range 12 {
		servers = append(servers, exampleServer(ctx, registry, n))
	}
	for _, server := range servers[:6] {
		check(observer.Record(ctx, failed(server)))
	}
	n, _ := observer.SampleSize()
	fmt.Println("wanted:", n > 0, "unreachable:", observer.FleetUnreachable())
	var ids []string
	for _, server := range servers[6:] {
		ids = append(ids, server.ID)
	}
	observer.BeginSample(len(ids), ids...)
	for _, server := range servers[6:] {
		check(observer.Record(ctx, failed(server)))
	}
	fmt.Println("unreachable:", observer.FleetUnreachable())
	// Output:
	// wanted: true unreachable: false
	// unreachable: true
}

// Another run of this program began an evacuation, and this one goes on with it. Acting keeps a poll from ending it early.
func ExampleObserver_Acting() {
	ctx := context.Background()
	registry := exampleRegistry(opscenter.Options{})
	defer registry.Close()
	server := exampleServer(ctx, registry, 0)
	var operation *lifecycle.Operation
	check(registry.Write(ctx, func(tx *opscenter.Tx) (err error) {
		operation, _, err = tx.Begin(opscenter.Intent{ServerID: server.ID, Action: lifecycle.ActionEvacuate})
		return err
	}))
	registry.Observer().Acting(server.ID)
	// The server evacuates its instances here.
	check(registry.Write(ctx, func(tx *opscenter.Tx) error { return tx.End(server, operation.ID, nil) }))
	registry.Observer().Acted(server.ID)
	server, err := registry.Server(ctx, server.Name)
	check(err)
	fmt.Println(server.State.Operation == nil, server.State.LastOperation.Action)
	// Output:
	// true evacuate
}
