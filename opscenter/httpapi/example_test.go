package httpapi_test

import (
	"crypto/tls"
	"log"
	"net/http"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// The endpoint on a mux and a TLS configuration of your own. examples/embed is the whole program.
func Example() {
	certificate, err := tls.LoadX509KeyPair("control-plane.crt", "control-plane.key")
	if err != nil {
		log.Fatal(err)
	}
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	if err != nil {
		log.Fatal(err)
	}
	handler, err := httpapi.New(registry, httpapi.Options{ClientCertificate: certificate.Leaf})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux() // yours
	mux.Handle("/1.0", handler)
	mux.Handle("/1.0/", handler)
	server := httpapi.NewServer(mux, httpapi.TLSConfig(certificate), nil)
	server.Addr = ":7443"
	log.Fatal(server.ListenAndServeTLS("", ""))
}
