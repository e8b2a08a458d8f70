package incusos_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// exampleServer returns a simulated server, and a client that the server trusts.
func exampleServer(options incusostest.Options) (*incusostest.Server, *incusos.Client) {
	identity, err := selfsigned.New("control plane")
	if err != nil {
		log.Fatal(err)
	}
	server, err := incusostest.New(options)
	if err != nil {
		log.Fatal(err)
	}
	server.Trust(identity.Leaf)
	return server, incusos.New(incusos.Options{Certificate: &identity})
}

// Probe observes a server. A failure is part of the observation, here that of a server that presents
// a certificate other than the registered one.
func ExampleClient_Probe() {
	ctx := context.Background()
	server, client := exampleServer(incusostest.Options{Name: "server01", Version: "202610010000"})
	defer server.Close()
	defer client.Close()
	target := opscenter.Target{Name: "server01", ID: "1", ConnectionURL: server.URL(), Fingerprint: opscenter.Fingerprint(server.Certificate())}

	o := client.Probe(ctx, target)
	fmt.Println(*o.Type, o.Versions.OS.Name, o.Versions.OS.Version, "ready:", o.Ready)

	if err := server.SwapCertificate(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(client.Probe(ctx, target).Failure.Kind)
	// Output:
	// incus IncusOS 202610010000 ready: true
	// certificate
}

// Actions are methods of the Client. A server that is in no cluster can't be evacuated.
func ExampleClient_Evacuate() {
	ctx := context.Background()
	server, client := exampleServer(incusostest.Options{Name: "server01"})
	defer server.Close()
	defer client.Close()
	target := opscenter.Target{Name: "server01", ID: "1", ConnectionURL: server.URL(), Fingerprint: opscenter.Fingerprint(server.Certificate())}

	err := client.Evacuate(ctx, target, "auto")
	fmt.Println(errors.Is(err, opscenter.ErrNotApplicable))

	target.MemberName = "server01"
	if err := client.Evacuate(ctx, target, "auto"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(server.MemberStatus())
	if err := client.Restore(ctx, target, ""); err != nil {
		log.Fatal(err)
	}
	fmt.Println(server.MemberStatus())
	// Output:
	// true
	// Evacuated
	// Online
}

// Adopt takes servers that do not register themselves into a registry, with a trust token of theirs.
func ExampleClient_Adopt() {
	ctx := context.Background()
	server, client := exampleServer(incusostest.Options{Name: "debian", Standalone: true})
	defer server.Close()
	defer client.Close()
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	if err != nil {
		log.Fatal(err)
	}
	names, err := client.Adopt(ctx, registry, server.URL(), server.TrustToken("control-plane"), incusos.AdoptOptions{Name: "server01"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(names)
	// Output: [server01]
}
