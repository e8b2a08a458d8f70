package updates_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// Example fetches a new release into the channel testing, and promotes it to stable.
func Example() {
	ctx := context.Background()
	publisher, err := incusostest.NewPublisher() // stands for the public server, which is the default source
	check(err)
	check(publisher.Start())
	defer publisher.Close()
	check(publisher.Publish(incusostest.Release{Version: "202610010000"}))

	store := memstore.New()
	defer store.Close()
	registry, err := opscenter.NewRegistry(store, opscenter.Options{})
	check(err)
	check(registry.Channels().Create(ctx, "testing", "before production"))
	dir, err := os.MkdirTemp("", "updates")
	check(err)
	defer os.RemoveAll(dir)
	files, err := updates.NewDir(dir)
	check(err)
	defer files.Close()
	feed, err := updates.New(ctx, registry, files, updates.Options{
		Settings: &updates.Settings{Source: publisher.URL(), DefaultChannel: "testing"},
		Trust:    updates.Trust{Root: publisher.Root()},
	})
	check(err)
	check(feed.Refresh(ctx, updates.RefreshOptions{})) // Run refreshes every hour
	show := func() {
		stable, err := registry.Channels().Get(ctx, "stable")
		check(err)
		testing, err := registry.Channels().Get(ctx, "testing")
		check(err)
		fmt.Printf("stable: %q, testing: %q\n", stable.Versions["incus"], testing.Versions["incus"])
	}
	show()
	release := feed.Snapshot().Updates()[0]
	check(feed.SetChannels(ctx, release.UUID, []string{"testing", "stable"}, updates.SetOptions{}))
	show()
	// Output:
	// stable: "", testing: "202610010000"
	// stable: "202610010000", testing: "202610010000"
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
