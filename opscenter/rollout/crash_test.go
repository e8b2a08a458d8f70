package rollout_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

var errDead = errors.New("the controller is dead")

// fate kills a controller: from some write, or call to a server, on, it does nothing more.
type fate struct {
	mu     sync.Mutex
	writes int // so far
	calls  int
	kill   point
	dead   chan struct{}
	over   bool
}

// point is where a controller dies.
type point struct {
	call   bool // at a call to a server; else at a write
	number int  // from 1; 0: never
	after  bool // it is carried out still
}

func (p point) String() string {
	what, when := "write", "before"
	if p.call {
		what = "call"
	}
	if p.after {
		when = "after"
	}
	return fmt.Sprintf("%s %s %d", when, what, p.number)
}

// step passes a write or a call. It returns whether it is carried out, and whether anybody hears of it.
func (f *fate) step(call bool) (carriedOut, heard bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return false, false
	}
	n := &f.writes
	if call {
		n = &f.calls
	}
	*n++
	if f.kill.call == call && f.kill.number == *n {
		f.over = true
		close(f.dead)
		return f.kill.after, false
	}
	return true, true
}

func (f *fate) isDead() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.over
}

// mortal is a store whose controller can die.
type mortal struct {
	storage.Store
	fate *fate
}

func (m mortal) View(ctx context.Context, fn func(storage.ReadTx) error) error {
	if m.fate.isDead() {
		return errDead
	}
	return m.Store.View(ctx, fn)
}

func (m mortal) Update(ctx context.Context, fn func(storage.WriteTx) error) error {
	wrote := false
	var carriedOut, heard bool
	err := m.Store.Update(ctx, func(tx storage.WriteTx) error {
		counted := &countingTx{WriteTx: tx}
		if m.fate.isDead() {
			return errDead
		}
		if err := fn(counted); err != nil {
			return err
		}
		if !counted.wrote {
			return nil
		}
		if !wrote { // fn may be run again
			wrote = true
			carriedOut, heard = m.fate.step(false)
		}
		if !carriedOut {
			return errDead
		}
		return nil
	})
	if wrote && !heard {
		return errDead
	}
	return err
}

func (m mortal) Watch(ctx context.Context, since uint64, tables ...string) iter.Seq2[storage.Batch, error] {
	return m.Store.Watch(ctx, since, tables...)
}

type countingTx struct {
	storage.WriteTx
	wrote bool
}

func (c *countingTx) Put(t *storage.TableSchema, row any) error {
	c.wrote = true
	return c.WriteTx.Put(t, row)
}

func (c *countingTx) Delete(t *storage.TableSchema, key storage.Key) error {
	c.wrote = true
	return c.WriteTx.Delete(t, key)
}

// mortalActuator is an actuator whose controller can die.
type mortalActuator struct {
	opscenter.Actuator
	fate *fate
}

func (m mortalActuator) do(ctx context.Context, call func(context.Context) error) error {
	carriedOut, heard := m.fate.step(true)
	if carriedOut {
		if !heard {
			ctx = context.WithoutCancel(ctx)
		}
		if err := call(ctx); err != nil && heard {
			return err
		}
	}
	if !heard {
		return errDead
	}
	return nil
}

func (m mortalActuator) Update(ctx context.Context, t opscenter.Target) error {
	return m.do(ctx, func(ctx context.Context) error { return m.Actuator.Update(ctx, t) })
}
func (m mortalActuator) Evacuate(ctx context.Context, t opscenter.Target, mode string) error {
	return m.do(ctx, func(ctx context.Context) error { return m.Actuator.Evacuate(ctx, t, mode) })
}
func (m mortalActuator) Restore(ctx context.Context, t opscenter.Target, mode string) error {
	return m.do(ctx, func(ctx context.Context) error { return m.Actuator.Restore(ctx, t, mode) })
}
func (m mortalActuator) Reboot(ctx context.Context, t opscenter.Target) error {
	return m.do(ctx, func(ctx context.Context) error { return m.Actuator.Reboot(ctx, t) })
}
func (m mortalActuator) StopInstance(ctx context.Context, t opscenter.Target, i opscenter.Instance) error {
	return m.do(ctx, func(ctx context.Context) error { return m.Actuator.StopInstance(ctx, t, i) })
}
func (m mortalActuator) StartInstance(ctx context.Context, t opscenter.Target, i opscenter.Instance) error {
	return m.do(ctx, func(ctx context.Context) error { return m.Actuator.StartInstance(ctx, t, i) })
}

// site is a store on disk, and servers over real TLS, that outlive controllers.
type site struct {
	dir      string
	identity tls.Certificate
	servers  []*incusostest.Server
	rollout  string
	fate     *fate // of the last controller
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

// control runs a controller until the rollout has come to an end or a halt, or it dies.
func (s *site) control(kill point) (status rolling.Status, err error) {
	store, err := badgerstore.Open(s.dir, badgerstore.Options{MinFree: 1})
	if err != nil {
		return "", err
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	client := incusos.New(incusos.Options{Certificate: &s.identity})
	defer client.Close()
	f := &fate{dead: make(chan struct{})} // immortal, until all is prepared
	s.fate = f
	registry, err := opscenter.NewRegistry(mortal{store, f}, opscenter.Options{RebootTimeout: 5 * time.Second, FlapThreshold: -1, GuardShare: -1})
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
	f.mu.Lock()
	f.writes, f.calls, f.kill = 0, 0, kill
	f.mu.Unlock()
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
		case f.isDead():
			return "", errDead
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
	if err := registry.SetClusterCertificate(ctx, "c1", s.servers[0].ClusterCertificate().Leaf); err != nil {
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
	if err := registry.PublishUpdate(ctx, "stable", newVersion, "os", "incus"); err != nil {
		return err
	}
	r, err := manager.Start(ctx, everything, rolling.Policy{Backoff: time.Millisecond, RebootTimeout: 5 * time.Second, StepTimeout: 60 * time.Second, Parallel: 2})
	if err == nil {
		s.rollout = r.ID
	}
	return err
}

// check compares the end with that of a run nobody interrupted.
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

// TestCrashAtEveryStep stops the controller at every write to the store and at every call to a
// server, before it is carried out and after, opens the store again, and goes on: the end is
// that of a run that nobody interrupted, and no server is rebooted twice.
func TestCrashAtEveryStep(t *testing.T) {
	whole, err := newSite()
	require.NoError(t, err)
	defer whole.close()
	status, err := whole.control(point{})
	require.NoError(t, err)
	require.Equal(t, rolling.StatusDone, status)
	require.NoError(t, whole.check())
	writes, calls := whole.fate.writes, whole.fate.calls
	require.Greater(t, writes, 40)
	require.Equal(t, 12, calls)
	var points []point
	for n := 1; n <= writes; n++ {
		points = append(points, point{number: n, after: true}, point{number: n})
	}
	for n := 1; n <= calls; n++ {
		points = append(points, point{call: true, number: n, after: true}, point{call: true, number: n})
	}
	if testing.Short() || raceEnabled {
		some := points[:0]
		for i, p := range points {
			if i%15 == 0 || p.call && i%3 == 0 {
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
			if status, err := s.control(p); !errors.Is(err, errDead) {
				if err == nil && status == rolling.StatusDone {
					return s.check() // there were fewer of them this time
				}
				return fmt.Errorf("%s: %s, %w", p, status, err)
			}
			status, err := s.control(point{})
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
