package incusostest_test

import (
	"context"
	"fmt"
	"log"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// A simulated server is registered directly with a Registry, polled, given a fault, and polled again. See
// ExampleServer_Register for a server that registers over the network.
func Example() {
	ctx := context.Background()
	server, err := incusostest.New(incusostest.Options{Name: "server01", Application: "migration-manager"})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	identity := controlPlane()
	server.Trust(identity.Leaf)

	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{OfflineThreshold: 1})
	if err != nil {
		log.Fatal(err)
	}
	token, err := registry.CreateToken(ctx, opscenter.TokenSpec{})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := registry.Register(ctx, opscenter.Registration{Token: token.UUID, Certificate: server.Certificate(), Name: server.Name(), ConnectionURL: server.URL()}); err != nil {
		log.Fatal(err)
	}
	client := incusos.New(incusos.Options{Certificate: &identity})
	defer client.Close()
	polls, err := poller.New(registry, client, poller.Options{})
	if err != nil {
		log.Fatal(err)
	}
	for _, fault := range []incusostest.FaultKind{incusostest.FaultNone, incusostest.FaultWrongCertificate} {
		if err := server.SetFault(incusostest.Fault{Kind: fault}); err != nil {
			log.Fatal(err)
		}
		if _, err := polls.Poll(ctx, "server01"); err != nil {
			log.Fatal(err)
		}
		info, err := registry.Server(ctx, "server01")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: %s %q\n", info.State.Type, info.State.Status, info.State.StatusDetail)
	}
	// Output:
	// migration-manager: ready ""
	// migration-manager: offline "unresponsive"
}
