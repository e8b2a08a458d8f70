package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/cluster"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// simulated returns a registry with simulated servers in no cluster, each of which was polled once.
func simulated(ctx context.Context, names ...string) (registry *opscenter.Registry, client *incusos.Client, stop func()) {
	identity, err := selfsigned.New("control-plane")
	if err != nil {
		log.Fatal(err)
	}
	registry, err = opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	if err != nil {
		log.Fatal(err)
	}
	client = incusos.New(incusos.Options{Certificate: &identity})
	polls, err := poller.New(registry, client, poller.Options{})
	if err != nil {
		log.Fatal(err)
	}
	token, err := registry.CreateToken(ctx, opscenter.TokenSpec{Uses: int64(len(names))})
	if err != nil {
		log.Fatal(err)
	}
	var servers []*incusostest.Server
	for _, name := range names {
		server, err := incusostest.New(incusostest.Options{Name: name, Standalone: true})
		if err != nil {
			log.Fatal(err)
		}
		server.Trust(identity.Leaf)
		servers = append(servers, server)
		_, err = registry.Register(ctx, opscenter.Registration{Token: token.UUID, Certificate: server.Certificate(), Name: name, ConnectionURL: server.URL(), MachineID: server.MachineID()})
		if err != nil {
			log.Fatal(err)
		}
		if _, err := polls.Poll(ctx, name); err != nil {
			log.Fatal(err)
		}
	}
	return registry, client, func() {
		client.Close()
		for _, server := range servers {
			server.Close()
		}
	}
}

// Example forms a cluster of two servers, and adds a third one.
func Example() {
	ctx := context.Background()
	registry, client, stop := simulated(ctx, "server01", "server02", "server03")
	defer stop()
	clusters := cluster.New(registry, client, cluster.Options{})
	if err := clusters.Form(ctx, "c1", "server01", "server02"); err != nil {
		log.Fatal(err) // a *cluster.Error names the steps that are done; the same call continues
	}
	if err := clusters.AddServers(ctx, "c1", "server03"); err != nil {
		log.Fatal(err)
	}
	record, err := registry.Cluster(ctx, "c1")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(record.Name, record.Status)
	for server, err := range registry.Servers(ctx, opscenter.ServerFilter{Cluster: "c1"}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(server.Name)
	}
	// Output:
	// c1 ready
	// server01
	// server02
	// server03
}

// ExampleManager_RemoveServers removes an empty member. Incus resets the removed server.
func ExampleManager_RemoveServers() {
	ctx := context.Background()
	registry, client, stop := simulated(ctx, "server01", "server02")
	defer stop()
	clusters := cluster.New(registry, client, cluster.Options{})
	if err := clusters.Form(ctx, "c1", "server01", "server02"); err != nil {
		log.Fatal(err)
	}
	if err := clusters.RemoveServers(ctx, "c1", cluster.RemoveOptions{}, "server02"); err != nil {
		log.Fatal(err)
	}
	server, err := registry.Server(ctx, "server02")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("cluster of server02: %q\n", server.Cluster)

	err = clusters.RemoveServers(ctx, "c1", cluster.RemoveOptions{}, "server01") // the last member
	fmt.Println(errors.Is(err, cluster.ErrUnsuitable))
	// Output:
	// cluster of server02: ""
	// true
}
