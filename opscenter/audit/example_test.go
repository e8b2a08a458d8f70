package audit_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// Example records two changes, one of which fails, and lists the entries.
func Example() {
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	if err != nil {
		log.Fatal(err)
	}
	changes, err := audit.New(registry, audit.Options{})
	if err != nil {
		log.Fatal(err)
	}
	ctx := opscenter.WithPrincipal(context.Background(), "alice")
	for _, server := range []string{"server01", "server02"} {
		err := changes.Do(ctx, audit.Entry{Action: "server.reboot", Server: server}, func(context.Context) error {
			if server == "server02" {
				return errors.New("connection refused")
			}
			return nil
		})
		fmt.Println(server, err)
	}
	page, err := changes.List(ctx, audit.Query{By: "alice"}) // the newest first
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range page.Entries {
		fmt.Println(e.By, e.Action, e.Server, e.Outcome, e.Error)
	}
	// Output:
	// server01 <nil>
	// server02 connection refused
	// alice server.reboot server02 failed connection refused
	// alice server.reboot server01 done
}

// ExampleLater records a change that goes on after Do returns. The program ends the entry when the change ends.
func ExampleLater() {
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	if err != nil {
		log.Fatal(err)
	}
	changes, err := audit.New(registry, audit.Options{})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	var id string
	err = changes.Do(ctx, audit.Entry{Action: "server.update", Server: "server01"}, func(ctx context.Context) error {
		id = audit.ID(ctx)
		audit.Later(ctx)
		return nil // the update was requested, and runs
	})
	if err != nil {
		log.Fatal(err)
	}
	show := func() {
		entry, err := changes.Get(ctx, id)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(entry.Outcome)
	}
	show()
	if err := changes.End(ctx, id, nil); err != nil {
		log.Fatal(err)
	}
	show()
	// Output:
	// under way
	// done
}

// ExampleLog_Watch follows the log until the first entry has ended.
func ExampleLog_Watch() {
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	if err != nil {
		log.Fatal(err)
	}
	changes, err := audit.New(registry, audit.Options{})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	change := func(context.Context) error { return nil }
	if err := changes.Do(ctx, audit.Entry{Action: "token.create"}, change); err != nil {
		log.Fatal(err)
	}
	for e, err := range changes.Watch(ctx, 0) { // from the first entry on
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e.Action, e.Outcome)
		if e.Outcome != audit.UnderWay {
			break
		}
	}
	// Output:
	// token.create done
}
