// Quickstart tells the whole story in one process: an endpoint with an update feed is started, simulated IncusOS
// servers install themselves from it, register with a token and are polled, an update is published, and one server is
// taken through it by following its recommendations.
//
//	go run ./examples/quickstart [-servers 6] [-data DIR] [-json]
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/controlplane"
	"github.com/opscenter-go/sdk/opscenter/devcert"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/terminal"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
	"github.com/opscenter-go/sdk/storage/memstore"
)

const (
	oldVersion = "202610010000"
	newVersion = "202610150000"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], terminal.Safe(os.Stdout)); err != nil {
		fmt.Fprintln(terminal.Safe(os.Stderr), "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	count := flags.Int("servers", 6, "number of simulated servers, 3 to 500")
	data := flags.String("data", "", "directory of a Badger store; default: in memory")
	asJSON := flags.Bool("json", false, "print JSON")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if *count < 3 || *count > 500 {
		return fmt.Errorf("-servers is %d, 3 to 500 are possible", *count)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	story, err := begin(*data)
	if err != nil {
		return err
	}
	defer story.close()
	story.tell = func(format string, args ...any) {
		if !*asJSON {
			fmt.Fprintf(out, format+"\n", args...)
		}
	}
	// The control plane runs as long as the story, which ends if the control plane fails.
	group, ctx := errgroup.WithContext(ctx)
	running, stop := context.WithCancel(ctx)
	group.Go(func() error { return story.Serve(running, story.listener) })
	group.Go(func() error {
		defer stop()
		return story.play(ctx, *count, *asJSON, out)
	})
	return group.Wait()
}

// story is a control plane, and the servers it looks after.
type story struct {
	*controlplane.ControlPlane
	listener net.Listener
	url      string // of the endpoint for servers
	// publisher publishes signed releases, as the public server of IncusOS does; the feed mirrors them.
	publisher *incusostest.Publisher
	old, new  string // versions
	servers   map[string]*incusostest.Server
	lost      string // the name of the one that becomes unreachable
	tell      func(format string, args ...any)
	closers   []func()
}

// begin starts a publisher of updates, and makes the control plane.
func begin(data string) (s *story, err error) {
	s = &story{servers: map[string]*incusostest.Server{}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	var store storage.Store = memstore.New()
	if data != "" {
		store, err = badgerstore.Open(filepath.Join(data, "store"))
	} else if data, err = os.MkdirTemp("", "quickstart"); err == nil {
		s.closers = append(s.closers, func() { os.RemoveAll(data) })
	}
	if err != nil {
		return s, err
	}
	s.closers = append(s.closers, func() { store.Close() })
	if s.publisher, err = incusostest.NewPublisher(); err != nil {
		return s, err
	}
	if err := s.publisher.Start(); err != nil {
		return s, err
	}
	s.closers = append(s.closers, s.publisher.Close)

	// One certificate for both: what servers see, and what we present to them.
	certificate, err := devcert.New("quickstart", "127.0.0.1")
	if err != nil {
		return s, err
	}
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return s, err
	}
	s.closers = append(s.closers, func() { s.listener.Close() })
	s.url = "https://" + s.listener.Addr().String()
	s.ControlPlane, err = controlplane.New(store, certificate, controlplane.Options{UpdatesDir: filepath.Join(data, "updates"),
		Updates: updates.Options{Settings: &updates.Settings{Source: s.publisher.URL()}, Trust: updates.Trust{Root: s.publisher.Root()}},
		// As in earnest, only quicker.
		Client: incusos.Options{Timeout: 2 * time.Second}, HTTP: httpapi.Options{FailuresPerMinute: -1},
		Poller: poller.Options{Interval: 30 * time.Second, FastInterval: 50 * time.Millisecond, RetryInterval: 100 * time.Millisecond, Timeout: 2 * time.Second}})
	if err != nil {
		return s, err
	}
	s.closers = append(s.closers, func() { s.Close() })
	s.old, s.new = oldVersion, newVersion
	if len(s.Updates.Snapshot().Updates()) > 0 { // of an earlier run
		at := time.Now().UTC()
		s.old, s.new = at.Format("200601021504"), at.Add(time.Minute).Format("200601021504")
	}
	return s, nil
}

// publish publishes a release, and fetches it.
func (s *story) publish(ctx context.Context, version string) error {
	if err := s.publisher.Publish(incusostest.Release{Version: version}); err != nil {
		return err
	}
	return s.Updates.Refresh(ctx, updates.RefreshOptions{})
}

func (s *story) close() {
	for _, server := range s.servers {
		server.Close()
	}
	for i := len(s.closers) - 1; i >= 0; i-- {
		s.closers[i]()
	}
	s.closers = nil
}

// row is a line of the table.
type row struct {
	Name              string `json:"name"`
	Type              string `json:"type"`
	Status            string `json:"status"`
	Version           string `json:"version"`
	NeedsUpdate       bool   `json:"needs_update"`
	NeedsReboot       bool   `json:"needs_reboot"`
	InMaintenance     string `json:"in_maintenance"`
	RecommendedAction string `json:"recommended_action"`
	Why               string `json:"why"`
}

func show(info *opscenter.ServerInfo) row {
	r := info.Recommendation()
	out := row{Name: info.Name, Type: string(info.State.Type), Status: string(info.State.Status), Version: info.State.Versions.OS.Version,
		NeedsUpdate: info.NeedsUpdate(), NeedsReboot: info.NeedsReboot(), InMaintenance: info.State.Maintenance.String(),
		RecommendedAction: string(r.Action), Why: r.Reason}
	if info.State.StatusDetail != "" {
		out.Status += " (" + string(info.State.StatusDetail) + ")"
	}
	if out.RecommendedAction == "" {
		out.RecommendedAction = "none"
	}
	return out
}

// step is one action on the way through the update.
type step struct {
	Server string `json:"server"`
	Action string `json:"action"`
	Why    string `json:"why"`
	Took   string `json:"took"`
}

func (s *story) play(ctx context.Context, count int, asJSON bool, out io.Writer) error {
	token, err := s.Registry.CreateToken(ctx, opscenter.TokenSpec{Description: "quickstart", Uses: int64(count)})
	if err != nil {
		return err
	}
	s.tell("The control plane listens at %s. A token for %d servers is made.", s.url, count)
	if err := s.publish(ctx, s.old); err != nil {
		return err
	}
	s.tell("Release %s is fetched from its publisher, verified, and offered in channel %s.", s.old, "stable")
	hero, err := s.boot(ctx, count, token)
	if err != nil {
		return err
	}
	s.tell("%d simulated servers have booted, fetched their applications, and registered themselves.", count)

	if err := s.publish(ctx, s.new); err != nil {
		return err
	}
	if err := s.settled(ctx, func(info *opscenter.ServerInfo) bool {
		return info.State.Status == lifecycle.StatusReady || info.State.StatusDetail == lifecycle.DetailUnresponsive
	}); err != nil {
		return err
	}
	s.tell("Each has been polled, and update %s is published. This is the fleet:\n", s.new)
	rows, err := s.rows(ctx)
	if err != nil {
		return err
	}
	if !asJSON {
		table(out, rows)
		s.tell("\nNow %s follows its recommendations:", hero)
	}
	steps, err := s.follow(ctx, hero)
	if err != nil {
		return err
	}
	final, err := s.Registry.Server(ctx, hero)
	if err != nil {
		return err
	}
	last := show(final)
	if asJSON {
		return json.NewEncoder(out).Encode(map[string]any{"servers": rows, "steps": steps, "result": last})
	}
	s.tell("  none: %s", last.Why)
	s.tell("%s runs %s now, and is %s.", hero, last.Version, last.Status)
	return nil
}

// boot boots the servers, each of which registers itself, and returns the name of an Incus
// server. One becomes unreachable as soon as it has registered.
func (s *story) boot(ctx context.Context, count int, token *opscenter.Token) (string, error) {
	prefix := ""
	if info, err := s.Registry.ListServers(ctx, opscenter.ServerFilter{}, opscenter.Page{Limit: 1}); err != nil {
		return "", err
	} else if len(info.Servers) > 0 {
		prefix = fmt.Sprintf("run%d-", time.Now().Unix()) // the store has servers of an earlier run
	}
	hero := ""
	for i := range count {
		options := incusostest.Options{Name: fmt.Sprintf("%sserver%02d", prefix, i+1), Version: s.old, Fresh: true,
			UpdateDelay: 300 * time.Millisecond, RebootDelay: 300 * time.Millisecond, EvacuateDelay: 300 * time.Millisecond}
		if i == count-2 {
			options.Application = "migration-manager"
		}
		server, err := incusostest.New(options)
		if err != nil {
			return "", err
		}
		s.servers[server.Name()] = server
		if hero == "" {
			hero = server.Name()
		}
		provider := incusostest.Provider{ServerURL: s.url, Token: token.UUID}
		if err := server.Install(ctx, provider); err != nil {
			return "", err
		}
		if i == count-1 {
			s.lost = server.Name()
			if err := server.SetFault(incusostest.Fault{Kind: incusostest.FaultDown}); err != nil {
				return "", err
			}
			// Whatever the first poll saw: look again.
			if err := server.SelfUpdate(ctx, "network-interface-state-changed"); err != nil {
				return "", err
			}
		}
	}
	return hero, nil
}

// settled waits until all of our servers are as wanted.
func (s *story) settled(ctx context.Context, wanted func(*opscenter.ServerInfo) bool) error {
	return s.watch(ctx, func() (bool, error) {
		ours := 0
		for info, err := range s.Registry.Servers(ctx, opscenter.ServerFilter{}) {
			if err != nil {
				return false, err
			}
			if s.servers[info.Name] == nil {
				continue
			}
			lost := info.Name == s.lost && info.State.StatusDetail != lifecycle.DetailUnresponsive
			if lost || !wanted(info) {
				return false, nil
			}
			ours++
		}
		return ours == len(s.servers), nil
	})
}

// watch waits, by the change feed, until look says that it is done.
func (s *story) watch(ctx context.Context, look func() (bool, error)) error {
	revision, err := s.Registry.Revision(ctx)
	if err != nil {
		return err
	}
	if done, err := look(); err != nil || done {
		return err
	}
	for _, err := range s.Registry.Watch(ctx, revision) {
		if err != nil {
			return err
		}
		if done, err := look(); err != nil || done {
			return err
		}
	}
	return ctx.Err()
}

func (s *story) rows(ctx context.Context) (rows []row, err error) {
	for info, err := range s.Registry.Servers(ctx, opscenter.ServerFilter{}) {
		if err != nil {
			return nil, err
		}
		if s.servers[info.Name] != nil {
			rows = append(rows, show(info))
		}
	}
	return rows, nil
}

// follow does with a server what is recommended, until nothing is.
func (s *story) follow(ctx context.Context, name string) (steps []step, err error) {
	for {
		recommended, err := s.Planner.Recommend(ctx, name)
		if err != nil || recommended.Action == lifecycle.ActionNone {
			return steps, err
		}
		begun := time.Now()
		if err := s.Planner.Act(ctx, name, recommended.Action); err != nil {
			return steps, err
		}
		// Busy until a poll has seen it done.
		err = s.watch(ctx, func() (bool, error) {
			info, err := s.Registry.Server(ctx, name)
			return err == nil && info.State.Status == lifecycle.StatusReady && info.State.Operation == nil, err
		})
		if err != nil {
			return steps, err
		}
		took := time.Since(begun).Round(10 * time.Millisecond).String()
		steps = append(steps, step{Server: name, Action: string(recommended.Action), Why: recommended.Reason, Took: took})
		s.tell("  %s: %s (done in %s)", recommended.Action, recommended.Reason, took)
	}
}

func table(out io.Writer, rows []row) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tTYPE\tSTATUS\tVERSION\tNEEDS UPDATE\tNEEDS REBOOT\tIN MAINTENANCE\tRECOMMENDED ACTION\tWHY")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%t\t%t\t%s\t%s\t%s\n", r.Name, r.Type, r.Status, r.Version, r.NeedsUpdate, r.NeedsReboot, r.InMaintenance, r.RecommendedAction, r.Why)
	}
	w.Flush()
}
