package system_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/internal/mortal"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

// mortalOS is the API of servers, of a controller that can die.
type mortalOS struct {
	*incusos.Client
	fate *mortal.Fate
}

func (m mortalOS) ReadSystem(ctx context.Context, t opscenter.Target, section string) (out json.RawMessage, err error) {
	err = m.fate.Call(ctx, func(ctx context.Context) (err error) {
		out, err = m.Client.ReadSystem(ctx, t, section)
		return err
	})
	return out, err
}

func (m mortalOS) WriteSystem(ctx context.Context, t opscenter.Target, section string, body []byte) error {
	return m.fate.Call(ctx, func(ctx context.Context) error { return m.Client.WriteSystem(ctx, t, section, body) })
}

func (m mortalOS) ConfirmNetwork(ctx context.Context, t opscenter.Target) error {
	return m.fate.Call(ctx, func(ctx context.Context) error { return m.Client.ConfirmNetwork(ctx, t) })
}

func (m mortalOS) CanConfirmNetwork(ctx context.Context, t opscenter.Target) (can bool, err error) {
	err = m.fate.Call(ctx, func(ctx context.Context) (err error) {
		can, err = m.Client.CanConfirmNetwork(ctx, t)
		return err
	})
	return can, err
}

// Look is no place to die at by itself: it changes nothing, and is done over and over.
func (m mortalOS) Look(ctx context.Context, t opscenter.Target) (*system.Sight, error) {
	if m.fate.IsDead() {
		return nil, mortal.ErrDead
	}
	return m.Client.Look(ctx, t)
}

// scene is what a controller is at when it dies.
type scene struct {
	name string
	// change is what is asked for; hosts are where the servers may be moved.
	change func(ctx context.Context, m *system.Manager, hosts []string) error
	// dark: nobody reaches the new addresses.
	dark bool
}

// A change that is to be confirmed is given time; one that is to be undone is not.
var (
	quickly = system.ApplyOptions{Timeout: 800 * time.Millisecond}
	calmly  = system.ApplyOptions{Timeout: 5 * time.Second}
)

func move(ctx context.Context, m *system.Manager, name, host string, options system.ApplyOptions) error {
	n, err := m.Network(ctx, name)
	if err != nil {
		return err
	}
	n.Config.Interfaces[0].Addresses = []string{host + "/8"}
	_, err = m.ApplyNetwork(ctx, name, n.Config, options)
	return err
}

var scenes = []scene{
	{name: "move", change: func(ctx context.Context, m *system.Manager, hosts []string) error {
		return move(ctx, m, "a", hosts[0], calmly)
	}},
	{name: "locked out", dark: true, change: func(ctx context.Context, m *system.Manager, hosts []string) error {
		return move(ctx, m, "a", hosts[0], quickly)
	}},
	{name: "kernel", change: func(ctx context.Context, m *system.Manager, _ []string) error {
		_, err := m.SetKernel(ctx, "a", system.KernelConfig{BlacklistModules: []string{"floppy"}}, system.SetOptions{})
		return err
	}},
	{name: "cluster", change: func(ctx context.Context, m *system.Manager, _ []string) error {
		_, err := m.EditClusterNetwork(ctx, "c1", network.Edit{Interface: "inst0", AddVLANTags: []int{300}}, calmly)
		return err
	}},
}

// site is a store on disk, and servers over real TLS, that outlive controllers.
type site struct {
	scene   scene
	dir     string
	own     func() (*incusos.Client, error)
	servers []*incusostest.Server
	hosts   []string
	fate    *mortal.Fate
	ready   bool
}

func newSite(s scene) (*site, error) {
	dir, err := os.MkdirTemp("", "system")
	if err != nil {
		return nil, err
	}
	identity, err := selfsigned.New("control-plane")
	if err != nil {
		return nil, err
	}
	out := &site{scene: s, dir: dir, own: func() (*incusos.Client, error) {
		return incusos.New(incusos.Options{Certificate: &identity, Timeout: 2 * time.Second}), nil
	}}
	names := []string{"a"}
	if s.name == "cluster" {
		names = []string{"a", "b"}
	}
	for _, name := range names {
		server, err := incusostest.New(incusostest.Options{Name: name, Standalone: s.name != "cluster"})
		if err != nil {
			return nil, err
		}
		server.Trust(identity.Leaf)
		host := spare()
		server.KillAddress(host, s.dark)
		out.servers, out.hosts = append(out.servers, server), append(out.hosts, host)
	}
	if s.name == "cluster" {
		return out, incusostest.Cluster(out.servers...)
	}
	return out, nil
}

func (s *site) close() {
	for _, server := range s.servers {
		server.Close()
	}
	os.RemoveAll(s.dir)
}

// control runs a controller until all is over, or it dies. The first one begins.
func (s *site) control(kill mortal.Point) (err error) {
	store, err := badgerstore.Open(s.dir, badgerstore.Options{MinFree: 1})
	if err != nil {
		return err
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	client, err := s.own()
	if err != nil {
		return err
	}
	defer client.Close()
	f := mortal.New()
	s.fate = f
	registry, err := opscenter.NewRegistry(mortal.Store{Store: store, Fate: f}, opscenter.Options{FlapThreshold: -1, GuardShare: -1})
	if err != nil {
		return err
	}
	log, err := audit.New(registry, audit.Options{})
	if err != nil {
		return err
	}
	polls, err := poller.New(registry, client, poller.Options{Timeout: 5 * time.Second})
	if err != nil {
		return err
	}
	options := quick(system.Options{LeaveUpdates: true, Audit: log, SettleTimeout: 300 * time.Millisecond})
	m, err := system.New(registry, mortalOS{client, f}, options)
	if err != nil {
		return err
	}
	begin := !s.ready
	if begin {
		if err := s.prepare(ctx, registry, polls); err != nil {
			return err
		}
		s.ready = true
	}
	f.Set(kill)
	running, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = m.Run(running)
	}()
	defer func() {
		stop()
		<-ended
	}()
	if begin {
		dying, die := context.WithCancel(ctx)
		go func() {
			select {
			case <-f.Dead():
				die()
			case <-dying.Done():
			}
		}()
		err = s.scene.change(dying, m, s.hosts)
		die()
		if f.IsDead() {
			return mortal.ErrDead
		}
		if want := system.ErrRolledBack; s.scene.dark != errors.Is(err, want) || !s.scene.dark && err != nil {
			return fmt.Errorf("the change ended with: %w", err)
		}
	}
	for {
		over, err := s.over(ctx, registry, m)
		switch {
		case f.IsDead():
			return mortal.ErrDead
		case err != nil:
			return err
		case over:
			return s.check(ctx, registry, polls, m, log)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			list, _ := m.Changes(context.Background(), "", "", 10)
			for _, c := range list {
				err = errors.Join(err, fmt.Errorf("%+v", *c))
			}
			return errors.Join(ctx.Err(), err)
		}
	}
}

func (s *site) prepare(ctx context.Context, registry *opscenter.Registry, polls *poller.Poller) error {
	token, err := registry.CreateToken(ctx, opscenter.TokenSpec{Uses: 3})
	if err != nil {
		return err
	}
	for _, server := range s.servers {
		_, err := registry.Register(ctx, opscenter.Registration{Token: token.UUID, Certificate: server.Certificate(), Name: server.Name(), ConnectionURL: server.URL(), MachineID: server.MachineID()})
		if err != nil {
			return err
		}
	}
	if s.scene.name == "cluster" {
		if _, err := registry.CreateCluster(ctx, "c1", opscenter.ClusterSpec{}, "a", "b"); err != nil {
			return err
		}
		if err := registry.SetClusterCertificate(ctx, "c1", s.servers[0].ClusterCertificate().Leaf); err != nil {
			return err
		}
	}
	return s.poll(ctx, polls)
}

func (s *site) poll(ctx context.Context, polls *poller.Poller) error {
	for _, server := range s.servers {
		o, err := polls.Poll(ctx, server.Name())
		if err != nil {
			return err
		}
		if o.Failure != nil {
			return fmt.Errorf("%s at %s: %s", server.Name(), server.URL(), o.Failure.Message)
		}
	}
	return nil
}

// over reports whether nothing is open.
func (s *site) over(ctx context.Context, registry *opscenter.Registry, m *system.Manager) (bool, error) {
	list, err := m.Changes(ctx, "", "", 10)
	if err != nil {
		return false, err
	}
	for _, c := range list {
		if !c.Status.Final() {
			return false, nil
		}
	}
	whole, err := m.Batches(ctx, "", 10)
	if err != nil {
		return false, err
	}
	for _, b := range whole {
		if b.EndedAt.IsZero() {
			return false, nil
		}
	}
	return true, nil
}

// check compares what is stored with what the servers are.
func (s *site) check(ctx context.Context, registry *opscenter.Registry, polls *poller.Poller, m *system.Manager, log *audit.Log) error {
	if err := s.poll(ctx, polls); err != nil {
		return err
	}
	for i, server := range s.servers {
		info, err := registry.Server(ctx, server.Name())
		if err != nil {
			return err
		}
		list, err := m.Changes(ctx, server.Name(), "", 10)
		if err != nil {
			return err
		}
		var wrong []string
		if info.ConnectionURL != server.URL() {
			wrong = append(wrong, fmt.Sprintf("its record says %s, it is at %s", info.ConnectionURL, server.URL()))
		}
		if server.NetworkPending() {
			wrong = append(wrong, "a change is pending")
		}
		if info.State.Operation != nil || info.State.Status != opscenter.StatusReady || info.State.StatusDetail != opscenter.DetailNone {
			wrong = append(wrong, fmt.Sprintf("it is %s (%s), with operation %v", info.State.Status, info.State.StatusDetail, info.State.Operation))
		}
		changed := false
		switch s.scene.name {
		case "kernel":
			k, err := m.Kernel(ctx, server.Name())
			if err != nil {
				return err
			}
			changed = len(k.Config.BlacklistModules) == 1
		default:
			n, err := m.Network(ctx, server.Name())
			if err != nil {
				return err
			}
			changed = n.Config.Interfaces[0].Addresses[0] == s.hosts[i]+"/8" || len(n.Config.Interfaces[2].VLANTags) == 3
		}
		for _, c := range list {
			if done := c.Status == system.StatusDone; done != changed {
				wrong = append(wrong, fmt.Sprintf("its change is %s (%s), and that it has changed is %t", c.Status, c.Reason, changed))
			}
		}
		if changed && (len(list) != 1 || s.scene.dark) {
			wrong = append(wrong, fmt.Sprintf("it has changed, with %d changes", len(list)))
		}
		if len(wrong) > 0 {
			return fmt.Errorf("%s: %q", server.Name(), wrong)
		}
		err = registry.Read(ctx, func(snapshot *opscenter.Snapshot) error {
			for unit, cluster := range map[string]bool{info.ID: false, "c1": true} {
				if claim, err := snapshot.ClaimOf(unit, cluster); err != nil || claim != nil {
					return fmt.Errorf("%s is reserved still: %+v, %w", unit, claim, err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	page, err := log.List(ctx, audit.Query{})
	if err != nil {
		return err
	}
	for _, e := range page.Entries {
		if e.Outcome == audit.UnderWay {
			return fmt.Errorf("the audit log has it under way still: %+v", e)
		}
	}
	if whole, err := m.Batches(ctx, "", 1); err == nil && len(whole) == 1 && whole[0].Failed == "" {
		for _, member := range whole[0].Members {
			if member.Status != system.StatusDone {
				return fmt.Errorf("the batch is done, and its members are %+v", whole[0].Members)
			}
		}
	}
	return nil
}

// TestCrashes kills the controller before and after each write and each call of each scene, and
// starts another one: what was begun ends as the server says, and nothing is left over.
func TestCrashes(t *testing.T) {
	for _, scene := range scenes {
		t.Run(scene.name, func(t *testing.T) {
			whole, err := newSite(scene)
			require.NoError(t, err)
			defer whole.close()
			require.NoError(t, whole.control(mortal.Point{}))
			points := mortal.Points(whole.fate.Counts())
			require.NotEmpty(t, points)
			if testing.Short() || raceEnabled {
				some := points[:0]
				for i, p := range points {
					if i%5 == 0 {
						some = append(some, p)
					}
				}
				points = some
			}
			begun := time.Now()
			var group errgroup.Group
			group.SetLimit(8)
			for _, p := range points {
				group.Go(func() error {
					s, err := newSite(scene)
					if err != nil {
						return err
					}
					defer s.close()
					if err := s.control(p); !errors.Is(err, mortal.ErrDead) {
						if err == nil {
							return nil // there were fewer of them this time
						}
						return fmt.Errorf("%s: %w", p, err)
					}
					if err := s.control(mortal.Point{}); err != nil {
						return fmt.Errorf("%s, and restarted: %w", p, err)
					}
					return nil
				})
			}
			require.NoError(t, group.Wait())
			t.Logf("%d deaths in %s", len(points), time.Since(begun))
		})
	}
}
