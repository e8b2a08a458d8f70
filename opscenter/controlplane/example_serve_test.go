package controlplane_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/controlplane"
	"github.com/opscenter-go/sdk/opscenter/devcert"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// A simulated server registers with the control plane, which polls it.
func ExampleControlPlane_Serve() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	certificate, err := devcert.New("control plane", "127.0.0.1")
	if err != nil {
		log.Fatal(err)
	}
	cp, err := controlplane.New(memstore.New(), certificate, controlplane.Options{URL: "https://" + listener.Addr().String()})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- cp.Serve(ctx, listener) }()

	token, err := cp.Registry.CreateToken(ctx, opscenter.TokenSpec{Uses: 1})
	if err != nil {
		log.Fatal(err)
	}
	server, err := incusostest.New(incusostest.Options{Name: "server01"})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	provider := incusostest.Provider{ServerURL: "https://" + listener.Addr().String(), Token: token.UUID, Certificate: certificate.Leaf}
	if err := server.Register(ctx, provider); err != nil {
		log.Fatal(err)
	}
	for _, err := range cp.Registry.Watch(ctx, 0) {
		if err != nil {
			log.Fatal(err)
		}
		info, err := cp.Registry.Server(ctx, "server01")
		if err != nil {
			log.Fatal(err)
		}
		if info.State.Status == lifecycle.StatusReady {
			fmt.Println(info.Name, "is", info.State.Status, "on", info.State.Versions.OS.Version)
			break
		}
	}
	stop()
	fmt.Println("stopped:", <-ended)
	// Output:
	// server01 is ready on 202610010000
	// stopped: <nil>
}
