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

// exampleRegistry returns a Registry in memory. A program uses badgerstore.Open to keep it on disk.
func exampleRegistry(options opscenter.Options) *opscenter.Registry {
	registry, err := opscenter.NewRegistry(memstore.New(), options)
	check(err)
	return registry
}

// exampleServer registers the n-th server and records a poll that found it ready, with version 202610010000.
func exampleServer(ctx context.Context, registry *opscenter.Registry, n int) *opscenter.ServerInfo {
	token, err := registry.CreateToken(ctx, opscenter.TokenSpec{Uses: 1})
	check(err)
	registered, err := registry.Register(ctx, registration(n, token.UUID))
	check(err)
	server, err := registry.Server(ctx, registered.Name)
	check(err)
	check(registry.Observer().Record(ctx, answer(server)))
	server, err = registry.Server(ctx, registered.Name)
	check(err)
	return server
}

// check ends an example that fails.
func check(err error) {
	if err != nil {
		panic(err)
	}
}

func ExampleRecommend() {
	r := lifecycle.Recommend(lifecycle.Condition{Type: lifecycle.TypeIncus, Status: lifecycle.StatusReady, NeedsReboot: true})
	fmt.Println(r.Action)
	fmt.Println(r.Reason)
	// Output:
	// evacuate
	// a reboot is required, and type incus is evacuated before (needs update false, needs reboot true, in maintenance false)
}

// A server registers, is polled, and gets its recommended action. Package httpapi calls
// Register for you, and package poller calls Observer.Record.
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
