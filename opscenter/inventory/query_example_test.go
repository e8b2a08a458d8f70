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

// simulated returns a running inventory of one simulated server, incus1, with some objects.
func simulated(ctx context.Context) (objects *inventory.Manager, stop func()) {
	identity, err := selfsigned.New("control-plane")
	if err != nil {
		log.Fatal(err)
	}
	server, err := incusostest.New(incusostest.Options{Name: "incus1", Standalone: true})
	if err != nil {
		log.Fatal(err)
	}
	server.Furnish(30)
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	if err != nil {
		log.Fatal(err)
	}
	client := incusos.New(incusos.Options{Certificate: &identity})
	polls, err := poller.New(registry, client, poller.Options{})
	if err != nil {
		log.Fatal(err)
	}
	objects, err = inventory.New(registry, client, inventory.Options{})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := client.Adopt(ctx, registry, server.URL(), server.TrustToken("control-plane"), incusos.AdoptOptions{}); err != nil {
		log.Fatal(err)
	}
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error)
	go func() { ended <- polls.Run(running) }()
	go func() { ended <- objects.Run(running) }()
	for following := false; !following; time.Sleep(10 * time.Millisecond) {
		status, err := objects.Status(ctx)
		if err != nil {
			log.Fatal(err)
		}
		following = len(status) == 1 && status[0].Following
	}
	return objects, func() {
		cancel()
		<-ended
		<-ended
		client.Close()
		server.Close()
	}
}

// ExampleManager_List reads the instances of a project, page by page.
func ExampleManager_List() {
	ctx := context.Background()
	objects, stop := simulated(ctx)
	defer stop()
	query := inventory.Query{Kinds: []inventory.Kind{inventory.KindInstance}, Project: "web", Limit: 2}
	for pages := 1; ; pages++ {
		page, err := objects.List(ctx, query)
		if err != nil {
			log.Fatal(err)
		}
		for _, o := range page.Objects {
			fmt.Println(pages, o.Name)
		}
		if query.Cursor = page.Next; page.Next == "" {
			break
		}
	}
	// Output:
	// 1 c0001
	// 1 c0003
	// 2 c0005
	// 2 c0007
}

// ExampleManager_Count counts the objects of each project.
func ExampleManager_Count() {
	ctx := context.Background()
	objects, stop := simulated(ctx)
	defer stop()
	counts, err := objects.Count(ctx, inventory.Query{Kinds: []inventory.Kind{inventory.KindInstance}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(counts.Total, counts.ByCluster["incus1"], counts.ByProject)
	// Output:
	// 6 6 map[default:2 web:4]
}

// ExampleManager_WatchChanges follows the changes from the first one on. The first reading of a cluster is one change.
func ExampleManager_WatchChanges() {
	ctx := context.Background()
	objects, stop := simulated(ctx)
	defer stop()
	for change, err := range objects.WatchChanges(ctx, 0) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(change.Action, change.Name)
		break // a real program goes on
	}
	// Output:
	// cluster-added incus1
}
