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

type visit struct {
	Number uint64 // given by the store
	Guest  string
}

var (
	visits  = storage.NewLog("visits", func(v *visit) *uint64 { return &v.Number })
	byGuest = visits.Index("guest", func(v *visit) []storage.Key { return []storage.Key{storage.StringKey(v.Guest)} })
)

// A log numbers its rows in the order in which they were committed. A reader goes on after the last number it has seen.
func ExampleTable_Append() {
	ctx := context.Background()
	store := memstore.New()
	defer store.Close()
	if err := store.Attach(ctx, visits.Schema()); err != nil {
		log.Fatal(err)
	}
	note := func(guests ...string) {
		err := store.Update(ctx, func(tx storage.WriteTx) error {
			for _, guest := range guests {
				if err := visits.Append(tx, &visit{Guest: guest}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	read := func(since uint64) (last uint64) {
		err := store.View(ctx, func(tx storage.ReadTx) error {
			for v, err := range visits.Scan(tx, storage.Range{After: storage.UintKey(since)}) {
				if err != nil {
					return err
				}
				fmt.Println(v.Guest)
				last = v.Number
			}
			return nil
		})
		if err != nil {
			log.Fatal(err)
		}
		return last
	}
	note("Ann", "Bob")
	last := read(0)
	note("Ann")
	fmt.Println("later:")
	read(last)
	err := store.View(ctx, func(tx storage.ReadTx) error {
		n := 0
		for _, err := range byGuest.Scan(tx, storage.Range{Prefix: storage.StringKey("Ann")}) {
			if err != nil {
				return err
			}
			n++
		}
		fmt.Println("Ann came", n, "times")
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// Ann
	// Bob
	// later:
	// Ann
	// Ann came 2 times
}

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
