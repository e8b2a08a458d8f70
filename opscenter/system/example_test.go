package system_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// Example changes the network of a server, here a simulated one.
func Example() {
	ctx, stop := context.WithCancel(opscenter.WithPrincipal(context.Background(), "alice")) // for the audit log
	defer stop()
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	if err != nil {
		log.Fatal(err)
	}
	certificate, err := selfsigned.New("control-plane")
	if err != nil {
		log.Fatal(err)
	}
	client := incusos.New(incusos.Options{Certificate: &certificate})
	defer client.Close()
	server := register(ctx, registry, client)
	defer server.Close()
	server.Trust(certificate.Leaf)
	if polls, err := poller.New(registry, client, poller.Options{}); err == nil {
		_, _ = polls.Poll(ctx, "server01")
	}

	records, err := audit.New(registry, audit.Options{})
	if err != nil {
		log.Fatal(err)
	}
	systems, err := system.New(registry, client, system.Options{Audit: records, Steady: 1})
	if err != nil {
		log.Fatal(err)
	}
	go systems.Run(ctx) // continues changes that a restart interrupted, and manages update settings

	current, err := systems.Network(ctx, "server01") // without its secrets
	if err != nil {
		log.Fatal(err)
	}
	current.Config.DNS.Nameservers = []string{"10.0.0.53"}
	options := system.ApplyOptions{IfMatch: current.ETag}
	plan, err := systems.PlanNetwork(ctx, "server01", current.Config, options)
	if err != nil {
		log.Fatal(err)
	}
	for _, difference := range plan.Changes {
		fmt.Println(difference)
	}
	change, err := systems.ApplyNetwork(ctx, "server01", current.Config, options)
	if errors.Is(err, system.ErrRolledBack) {
		log.Fatal("the server was not reached, and has undone the change: ", change.Reason)
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(change.Status)

	// Or, for a whole cluster, one member after another:
	_, err = systems.EditClusterNetwork(ctx, "c1", network.Edit{Interface: "inst0", AddVLANTags: []int{300}}, system.ApplyOptions{})
	fmt.Println(errors.Is(err, opscenter.ErrNotFound))
	// Output:
	// ~ dns.nameservers: ["127.0.0.53"] → ["10.0.0.53"]
	// done
	// true
}

func register(ctx context.Context, registry *opscenter.Registry, client *incusos.Client) *incusostest.Server {
	server, err := incusostest.New(incusostest.Options{Name: "server01"})
	if err != nil {
		log.Fatal(err)
	}
	token, err := registry.CreateToken(ctx, opscenter.TokenSpec{})
	if err != nil {
		log.Fatal(err)
	}
	_, err = registry.Register(ctx, opscenter.Registration{Token: token.UUID, Certificate: server.Certificate(), Name: "server01", ConnectionURL: server.URL(), MachineID: server.MachineID()})
	if err != nil {
		log.Fatal(err)
	}
	return server
}
