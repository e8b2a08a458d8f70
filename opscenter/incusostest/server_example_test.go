package incusostest_test

import (
	"context"
	"fmt"
	"log"
	"net/http/httptest"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// A simulated server registers itself with the HTTPS endpoint of a control plane.
func ExampleServer_Register() {
	ctx := context.Background()
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	if err != nil {
		log.Fatal(err)
	}
	identity := controlPlane()
	handler, err := httpapi.New(registry, httpapi.Options{ClientCertificate: identity.Leaf})
	if err != nil {
		log.Fatal(err)
	}
	endpoint := httptest.NewUnstartedServer(handler)
	endpoint.TLS = httpapi.TLSConfig(identity)
	endpoint.StartTLS()
	defer endpoint.Close()
	token, err := registry.CreateToken(ctx, opscenter.TokenSpec{})
	if err != nil {
		log.Fatal(err)
	}

	server, err := incusostest.New(incusostest.Options{Name: "server01"})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	err = server.Register(ctx, incusostest.Provider{ServerURL: endpoint.URL, Token: token.UUID, Certificate: identity.Leaf})
	if err != nil {
		log.Fatal(err)
	}
	info, err := registry.Server(ctx, "server01")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Name, info.State.Status)
	fmt.Println("same URL:", info.ConnectionURL == server.URL())
	// Output:
	// server01 pending
	// same URL: true
}

// exampleClient starts a server, and returns it with a client that it trusts, and its target.
func exampleClient() (*incusostest.Server, *incusos.Client, opscenter.Target) {
	server, err := incusostest.New(incusostest.Options{Name: "server01"})
	if err != nil {
		log.Fatal(err)
	}
	identity := controlPlane()
	server.Trust(identity.Leaf)
	target := opscenter.Target{Name: "server01", ID: "1", ConnectionURL: server.URL(), Fingerprint: opscenter.Fingerprint(server.Certificate())}
	return server, incusos.New(incusos.Options{Certificate: &identity}), target
}

// Faults break the network of a server, or its answers.
func ExampleServer_SetFault() {
	ctx := context.Background()
	server, client, target := exampleClient()
	defer server.Close()
	defer client.Close()
	for _, fault := range []incusostest.Fault{
		{Kind: incusostest.FaultDown},
		{Kind: incusostest.FaultReset},
		{Kind: incusostest.FaultError, Path: "/os/1.0/system/update"},
		{},
	} {
		if err := server.SetFault(fault); err != nil {
			log.Fatal(err)
		}
		o := client.Probe(ctx, target)
		if o.Failure != nil {
			fmt.Printf("%q: %s\n", fault.Kind, o.Failure.Kind)
		} else {
			fmt.Printf("%q: answered, %d parts unread\n", fault.Kind, len(o.Unread))
		}
	}
	// Output:
	// "down": connect
	// "reset": answer
	// "error 500": answered, 1 parts unread
	// "": answered, 0 parts unread
}

// A hostile server sends 16 MB in each part of its facts. The client reads none of these parts, and the rest counts.
func ExampleServer_SetHostile() {
	ctx := context.Background()
	server, client, target := exampleClient()
	defer server.Close()
	defer client.Close()
	if err := server.SetHostile(incusostest.HostileFacts); err != nil {
		log.Fatal(err)
	}
	o := client.Probe(ctx, target)
	fmt.Println(*o.Type, "ready:", o.Ready)
	fmt.Println(len(o.Unread), "parts unread,", o.Facts.Size(), "bytes of facts")
	// Output:
	// incus ready: true
	// 4 parts unread, 0 bytes of facts
}
