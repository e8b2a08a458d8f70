// Package opscenter is the domain: who the servers of a fleet are, how they are, and what to
// do with them next.
//
// A [Registry] over a storage.Store admits servers that register with a token, keeps their
// identity and their intent, takes in what polls find out, and answers questions. An
// [UpdatePlanner] recommends the next action for each server and carries it out. Nothing
// here opens a connection: package poller asks servers how they are, package
// opscenter/incusos talks to them, package opscenter/httpapi lets them in.
package opscenter

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/storage"
)

// Defaults of Options.
const (
	DefaultChannel          = "stable"
	DefaultOfflineThreshold = 3
	DefaultRebootTimeout    = 15 * time.Minute
	DefaultActionTimeout    = time.Hour
	DefaultTokenLifetime    = 24 * time.Hour
	DefaultLastSeenInterval = 3 * time.Minute
	DefaultMaxEvents        = 10_000
	DefaultPageSize         = 100
	// MaxPageSize bounds what one call of a List method returns.
	MaxPageSize = 1000
)

// Options of NewRegistry. The zero value is what most programs want.
type Options struct {
	// Logger gets what the Registry decides. Default: nothing is logged.
	Logger *slog.Logger
	// DefaultChannel is for servers and tokens that name none. It is created if it doesn't exist. Default "stable".
	DefaultChannel string
	// OfflineThreshold is how many polls in a row must fail to make a server offline. Default 3.
	OfflineThreshold int
	// RebootTimeout is how long a server may take to come back from a reboot. Default 15 minutes.
	RebootTimeout time.Duration
	// ActionTimeout is how long an update, an evacuation or a restore may take before
	// the server counts as idle again. Default 1 hour.
	ActionTimeout time.Duration
	// TokenLifetime is for tokens created without an expiry. Default 24 hours.
	TokenLifetime time.Duration
	// LastSeenInterval is the time between two flushes of when servers were last seen, which
	// until then is kept in memory. Default 3 minutes.
	LastSeenInterval time.Duration
	// MaxEvents is how many events are kept. Default 10,000.
	MaxEvents int
	// KeepSecrets stores facts with the recovery keys, private keys and passwords in them.
	KeepSecrets bool
}

func (o Options) withDefaults() (Options, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.DefaultChannel == "" {
		o.DefaultChannel = DefaultChannel
	}
	if err := checkObjectName("channel", o.DefaultChannel); err != nil {
		return o, err
	}
	for _, n := range []struct {
		name  string
		value *int
		def   int
	}{{"OfflineThreshold", &o.OfflineThreshold, DefaultOfflineThreshold}, {"MaxEvents", &o.MaxEvents, DefaultMaxEvents}} {
		if *n.value < 0 {
			return o, fmt.Errorf("%s is %d, it must not be negative: %w", n.name, *n.value, ErrInvalidOptions)
		}
		if *n.value == 0 {
			*n.value = n.def
		}
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{{"RebootTimeout", &o.RebootTimeout, DefaultRebootTimeout}, {"ActionTimeout", &o.ActionTimeout, DefaultActionTimeout},
		{"TokenLifetime", &o.TokenLifetime, DefaultTokenLifetime}, {"LastSeenInterval", &o.LastSeenInterval, DefaultLastSeenInterval}} {
		if *d.value < 0 {
			return o, fmt.Errorf("%s is %s, it must not be negative: %w", d.name, *d.value, ErrInvalidOptions)
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	return o, nil
}

// Registry knows the servers. All methods may be called concurrently.
//
// Rows it returns are the caller's, but for their maps and slices, which are shared: read
// them, don't modify them.
type Registry struct {
	store   storage.Store
	options Options
	log     *slog.Logger

	mu        sync.RWMutex
	contacts  map[string]*Contact // by server ID
	unflushed map[string]bool     // by server ID: seen since the last flush
	flushed   time.Time
}

// NewRegistry returns a Registry over a store. The store stays the caller's: close it after
// the Registry. One store carries one Registry at a time.
func NewRegistry(store storage.Store, options Options) (*Registry, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Registry{store: store, options: options, log: options.Logger,
		contacts: map[string]*Contact{}, unflushed: map[string]bool{}, flushed: time.Now()}
	ctx := context.Background()
	if err := store.Attach(ctx, allTables()...); err != nil {
		return nil, err
	}
	err = store.Update(ctx, func(tx storage.WriteTx) error {
		found, err := channels.Find(tx, storage.StringKey(options.DefaultChannel))
		if err != nil || found != nil {
			return err
		}
		return channels.Put(tx, &Channel{Name: options.DefaultChannel, LastUpdated: now()})
	})
	if err == nil {
		err = r.pruneEvents(ctx)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Options returns the options in force, defaults included.
func (r *Registry) Options() Options { return r.options }

// Store returns the store under the Registry.
func (r *Registry) Store() storage.Store { return r.store }

// Close flushes what is only in memory: when servers were last seen. It does not close the store.
func (r *Registry) Close() error { return r.Flush(context.Background()) }

// now is the time as it is stored: UTC, without a monotonic reading.
func now() time.Time { return time.Now().UTC().Round(0) }

func (r *Registry) policy() Policy {
	return Policy{OfflineThreshold: r.options.OfflineThreshold, RebootTimeout: r.options.RebootTimeout}
}

// contact returns a copy of what is known of the polls of a server.
func (r *Registry) contact(id string) Contact {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if c := r.contacts[id]; c != nil {
		return *c
	}
	return Contact{}
}

// setContact changes what is known of the polls of a server.
func (r *Registry) setContact(id string, change func(*Contact)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.contacts[id]
	if c == nil {
		c = &Contact{}
		r.contacts[id] = c
	}
	before := c.LastSeen
	change(c)
	if c.LastSeen.After(before) {
		r.unflushed[id] = true
	}
}

// seen notes that a server was in touch.
func (r *Registry) seen(id string, at time.Time) {
	r.setContact(id, func(c *Contact) {
		if at.After(c.LastSeen) {
			c.LastSeen = at
		}
	})
}

func (r *Registry) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.contacts, id)
	delete(r.unflushed, id)
}

// flushStep is how many servers one transaction of Flush writes.
const flushStep = 500

// Flush stores when servers were last seen. The Registry does so itself, every
// Options.LastSeenInterval while observations come in, and at Close.
func (r *Registry) Flush(ctx context.Context) error {
	r.mu.Lock()
	pending := r.unflushed
	r.unflushed = map[string]bool{}
	r.flushed = time.Now()
	times := make(map[string]time.Time, len(pending))
	for id := range pending {
		times[id] = r.contacts[id].LastSeen
	}
	r.mu.Unlock()

	ids := sortedKeys(pending)
	for len(ids) > 0 {
		step := ids[:min(flushStep, len(ids))]
		var gone []string
		err := r.store.Update(ctx, func(tx storage.WriteTx) error {
			gone = nil
			for _, id := range step {
				server, err := byID.Find(tx, storage.StringKey(id))
				if err != nil {
					return err
				}
				if server == nil {
					gone = append(gone, id)
					continue
				}
				state, err := states.Get(tx, nameKey(server.Name))
				if err != nil {
					return err
				}
				if !times[id].After(state.LastSeen) {
					continue
				}
				changed := *state
				changed.LastSeen = times[id]
				if err := states.Put(tx, &changed); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			r.mu.Lock()
			for _, id := range ids {
				if r.contacts[id] != nil {
					r.unflushed[id] = true
				}
			}
			r.mu.Unlock()
			return fmt.Errorf("storing when servers were last seen: %w", err)
		}
		for _, id := range gone {
			r.forget(id) // removed while it was in touch
		}
		ids = ids[len(step):]
	}
	return nil
}

// flushDue reports whether it is time for a flush.
func (r *Registry) flushDue() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.unflushed) > 0 && time.Since(r.flushed) >= r.options.LastSeenInterval
}

// Changes is a step of the change feed.
type Changes struct {
	// Revision to go on from.
	Revision uint64
	// Reset tells that changes may have been missed: read everything again.
	Reset bool
	// Servers whose record, status or versions changed, or that were removed, by name.
	Servers []string
}

// Watch yields the names of the servers that change after revision since; 0 begins with what
// the store still remembers, or with a Reset. It never delays those who change them: what a
// slow reader missed is merged. It ends with ctx's error.
func (r *Registry) Watch(ctx context.Context, since uint64) iter.Seq2[Changes, error] {
	return func(yield func(Changes, error) bool) {
		for batch, err := range r.store.Watch(ctx, since, servers.Name(), states.Name()) {
			if err != nil {
				yield(Changes{}, err)
				return
			}
			out := Changes{Revision: batch.Revision, Reset: batch.Reset}
			names := map[string]bool{}
			for _, change := range batch.Changes {
				if name, ok := change.Key.FirstString(); ok && !names[name] {
					names[name] = true
					out.Servers = append(out.Servers, name)
				}
			}
			if !yield(out, nil) {
				return
			}
		}
	}
}

// Revision returns the store's revision: where a Watch goes on from what is read now.
func (r *Registry) Revision(ctx context.Context) (revision uint64, err error) {
	err = r.store.View(ctx, func(tx storage.ReadTx) error {
		revision = tx.Revision()
		return nil
	})
	return revision, err
}

// notFound turns a store's error for a missing row into one in the caller's terms.
func notFound(what, name string, err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("%s %q: %w", what, cut(name), ErrNotFound)
	}
	return err
}

func cloneProperties(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return maps.Clone(m)
}
