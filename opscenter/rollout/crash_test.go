package rollout_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/internal/mortal"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

// mortalActuator is the actuator of a controller that the test can kill.
type mortalActuator struct {
	opscenter.Actuator
	fate *mortal.Fate
}

func (m mortalActuator) Update(ctx context.Context, t opscenter.Target) error {
	return m.fate.Call(ctx, func(ctx context.Context) error { return m.Actuator.Update(ctx, t) })
}
func (m mortalActuator) Evacuate(ctx context.Context, t opscenter.Target, mode string) error {
	return m.fate.Call(ctx, func(ctx context.Context) error { return m.Actuator.Evacuate(ctx, t, mode) })
}
func (m mortalActuator) Restore(ctx context.Context, t opscenter.Target, mode string) error {
	return m.fate.Call(ctx, func(ctx context.Context) error { return m.Actuator.Restore(ctx, t, mode) })
}
func (m mortalActuator) Reboot(ctx context.Context, t opscenter.Target) error {
	return m.fate.Call(ctx, func(ctx context.Context) error { return m.Actuator.Reboot(ctx, t) })
}
func (m mortalActuator) StopInstance(ctx context.Context, t opscenter.Target, i lifecycle.Instance) error {
	return m.fate.Call(ctx, func(ctx context.Context) error { return m.Actuator.StopInstance(ctx, t, i) })
}
func (m mortalActuator) StartInstance(ctx context.Context, t opscenter.Target, i lifecycle.Instance) error {
	return m.fate.Call(ctx, func(ctx context.Context) error { return m.Actuator.StartInstance(ctx, t, i) })
}

// site is a store on disk and servers over real TLS. They outlive the controllers.
type site struct {
	dir      string
	identity tls.Certificate
	servers  []*incusostest.Server
	rollout  string
	fate     *mortal.Fate // of the last controller
}

func newSite() (*site, error) {
	dir, err := os.MkdirTemp("", "rollout")
	if err != nil {
		return nil, err
	}
	s := &site{dir: dir}
	if s.identity, err = selfsigned.New("control-plane"); err != nil {
		return nil, err
	}
	for _, o := range []incusostest.Options{{Name: "a"}, {Name: "b"}, {Name: "d", Standalone: true}} {
		o.UpdateDelay, o.RebootDelay, o.EvacuateDelay = 5*time.Millisecond, 15*time.Millisecond, 8*time.Millisecond
		server, err := incusostest.New(o)
		if err != nil {
			return nil, err
		}
		server.Trust(s.identity.Leaf)
		server.Offer(newVersion)
		server.AddInstance("default", "on-"+o.Name, true)
		server.AddInstance("default", "off-"+o.Name, false)
		s.servers = append(s.servers, server)
	}
	return s, incusostest.Cluster(s.servers[0], s.servers[1])
}

func (s *site) close() {
	for _, server := range s.servers {
		server.Close()
	}
	os.RemoveAll(s.dir)
}

// control runs a controller until the rollout has ended or is paused, or the controller is killed.
func (s *site) control(kill mortal.Point) (status rolling.Status, err error) {
	store, err := badgerstore.Open(s.dir, badgerstore.Options{MinFree: 1})
	if err != nil {
		return "", err
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	client := incusos.New(incusos.Options{Certificate: &s.identity})
	defer client.Close()
	f := mortal.New() // the controller is not killed during the preparation
	s.fate = f
	registry, err := opscenter.NewRegistry(mortal.Store{Store: store, Fate: f}, opscenter.Options{RebootTimeout: 5 * time.Second, FlapThreshold: -1, GuardShare: -1})
	if err != nil {
		return "", err
	}
	polls, err := poller.New(registry, client, poller.Options{Timeout: 20 * time.Second})
	if err != nil {
		return "", err
	}
	manager, err := rollout.New(opscenter.NewUpdatePlanner(registry, mortalActuator{client, f}), rollout.Options{Poller: polls, PollInterval: 15 * time.Millisecond, Lease: 150 * time.Millisecond})
	if err != nil {
		return "", err
	}
	if s.rollout == "" {
		if err := s.prepare(ctx, registry, polls, manager); err != nil {
			return "", err
		}
	}
	f.Set(kill)
	running, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = manager.Run(running)
	}()
	defer func() {
		stop()
		<-ended
	}()
	for {
		r, err := manager.Get(ctx, s.rollout)
		switch {
		case f.IsDead():
			return "", mortal.ErrDead
		case err != nil:
			return "", err
		case r.State.Status.Ended() || r.State.Status == rolling.StatusPaused:
			return r.State.Status, nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			list, _ := manager.Units(context.Background(), s.rollout, 0, 0)
			for _, u := range list {
				err = errors.Join(err, fmt.Errorf("%s %s: %s %+v", u.Name, u.Status, u.Waiting, u.Members))
			}
			return "", errors.Join(ctx.Err(), err)
		}
	}
}

func (s *site) prepare(ctx context.Context, registry *opscenter.Registry, polls *poller.Poller, manager *rollout.Manager) error {
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
	if _, err := registry.CreateCluster(ctx, "c1", opscenter.ClusterSpec{}, "a", "b"); err != nil {
		return err
	}
	if err := registry.Write(ctx, func(tx *opscenter.Tx) error {
		return tx.SetClusterCertificate("c1", s.servers[0].ClusterCertificate().Leaf)
	}); err != nil {
		return err
	}
	for _, server := range s.servers {
		o, err := polls.Poll(ctx, server.Name())
		if err != nil {
			return err
		}
		if o.Failure != nil {
			return fmt.Errorf("%s: %s", server.Name(), o.Failure.Message)
		}
	}
	if err := registry.Channels().Publish(ctx, "stable", newVersion, "os", "incus"); err != nil {
		return err
	}
	r, err := manager.Start(ctx, everything, rolling.Policy{Backoff: time.Millisecond, RebootTimeout: 5 * time.Second, StepTimeout: 60 * time.Second, Parallel: 2})
	if err == nil {
		s.rollout = r.ID
	}
	return err
}

// check returns an error unless the result is that of an uninterrupted run.
func (s *site) check() error {
	var wrong []string
	for _, server := range s.servers {
		running, staged := server.Version()
		if running != newVersion || staged != "" || server.Reboots() != 1 || server.MemberStatus() != "Online" {
			wrong = append(wrong, fmt.Sprintf("%s: version %s, staged %q, %d reboots, %s", server.Name(), running, staged, server.Reboots(), server.MemberStatus()))
		}
		for _, i := range server.Instances() {
			if i.Running != strings.HasPrefix(i.Name, "on-") || i.Location != i.Name[strings.Index(i.Name, "-")+1:] {
				wrong = append(wrong, fmt.Sprintf("instance %+v", i))
			}
		}
	}
	if wrong != nil {
		return errors.New(strings.Join(wrong, "; "))
	}
	return nil
}

// TestCrashAtEveryStep kills the controller before and after each write to the store and each call to a server. Then
// another controller opens the store and continues. The result is that of an uninterrupted run, and no server
// reboots twice.
func TestCrashAtEveryStep(t *testing.T) {
	whole, err := newSite()
	require.NoError(t, err)
	defer whole.close()
	status, err := whole.control(mortal.Point{})
	require.NoError(t, err)
	require.Equal(t, rolling.StatusDone, status)
	require.NoError(t, whole.check())
	writes, calls := whole.fate.Counts()
	require.Greater(t, writes, 40)
	require.Equal(t, 12, calls)
	points := mortal.Points(writes, calls)
	if testing.Short() || raceEnabled {
		some := points[:0]
		for i, p := range points {
			if i%15 == 0 || p.Call && i%3 == 0 {
				some = append(some, p)
			}
		}
		points = some
	}
	begun := time.Now()
	var group errgroup.Group
	group.SetLimit(4)
	for _, p := range points {
		group.Go(func() error {
			s, err := newSite()
			if err != nil {
				return err
			}
			defer s.close()
			if status, err := s.control(p); !errors.Is(err, mortal.ErrDead) {
				if err == nil && status == rolling.StatusDone {
					return s.check() // this run had fewer writes or calls
				}
				return fmt.Errorf("%s: %s, %w", p, status, err)
			}
			status, err := s.control(mortal.Point{})
			if err != nil || status != rolling.StatusDone {
				return fmt.Errorf("%s, and restarted: %s, %w", p, status, err)
			}
			if err := s.check(); err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	t.Logf("%d writes, %d calls: %d deaths in %s", writes, calls, len(points), time.Since(begun))
}
