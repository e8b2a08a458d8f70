package opscenter

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/opscenter-go/sdk/internal/boundedlog"
	"github.com/opscenter-go/sdk/internal/defaults"
	"github.com/opscenter-go/sdk/internal/page"
	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/internal/presence"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// Defaults of Options.
const (
	defaultChannel            = "stable"
	defaultOfflineThreshold   = 3
	defaultRebootTimeout      = 15 * time.Minute
	defaultActionTimeout      = time.Hour
	defaultTokenLifetime      = 24 * time.Hour
	defaultTokenRetention     = 7 * 24 * time.Hour
	defaultLastSeenInterval   = 3 * time.Minute
	defaultMaxEvents          = 10_000
	defaultMaxServerEvents    = 200
	defaultSelfUpdateInterval = 5 * time.Second
	defaultMaxFactsHistory    = 20
	defaultFlapThreshold      = 3
	defaultFlapWindow         = time.Hour
	defaultFlapSteady         = 15 * time.Minute
	defaultGuardShare         = 0.5
	defaultGuardMinimum       = 5
	defaultGuardWindow        = 15 * time.Second
	// MaxPageSize is how many rows one call of a List method returns at most.
	MaxPageSize = page.MaxSize
)

// Options of NewRegistry. The zero value suits most programs. A negative value is ErrInvalidOptions unless the field says
// otherwise.
type Options struct {
	// Logger gets the decisions of the Registry. Default: nothing is logged.
	Logger *slog.Logger
	// Controller names this controller among several over one store. Each of them has its own warnings about its connection
	// to the fleet, see warning.Kind.OfController. Default: none, for one controller.
	Controller string
	// DefaultChannel is the channel of servers and tokens that name none. NewRegistry creates it if it doesn't exist.
	// Default "stable".
	DefaultChannel string
	// OfflineThreshold is how many polls in a row must fail to make a server offline. Default 3.
	OfflineThreshold int
	// RebootTimeout is how long a server may take to come back from a reboot. Default 15 minutes.
	RebootTimeout time.Duration
	// ActionTimeout is how long an update, an evacuation or a restore may take. Then it counts as failed, and the server
	// as idle. Default 1 hour.
	ActionTimeout time.Duration
	// TokenLifetime is the lifetime of tokens that are created without an expiry. Default 24 hours.
	TokenLifetime time.Duration
	// TokenRetention is how long a token with AutoRemove stays after it admits no more servers. Default 7 days.
	TokenRetention time.Duration
	// LastSeenInterval is the time between two flushes of the times when servers were last seen. Until a flush they are
	// in memory only. Default 3 minutes.
	LastSeenInterval time.Duration
	// MaxEvents is how many events of servers are kept, and how many of operators and the control plane. Each of the two
	// groups has its own limit. Surplus events are deleted at each flush, and when half as many more were recorded.
	// Default 10,000.
	MaxEvents int
	// SelfUpdateInterval is the least time between two stored self updates of a server with the same cause. It is also
	// the least time between two polls that its self updates cause. A repetition within it is answered, and has no other
	// effect. Self updates with news, such as another address, are not delayed: 20 are accepted at once, then one per
	// interval. More are refused with ErrTooOften. Default 5 s.
	SelfUpdateInterval time.Duration
	// MaxServerEvents is how many events of one server are kept, and how many of refused registrations. Further ones
	// replace the oldest of that server. Default 200.
	MaxServerEvents int
	// MaxFactsHistory is how many changes of the facts of a server are kept. Default 20.
	MaxFactsHistory int
	// FlapThreshold is how many times within FlapWindow a server must become unresponsive to be held offline, as
	// flapping. It is held until it has been steady for FlapSteady. Default 3 times within 1 hour, and 15 minutes. A
	// negative threshold switches this off.
	FlapThreshold int
	FlapWindow    time.Duration
	FlapSteady    time.Duration
	// GuardShare is the share of the servers that must fail for the control plane to suspect itself, and GuardMinimum
	// their least number. Meanwhile no server becomes offline.
	//
	// The guard looks at the servers that were polled within GuardWindow. If that share of them fails, a sample of the
	// others is polled at once, of 32 times GuardMinimum servers, and decides: see Observer.SetSampling. The suspicion
	// ends when the failing share is a tenth lower. Default half, 5 servers, 15 s. A negative share switches the guard
	// off.
	GuardShare   float64
	GuardMinimum int
	GuardWindow  time.Duration
	// AllowURL, if set, decides whether a server may be at a URL before the URL is stored. The URL comes from the server
	// or from an operator. Its error goes to the caller. It may be called at any time, from several goroutines. See
	// AddressRules. Default: all URLs are allowed.
	AllowURL func(u *url.URL) error
	// Admit, if set, judges each server that a token would admit. It may refuse the server, or set its name, channel,
	// properties and cluster. It is called from several goroutines, before anything is stored, and may be called again
	// for the same registration.
	//
	// An error, a panic, or no answer within AdmitTimeout (default 10 s) refuses the server, with an event. A repeated
	// registration is judged only if it tells a system UUID or machine ID for the first time. Default: the token is
	// enough.
	Admit        func(ctx context.Context, candidate Candidate) (Decision, error)
	AdmitTimeout time.Duration
	// AdoptMembers adds a server to the record of a known cluster if it presents the cluster's certificate and tells that
	// it is a member. The certificate is then accepted of it. Default: an operator adds the server (AddClusterMembers).
	AdoptMembers bool
	// KeepSecrets stores facts with their recovery keys, private keys and passwords. Default: they are removed before
	// storing.
	KeepSecrets bool
}

func (o Options) withDefaults() (Options, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.DefaultChannel == "" {
		o.DefaultChannel = defaultChannel
	}
	if o.Controller != "" {
		if err := checkObjectName("controller", o.Controller); err != nil {
			return o, err
		}
	}
	if err := checkObjectName("channel", o.DefaultChannel); err != nil {
		return o, err
	}
	err := defaults.Fill(ErrInvalidOptions,
		defaults.Of("OfflineThreshold", &o.OfflineThreshold, defaultOfflineThreshold), defaults.Of("MaxEvents", &o.MaxEvents, defaultMaxEvents), defaults.Of("MaxServerEvents", &o.MaxServerEvents, defaultMaxServerEvents),
		defaults.Of("SelfUpdateInterval", &o.SelfUpdateInterval, defaultSelfUpdateInterval),
		defaults.Of("MaxFactsHistory", &o.MaxFactsHistory, defaultMaxFactsHistory), defaults.Of("GuardMinimum", &o.GuardMinimum, defaultGuardMinimum),
		defaults.Of("RebootTimeout", &o.RebootTimeout, defaultRebootTimeout), defaults.Of("ActionTimeout", &o.ActionTimeout, defaultActionTimeout),
		defaults.Of("TokenLifetime", &o.TokenLifetime, defaultTokenLifetime), defaults.Of("LastSeenInterval", &o.LastSeenInterval, defaultLastSeenInterval), defaults.Of("TokenRetention", &o.TokenRetention, defaultTokenRetention),
		defaults.Of("FlapWindow", &o.FlapWindow, defaultFlapWindow), defaults.Of("FlapSteady", &o.FlapSteady, defaultFlapSteady),
		defaults.Of("GuardWindow", &o.GuardWindow, defaultGuardWindow), defaults.Of("AdmitTimeout", &o.AdmitTimeout, defaultAdmitTimeout))
	if err != nil {
		return o, err
	}
	switch {
	case o.FlapThreshold == 0:
		o.FlapThreshold = defaultFlapThreshold
	case o.FlapThreshold < 0:
		o.FlapThreshold = math.MaxInt
	}
	switch {
	case o.GuardShare == 0:
		o.GuardShare = defaultGuardShare
	case o.GuardShare < 0:
		o.GuardShare = math.Inf(1)
	case o.GuardShare > 1 || math.IsNaN(o.GuardShare):
		return o, fmt.Errorf("GuardShare is %v, at most 1 is allowed: %w", o.GuardShare, ErrInvalidOptions)
	}
	return o, nil
}

// Registry is the record of all servers of a fleet, over a storage.Store. It admits servers, records the results of
// polls, stores the intent of operators, and answers questions. NewRegistry makes one. All methods may be called
// concurrently.
//
// The caller owns the rows that it returns. Their maps and slices are shared: read them, and do not modify them.
type Registry struct {
	store   storage.Store
	options Options
	log     *slog.Logger

	clock     func() time.Time
	presence  *presence.Presence
	following following     // how far the presence has followed the store
	flushing  chan struct{} // full during a flush
	trimming  sync.Mutex    // held while surplus events are deleted
	eventsDue *boundedlog.Due

	refusals   *rate.Limiter // of the events of refused registrations
	unrecorded atomic.Int64  // refusals since the last recorded one
	admissions chan struct{} // full while maxAdmissions registrations are judged
	jump       clockJumping

	defaultChannel atomic.Pointer[string] // as an operator set it; nil: that of the options
}

// NewRegistry returns a Registry over a store. The caller closes the store, after the Registry. Two Registries over the
// same rows see the servers, actions and warnings of each other. Only one of them may poll: both would write when servers
// were last seen. Errors: ErrInvalidOptions, ErrInvalidName for the default channel or the controller, and those of the store.
func NewRegistry(store storage.Store, options Options) (*Registry, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Registry{store: store, options: options, log: options.Logger, clock: time.Now, flushing: make(chan struct{}, 1), eventsDue: boundedlog.NewDue(options.MaxEvents), refusals: rate.NewLimiter(refusalRate, refusalBurst), admissions: make(chan struct{}, maxAdmissions)}
	r.presence = presence.New(presence.Options{GuardShare: options.GuardShare, GuardMinimum: options.GuardMinimum, GuardWindow: options.GuardWindow, SelfUpdateInterval: options.SelfUpdateInterval})
	ctx := context.Background()
	if err := store.Attach(ctx, allTables()...); err != nil {
		return nil, err
	}
	err = r.Write(ctx, func(tx *Tx) error {
		found, err := channels.Find(tx, storage.StringKey(options.DefaultChannel))
		if err != nil || found != nil {
			return err
		}
		return channels.Put(tx, &Channel{Name: options.DefaultChannel, LastUpdated: r.now()})
	})
	if err == nil {
		err = errors.Join(retiredEvents.Clear(ctx, store), r.trimEvents(ctx))
	}
	if err == nil {
		err = r.loadPresence(ctx)
	}
	if err == nil {
		err = store.View(ctx, r.loadDefaultChannel)
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

// Close flushes, as Observer.Flush does. It does not close the store.
func (r *Registry) Close() error { return r.Observer().Flush(context.Background()) }

// now is the time of day in the form in which it is stored: UTC, without a monotonic reading. Tests set the Registry's
// clock.
func (r *Registry) now() time.Time { return r.clock().UTC().Round(0) }

func (r *Registry) policy() lifecycle.Policy {
	o := &r.options
	return lifecycle.Policy{OfflineThreshold: o.OfflineThreshold, RebootTimeout: o.RebootTimeout,
		FlapThreshold: o.FlapThreshold, FlapWindow: o.FlapWindow, FlapSteady: o.FlapSteady}
}

// Changes is one step of Registry.Watch.
type Changes struct {
	// Revision is the since of a Watch that continues after this step.
	Revision uint64
	// Reset: changes may be missing. The caller must read everything again.
	Reset bool
	// Servers whose record, status or versions changed, or that were removed, by name.
	Servers []string
	// Warnings that were raised, changed or cleared, by UUID.
	Warnings []string
	// Clusters whose record changed, or that were removed, by name.
	Clusters []string
}

// Watch yields the names of changed servers and clusters, and the UUIDs of changed warnings, after a revision. A since of
// 0 begins with the oldest change that the store remembers, or with a Reset. Watch delays no writer: it merges the
// changes that a slow caller has missed. It ends with ctx's error.
func (r *Registry) Watch(ctx context.Context, since uint64) iter.Seq2[Changes, error] {
	return func(yield func(Changes, error) bool) {
		for batch, err := range r.store.Watch(ctx, since, servers.Name(), states.Name(), warnings.Name(), clusters.Name()) {
			if err != nil {
				yield(Changes{}, err)
				return
			}
			r.follow(ctx)
			out := Changes{Revision: batch.Revision, Reset: batch.Reset}
			names := map[string]bool{}
			for _, change := range batch.Changes {
				switch name, ok := change.Key.FirstString(); {
				case !ok:
				case change.Table == warnings.Name():
					out.Warnings = append(out.Warnings, name)
				case change.Table == clusters.Name():
					out.Clusters = append(out.Clusters, name)
				case !names[name]:
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

// Revision returns the revision of the store. A Watch from it yields all later changes.
func (r *Registry) Revision(ctx context.Context) (revision uint64, err error) {
	err = r.store.View(ctx, func(tx storage.ReadTx) error {
		revision = tx.Revision()
		return nil
	})
	return revision, err
}

// notFound turns a store's error for a missing row into ErrNotFound with the kind and name of the object.
func notFound(what, name string, err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("%s %q: %w", what, truncate.Name(name), ErrNotFound)
	}
	return err
}

func cloneProperties(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return maps.Clone(m)
}
