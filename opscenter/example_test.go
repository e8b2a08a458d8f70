package opscenter_test

import (
	"context"
	"fmt"
	"log"
	"net/url"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage/memstore"
)

func ExampleRecommend() {
	r := lifecycle.Recommend(lifecycle.Condition{Type: lifecycle.TypeIncus, Status: lifecycle.StatusReady, NeedsReboot: true})
	fmt.Println(r.Action)
	fmt.Println(r.Reason)
	// Output:
	// evacuate
	// a reboot is required, and type incus is evacuated before (needs update false, needs reboot true, in maintenance false)
}

// A server registers, is polled, and gets its recommended action. Package httpapi calls
// Register for you, and package poller RecordObservations.
func ExampleRegistry() {
	ctx := context.Background()
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer registry.Close()
	token, err := registry.CreateToken(ctx, opscenter.TokenSpec{Uses: 1})
	if err != nil {
		log.Fatal(err)
	}
	registered, err := registry.Register(ctx, opscenter.Registration{Token: token.UUID, Certificate: certificate(0),
		Name: "server01", ConnectionURL: "https://10.0.0.1:8443", MachineID: "af94e64e199341b68f10a8eebb828fce"})
	if err != nil {
		log.Fatal(err)
	}
	server, err := registry.Server(ctx, registered.Name)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(server.Name, "is", server.State.Status)

	kind := lifecycle.TypeIncus
	err = registry.Observer().Record(ctx, lifecycle.Observation{Server: server.Name, ID: server.ID, At: time.Now(), Ready: true, Type: &kind,
		Versions: &lifecycle.Versions{OS: lifecycle.OSVersion{Name: lifecycle.OSName, Version: "202610010000"}}})
	if err != nil {
		log.Fatal(err)
	}
	if err := registry.Channels().Publish(ctx, "stable", "202610150000", lifecycle.ComponentOS); err != nil {
		log.Fatal(err)
	}
	for server, err := range registry.Servers(ctx, opscenter.ServerFilter{Status: lifecycle.StatusReady}) {
		if err != nil {
			log.Fatal(err)
		}
		recommended := server.Recommendation()
		fmt.Println(server.Name, "is", server.State.Status)
		fmt.Printf("%s: %s\n", recommended.Action, recommended.Reason)
	}
	// Output:
	// server01 is pending
	// server01 is ready
	// update: os 202610010000 → 202610150000: a newer version is available (needs update true, needs reboot false, in maintenance false)
}

// Everything that is decided or changed is an event, with its reason.
func ExampleRegistry_ListEvents() {
	ctx := context.Background()
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	if err != nil {
		log.Fatal(err)
	}
	if err := registry.Channels().Publish(ctx, "stable", "202610150000", "os", "incus"); err != nil {
		log.Fatal(err)
	}
	events, err := registry.ListEvents(ctx, opscenter.EventFilter{})
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range events {
		fmt.Println(e.Kind, e.Reason)
	}
	// Output:
	// update-published version 202610150000 of [os incus] in channel stable
}

// Servers may be in private networks only, and never where a cloud tells its machines their credentials. The same rules
// belong into incusos.Options.AllowAddress, for the addresses that names lead to.
func ExampleAddressRules() {
	rules := opscenter.AddressRules{Allow: opscenter.PrivateRanges, Deny: opscenter.MetadataAddresses}
	for _, where := range []string{"https://10.0.0.1:8443", "https://169.254.169.254", "https://[2001:db8::1]:8443"} {
		u, err := url.Parse(where)
		if err == nil {
			err = rules.CheckURL(u)
		}
		fmt.Println(u.Host, err)
	}
	// Output:
	// 10.0.0.1:8443 <nil>
	// 169.254.169.254 no server may be at 169.254.169.254: invalid URL
	// [2001:db8::1]:8443 no server may be at 2001:db8::1: invalid URL
}
