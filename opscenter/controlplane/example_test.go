package controlplane_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/controlplane"
	"github.com/opscenter-go/sdk/opscenter/devcert"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// serve is a control plane. README shows it.
func serve(ctx context.Context, address string) error {
	certificate, err := devcert.New("control plane", "localhost") // for first steps; then tls.LoadX509KeyPair
	if err != nil {
		return err
	}
	cp, err := controlplane.New(memstore.New(), certificate, controlplane.Options{})
	if err != nil {
		return err
	}
	token, err := cp.Registry.CreateToken(ctx, opscenter.TokenSpec{Uses: 10})
	if err != nil {
		return err
	}
	log.Println("token for 10 servers, for a day:", token.UUID)
	return cp.ListenAndServe(ctx, address) // until ctx ends
}

// Example is a whole control plane: servers register with the token, and are polled. It stops soon after it has logged the token,
// where a program stops at a signal (signal.NotifyContext).
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	log.SetOutput(logged(func() { time.AfterFunc(50*time.Millisecond, stop) }))
	defer log.SetOutput(os.Stderr)
	fmt.Println(serve(ctx, "localhost:0"))
	// Output: <nil>
}

// logged is called for each line of the log.
type logged func()

func (l logged) Write(line []byte) (int, error) {
	l()
	return os.Stderr.Write(line)
}
