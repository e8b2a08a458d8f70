package system_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/internal/mortal"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

// mortalOS is the OS of a controller that the test can kill.
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

func (m mortalOS) FactoryReset(ctx context.Context, t opscenter.Target, body []byte) error {
	return m.fate.Call(ctx, func(ctx context.Context) error { return m.Client.FactoryReset(ctx, t, body) })
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

// Look is no kill point: it changes nothing, and each change calls it many times.
func (m mortalOS) Look(ctx context.Context, t opscenter.Target) (*system.Probe, error) {
	if m.fate.IsDead() {
		return nil, mortal.ErrDead
	}
	return m.Client.Look(ctx, t)
}

// site is a store on disk and servers over real TLS. They outlive the controllers.
type site struct {
	scene   scene
	dir     string
	own     func() (*incusos.Client, error)
	servers []*incusostest.Server
	hosts   []string
	fate    *mortal.Fate
	ready   bool

	identity   tls.Certificate
	endpoint   *http.Server // where servers register with the living controller
	url        string
	alive      atomic.Pointer[liveHandler]
	interfered bool
}

// liveHandler is the HTTP handler of a controller that is alive.
type liveHandler struct {
	http.Handler
	fate *mortal.Fate
}

// ServeHTTP answers for the controller. If the controller dies meanwhile, the answer is lost.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l := s.alive.Load()
	if l == nil {
		panic(http.ErrAbortHandler)
	}
	answer := httptest.NewRecorder()
	l.ServeHTTP(answer, r)
	if l.fate.IsDead() {
		panic(http.ErrAbortHandler)
	}
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

func newSite(s scene) (*site, error) {
	dir, err := os.MkdirTemp("", "system")
	if err != nil {
		return nil, err
	}
	identity, err := selfsigned.New("control-plane", "127.0.0.1")
	if err != nil {
		return nil, err
	}
	out := &site{scene: s, dir: dir, identity: identity, own: func() (*incusos.Client, error) {
		return incusos.New(incusos.Options{Certificate: &identity, Timeout: 2 * time.Second}), nil
	}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	out.url = "https://" + listener.Addr().String()
	out.endpoint = httpapi.NewServer(out, httpapi.TLSConfig(identity), nil)
	go func() { _ = out.endpoint.ServeTLS(listener, "", "") }()
	names := []string{"a"}
	if s.cluster {
		names = []string{"a", "b"}
	}
	for _, name := range names {
		server, err := incusostest.New(incusostest.Options{Name: name, Standalone: !s.cluster})
		if err != nil {
			return nil, err
		}
		server.Trust(identity.Leaf)
		host := unusedAddress()
		server.KillAddress(host, s.dark)
		out.servers, out.hosts = append(out.servers, server), append(out.hosts, host)
	}
	if s.cluster {
		return out, incusostest.Cluster(out.servers...)
	}
	return out, nil
}

func (s *site) close() {
	for _, server := range s.servers {
		server.Close()
	}
	s.endpoint.Close()
	os.RemoveAll(s.dir)
}

// control runs a controller until all work has ended, or it is killed. The first controller starts the scene's change.
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
	registry, err := opscenter.NewRegistry(mortal.Store{Store: store, Fate: f}, opscenter.Options{FlapThreshold: -1, GuardShare: -1, RebootTimeout: 2 * time.Second})
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
	options := withShortTimes(system.Options{LeaveUpdates: !s.scene.managed, Audit: log, SettleTimeout: 300 * time.Millisecond,
		Provider: system.Provider{ServerURL: s.url, Certificate: s.identity.Leaf}}).PutBackWithin(300 * time.Millisecond)
	m, err := system.New(registry, mortalOS{client, f}, options)
	if err != nil {
		return err
	}
	handler, err := httpapi.New(registry, httpapi.Options{ClientCertificate: s.identity.Leaf, FailuresPerMinute: -1})
	if err != nil {
		return err
	}
	s.alive.Store(&liveHandler{handler, f})
	defer s.alive.Store(nil)
	c := &controller{site: s, registry: registry, polls: polls, systems: m, client: client, log: log}
	begin := !s.ready
	if begin {
		if err := c.prepare(ctx); err != nil {
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
	if begin && s.scene.change != nil {
		dying, die := context.WithCancel(ctx)
		go func() {
			select {
			case <-f.Dead():
				die()
			case <-dying.Done():
			}
		}()
		err = s.scene.change(dying, c)
		die()
		if f.IsDead() {
			return mortal.ErrDead
		}
		if want := system.ErrRolledBack; s.scene.dark != errors.Is(err, want) || !s.scene.dark && err != nil {
			return fmt.Errorf("the change ended with: %w", err)
		}
	}
	for {
		open, err := c.over(ctx)
		switch {
		case f.IsDead():
			return mortal.ErrDead
		case err != nil:
			return err
		case open == "":
			return c.check(ctx)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", ctx.Err(), open)
		}
	}
}

func (c *controller) prepare(ctx context.Context) error {
	s := c.site
	token, err := c.registry.CreateToken(ctx, opscenter.TokenSpec{Uses: 3})
	if err != nil {
		return err
	}
	for _, server := range s.servers {
		_, err := c.registry.Register(ctx, opscenter.Registration{Token: token.UUID, Certificate: server.Certificate(), Name: server.Name(), ConnectionURL: server.URL(), MachineID: server.MachineID(), SystemUUID: server.SystemUUID()})
		if err != nil {
			return err
		}
	}
	if s.scene.cluster {
		if _, err := c.registry.CreateCluster(ctx, "c1", opscenter.ClusterSpec{}, "a", "b"); err != nil {
			return err
		}
		if err := c.registry.Write(ctx, func(tx *opscenter.Tx) error {
			return tx.SetClusterCertificate("c1", s.servers[0].ClusterCertificate().Leaf)
		}); err != nil {
			return err
		}
	}
	return c.poll(ctx)
}

func (c *controller) poll(ctx context.Context) error {
	for _, server := range c.site.servers {
		o, err := c.polls.Poll(ctx, server.Name())
		if err != nil {
			return err
		}
		if o.Failure != nil {
			return fmt.Errorf("%s at %s: %s", server.Name(), server.URL(), o.Failure.Message)
		}
	}
	return nil
}

// over describes the work that has not ended; empty: all has.
func (c *controller) over(ctx context.Context) (string, error) {
	if c.site.scene.open != nil {
		if open, err := c.site.scene.open(ctx, c); err != nil || open != "" {
			return open, err
		}
	}
	list, err := c.systems.Changes(ctx, "", "", 10)
	if err != nil {
		return "", err
	}
	for _, change := range list {
		if !change.Status.Final() {
			return fmt.Sprintf("%+v", *change), nil
		}
	}
	whole, err := c.systems.Batches(ctx, "", 10)
	if err != nil {
		return "", err
	}
	for _, b := range whole {
		if b.EndedAt.IsZero() {
			return fmt.Sprintf("%+v", *b), nil
		}
	}
	page, err := c.log.List(ctx, audit.Query{})
	if err != nil {
		return "", err
	}
	for _, e := range page.Entries {
		if e.Outcome == audit.UnderWay {
			return fmt.Sprintf("an audit entry is under way: %+v", e), nil
		}
	}
	return "", nil
}

// check compares the stored state with the servers.
func (c *controller) check(ctx context.Context) error {
	if err := c.poll(ctx); err != nil {
		return err
	}
	for i, server := range c.site.servers {
		info, err := c.registry.Server(ctx, server.Name())
		if err != nil {
			return err
		}
		var wrong []string
		if info.ConnectionURL != server.URL() {
			wrong = append(wrong, fmt.Sprintf("the record says %s, the server is at %s", info.ConnectionURL, server.URL()))
		}
		if server.NetworkPending() {
			wrong = append(wrong, "a change is pending")
		}
		if info.State.Operation != nil || info.State.Status != lifecycle.StatusReady || info.State.StatusDetail != lifecycle.DetailNone {
			wrong = append(wrong, fmt.Sprintf("the server is %s (%s), with operation %v", info.State.Status, info.State.StatusDetail, info.State.Operation))
		}
		differs, err := c.compare(ctx, i)
		if wrong = append(wrong, differs...); err != nil || len(wrong) > 0 {
			return errors.Join(err, fmt.Errorf("%s: %q", server.Name(), wrong))
		}
		err = c.registry.Read(ctx, func(snapshot *opscenter.Snapshot) error {
			for unit, cluster := range map[string]bool{info.ID: false, "c1": true} {
				if claim, err := snapshot.ClaimOf(unit, cluster); err != nil || claim != nil {
					return fmt.Errorf("%s is still reserved: %+v, %w", unit, claim, err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if whole, err := c.systems.Batches(ctx, "", 1); err == nil && len(whole) == 1 && whole[0].Failed == "" {
		for _, member := range whole[0].Members {
			if member.Status != system.StatusDone {
				return fmt.Errorf("the batch is done, but its members are %+v", whole[0].Members)
			}
		}
	}
	return nil
}

// compare returns the differences between the stored changes of a server and its configuration.
func (c *controller) compare(ctx context.Context, i int) (wrong []string, err error) {
	s := c.site.scene
	if s.changed == nil {
		return nil, nil
	}
	list, err := c.systems.Changes(ctx, c.site.servers[i].Name(), "", 10)
	if err != nil {
		return nil, err
	}
	changed, err := s.changed(ctx, c, i)
	if err != nil {
		return nil, err
	}
	for _, change := range list {
		if done := change.Status == system.StatusDone; done != changed {
			wrong = append(wrong, fmt.Sprintf("its change is %s (%s), but changed is %t", change.Status, change.Reason, changed))
		}
	}
	if changed && (len(list) != 1 || s.dark) {
		wrong = append(wrong, fmt.Sprintf("the server has changed, with %d stored changes", len(list)))
	}
	return wrong, nil
}

// TestCrashes kills the controller before and after each write and each call of each scene, and starts another one.
// The stored outcome then matches the server, and no claim, token or open entry is left.
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
							return nil // this run had fewer writes or calls
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
