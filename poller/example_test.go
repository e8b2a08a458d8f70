package poller_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// exampleFleet returns a registry with one simulated server, and a client that the server trusts.
func exampleFleet(ctx context.Context) (*opscenter.Registry, *incusos.Client, *incusostest.Server) {
	identity, err := selfsigned.New("control plane")
	if err != nil {
		log.Fatal(err)
	}
	server, err := incusostest.New(incusostest.Options{Name: "server01"})
	if err != nil {
		log.Fatal(err)
	}
	server.Trust(identity.Leaf)
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	if err != nil {
		log.Fatal(err)
	}
	token, err := registry.CreateToken(ctx, opscenter.TokenSpec{})
	if err != nil {
		log.Fatal(err)
	}
	_, err = registry.Register(ctx, opscenter.Registration{Token: token.UUID, Certificate: server.Certificate(), Name: server.Name(), ConnectionURL: server.URL()})
	if err != nil {
		log.Fatal(err)
	}
	return registry, incusos.New(incusos.Options{Certificate: &identity}), server
}

// Run polls all servers until its context ends. All observations are stored when it returns.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	registry, client, server := exampleFleet(ctx)
	defer server.Close()
	defer client.Close()

	polled := make(chan string, 1)
	p, err := poller.New(registry, client, poller.Options{OnPoll: func(o *lifecycle.Observation) {
		select {
		case polled <- o.Server:
		default:
		}
	}})
	if err != nil {
		log.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	fmt.Println("polled", <-polled)
	cancel()
	fmt.Println("stopped:", errors.Is(<-ended, context.Canceled))

	info, err := registry.Server(context.Background(), "server01")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.State.Type, info.State.Status)
	// Output:
	// polled server01
	// stopped: true
	// incus ready
}

// Poll polls one server now. It does not need Run. An unreachable server is a Failure, and no error.
func ExamplePoller_Poll() {
	ctx := context.Background()
	registry, client, server := exampleFleet(ctx)
	defer server.Close()
	defer client.Close()
	p, err := poller.New(registry, client, poller.Options{})
	if err != nil {
		log.Fatal(err)
	}
	o, err := p.Poll(ctx, "server01")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(*o.Type, o.Versions.OS.Name, o.Failure == nil)

	if err := server.SetFault(incusostest.Fault{Kind: incusostest.FaultDown}); err != nil {
		log.Fatal(err)
	}
	o, err = p.Poll(ctx, "server01")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(o.Failure.Kind)
	_, err = p.Poll(ctx, "server02")
	fmt.Println(errors.Is(err, opscenter.ErrNotFound))
	// Output:
	// incus IncusOS true
	// connect
	// true
}
