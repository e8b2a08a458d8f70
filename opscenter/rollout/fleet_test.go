package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/storage"
)

// fleet is a fleet of simulated servers in the virtual time of a test, in which their actions take time. It is the
// actuator of the planner, and the poller of the manager.
type fleet struct {
	mu       sync.Mutex
	registry *opscenter.Registry
	servers  map[string]*machine // by name
	takes    map[lifecycle.Action]time.Duration
	calls    []string
	fails    map[string]error // by "action name", once
	before   func(call string) error
}

// machine is a server.
type machine struct {
	name, version, staged, app string
	offered                    string
	evacuated                  bool
	bootedAt                   time.Time
	down                       bool
	dead                       bool // does not come back
	reboots                    int
	running                    []lifecycle.Instance
	alone                      bool
	failing                    string // update status of a server that makes no update; empty: it makes updates
	checked                    time.Time
}

const (
	oldVersion = "202610010000"
	newVersion = "202610150000"
)

func newFleet() *fleet {
	return &fleet{servers: map[string]*machine{}, fails: map[string]error{},
		takes: map[lifecycle.Action]time.Duration{lifecycle.ActionUpdate: 2 * time.Minute, lifecycle.ActionEvacuate: 5 * time.Minute, lifecycle.ActionReboot: 3 * time.Minute, lifecycle.ActionRestore: 4 * time.Minute}}
}

var (
	identities   []*selfIdentity
	identitiesMu sync.Mutex
)

type selfIdentity struct{ registration opscenter.Registration }

// identity returns a registration with the n-th certificate. All tests share the certificates.
func identity(t testing.TB, n int) opscenter.Registration {
	identitiesMu.Lock()
	defer identitiesMu.Unlock()
	for len(identities) <= n {
		made, err := selfsigned.New(fmt.Sprint("machine ", len(identities)))
		require.NoError(t, err)
		identities = append(identities, &selfIdentity{opscenter.Registration{Certificate: made.Leaf}})
	}
	return identities[n].registration
}

// register registers servers with the registry of the fleet. cluster is the name of their cluster; empty: none.
func (f *fleet) register(t testing.TB, cluster string, names ...string) {
	ctx := context.Background()
	token, err := f.registry.CreateToken(ctx, opscenter.TokenSpec{Uses: int64(len(names)), ExpireAt: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	for _, name := range names {
		registration := identity(t, len(f.servers))
		registration.Token, registration.Name, registration.ConnectionURL = token.UUID, name, "https://127.0.0.1:8443"
		_, err := f.registry.Register(ctx, registration)
		require.NoError(t, err)
		f.servers[name] = &machine{name: name, version: oldVersion, app: oldVersion, offered: newVersion, bootedAt: time.Now().Add(-time.Hour), alone: cluster == ""}
		_, err = f.Poll(ctx, name)
		require.NoError(t, err)
	}
	if cluster != "" {
		_, err := f.registry.CreateCluster(ctx, cluster, opscenter.ClusterSpec{}, names...)
		require.NoError(t, err)
		for _, name := range names {
			_, err = f.Poll(ctx, name)
			require.NoError(t, err)
		}
	}
}

func (f *fleet) Poll(ctx context.Context, name string) (lifecycle.Observation, error) {
	return f.poll(ctx, f.registry, name)
}

// polls polls for one of several registries over one store.
type polls struct {
	*fleet
	registry *opscenter.Registry
}

func (p polls) Poll(ctx context.Context, name string) (lifecycle.Observation, error) {
	return p.poll(ctx, p.registry, name)
}

func (f *fleet) poll(ctx context.Context, registry *opscenter.Registry, name string) (lifecycle.Observation, error) {
	info, err := registry.Server(ctx, name)
	if err != nil {
		return lifecycle.Observation{}, err
	}
	f.mu.Lock()
	m := f.servers[name]
	o := lifecycle.Observation{Server: name, ID: info.ID, At: time.Now().UTC(), Ready: true}
	if m.down {
		o.Ready = false
		o.Failure = &lifecycle.Failure{Kind: lifecycle.FailureConnect, Message: "connection refused"}
	} else {
		kind, maintenance, member := lifecycle.TypeIncus, lifecycle.NotInMaintenance, name
		if m.evacuated {
			maintenance = lifecycle.MaintenanceEvacuated
		}
		if m.alone {
			member = ""
		}
		o.Type, o.Maintenance, o.MemberName, o.BootedAt = &kind, &maintenance, &member, m.bootedAt
		o.Versions = &lifecycle.Versions{OS: lifecycle.OSVersion{Name: lifecycle.OSName, Version: m.version, VersionNext: m.staged, NeedsReboot: m.staged != ""},
			Applications: []lifecycle.ApplicationVersion{{Name: "incus", Version: m.app, Primary: true}}, UpdateChannel: "stable"}
		if m.failing != "" {
			o.UpdateStatus = &lifecycle.UpdateStatus{Status: m.failing, LastCheck: m.checked}
		}
	}
	f.mu.Unlock()
	return o, registry.Observer().Record(ctx, o)
}

// server returns a copy of a server.
func (f *fleet) server(name string) machine {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *f.servers[name]
}

// all returns copies of all servers.
func (f *fleet) all() (out []machine) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.servers {
		out = append(out, *m)
	}
	return out
}

// call notes a call. It returns the error of fails for that call, once.
func (f *fleet) call(action lifecycle.Action, name string) (*machine, error) {
	call := string(action) + " " + name
	if f.before != nil {
		if err := f.before(call); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
	if err := f.fails[call]; err != nil {
		delete(f.fails, call)
		return nil, err
	}
	m := f.servers[name]
	if m.down {
		return nil, errors.New("connection refused")
	}
	return m, nil
}

// later calls do after a time, even if the caller of the action has given up.
func (f *fleet) later(d time.Duration, do func()) {
	time.AfterFunc(d, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		do()
	})
}

func (f *fleet) Update(_ context.Context, t opscenter.Target) error {
	m, err := f.call(lifecycle.ActionUpdate, t.Name)
	if err == nil && m.failing != "" {
		f.later(time.Second, func() { m.checked = time.Now() })
	} else if err == nil {
		f.later(f.takes[lifecycle.ActionUpdate], func() {
			m.app = m.offered
			if m.version != m.offered {
				m.staged = m.offered
			}
		})
	}
	return err
}

func (f *fleet) wait(ctx context.Context, d time.Duration, do func()) error {
	f.later(d, do)
	select {
	case <-time.After(d + time.Second):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", opscenter.ErrOutcomeUnknown, ctx.Err())
	}
}

func (f *fleet) Evacuate(ctx context.Context, t opscenter.Target, _ string) error {
	m, err := f.call(lifecycle.ActionEvacuate, t.Name)
	if err != nil || m.is(&f.mu, &m.evacuated) {
		return err
	}
	return f.wait(ctx, f.takes[lifecycle.ActionEvacuate], func() { m.evacuated = true })
}

func (m *machine) is(mu *sync.Mutex, flag *bool) bool {
	mu.Lock()
	defer mu.Unlock()
	return *flag
}

func (f *fleet) Restore(ctx context.Context, t opscenter.Target, _ string) error {
	m, err := f.call(lifecycle.ActionRestore, t.Name)
	if err != nil || !m.is(&f.mu, &m.evacuated) {
		return err
	}
	return f.wait(ctx, f.takes[lifecycle.ActionRestore], func() { m.evacuated = false })
}

func (f *fleet) Reboot(_ context.Context, t opscenter.Target) error {
	m, err := f.call(lifecycle.ActionReboot, t.Name)
	if err != nil {
		return err
	}
	f.mu.Lock()
	m.down = true
	m.reboots++
	dead := m.dead
	f.mu.Unlock()
	if !dead {
		f.later(f.takes[lifecycle.ActionReboot], func() {
			m.down, m.bootedAt = false, time.Now()
			if m.staged != "" {
				m.version, m.staged = m.staged, ""
			}
		})
	}
	return nil
}

func (f *fleet) PowerOff(_ context.Context, t opscenter.Target) error {
	m, err := f.call(lifecycle.ActionPowerOff, t.Name)
	if err == nil {
		f.mu.Lock()
		m.down = true
		f.mu.Unlock()
	}
	return err
}
func (f *fleet) Suspend(_ context.Context, t opscenter.Target) error {
	m, err := f.call(lifecycle.ActionSuspend, t.Name)
	if err == nil {
		f.mu.Lock()
		m.down = true
		f.mu.Unlock()
	}
	return err
}

func (f *fleet) RunningInstances(_ context.Context, t opscenter.Target) ([]lifecycle.Instance, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]lifecycle.Instance(nil), f.servers[t.Name].running...), nil
}

func (f *fleet) StopInstance(_ context.Context, t opscenter.Target, i lifecycle.Instance) error {
	m, err := f.call("stop", t.Name)
	if err == nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		for k, other := range m.running {
			if other == i {
				m.running = append(m.running[:k:k], m.running[k+1:]...)
			}
		}
	}
	return err
}

func (f *fleet) StartInstance(_ context.Context, t opscenter.Target, i lifecycle.Instance) error {
	m, err := f.call("start", t.Name)
	if err == nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		m.running = append(m.running, i)
	}
	return err
}

// called returns all calls so far.
func (f *fleet) called() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.calls...)
}

// open returns a manager with a registry over a store.
func (f *fleet) open(t testing.TB, store storage.Store, options rollout.Options) *rollout.Manager {
	registry, err := opscenter.NewRegistry(store, opscenter.Options{})
	require.NoError(t, err)
	f.registry = registry
	options.Poller = polls{f, registry}
	manager, err := rollout.New(opscenter.NewUpdatePlanner(registry, f), options)
	require.NoError(t, err)
	return manager
}
