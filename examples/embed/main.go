// Embed is the smallest control plane: servers register at your own mux, over your own TLS
// configuration, and are polled. README shows this file.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"

	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, ":7443"); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, address string) error {
	certificate, err := tls.LoadX509KeyPair("control-plane.crt", "control-plane.key")
	if err != nil {
		return err
	}
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	if err != nil {
		return err
	}
	defer registry.Close()
	token, err := registry.CreateToken(ctx, opscenter.TokenSpec{Uses: 10})
	if err != nil {
		return err
	}
	fmt.Println("token for 10 servers, for a day:", token.UUID)
	handler, err := httpapi.New(registry, httpapi.Options{ClientCertificate: certificate.Leaf})
	if err != nil {
		return err
	}
	client := incusos.New(incusos.Options{Certificate: &certificate})
	defer client.Close()
	polls, err := poller.New(registry, client, poller.Options{})
	if err != nil {
		return err
	}

	mux := http.NewServeMux() // yours
	mux.Handle("/1.0", handler)
	mux.Handle("/1.0/", handler)
	server := httpapi.NewServer(mux, httpapi.TLSConfig(certificate), nil)
	server.Addr = address
	group, ctx := errgroup.WithContext(ctx) // ends with the first that fails, or with Ctrl-C
	context.AfterFunc(ctx, func() { server.Close() })
	group.Go(func() error { return polls.Run(ctx) })
	group.Go(func() error { return server.ListenAndServeTLS("", "") })
	if err := group.Wait(); !errors.Is(err, context.Canceled) && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
