package httpapi_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/accesstoken"
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

// Administrators, operators of one channel, and programs with access tokens share the API.
func ExampleAs() {
	var administrators, operators []*x509.Certificate // yours
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	if err != nil {
		log.Fatal(err)
	}
	tokens, err := accesstoken.New(registry, accesstoken.Options{})
	if err != nil {
		log.Fatal(err)
	}
	edge := access.Grant{Role: access.RoleOperator, Scope: access.Scope{Channels: []string{"edge"}}}
	options := httpapi.Options{
		AccessTokens: tokens, // POST /1.0/access-tokens makes one
		Authorize: httpapi.AnyOf(
			httpapi.TrustCertificates(administrators...),
			httpapi.As(edge, httpapi.TrustCertificates(operators...)),
			httpapi.TrustAccessTokens(tokens),
		),
	}
	_, err = options.Authorize(httptest.NewRequest(http.MethodGet, "/1.0/provisioning/servers", nil))
	fmt.Println(err)
	// Output: no credentials were shown
}
