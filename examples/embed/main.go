// Embed is a control plane in a program of yours: servers register at your own mux, over your own TLS
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
	"github.com/opscenter-go/sdk/opscenter/controlplane"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
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
	cp, err := controlplane.New(memstore.New(), certificate, controlplane.Options{})
	if err != nil {
		return err
	}
	defer cp.Close()
	token, err := cp.Registry.CreateToken(ctx, opscenter.TokenSpec{Uses: 10})
	if err != nil {
		return err
	}
	fmt.Println("token for 10 servers, for a day:", token.UUID)

	mux := http.NewServeMux() // yours
	mux.Handle("/1.0", cp.Handler())
	mux.Handle("/1.0/", cp.Handler())
	server := httpapi.NewServer(mux, cp.TLSConfig(), nil)
	server.Addr = address
	group, ctx := errgroup.WithContext(ctx) // ends with the first that fails, or with Ctrl-C
	context.AfterFunc(ctx, func() { server.Close() })
	group.Go(func() error { return cp.Run(ctx) }) // polls, updates, and all else that goes on
	group.Go(func() error {
		if err := server.ListenAndServeTLS("", ""); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return group.Wait()
}
