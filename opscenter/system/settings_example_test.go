package system_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// simulated returns a Manager over a registry with one simulated server, server01, that was polled once.
func simulated(ctx context.Context) (systems *system.Manager, stop func()) {
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	if err != nil {
		log.Fatal(err)
	}
	certificate, err := selfsigned.New("control-plane")
	if err != nil {
		log.Fatal(err)
	}
	client := incusos.New(incusos.Options{Certificate: &certificate})
	server := register(ctx, registry, client)
	server.Trust(certificate.Leaf)
	polls, err := poller.New(registry, client, poller.Options{})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := polls.Poll(ctx, "server01"); err != nil {
		log.Fatal(err)
	}
	systems, err = system.New(registry, client, system.Options{})
	if err != nil {
		log.Fatal(err)
	}
	return systems, func() { client.Close(); server.Close() }
}

// ExampleManager_SetKernel edits the kernel settings of a server. The ETag protects changes of other clients.
func ExampleManager_SetKernel() {
	ctx := context.Background()
	systems, stop := simulated(ctx)
	defer stop()
	current, err := systems.Kernel(ctx, "server01")
	if err != nil {
		log.Fatal(err)
	}
	current.Config.BlacklistModules = append(current.Config.BlacklistModules, "floppy")
	change, err := systems.SetKernel(ctx, "server01", *current.Config, system.SetOptions{IfMatch: current.ETag})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(change.Section, change.Status)

	_, err = systems.SetKernel(ctx, "server01", system.KernelConfig{}, system.SetOptions{IfMatch: current.ETag})
	fmt.Println(errors.Is(err, opscenter.ErrPrecondition))
	// Output:
	// kernel done
	// true
}

// ExampleManager_Changes lists the changes of a server, the newest first.
func ExampleManager_Changes() {
	ctx := opscenter.WithPrincipal(context.Background(), "alice")
	systems, stop := simulated(ctx)
	defer stop()
	logging := system.LoggingConfig{Syslog: &system.Syslog{Address: "192.0.2.9:514", Protocol: "udp"}}
	if _, err := systems.SetLogging(ctx, "server01", logging, system.SetOptions{}); err != nil {
		log.Fatal(err)
	}
	changes, err := systems.Changes(ctx, "server01", "", 0)
	if err != nil {
		log.Fatal(err)
	}
	for _, c := range changes {
		fmt.Println(c.Server, c.Section, c.By, c.Status)
	}
	// Output:
	// server01 logging alice done
}

// ExampleManager_Reboot reboots a server. A second request is refused until polls have seen the end of the reboot.
func ExampleManager_Reboot() {
	ctx := context.Background()
	systems, stop := simulated(ctx)
	defer stop()
	if err := systems.Reboot(ctx, "server01", system.PowerOptions{}); err != nil {
		log.Fatal(err)
	}
	err := systems.Reboot(ctx, "server01", system.PowerOptions{})
	fmt.Println(errors.Is(err, opscenter.ErrNotReady))
	// Output:
	// true
}
