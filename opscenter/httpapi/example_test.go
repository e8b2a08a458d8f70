package httpapi_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"net/http"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// The smallest control plane: servers register at /1.0/ of your own mux, over your own TLS
// configuration, and are polled.
func Example() {
	certificate, err := tls.LoadX509KeyPair("control-plane.crt", "control-plane.key")
	if err != nil {
		log.Fatal(err)
	}
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	if err != nil {
		log.Fatal(err)
	}
	token, err := registry.CreateToken(context.Background(), opscenter.TokenSpec{Uses: 10})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("token for 10 servers, for a day:", token.UUID)
	handler, err := httpapi.New(registry, httpapi.Options{ClientCertificate: certificate.Leaf})
	if err != nil {
		log.Fatal(err)
	}
	client := incusos.New(incusos.Options{Certificate: &certificate})
	polls, err := poller.New(registry, client, poller.Options{})
	if err != nil {
		log.Fatal(err)
	}
	go polls.Run(context.Background())

	mux := http.NewServeMux() // yours
	mux.Handle("/1.0/", handler)
	server := httpapi.NewServer(mux, httpapi.TLSConfig(certificate), nil)
	server.Addr = ":7443"
	log.Fatal(server.ListenAndServeTLS("", ""))
}
