// Network changes the network of simulated IncusOS servers from afar: first to an address that
// works, then to an unreachable one, which the server undoes by itself, and then over a
// whole cluster, which stops at the member that fails.
//
//	go run ./examples/network
//	go run ./examples/network -timeout 10s
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/controlplane"
	"github.com/opscenter-go/sdk/opscenter/devcert"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/opscenter/terminal"
	"github.com/opscenter-go/sdk/storage/memstore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], terminal.Safe(os.Stdout)); err != nil {
		fmt.Fprintln(terminal.Safe(os.Stderr), "network:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("network", flag.ContinueOnError)
	flags.SetOutput(out)
	timeout := flags.Duration("timeout", 3*time.Second, "after which a server undoes a change that is not confirmed")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if *timeout < 100*time.Millisecond || *timeout > system.MaxConfirmationTimeout {
		return fmt.Errorf("-timeout is %s, 100ms to %s are possible", *timeout, system.MaxConfirmationTimeout)
	}
	ctx = opscenter.WithPrincipal(ctx, "the example")
	certificate, err := devcert.New("network", "127.0.0.1")
	if err != nil {
		return err
	}
	cp, err := controlplane.New(memstore.New(), certificate, controlplane.Options{Client: incusos.Options{Timeout: 2 * time.Second},
		Systems: system.Options{ConfirmationTimeout: *timeout, MinTimeout: 100 * time.Millisecond, Interval: 100 * time.Millisecond, Steady: 300 * time.Millisecond}})
	if err != nil {
		return err
	}
	defer cp.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	// The control plane runs as long as the story, which ends if the control plane fails.
	group, ctx := errgroup.WithContext(ctx)
	running, stop := context.WithCancel(ctx)
	s := &story{ControlPlane: cp, ctx: ctx, out: out, servers: map[string]*incusostest.Server{}}
	defer s.close()
	group.Go(func() error { return cp.Serve(running, listener) })
	group.Go(func() error {
		defer stop()
		return s.run(incusostest.Provider{ServerURL: "https://" + listener.Addr().String(), Certificate: certificate.Leaf})
	})
	return group.Wait()
}

type story struct {
	*controlplane.ControlPlane
	ctx     context.Context // of the run
	out     io.Writer
	servers map[string]*incusostest.Server
}

// run boots the servers, changes their networks, and shows the audit log.
func (s *story) run(provider incusostest.Provider) error {
	token, err := s.Registry.CreateToken(s.ctx, opscenter.TokenSpec{Uses: 3})
	if err != nil {
		return err
	}
	provider.Token = token.UUID
	for _, name := range []string{"server01", "server02", "server03"} {
		if err := s.boot(name, provider); err != nil {
			return err
		}
	}
	if err := s.play(); err != nil {
		return err
	}
	s.printf("\nWho did what:")
	page, err := s.Audit.List(s.ctx, audit.Query{Oldest: true})
	for _, e := range page.Entries {
		what := e.Server
		if e.Cluster != "" {
			what = e.Cluster
		}
		s.printf("  %s: %s of %s: %s", e.By, e.Action, what, e.Outcome)
	}
	return err
}

func (s *story) close() {
	for _, server := range s.servers {
		server.Close()
	}
}

func (s *story) printf(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

// boot starts a server, which registers, and looks at it.
func (s *story) boot(name string, provider incusostest.Provider) error {
	server, err := incusostest.New(incusostest.Options{Name: name})
	if err != nil {
		return err
	}
	s.servers[name] = server
	if err := server.Register(s.ctx, provider); err != nil {
		return err
	}
	return s.poll(name)
}

func (s *story) poll(names ...string) error {
	for _, name := range names {
		o, err := s.Poller.Poll(s.ctx, name)
		if err != nil {
			return err
		}
		if o.Failure != nil {
			return fmt.Errorf("%s: %s", name, o.Failure.Message)
		}
	}
	return nil
}

// move gives the management interface of a server another address, and tells how that went.
func (s *story) move(name, address string) error {
	current, err := s.Systems.Network(s.ctx, name)
	if err != nil {
		return err
	}
	current.Config.Interfaces[0].Addresses = []string{address}
	plan, err := s.Systems.PlanNetwork(s.ctx, name, current.Config, system.ApplyOptions{IfMatch: current.ETag})
	if err != nil {
		return err
	}
	for _, difference := range plan.Changes {
		s.printf("  %s", difference)
	}
	begun := time.Now()
	change, err := s.Systems.ApplyNetwork(s.ctx, name, current.Config, system.ApplyOptions{IfMatch: current.ETag})
	if change == nil {
		return err
	}
	s.printf("  %s after %s: %s", change.Status, time.Since(begun).Round(10*time.Millisecond), change.Reason)
	info, lookup := s.Registry.Server(s.ctx, name)
	if lookup != nil {
		return lookup
	}
	s.printf("  the record says %s, the server listens at %s", info.ConnectionURL, s.servers[name].URL())
	if info.ConnectionURL != s.servers[name].URL() {
		return errors.New("the record is wrong")
	}
	return err
}

func (s *story) play() error {
	first := s.servers["server01"]
	s.printf("server01 gets another address, and is found there:")
	if err := s.move("server01", spare(1)+"/8"); err != nil {
		return err
	}
	if err := s.poll("server01"); err != nil {
		return err
	}
	s.printf("\nserver01 gets an unreachable one, as with a typo, or a cable in the wrong port:")
	dark := spare(2)
	first.KillAddress(dark, true)
	if err := s.move("server01", dark+"/8"); !errors.Is(err, system.ErrRolledBack) {
		return fmt.Errorf("the server was to undo it: %w", err)
	}

	if err := incusostest.Cluster(first, s.servers["server02"], s.servers["server03"]); err != nil {
		return err
	}
	names := []string{"server01", "server02", "server03"}
	if _, err := s.Registry.CreateCluster(s.ctx, "c1", opscenter.ClusterSpec{}, names...); err != nil {
		return err
	}
	if err := s.Registry.Write(s.ctx, func(tx *opscenter.Tx) error { return tx.SetClusterCertificate("c1", first.ClusterCertificate().Leaf) }); err != nil {
		return err
	}
	if err := s.poll(names...); err != nil {
		return err
	}
	s.printf("\nAll members of cluster c1 get VLAN 300 on inst0, one after another:")
	batch, err := s.Systems.EditClusterNetwork(s.ctx, "c1", network.Edit{Interface: "inst0", AddVLANTags: []int{300}}, system.ApplyOptions{})
	if err != nil {
		return err
	}
	s.tell(batch)
	if err := s.poll(names...); err != nil {
		return err
	}
	s.printf("\nAll get other addresses, and that of server02 is a bad one:")
	configs := map[string]*network.Config{}
	for i, name := range names {
		current, err := s.Systems.Network(s.ctx, name)
		if err != nil {
			return err
		}
		address := spare(10 + i)
		current.Config.Interfaces[0].Addresses = []string{address + "/8"}
		s.servers[name].KillAddress(address, name == "server02")
		configs[name] = current.Config
	}
	batch, err = s.Systems.ApplyClusterNetwork(s.ctx, "c1", configs, system.ApplyOptions{})
	if !errors.Is(err, system.ErrRolledBack) {
		return fmt.Errorf("server02 was to undo it: %w", err)
	}
	s.tell(batch)
	return s.poll(names...)
}

func (s *story) tell(batch *system.Batch) {
	for _, member := range batch.Members {
		status := member.Status
		if status == "" {
			status = "left untouched"
		}
		s.printf("  %s: %s", member.Server, status)
	}
}

// spare returns a loopback address without a listener, of this process.
func spare(n int) string {
	return fmt.Sprintf("127.%d.%d.%d", 220+os.Getpid()>>8%20, os.Getpid()%250+1, n+1)
}
