// Package inventory knows what is in every Incus cluster: instances, networks, volumes and all
// else, complete, current and searchable.
//
//	objects, err := inventory.New(registry, client, inventory.Options{})
//	go objects.Run(ctx)
//	page, err := objects.List(ctx, inventory.Query{Kinds: []inventory.Kind{inventory.KindNetwork},
//		Filter: `object.config["ipv4.address"] == "10.115.25.1/24"`})
//
// It follows the registry: each cluster, and each Incus server in none, is a unit. One worker
// for each of them listens to the lifecycle events of each member and looks at exactly the objects they
// name, and at what may have changed with them. When it begins, when the stream of events was
// cut, when it can't follow, when an event is not known, and every few hours, all is listed
// anew: what events did not tell is late then, and never stays wrong.
package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opscenter-go/sdk/internal/boundedlog"
	"github.com/opscenter-go/sdk/internal/defaults"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// Defaults of Options.
const (
	DefaultScanInterval    = 6 * time.Hour
	DefaultMembersInterval = time.Minute
	DefaultDebounce        = 100 * time.Millisecond
	DefaultSettle          = 10 * time.Second
	DefaultMaxScans        = 16
	DefaultMaxSlowScans    = 64
	DefaultSlowAfter       = 5 * time.Second
	DefaultScanTimeout     = 15 * time.Minute
	DefaultMaxStreams      = 4000
	DefaultMaxConnects     = 32
	DefaultMaxBackoff      = 5 * time.Minute
	DefaultMaxHistory      = 20
	DefaultMaxUnitChanges  = 1_000
	DefaultMaxChanges      = 100_000
)

// Options of New. The zero value is what most programs want.
type Options struct {
	// Logger gets what goes wrong inside. Default: nothing is logged.
	Logger *slog.Logger
	// ScanInterval is the time between two scans of a unit that nothing else has caused, each
	// unit at a time of its own. Default 6 hours.
	ScanInterval time.Duration
	// MembersInterval is the time between two looks at the members of a cluster: no event tells
	// that one has died. If one has, or is back, all is scanned. Default 1 minute.
	MembersInterval time.Duration
	// Debounce is how long others are waited for after an event, to look once. Default 100 ms.
	Debounce time.Duration
	// Settle is after which an instance that was started is looked at again: its addresses come
	// later, and no event tells of them. Default 10 s.
	Settle time.Duration
	// MaxPending is how many objects of a unit may wait to be looked at; beyond, it is scanned. Default 1,000.
	MaxPending int
	// MaxScans is how many units are scanned at once, and in how many lists are read again that
	// events have made necessary. What has taken SlowAfter makes room for another, until there
	// are MaxSlowScans of those; nothing takes longer than ScanTimeout.
	// Default 16, 5 s, 64, 15 minutes.
	MaxScans     int
	SlowAfter    time.Duration
	MaxSlowScans int
	ScanTimeout  time.Duration
	// MaxStreams is how many servers are listened to, each member of each cluster, at some 50 KiB
	// of memory each. What is in units beyond shows with their scans only. Default 4,000.
	MaxStreams int
	// MaxConnects is how many units are being connected to at once. Default 32.
	MaxConnects int
	// MaxBackoff bounds the time between two tries to reach a unit, and that which a unit is left
	// alone after a scan, unless the scan itself took longer; so long after a scan that has found more than may be
	// kept there is another. Default 5 minutes.
	MaxBackoff time.Duration
	// MaxHistory is how many changes are kept of an object, MaxUnitChanges how many of a unit for each of its
	// servers, and MaxChanges how many of all together: a unit in which much happens overwrites its own changes, and
	// not those of others. Default 20, 1,000, and 100,000.
	MaxHistory     int
	MaxUnitChanges int
	MaxChanges     int
	// MaxObjects is how many objects of a unit are kept for each of its servers, and MaxSize in how many bytes of
	// memory, some 2 KiB for each object included; large ones are compressed. What a server lists beyond is not kept, or by its name only, and is a standing
	// warning (warning.Inventory); a scan reads at most twice as many objects of each kind, and eight times
	// as many bytes. Default 5,000, and 8 MiB.
	MaxObjects int
	MaxSize    int
	// MaxLooks is how many objects of a unit are looked at one by one in a second: because of events, and where one
	// is too large for a list. Default 200.
	MaxLooks int
	// KeepSecrets stores objects with the passwords and keys in their configuration.
	KeepSecrets bool
}

func (o Options) withDefaults() (Options, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	err := defaults.Fill(opscenter.ErrInvalidOptions,
		defaults.Of("ScanInterval", &o.ScanInterval, DefaultScanInterval), defaults.Of("MembersInterval", &o.MembersInterval, DefaultMembersInterval),
		defaults.Of("Debounce", &o.Debounce, DefaultDebounce), defaults.Of("Settle", &o.Settle, DefaultSettle),
		defaults.Of("SlowAfter", &o.SlowAfter, DefaultSlowAfter), defaults.Of("ScanTimeout", &o.ScanTimeout, DefaultScanTimeout),
		defaults.Of("MaxBackoff", &o.MaxBackoff, DefaultMaxBackoff), defaults.Of("MaxPending", &o.MaxPending, DefaultMaxPending),
		defaults.Of("MaxScans", &o.MaxScans, DefaultMaxScans), defaults.Of("MaxSlowScans", &o.MaxSlowScans, DefaultMaxSlowScans),
		defaults.Of("MaxStreams", &o.MaxStreams, DefaultMaxStreams), defaults.Of("MaxConnects", &o.MaxConnects, DefaultMaxConnects),
		defaults.Of("MaxHistory", &o.MaxHistory, DefaultMaxHistory), defaults.Of("MaxUnitChanges", &o.MaxUnitChanges, DefaultMaxUnitChanges), defaults.Of("MaxChanges", &o.MaxChanges, DefaultMaxChanges),
		defaults.Of("MaxObjects", &o.MaxObjects, DefaultMaxObjects), defaults.Of("MaxSize", &o.MaxSize, DefaultMaxSize),
		defaults.Of("MaxLooks", &o.MaxLooks, DefaultMaxLooks))
	return o, err
}

// Daemon is what an Incus daemon says of itself.
type Daemon struct {
	// Clustered: it is a member of a cluster.
	Clustered bool
	// Extensions of its API.
	Extensions []string
}

// Incus reads from Incus daemons. Package opscenter/incusos implements it. All methods return
// when ctx ends, at the latest.
type Incus interface {
	// Describe asks the daemon what it is.
	Describe(ctx context.Context, target opscenter.Target) (Daemon, error)
	// ReadList calls use with each entry of a list, as it comes. The entry is use's for the call only.
	ReadList(ctx context.Context, target opscenter.Target, path string, use func(entry json.RawMessage) error) error
	// ReadObject returns an object.
	ReadObject(ctx context.Context, target opscenter.Target, path string) (json.RawMessage, error)
	// Events listens to lifecycle events of all projects. From its return on, none is missed
	// before Next fails.
	Events(ctx context.Context, target opscenter.Target) (Stream, error)
}

// Stream is a stream of events, in the order in which the daemon sends them.
type Stream interface {
	// Next waits for the next event. Any error is the end of the stream.
	Next() (*Event, error)
	// Close ends the stream; Next returns.
	Close() error
}

// Refusal is an error that is a daemon's own word, with its HTTP status. Errors that are none
// say that it was not reached.
type Refusal interface {
	error
	Status() int
}

// Errors of Manager, beside those of package opscenter.
var (
	// ErrRunning: the Manager runs already.
	ErrRunning = errors.New("the inventory runs already")
	// ErrNotRunning: nobody would do what is asked for.
	ErrNotRunning = errors.New("the inventory does not run")
	// ErrUnread: the daemon was not reached, or could not say what was asked for.
	ErrUnread = errors.New("the daemon could not be read")
)

// Manager keeps the inventory current while it runs, and answers questions at any time. All
// methods may be called concurrently.
type Manager struct {
	registry *opscenter.Registry
	incus    Incus
	options  Options
	log      *slog.Logger

	running  sync.Mutex
	connects chan struct{}
	streams  chan struct{}
	scans    slots // of scans
	lists    slots // of what events make us list again

	mu      sync.Mutex
	workers map[string]*worker       // by ID of the unit
	purges  map[string]chan struct{} // of units that are being removed; closed when that is done
	purging sync.WaitGroup

	changesDue *boundedlog.Due
	trimming   atomic.Bool // surplus changes are to be deleted
}

// New returns a Manager. Nothing is read before Run. Errors: opscenter.ErrInvalidOptions.
func New(registry *opscenter.Registry, incus Incus, options Options) (*Manager, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := registry.Store().Attach(context.Background(), allTables()...); err != nil {
		return nil, err
	}
	if err := retiredChanges.Clear(context.Background(), registry.Store()); err != nil {
		return nil, err
	}
	return &Manager{registry: registry, incus: incus, options: options, log: options.Logger, workers: map[string]*worker{}, purges: map[string]chan struct{}{},
		connects: make(chan struct{}, options.MaxConnects), streams: make(chan struct{}, options.MaxStreams),
		scans: newSlots(options), lists: newSlots(options), changesDue: boundedlog.NewDue(options.MaxChanges)}, nil
}

// Status is how current the inventory of a unit is.
type Status struct {
	// Cluster is its name, or that of the server in none.
	Cluster string
	// Server through which it is read.
	Server string
	// Following: events are listened to, and all was read since. What changes shows within
	// seconds; else it shows with the next scan.
	Following bool
	// ScannedAt is when all was last read, ScanTook how long that took, ScanReason why it was done.
	ScannedAt  time.Time
	ScanTook   time.Duration
	ScanReason string
	// Scans so far, and Events that were taken in.
	Scans, Events int
	// Pending is how many objects wait to be looked at.
	Pending int
	// Skipped kinds, with the reason: what the daemon does not offer.
	Skipped map[Kind]string
	// Truncated says what is not kept of it, as there is more than Options.MaxObjects or MaxSize; empty: all is kept.
	Truncated string
	// Failure is why it is not current, empty if it is; since when, and when it is tried again.
	Failure   string
	FailedAt  time.Time
	NextRetry time.Time
}

// Status returns how current the units are that are kept, by name. It is empty unless the
// Manager runs.
func (m *Manager) Status(ctx context.Context) (out []Status, err error) {
	m.mu.Lock()
	workers := make([]*worker, 0, len(m.workers))
	for _, w := range m.workers {
		workers = append(workers, w)
	}
	m.mu.Unlock()
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		out = nil
		names := newNames(s)
		for _, w := range workers {
			u, err := names.unit(w.id)
			if err != nil {
				return err
			}
			if u == nil {
				continue
			}
			status := w.show()
			status.Cluster = u.name
			out = append(out, status)
		}
		return nil
	})
	slices.SortFunc(out, func(a, b Status) int { return strings.Compare(a.Cluster, b.Cluster) })
	return out, err
}

// Resync looks at an object now, and returns when it is as its daemon says. Errors:
// opscenter.ErrNotFound, ErrNotRunning, and ErrUnread with what the daemon, or the connection to it, lacks.
func (m *Manager) Resync(ctx context.Context, uuid string) error {
	var found *row
	err := m.registry.Read(ctx, func(s *opscenter.Snapshot) (err error) {
		found, err = objectOf(s, uuid)
		return err
	})
	if err != nil {
		return err
	}
	return m.request(ctx, found.Unit, &request{ref: found.ref(), done: make(chan error, 1)})
}

// ResyncCluster scans a cluster, or a server in none, now, and returns when that is done.
// Errors are those of Resync.
func (m *Manager) ResyncCluster(ctx context.Context, name string) error {
	var found []*unitInfo
	err := m.registry.Read(ctx, func(s *opscenter.Snapshot) (err error) {
		found, err = newNames(s).named(name)
		return err
	})
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return fmt.Errorf("cluster %.80q: %w", name, opscenter.ErrNotFound)
	}
	for _, u := range found {
		if err := m.request(ctx, u.id, &request{scan: true, done: make(chan error, 1)}); err != nil {
			return err
		}
	}
	return nil
}

// unread tells errors of daemons from our own.
func unread(err error) error {
	if err == nil || errors.Is(err, storage.ErrClosed) || errors.Is(err, context.Canceled) || errors.Is(err, ErrUnread) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnread, err)
}

func (m *Manager) request(ctx context.Context, unit string, r *request) error {
	m.mu.Lock()
	w := m.workers[unit]
	m.mu.Unlock()
	if w == nil {
		return ErrNotRunning
	}
	select {
	case w.requests <- r:
	case <-w.ended:
		return ErrNotRunning
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.done:
		return unread(err)
	case <-w.ended:
		return ErrNotRunning
	case <-ctx.Done():
		return ctx.Err()
	}
}
