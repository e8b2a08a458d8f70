package rollout_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage"
)

// instant is the actuator and the prober of simulated servers whose actions end at once.
type instant struct {
	opscenter.Actuator // for the other actions; nil
	mu                 sync.Mutex
	offered            string
	servers            map[string]*machine // by ID
}

func (i *instant) change(t opscenter.Target, do func(*machine)) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	do(i.servers[t.ID])
	return nil
}

func (i *instant) Update(_ context.Context, t opscenter.Target) error {
	return i.change(t, func(m *machine) { m.app, m.staged = i.offered, i.offered })
}

func (i *instant) Evacuate(_ context.Context, t opscenter.Target, _ string) error {
	return i.change(t, func(m *machine) { m.evacuated = true })
}

func (i *instant) Restore(_ context.Context, t opscenter.Target, _ string) error {
	return i.change(t, func(m *machine) { m.evacuated = false })
}

func (i *instant) Reboot(_ context.Context, t opscenter.Target) error {
	return i.change(t, func(m *machine) {
		m.bootedAt = time.Now().UTC()
		if m.staged != "" {
			m.version, m.staged = m.staged, ""
		}
	})
}

func (i *instant) Probe(_ context.Context, t opscenter.Target) lifecycle.Observation {
	i.mu.Lock()
	defer i.mu.Unlock()
	m := i.servers[t.ID]
	kind, maintenance, member := lifecycle.TypeIncus, lifecycle.NotInMaintenance, t.Name
	if m.evacuated {
		maintenance = lifecycle.MaintenanceEvacuated
	}
	return lifecycle.Observation{Server: t.Name, ID: t.ID, At: time.Now().UTC(), Ready: true, Type: &kind, Maintenance: &maintenance, MemberName: &member, BootedAt: m.bootedAt,
		Versions: &lifecycle.Versions{OS: lifecycle.OSVersion{Name: lifecycle.OSName, Version: m.version, VersionNext: m.staged, NeedsReboot: m.staged != ""},
			Applications: []lifecycle.ApplicationVersion{{Name: "incus", Version: m.app, Primary: true}}, UpdateChannel: "stable"}}
}

// fill registers clusters of servers, which are up to date.
func (i *instant) fill(t testing.TB, registry *opscenter.Registry, polls *poller.Poller, clusters, members int) {
	t.Helper()
	key := identity(t, 0).Certificate
	token, err := registry.CreateToken(context.Background(), opscenter.TokenSpec{Uses: int64(clusters * members)})
	if err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	group.SetLimit(64)
	for c := range clusters {
		group.Go(func() error {
			var names []string
			for n := range members {
				number := c*members + n
				name := fmt.Sprintf("server%05d", number)
				certificate := &x509.Certificate{Raw: append(fmt.Appendf(nil, "%08d", number), key.Raw...), PublicKey: key.PublicKey}
				registered, err := registry.Register(context.Background(), opscenter.Registration{Token: token.UUID, Certificate: certificate, Name: name, ConnectionURL: "https://127.0.0.1:8443"})
				if err != nil {
					return err
				}
				info, err := registry.Server(context.Background(), registered.Name)
				if err != nil {
					return err
				}
				i.mu.Lock()
				i.servers[info.ID] = &machine{version: i.offered, app: i.offered, bootedAt: time.Now().Add(-time.Hour).UTC()}
				i.mu.Unlock()
				names = append(names, name)
			}
			if _, err := registry.CreateCluster(context.Background(), fmt.Sprintf("cluster%04d", c), opscenter.ClusterSpec{}, names...); err != nil {
				return err
			}
			for _, name := range names {
				if _, err := polls.Poll(context.Background(), name); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// decisionStore records when Updates that write rows of rollouts were committed.
type decisionStore struct {
	storage.Store
	mu        sync.Mutex
	decisions []time.Time
}

func (s *decisionStore) Update(ctx context.Context, fn func(storage.WriteTx) error) error {
	var tx *decisionTx
	err := s.Store.Update(ctx, func(w storage.WriteTx) error {
		tx = &decisionTx{WriteTx: w}
		return fn(tx)
	})
	if err == nil && tx != nil && tx.decides {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.decisions = append(s.decisions, time.Now())
	}
	return err
}

// take returns the times since the last call.
func (s *decisionStore) take() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.decisions
	s.decisions = nil
	return out
}

// decisionTx records whether a transaction writes rows of rollouts.
type decisionTx struct {
	storage.WriteTx
	decides bool
}

func (t *decisionTx) Put(table *storage.TableSchema, row any) error {
	t.decides = t.decides || strings.HasPrefix(table.Name, "rollout") && table.Name != "rollout_lease"
	return t.WriteTx.Put(table, row)
}
