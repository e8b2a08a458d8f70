// Package inventory keeps a searchable list of the objects in each Incus cluster: instances, networks, volumes and all
// other kinds of [Kinds].
//
// The main type is [Manager]. New attaches it to the store of a registry. Run is its background work: start it once,
// and end it by its context. Queries also work while Run does not run; they answer from the store.
//
//	objects, err := inventory.New(registry, client, inventory.Options{})
//	go objects.Run(ctx)
//	page, err := objects.List(ctx, inventory.Query{Kinds: []inventory.Kind{inventory.KindNetwork},
//		Filter: `object.config["ipv4.address"] == "10.115.25.1/24"`})
//
// Run follows the registry. Each cluster is a unit, and so is each Incus server in no cluster. One worker for each
// unit listens to the lifecycle events of each member. It reads the objects that events name, and those that may
// have changed with them.
//
// A scan lists all objects of a unit. It runs when the worker starts, after a stream of events was cut, after too
// many events or an unknown one, and every few hours. The next scan corrects missed events.
//
// Objects, units and the bounded history of changes persist in the store.
//
// # Rules
//
//   - An object that an event names is read again within a tenth of a second, and then the objects that depend on it.
//   - A scan runs every 6 hours, and also when a member dies or returns. Kinds that a daemon's API lacks are skipped, and Status names them.
//   - The history of an object holds the field, its old and new value, the event, and the requestor. The first listing is no change,
//     and neither is a field that only follows from other objects (used_by).
//   - WatchChanges tells when a cluster begins (cluster-added: list it then) and when it ends.
//   - The addresses of an instance are those of 10 s after its start, or of its last reading, because no event tells them.
//   - Networks that Incus does not manage are interfaces of the server, and are in its facts.
//   - Passwords, keys, credentials, user data and secret variables are not stored. An object over 1 MiB is stored
//     without its parts, or by its name only.
//   - Each server has a budget of 5,000 objects and 8 MiB (MaxObjects, MaxSize). Objects beyond it are left out, with a warning.
//   - An unknown name in a filter is refused with the list of known ones, and a wrong filter with the place. Its time, memory and
//     steps are bounded. Functions without such a bound, as repeat, join and toJSON, do not exist.
//
// # Performance
//
// The machine has 2 shared cores. 1,000 servers have 496 objects each: 1.1 KiB of JSON for an instance, 0.2 KiB for a volume, 0.65 KiB on
// average. Scans use real TLS. Figures are medians of 3 runs.
//
//	go test -run '^$' -bench . -count 3 -timeout 30m ./opscenter/inventory
//
//	scan of an unchanged cluster of 500 objects, no commit     bare Incus client   inventory   ratio
//	Incus 6.0 (a ratio of 1.3 is wanted)                       22.1 ms             28.6 ms     1.29
//	newer Incus, one request for each of 70 custom volumes     31.6 ms             36.3 ms     1.15
//
//	filter over 496,000 objects (1.5 s is wanted in memory)    memory              Badger
//	object.config["ipv4.address"] == …                         0.99 s              4.8 s
//	… in object.used_by                                        1.07 s              4.9 s
//	name == …                                                  0.58 s              4.4 s
//	search in all names                                        0.52 s              4.1 s
//
//	list of one kind in one cluster, a page of 100
//	memory        57 µs, 4 allocations an object; 40 times the 1.4 µs of 100 rows in bare go-memdb
//	Badger        1.1 ms
//
//	heap per object
//	memory        1.9 KiB with all indexes
//	Badger        1.8 KiB right after the writes; 93 % are buffers in which Badger writes its tables
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
	// DefaultMaxEventsBackoff applies to daemons that answer, but have no stream of events.
	DefaultMaxEventsBackoff = time.Hour
	DefaultMaxHistory       = 20
	DefaultMaxUnitChanges   = 1_000
	DefaultMaxChanges       = 100_000
)

// Options of New. The zero value suits most programs. The limits hold for each Manager.
type Options struct {
	// Logger gets internal errors. Default: nothing is logged.
	Logger *slog.Logger
	// ScanInterval is the time between two scheduled scans of a unit. Each unit has its own phase, so
	// scans are spread over the interval. Default 6 hours.
	ScanInterval time.Duration
	// MembersInterval is the time between two readings of a cluster's members, because no event reports a dead
	// member. If a member dies or comes back, the unit is scanned. Default 1 minute.
	MembersInterval time.Duration
	// Debounce is the time after an event in which more events are collected before objects are read. Default 100 ms.
	Debounce time.Duration
	// Settle is the time after which a started instance is read again. Its addresses come late, and no event
	// reports them. Default 10 s.
	Settle time.Duration
	// MaxPending bounds the objects of a unit that wait to be read. Beyond, the unit is scanned. Default 1,000.
	MaxPending int
	// MaxScans bounds the scans that run at the same time. It bounds the units that read lists again after events
	// separately. A scan that has taken SlowAfter makes room for another, but at most MaxSlowScans are slow
	// at the same time. ScanTimeout bounds each scan. Default 16, 5 s, 64, 15 minutes.
	MaxScans     int
	SlowAfter    time.Duration
	MaxSlowScans int
	ScanTimeout  time.Duration
	// MaxStreams bounds the event streams: one for each member of each cluster, at some 50 KiB of memory
	// each. Units beyond are only scanned. Default 4,000.
	MaxStreams int
	// MaxConnects bounds the streams that are being opened at the same time. Default 32.
	MaxConnects int
	// MaxBackoff bounds the time between two attempts to connect to a unit. It also bounds the pause after a scan, unless
	// the scan itself took longer. After a scan that found more than may be kept, the next scan
	// follows after this time. Default 5 minutes.
	MaxBackoff time.Duration
	// MaxEventsBackoff bounds the time between two attempts to open the stream of events of a daemon that answers,
	// but has no such stream. The time begins at a second, and doubles with each attempt. Meanwhile only scans
	// keep its inventory, and a standing warning tells so (warning.Events). A stream that worked and broke is opened
	// again soon, see MaxBackoff. Default 1 hour.
	MaxEventsBackoff time.Duration
	// MaxHistory bounds the changes that are kept for an object. MaxUnitChanges bounds those of a unit, for each
	// of its servers. MaxChanges bounds all changes together. So a unit with many changes overwrites its own history,
	// not that of others. Default 20, 1,000, and 100,000.
	MaxHistory     int
	MaxUnitChanges int
	MaxChanges     int
	// MaxObjects is how many objects of a unit are kept for each of its servers, and MaxSize in how many bytes of
	// memory, some 2 KiB for each object included; large ones are compressed. What a server lists beyond is not kept, or by its name only, and is a standing
	// warning (warning.Inventory); a scan reads at most twice as many objects of each kind, and eight times
	// as many bytes. Default 5,000, and 8 MiB.
	MaxObjects int
	MaxSize    int
	// MaxLooks bounds the objects of a unit that are read one by one, per second: after events, and where an object
	// is too large for a list. Default 200.
	MaxLooks int
	// KeepSecrets stores objects with the passwords and keys in their configuration. Default: they are removed.
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
		defaults.Of("MaxBackoff", &o.MaxBackoff, DefaultMaxBackoff), defaults.Of("MaxEventsBackoff", &o.MaxEventsBackoff, DefaultMaxEventsBackoff),
		defaults.Of("MaxPending", &o.MaxPending, DefaultMaxPending),
		defaults.Of("MaxScans", &o.MaxScans, DefaultMaxScans), defaults.Of("MaxSlowScans", &o.MaxSlowScans, DefaultMaxSlowScans),
		defaults.Of("MaxStreams", &o.MaxStreams, DefaultMaxStreams), defaults.Of("MaxConnects", &o.MaxConnects, DefaultMaxConnects),
		defaults.Of("MaxHistory", &o.MaxHistory, DefaultMaxHistory), defaults.Of("MaxUnitChanges", &o.MaxUnitChanges, DefaultMaxUnitChanges), defaults.Of("MaxChanges", &o.MaxChanges, DefaultMaxChanges),
		defaults.Of("MaxObjects", &o.MaxObjects, DefaultMaxObjects), defaults.Of("MaxSize", &o.MaxSize, DefaultMaxSize),
		defaults.Of("MaxLooks", &o.MaxLooks, DefaultMaxLooks))
	return o, err
}

// Daemon describes an Incus daemon.
type Daemon struct {
	// Clustered: the daemon is a member of a cluster.
	Clustered bool
	// Extensions are the names of its API extensions.
	Extensions []string
}

// Incus reads from Incus daemons. Package opscenter/incusos implements it. All methods may be called concurrently, and
// return at the latest when ctx ends. An error that is the daemon's answer is a Refusal.
type Incus interface {
	// Describe reads the description of the daemon.
	Describe(ctx context.Context, target opscenter.Target) (Daemon, error)
	// ReadList calls use with each entry of a list, as the entries arrive. The entry is valid during the call only. An
	// error of use ends the reading, and is returned.
	ReadList(ctx context.Context, target opscenter.Target, path string, use func(entry json.RawMessage) error) error
	// ReadObject returns the object at a path, as JSON.
	ReadObject(ctx context.Context, target opscenter.Target, path string) (json.RawMessage, error)
	// Events listens to the lifecycle events of all projects. After it returns, the stream misses no event
	// until Next fails.
	Events(ctx context.Context, target opscenter.Target) (Stream, error)
}

// Stream is a stream of events, in the order in which the daemon sends them.
type Stream interface {
	// Next waits for the next event. After an error, the stream has ended.
	Next() (*Event, error)
	// Close ends the stream. A Next that waits returns an error.
	Close() error
}

// Refusal is an error with which a daemon answered. Any other error means that the daemon was not reached.
type Refusal interface {
	error
	// Status is the HTTP status of the answer.
	Status() int
}

// Errors of Manager, beside those of package opscenter.
var (
	// ErrRunning: the Manager runs already.
	ErrRunning = errors.New("the inventory runs already")
	// ErrNotRunning: Run does not run, or does not keep that unit.
	ErrNotRunning = errors.New("the inventory does not run")
	// ErrUnread: the daemon was not reached, or could not answer.
	ErrUnread = errors.New("the daemon could not be read")
)

// Manager keeps the inventory current while Run runs, and answers queries at any time. All
// methods may be called concurrently. One Manager at a time may Run over a store.
type Manager struct {
	registry *opscenter.Registry
	incus    Incus
	options  Options
	log      *slog.Logger

	running  sync.Mutex
	connects chan struct{}
	streams  chan struct{}
	scans    slots // bounds scans
	lists    slots // bounds units that read lists again after events

	mu      sync.Mutex
	workers map[string]*worker       // by ID of the unit
	purges  map[string]chan struct{} // units that are being removed, by ID; closed at the end of the removal
	purging sync.WaitGroup

	trims      sync.Mutex // of the fields below; no call of the store holds it
	changesDue *boundedlog.Due
	unitsDue   map[string]*unitDue // by unit
	trimming   bool                // surplus changes are to be deleted
	trimUnits  map[string]bool     // units whose surplus changes are to be deleted
}

// New returns a Manager. It reads no daemon before Run. Errors: opscenter.ErrInvalidOptions, and those of the store.
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
		scans: newSlots(options), lists: newSlots(options), changesDue: boundedlog.NewDue(options.MaxChanges), unitsDue: map[string]*unitDue{}, trimUnits: map[string]bool{}}, nil
}

// Status says how current the inventory of a unit is.
type Status struct {
	// Cluster is the name of the cluster, or of the server in no cluster.
	Cluster string
	// Server is the name of the server that is read.
	Server string
	// Following: the worker listens to events, and has scanned the unit since. Changes show within
	// seconds. Otherwise changes show with the next scan.
	Following bool
	// ScannedAt is the time of the last complete scan, in UTC. ScanTook is its duration without waits for events, ScanReason its reason.
	ScannedAt  time.Time
	ScanTook   time.Duration
	ScanReason string
	// Scans and Events count the scans and the received events since Run started.
	Scans, Events int
	// Pending is the number of objects that wait to be read.
	Pending int
	// Skipped are the kinds that the daemon does not offer, with the reason.
	Skipped map[Kind]string
	// Truncated names the objects that are not kept, because there are more than Options.MaxObjects or MaxSize. Empty:
	// all are kept.
	Truncated string
	// Failure is the reason why the inventory is not current. Empty: it is current. FailedAt is when that
	// began, NextRetry the time of the next attempt. Both are zero if there is none.
	Failure   string
	FailedAt  time.Time
	NextRetry time.Time
}

// Status returns the status of each unit, sorted by name. It is empty unless Run runs.
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

// now is the time of the Registry's clock. In a transaction, use that of the transaction.
func (m *Manager) now() time.Time { return m.registry.Observer().Now() }

// Resync reads an object now, and returns when the inventory agrees with the daemon. Errors:
// opscenter.ErrNotFound, ErrNotRunning, and ErrUnread with the error of the daemon or of the connection to it.
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

// ResyncCluster scans the cluster, or the server in no cluster, of that name, and returns at the end of the scan.
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

// unread wraps errors of daemons in ErrUnread, and leaves those of the store and of contexts.
func unread(err error) error {
	if err == nil || errors.Is(err, storage.ErrClosed) || errors.Is(err, context.Canceled) || errors.Is(err, ErrUnread) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnread, err)
}

// request hands a request to the worker of a unit, and waits for its result.
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
