// Inventory shows what is in an Incus server or cluster, and follows what changes there.
//
//	go run ./examples/inventory                       # with simulated servers
//	go run ./examples/inventory -url https://10.0.0.5:8443 -token "$(incus config trust add -q opscenter)"
//	go run ./examples/inventory -filter 'kind == "instance" and object.status == "Running"' -once
//
// With -token it adopts a real Incus server, or all members of its cluster; with -data it
// keeps its certificate and what it knows there, and needs the token once.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/controlplane"
	"github.com/opscenter-go/sdk/opscenter/devcert"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/opscenter/terminal"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
	"github.com/opscenter-go/sdk/storage/memstore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], terminal.Safe(os.Stdout)); err != nil {
		fmt.Fprintln(terminal.Safe(os.Stderr), "inventory:", err)
		os.Exit(1)
	}
}

type config struct {
	url, token, data, filter string
	once                     bool
	wait                     time.Duration
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	var c config
	flags := flag.NewFlagSet("inventory", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&c.url, "url", "", "URL of an Incus server; default: the addresses in the token")
	flags.StringVar(&c.token, "token", "", "trust token of an Incus server; default: simulated servers are started, unless -data knows some")
	flags.StringVar(&c.data, "data", "", "directory for the store and the certificate; default: in memory")
	flags.StringVar(&c.filter, "filter", "", `expression, as object.config["ipv4.address"] == "10.115.25.1/24"`)
	flags.BoolVar(&c.once, "once", false, "print the tree, and don't follow")
	flags.DurationVar(&c.wait, "wait", 30*time.Second, "how long the first scan may take")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	var store storage.Store = memstore.New()
	identity, err := devcert.New("client")
	if c.data != "" {
		if identity, err = devcert.Load(c.data, "client"); err != nil {
			return err
		}
		if store, err = badgerstore.Open(filepath.Join(c.data, "store"), badgerstore.Options{}); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	// It reads, and changes no settings of servers.
	cp, err := controlplane.New(store, identity, controlplane.Options{Systems: system.Options{LeaveUpdates: true}})
	if err != nil {
		return err
	}
	defer cp.Close()
	stop, err := populate(ctx, c, cp, out)
	defer stop()
	if err != nil {
		return err
	}
	return follow(ctx, c, cp, out)
}

// populate adopts what the flags name, or simulated servers, if the registry is empty.
func populate(ctx context.Context, c config, cp *controlplane.ControlPlane, out io.Writer) (stop func(), err error) {
	stop = func() {}
	if c.token != "" {
		names, err := cp.Client.Adopt(ctx, cp.Registry, c.url, c.token, incusos.AdoptOptions{})
		if err == nil {
			fmt.Fprintf(out, "Adopted %s.\n", strings.Join(names, ", "))
		}
		return stop, err
	}
	if c.url != "" {
		return stop, errors.New("-url wants a -token")
	}
	page, err := cp.Registry.ListServers(ctx, opscenter.ServerFilter{}, opscenter.Page{Limit: 1})
	if err != nil || len(page.Servers) > 0 {
		return stop, err
	}
	var servers []*incusostest.Server
	ending, end := context.WithCancel(ctx)
	var busy errgroup.Group
	stop = func() {
		end()
		_ = busy.Wait()
		for _, s := range servers {
			s.Close()
		}
	}
	for i := range 3 {
		s, err := incusostest.New(incusostest.Options{Name: fmt.Sprintf("sim%d", i+1), Standalone: true})
		if err != nil {
			return stop, err
		}
		servers = append(servers, s)
	}
	if err := incusostest.Cluster(servers[0], servers[1]); err != nil {
		return stop, err
	}
	for i, s := range []*incusostest.Server{servers[0], servers[2]} {
		s.Furnish(30)
		name := []string{"cluster", ""}[i]
		names, err := cp.Client.Adopt(ctx, cp.Registry, "", s.TrustToken("opscenter"), incusos.AdoptOptions{Name: name})
		if err != nil {
			return stop, err
		}
		fmt.Fprintf(out, "Adopted %s (simulated).\n", strings.Join(names, ", "))
	}
	if !c.once {
		busy.Go(func() error { // there is something to see
			for i := 1; ; i++ {
				select {
				case <-time.After(2 * time.Second):
					servers[i%3].AddInstance("default", fmt.Sprintf("new%d", i), true)
				case <-ending.Done():
					return nil
				}
			}
		})
	}
	return stop, nil
}

// follow keeps the inventory, prints the tree when it is there, and what changes from then on.
func follow(ctx context.Context, c config, cp *controlplane.ControlPlane, out io.Writer) error {
	// A wrong filter is found before anything is waited for.
	if _, err := cp.Inventory.List(ctx, inventory.Query{Filter: c.filter, Limit: 1}); err != nil {
		return err
	}
	group, running := errgroup.WithContext(ctx)
	running, stop := context.WithCancel(running)
	group.Go(func() error { return cp.Run(running) })
	group.Go(func() error {
		defer stop()
		return ignoreStop(look(running, c, cp, out))
	})
	return group.Wait()
}

// look prints the tree when it is there, and then what changes, until ctx ends.
func look(ctx context.Context, c config, cp *controlplane.ControlPlane, out io.Writer) error {
	if err := settled(ctx, c.wait, cp); err != nil {
		return err
	}
	last, err := cp.Inventory.LastChange(ctx)
	if err == nil {
		err = tree(ctx, c, cp.Inventory, out)
	}
	if err != nil || c.once {
		return err
	}
	fmt.Fprintln(out, "\nFollowing changes; ctrl-c ends.")
	for change, err := range cp.Inventory.WatchChanges(ctx, last) {
		if err != nil {
			return err
		}
		show(out, &change)
	}
	return nil
}

func ignoreStop(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// settled waits until the inventory of all servers is current.
func settled(ctx context.Context, limit time.Duration, cp *controlplane.ControlPlane) error {
	deadline := time.Now().Add(limit)
	for {
		page, err := cp.Registry.ListServers(ctx, opscenter.ServerFilter{Expression: `server_status == "pending"`}, opscenter.Page{Limit: 1})
		if err != nil {
			return err
		}
		status, err := cp.Inventory.Status(ctx)
		if err != nil {
			return err
		}
		why := "no server has answered"
		current := len(status) > 0 && len(page.Servers) == 0
		for _, s := range status {
			if !s.Following {
				current, why = false, fmt.Sprintf("%s: %s", s.Cluster, s.Failure)
			}
		}
		if current {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the inventory is not current after %s: %s", limit, why)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tree prints what there is, or what of it matches the filter.
func tree(ctx context.Context, c config, objects *inventory.Manager, out io.Writer) error {
	var cluster string
	var kind inventory.Kind
	n := 0
	for o, err := range objects.Objects(ctx, inventory.Query{Filter: c.filter}) {
		if err != nil {
			return err
		}
		if o.Cluster != cluster {
			cluster, kind = o.Cluster, ""
			fmt.Fprintln(out, cluster)
		}
		if o.Kind != kind {
			kind = o.Kind
			fmt.Fprintln(out, "  "+kind.Plural())
		}
		fmt.Fprintln(out, "    "+describe(o.Project, o.Parent, o.Type, o.Name, o.Server))
		n++
	}
	fmt.Fprintf(out, "%d objects\n", n)
	status, err := objects.Status(ctx)
	for _, s := range status {
		fmt.Fprintf(out, "%s: read through %s in %s\n", s.Cluster, s.Server, s.ScanTook.Round(time.Millisecond))
		for kind, why := range s.Skipped {
			fmt.Fprintf(out, "  no %s: %s\n", kind.Plural(), why)
		}
	}
	return err
}

func describe(project, parent, typ, name, server string) string {
	parts := []string{}
	for _, part := range []string{parent, typ} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	text := strings.Join(append(parts, name), "/")
	if project != "" {
		text += " in project " + project
	}
	if server != "" {
		text += " on " + server
	}
	return text
}

func show(out io.Writer, c *inventory.Change) {
	if c.Kind == "" { // a whole cluster
		fmt.Fprintf(out, "%s %s %s\n", c.At.Local().Format(time.TimeOnly), c.Name, c.Action)
		return
	}
	by := ""
	if c.Requestor != "" {
		by = " by " + c.Requestor
	}
	fmt.Fprintf(out, "%s %s %s: %s %s (%s)%s\n", c.At.Local().Format(time.TimeOnly), c.Cluster, c.Action, c.Kind, describe(c.Project, c.Parent, c.Type, c.Name, ""), c.Source, by)
	for _, f := range c.Fields {
		fmt.Fprintf(out, "         %s: %s -> %s\n", f.Path, orNothing(f.From), orNothing(f.To))
	}
}

func orNothing(value []byte) string {
	if len(value) == 0 {
		return "(nothing)"
	}
	return string(value)
}
