package inventory_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// Example adopts a simulated Incus server, and finds a network on it.
func Example() {
	identity, err := selfsigned.New("control-plane") // yours
	if err != nil {
		log.Fatal(err)
	}
	server, err := incusostest.New(incusostest.Options{Name: "incus1", Standalone: true})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	server.Furnish(30)

	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	if err != nil {
		log.Fatal(err)
	}
	client := incusos.New(incusos.Options{Certificate: &identity})
	defer client.Close()
	polls, err := poller.New(registry, client, poller.Options{})
	if err != nil {
		log.Fatal(err)
	}
	objects, err := inventory.New(registry, client, inventory.Options{})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- polls.Run(ctx) }()
	go func() { ended <- objects.Run(ctx) }()
	defer func() {
		stop()
		<-ended
		<-ended
	}()

	// The token is the one that `incus config trust add` prints on the server.
	if _, err := client.Adopt(ctx, registry, server.URL(), server.TrustToken("control-plane"), incusos.AdoptOptions{}); err != nil {
		log.Fatal(err)
	}
	for following := false; !following; time.Sleep(10 * time.Millisecond) {
		status, err := objects.Status(ctx)
		if err != nil {
			log.Fatal(err)
		}
		following = len(status) == 1 && status[0].Following
	}
	page, err := objects.List(ctx, inventory.Query{Filter: `object.config["ipv4.address"] == "10.115.25.1/24"`})
	if err != nil {
		log.Fatal(err)
	}
	for _, o := range page.Objects {
		fmt.Printf("%s %s of %s, in project %s\n", o.Kind, o.Name, o.Cluster, o.Project)
	}
	// Output: network net0 of incus1, in project default
}
