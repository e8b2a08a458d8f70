package feed_test

import (
	"context"
	"fmt"

	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/feed"
)

// A backend publishes each commit under the lock that orders its commits; its Watch is the feed's.
func Example() {
	changes := feed.New(0, 0) // the revision that the store was opened at; what New keeps by default
	current := uint64(0)
	commit := func(keys ...string) {
		var changed []storage.Change
		for _, key := range keys {
			changed = append(changed, storage.Change{Table: "servers", Key: storage.StringKey(key)})
		}
		changes.Publish(current+1, changed, func() { current++ }) // here the backend makes the commit visible
	}
	commit("a", "b")
	commit("a")
	changes.Close()
	for batch, err := range changes.Watch(context.Background(), 0) {
		if err != nil {
			fmt.Println(err)
			break
		}
		for _, change := range batch.Changes {
			fmt.Println(batch.Revision, change.Table, change.Key)
		}
	}
	// Output:
	// 2 servers b
	// 2 servers a
	// store is closed
}
