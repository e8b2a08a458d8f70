package badgerstore_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

// A whole backup on Sunday, and what has changed since on Monday, make a store on another machine.
func ExampleStore_Backup() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "backup")
	check(err)
	defer os.RemoveAll(dir)
	store, err := badgerstore.Open(filepath.Join(dir, "store"))
	check(err)
	check(store.Attach(ctx, rows.Schema()))
	check(put(store, &row{"server1", "rack 7"}))

	var sunday, monday bytes.Buffer // files of yours
	revision, err := store.Backup(ctx, &sunday, 0)
	check(err)
	check(put(store, &row{"server2", "rack 7"}))
	_, err = store.Backup(ctx, &monday, revision)
	check(err)
	check(store.Close())

	check(badgerstore.Restore(ctx, filepath.Join(dir, "restored"), &sunday, &monday))
	restored, err := badgerstore.Open(filepath.Join(dir, "restored"))
	check(err)
	check(restored.Attach(ctx, rows.Schema()))
	check(restored.View(ctx, func(tx storage.ReadTx) error {
		for r, err := range rows.Scan(tx, storage.Range{}) {
			check(err)
			fmt.Println(r.ID)
		}
		return nil
	}))
	check(restored.Close())
	// Output:
	// server1
	// server2
}

func check(err error) {
	if err != nil {
		log.Panic(err)
	}
}
