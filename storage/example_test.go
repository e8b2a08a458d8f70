package storage_test

import (
	"context"
	"fmt"
	"log"

	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
)

type book struct {
	ISBN, Title string
	Authors     []string
}

var (
	books    = storage.NewTable("books", func(b *book) storage.Key { return storage.StringKey(b.ISBN) })
	byAuthor = books.Index("author", func(b *book) (keys []storage.Key) {
		for _, author := range b.Authors {
			keys = append(keys, storage.StringKey(author))
		}
		return keys
	})
)

func ExampleTable() {
	ctx := context.Background()
	store := memstore.New() // or badgerstore.Open(dir)
	defer store.Close()
	if err := store.Attach(ctx, books.Schema()); err != nil {
		log.Fatal(err)
	}
	err := store.Update(ctx, func(tx storage.WriteTx) error {
		for _, b := range []*book{{"1", "Alpha", []string{"Ann", "Bob"}}, {"2", "Beta", []string{"Bob"}}} {
			if err := books.Put(tx, b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	err = store.View(ctx, func(tx storage.ReadTx) error {
		for b, err := range byAuthor.Scan(tx, storage.Range{Prefix: storage.StringKey("Bob"), Reverse: true}) {
			if err != nil {
				return err
			}
			fmt.Println(b.Title)
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// Beta
	// Alpha
}
