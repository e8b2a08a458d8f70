// Rollingupdate updates clusters of simulated IncusOS servers, one member after the other:
// it prints the plan, carries it out with a line of progress per cluster, and stays where it
// is when something goes wrong. Killed at any moment, and run again with the same -data, it
// goes on where it was; so do the servers, which keep their own state there.
//
//	go run ./examples/rollingupdate
//	go run ./examples/rollingupdate -plan
//	go run ./examples/rollingupdate -data /tmp/fleet -fault reboot-never-returns
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/controlplane"
	"github.com/opscenter-go/sdk/opscenter/devcert"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/opscenter/terminal"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

const (
	oldVersion = "202610010000"
	newVersion = "202610150000"

	rebootTimeout = 5 * time.Second // of servers that reboot in a fraction of that
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], terminal.Safe(os.Stdout)); err != nil {
		fmt.Fprintln(terminal.Safe(os.Stderr), "rollingupdate:", err)
		os.Exit(1)
	}
}

type config struct {
	clusters, members int
	data              string
	fault             incusostest.Trouble
	plan              bool
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	var c config
	flags := flag.NewFlagSet("rollingupdate", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.IntVar(&c.clusters, "clusters", 3, "how many clusters there are")
	flags.IntVar(&c.members, "members", 3, "how many members each has")
	flags.StringVar(&c.data, "data", "", "directory of the store and the servers' state; default: a temporary one")
	fault := flags.String("fault", "", fmt.Sprintf("what goes wrong with the second member of the first cluster: %v", incusostest.Troubles))
	flags.BoolVar(&c.plan, "plan", false, "show the plan, and do nothing")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if c.clusters < 1 || c.members < 1 {
		return fmt.Errorf("-clusters is %d and -members is %d: at least 1 is wanted", c.clusters, c.members)
	}
	if c.fault = incusostest.Trouble(*fault); c.fault != "" && !slices.Contains(incusostest.Troubles, c.fault) {
		return fmt.Errorf("-fault %q, known are %q", *fault, incusostest.Troubles)
	}
	if c.data == "" {
		if c.data, err = os.MkdirTemp("", "rollingupdate"); err != nil {
			return err
		}
		defer os.RemoveAll(c.data)
	}
	return operate(ctx, c, out)
}

// plane is the control plane, beside the publisher of its updates.
type plane struct {
	*controlplane.ControlPlane
	publisher *incusostest.Publisher
	url       string // of the endpoint for servers
}

func operate(ctx context.Context, c config, out io.Writer) (err error) {
	servers, err := boot(c)
	defer func() {
		for _, members := range servers {
			for _, s := range members {
				s.Close()
			}
		}
	}()
	if err != nil {
		return err
	}
	identity, err := devcert.Load(c.data, "client", "127.0.0.1")
	if err != nil {
		return err
	}
	store, err := badgerstore.Open(filepath.Join(c.data, "store"), badgerstore.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	p := &plane{}
	if p.publisher, err = incusostest.NewPublisher(); err == nil {
		err = p.publisher.Start()
	}
	if err != nil {
		return err
	}
	defer p.publisher.Close()
	p.ControlPlane, err = controlplane.New(store, identity, controlplane.Options{UpdatesDir: filepath.Join(c.data, "updates"),
		Updates:  updates.Options{Settings: &updates.Settings{Source: p.publisher.URL()}, Trust: updates.Trust{Root: p.publisher.Root()}},
		Registry: opscenter.Options{RebootTimeout: rebootTimeout},
		Rollouts: rollout.Options{PollInterval: 100 * time.Millisecond, Lease: 2 * time.Second},
		HTTP:     httpapi.Options{FailuresPerMinute: -1}})
	if err != nil {
		return err
	}
	defer p.Close()
	stop, err := p.serve()
	if err != nil {
		return err
	}
	defer stop()
	if err := p.register(ctx, servers, identity); err != nil {
		return err
	}
	return p.update(ctx, c, out)
}

// serve starts the endpoint for servers. The control plane runs later: a plan is to be seen before a rollout goes on.
func (p *plane) serve() (stop func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p.url = "https://" + listener.Addr().String()
	web := httpapi.NewServer(p.Handler(), p.TLSConfig(), nil)
	ended := make(chan error, 1)
	go func() { ended <- web.ServeTLS(listener, "", "") }()
	return func() {
		web.Close()
		<-ended
	}, nil
}

// publish publishes a release, and fetches it.
func (p *plane) publish(ctx context.Context, version string) error {
	if err := p.publisher.Publish(incusostest.Release{Version: version, Applications: []string{"incus"}}); err != nil {
		return err
	}
	return p.Updates.Refresh(ctx, updates.RefreshOptions{})
}

// boot boots the servers, as new or as they were.
func boot(c config) (servers [][]*incusostest.Server, err error) {
	state := filepath.Join(c.data, "servers")
	if err := os.MkdirAll(state, 0o700); err != nil {
		return nil, err
	}
	for i := range c.clusters {
		servers = append(servers, nil)
		for k := range c.members {
			s, err := incusostest.New(incusostest.Options{Name: fmt.Sprintf("c%d-m%d", i+1, k+1), Version: oldVersion, Fresh: true, StateDir: state,
				UpdateDelay: 150 * time.Millisecond, RebootDelay: 200 * time.Millisecond, EvacuateDelay: 200 * time.Millisecond})
			if err != nil {
				return servers, err
			}
			servers[i] = append(servers[i], s)
		}
		if err := incusostest.Cluster(servers[i]...); err != nil {
			return servers, err
		}
		if len(servers[i][0].Instances()) == 0 {
			for _, s := range servers[i] {
				s.AddInstance("default", "web-"+s.Name(), true)
			}
		}
	}
	if c.fault != "" {
		servers[0][min(1, c.members-1)].SetTrouble(c.fault)
	}
	return servers, nil
}

// register has the servers install and register themselves, unless they have, and publishes an update for them.
func (p *plane) register(ctx context.Context, servers [][]*incusostest.Server, identity tls.Certificate) error {
	token, err := p.Registry.CreateToken(ctx, opscenter.TokenSpec{Description: "simulated servers", Uses: int64(len(servers) * len(servers[0]))})
	if err != nil {
		return err
	}
	if err := p.publish(ctx, oldVersion); err != nil {
		return err
	}
	for i, members := range servers {
		cluster := fmt.Sprintf("c%d", i+1)
		var names []string
		for _, s := range members {
			if err := s.Install(ctx, incusostest.Provider{ServerURL: p.url, Token: token.UUID, Certificate: identity.Leaf}); err != nil {
				return err
			}
			names = append(names, s.Name())
		}
		_, err := p.Registry.CreateCluster(ctx, cluster, opscenter.ClusterSpec{}, names...)
		if err != nil && !errors.Is(err, opscenter.ErrClusterTaken) {
			return err
		}
		if err := p.Registry.Write(ctx, func(tx *opscenter.Tx) error {
			return tx.SetClusterCertificate(cluster, members[0].ClusterCertificate().Leaf)
		}); err != nil {
			return err
		}
		for _, name := range names {
			if _, err := p.Poller.Poll(ctx, name); err != nil {
				return err
			}
		}
	}
	return p.publish(ctx, newVersion)
}

// update shows the plan and carries it out, or goes on with what was begun before.
func (p *plane) update(ctx context.Context, c config, out io.Writer) error {
	page, err := p.Rollouts.List(ctx, "", 1)
	if err != nil {
		return err
	}
	var r *rollout.Rollout
	if len(page.Rollouts) > 0 && !page.Rollouts[0].State.Status.Ended() {
		r = page.Rollouts[0]
		fmt.Fprintf(out, "Going on with rollout %s, %d of %d steps are done.\n", r.ID, r.State.StepsDone, r.State.Steps)
		if r.State.Status == rolling.StatusPaused && !c.plan {
			fmt.Fprintf(out, "It was paused: %s\n", r.State.Reason)
			if err := p.Rollouts.Resume(ctx, r.ID); err != nil {
				return err
			}
		}
	} else {
		plan, err := p.Planner.Plan(ctx, rolling.Selector{All: true}, rolling.Policy{Parallel: c.clusters, RebootTimeout: rebootTimeout,
			StepTimeout: 5 * time.Second, Retries: 1, Backoff: 200 * time.Millisecond, GateTimeout: time.Minute})
		if err != nil {
			return err
		}
		if err := plan.Write(out); err != nil || c.plan {
			return err
		}
		if r, err = p.Rollouts.StartPlan(ctx, plan); err != nil {
			return err
		}
	}
	if c.plan {
		return nil
	}
	return p.carryOut(ctx, r.ID, out)
}

// carryOut runs until the rollout has come to its end, or to a halt.
func (p *plane) carryOut(ctx context.Context, id string, out io.Writer) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error { return p.Run(running) })
	end := errors.New("the rollout has ended")
	var last *rollout.Rollout
	group.Go(func() error {
		shown := map[string]string{}
		for _, err := range p.Rollouts.Watch(running, 0) {
			if err != nil {
				return ignoreStop(err)
			}
			if last, err = p.show(running, id, out, shown); err != nil {
				return err
			}
			if s := last.State.Status; s.Ended() || s == rolling.StatusPaused {
				return end
			}
		}
		return nil
	})
	err := group.Wait()
	switch {
	case !errors.Is(err, end):
		return err
	case last.State.Status == rolling.StatusPaused:
		return fmt.Errorf("paused: %s (run again with the same -data to resume)", last.State.Reason)
	}
	fmt.Fprintf(out, "%s: %d steps in %s.\n", last.State.Status, last.State.StepsDone, last.State.EndedAt.Sub(last.State.StartedAt).Round(10*time.Millisecond))
	return nil
}

func ignoreStop(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// show prints a line for each cluster whose state has changed.
func (p *plane) show(ctx context.Context, id string, out io.Writer, shown map[string]string) (*rollout.Rollout, error) {
	r, err := p.Rollouts.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	units, err := p.Rollouts.Units(ctx, id, 0, opscenter.MaxPageSize)
	if err != nil {
		return nil, err
	}
	for _, u := range units {
		done := 0
		var now []string
		for i := range u.Members {
			for _, d := range u.Members[i].Done {
				if d.Failed == "" {
					done++
				}
			}
			if s := u.Members[i].Step; s != nil {
				now = append(now, fmt.Sprintf("%s of %s", s.Action, u.Members[i].Server))
			}
		}
		text := strings.Join(now, ", ")
		if text == "" && u.Waiting != "" {
			text = "waits for " + u.Waiting
		}
		if u.Failure != nil {
			text = u.Failure.Reason
		}
		total := max(u.Steps, done, 1)
		bar := strings.Repeat("#", 20*done/total) + strings.Repeat(".", 20-20*done/total)
		line := strings.TrimSpace(fmt.Sprintf("%-4s [%s] %2d/%d %-9s %s", u.Name, bar, done, u.Steps, u.Status, text))
		if line != shown[u.Name] {
			shown[u.Name] = line
			fmt.Fprintln(out, line)
		}
	}
	return r, nil
}
