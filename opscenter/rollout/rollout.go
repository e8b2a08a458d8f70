// Package rollout carries out rolling operations over servers and clusters, as package rolling
// decides: updates, reboots, and single actions under the same rules. What is to be done, what
// is under way and what was done is stored, each step before it is carried out: a controller
// that crashes goes on where it was.
//
//	manager, err := rollout.New(planner, rollout.Options{Poller: polls})
//	go manager.Run(ctx)
//	r, err := manager.Start(ctx, rolling.Selector{Clusters: []string{"c1"}}, rolling.Policy{})
package rollout

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/internal/defaults"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/storage"
)

// Defaults of Options.
const (
	DefaultPollInterval = 10 * time.Second
	DefaultLease        = 15 * time.Second
	DefaultMaxHistory   = 100
	DefaultMaxPolls     = 32
	DefaultGateTimeout  = 10 * time.Second
)

// Poller asks a server how it is, and records it; poller.Poller does.
type Poller interface {
	Poll(ctx context.Context, name string) (lifecycle.Observation, error)
}

// Options of New. The zero value is what most programs want, but for the Poller.
type Options struct {
	// Logger gets what goes wrong inside. Default: nothing is logged.
	Logger *slog.Logger
	// Poller is asked for the servers that are being worked on, every PollInterval, at most
	// MaxPolls at a time. Default: polls are requested of whoever follows the registry.
	// PollInterval is 10 seconds by default, MaxPolls 32.
	Poller       Poller
	PollInterval time.Duration
	MaxPolls     int
	// Lease is for how long a controller that is not heard of keeps others from taking over
	// its rollouts. Default 15 seconds.
	Lease time.Duration
	// MaxHistory is how many ended rollouts are kept. Default 100.
	MaxHistory int
	// HealthGate is asked before a server is begun with; an error keeps it from that, until it
	// is gone or rolling.Policy.GateTimeout has passed. unit is the name of the cluster, or of the server in
	// none. It may take GateTimeout, 10 seconds by default.
	HealthGate  func(ctx context.Context, unit string, members []*opscenter.ServerInfo) error
	GateTimeout time.Duration
}

// Errors of Manager, beside those of package opscenter and rolling.
var (
	// ErrRunning: the Manager runs already.
	ErrRunning = errors.New("the manager runs already")
	// ErrStale: what the plan says is not what would happen any more.
	ErrStale = errors.New("the plan is out of date")
	errLease = errors.New("another controller has taken over")
)

// Rollout is a rolling operation, but for its units.
type Rollout struct {
	ID       string
	Selector rolling.Selector
	State    rolling.State
	// RequestedBy is who asked for it.
	RequestedBy string
	// Servers is how many members its units have.
	Servers   int
	CreatedAt time.Time
	// ExpectedEnd is when its plan said that it would end; see Manager.Forecast for how it looks now.
	ExpectedEnd time.Time
	LastUpdated time.Time
}

// What returns what it does, for people.
func (r *Rollout) What() string { return "rollout of goal " + string(r.State.Policy.Goal) }

// Unit is a unit of a rollout.
type Unit struct {
	Rollout string
	Index   int
	rolling.Unit
}

// lease says which controller carries out rollouts. There is one row.
type lease struct {
	Name    string
	Holder  string
	Epoch   uint64 // grows with each holder: what an earlier one began is taken over
	Expires time.Time
	Term    time.Duration // for how long it was given
}

var (
	rollouts = storage.NewTable("rollouts", func(r *Rollout) storage.Key { return storage.StringKey(r.ID) })
	// byEnd has those that have not ended under "", the others under "ended", by when they did.
	byEnd = rollouts.Index("end", func(r *Rollout) []storage.Key {
		if r.State.Status.Ended() {
			return []storage.Key{storage.StringKey("ended").Uint(uint64(max(0, r.State.EndedAt.UnixNano())))}
		}
		return []storage.Key{storage.StringKey("")}
	})
	units = storage.NewTable("rollout_units", func(u *Unit) storage.Key {
		return storage.StringKey(u.Rollout).Uint(uint64(u.Index))
	})
	leases = storage.NewTable("rollout_lease", func(l *lease) storage.Key { return storage.StringKey(l.Name) })
)

// Manager starts rollouts, tells of them, and carries them out while it runs. All methods may
// be called concurrently. Several Managers may share one store: one of them acts.
type Manager struct {
	registry *opscenter.Registry
	planner  *opscenter.UpdatePlanner
	options  Options
	log      *slog.Logger
	holder   string
	changed  chan struct{} // wakes Run
	running  sync.Mutex
}

// New returns a Manager. Nothing is carried out before Run. Errors: opscenter.ErrInvalidOptions.
func New(planner *opscenter.UpdatePlanner, options Options) (*Manager, error) {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	err := defaults.Fill(opscenter.ErrInvalidOptions,
		defaults.Of("PollInterval", &options.PollInterval, DefaultPollInterval), defaults.Of("Lease", &options.Lease, DefaultLease),
		defaults.Of("GateTimeout", &options.GateTimeout, DefaultGateTimeout), defaults.Of("MaxHistory", &options.MaxHistory, DefaultMaxHistory),
		defaults.Of("MaxPolls", &options.MaxPolls, DefaultMaxPolls))
	if err != nil {
		return nil, err
	}
	registry := planner.Registry()
	err = registry.Store().Attach(context.Background(), rollouts.Schema(), units.Schema(), leases.Schema())
	if err != nil {
		return nil, err
	}
	return &Manager{registry: registry, planner: planner, options: options, log: options.Logger, holder: uuid.NewString(), changed: make(chan struct{}, 1)}, nil
}

// Planner returns the planner whose plans are carried out.
func (m *Manager) Planner() *opscenter.UpdatePlanner { return m.planner }

// wake makes Run look again.
func (m *Manager) wake() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

func now() time.Time { return time.Now().UTC().Round(0) }

// find returns a rollout, or ErrNotFound.
func find(tx storage.ReadTx, id string) (*Rollout, error) {
	r, err := rollouts.Find(tx, storage.StringKey(id))
	if err == nil && r == nil {
		err = fmt.Errorf("rollout %.80q: %w", id, opscenter.ErrNotFound)
	}
	return r, err
}

// Get returns a rollout. Errors: opscenter.ErrNotFound.
func (m *Manager) Get(ctx context.Context, id string) (out *Rollout, err error) {
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		r, err := find(s, id)
		if err == nil {
			out = r.clone()
		}
		return err
	})
	return out, err
}

func (r *Rollout) clone() *Rollout {
	out := *r
	out.State = *r.State.Clone()
	return &out
}

// Page is a page of rollouts, the newest first.
type Page struct {
	Rollouts []*Rollout
	// Next is the ID to go on after; empty on the last.
	Next string
}

// List returns rollouts, the newest first, after the one with that ID; limit is
// opscenter.DefaultPageSize by default, at most MaxPageSize.
func (m *Manager) List(ctx context.Context, after string, limit int) (out Page, err error) {
	if limit <= 0 {
		limit = opscenter.DefaultPageSize
	}
	limit = min(limit, opscenter.MaxPageSize)
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		out = Page{}
		within := storage.Range{Reverse: true}
		if after != "" {
			within.After = storage.StringKey(after)
		}
		for r, err := range rollouts.Scan(s, within) {
			if err != nil {
				return err
			}
			if len(out.Rollouts) == limit {
				out.Next = out.Rollouts[limit-1].ID
				break
			}
			out.Rollouts = append(out.Rollouts, r.clone())
		}
		return nil
	})
	return out, err
}

// Units returns the units of a rollout from an index on, with the state of each server and
// what was done with it; limit is as for List. Errors: opscenter.ErrNotFound.
func (m *Manager) Units(ctx context.Context, id string, from, limit int) (out []*Unit, err error) {
	if limit <= 0 {
		limit = opscenter.DefaultPageSize
	}
	limit = min(limit, opscenter.MaxPageSize)
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		out = nil
		if _, err := find(s, id); err != nil {
			return err
		}
		within := storage.Range{Prefix: storage.StringKey(id)}
		if from > 0 {
			within.After = storage.StringKey(id).Uint(uint64(from - 1))
		}
		for u, err := range units.Scan(s, within) {
			if err != nil {
				return err
			}
			if len(out) == limit {
				break
			}
			out = append(out, &Unit{Rollout: u.Rollout, Index: u.Index, Unit: *u.Unit.Clone()})
		}
		return nil
	})
	return out, err
}

// UnitOf returns the rollout that a cluster, or a server in none, is part of, and the unit it
// is there; nil if there is none.
func (m *Manager) UnitOf(ctx context.Context, name string, cluster bool) (r *Rollout, u *Unit, err error) {
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		r, u = nil, nil
		key := name
		if !cluster {
			info, err := s.Server(name)
			if err != nil {
				return err
			}
			key = info.ID
		}
		claim, err := s.ClaimOf(key, cluster)
		if err != nil || claim == nil {
			return err
		}
		found, err := rollouts.Find(s, storage.StringKey(claim.Owner))
		if err != nil || found == nil {
			return err
		}
		for one, err := range units.Scan(s, storage.Range{Prefix: storage.StringKey(claim.Owner)}) {
			if err != nil {
				return err
			}
			if claimName(&one.Unit) == key && one.Cluster == cluster {
				r, u = found.clone(), &Unit{Rollout: one.Rollout, Index: one.Index, Unit: *one.Unit.Clone()}
				break
			}
		}
		return nil
	})
	return r, u, err
}

// Forecast runs a rollout forward from where it is: which steps are left, when it is expected
// to end, and what it comes to a halt at. Errors: opscenter.ErrNotFound.
func (m *Manager) Forecast(ctx context.Context, id string) (out *rolling.Ahead, err error) {
	var state *rolling.State
	var list []*rolling.Unit
	var servers [][]*rolling.Server
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		list, servers = nil, nil
		r, err := find(s, id)
		if err != nil {
			return err
		}
		state = r.State.Clone()
		for u, err := range units.Scan(s, storage.Range{Prefix: storage.StringKey(id)}) {
			if err != nil {
				return err
			}
			members, err := serversOf(s, &u.Unit)
			if err != nil {
				return err
			}
			list, servers = append(list, u.Unit.Clone()), append(servers, members)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return rolling.Forecast(state, list, servers, now())
}

// serversOf returns the servers of a unit's members, nil for those that are gone.
func serversOf(s *opscenter.Snapshot, u *rolling.Unit) ([]*rolling.Server, error) {
	out := make([]*rolling.Server, len(u.Members))
	for i := range u.Members {
		info, err := s.ServerByID(u.Members[i].ID)
		switch {
		case errors.Is(err, opscenter.ErrNotFound):
		case err != nil:
			return nil, err
		default:
			out[i] = info.Rolling()
		}
	}
	return out, nil
}

// Changes is a step of the change feed.
type Changes struct {
	// Revision to go on from.
	Revision uint64
	// Reset tells that changes may have been missed: read everything again.
	Reset bool
	// Rollouts that changed, or whose units did, by ID.
	Rollouts []string
}

// Watch yields which rollouts change after revision since, as opscenter.Registry.Watch does
// for servers. It ends with ctx's error.
func (m *Manager) Watch(ctx context.Context, since uint64) iter.Seq2[Changes, error] {
	return func(yield func(Changes, error) bool) {
		for batch, err := range m.registry.Store().Watch(ctx, since, rollouts.Name(), units.Name()) {
			if err != nil {
				yield(Changes{}, err)
				return
			}
			out := Changes{Revision: batch.Revision, Reset: batch.Reset}
			known := map[string]bool{}
			for _, change := range batch.Changes {
				if id, ok := change.Key.FirstString(); ok && !known[id] {
					known[id] = true
					out.Rollouts = append(out.Rollouts, id)
				}
			}
			if !yield(out, nil) {
				return
			}
		}
	}
}
