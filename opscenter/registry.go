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
	DefaultMaxServerEvents    = 200
	DefaultSelfUpdateInterval = 5 * time.Second
	DefaultMaxFactsHistory    = 20
	defaultFlapThreshold      = 3
	defaultFlapWindow         = time.Hour
	defaultFlapSteady         = 15 * time.Minute
	DefaultGuardShare         = 0.5
	defaultGuardMinimum       = 5
	defaultGuardWindow        = 15 * time.Second
	// MaxPageSize bounds what one call of a List method returns.
	MaxPageSize = page.MaxSize
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
	// TokenRetention is for how long a token with AutoRemove is kept that admits no more servers. Default 7 days.
	TokenRetention time.Duration
	// LastSeenInterval is the time between two flushes of when servers were last seen, which
	// until then is kept in memory. Default 3 minutes.
	LastSeenInterval time.Duration
	// MaxEvents is how many events are kept of what servers cause, and as many of what operators and the control
	// plane do: the one never makes room for the other. Default 10,000.
	MaxEvents int
	// SelfUpdateInterval is the least time between two records of the same cause from a server, and between two polls that
	// its self updates cause. A repetition within it is only answered. Self updates with news, such as another address,
	// are not held back: 20 may come at once, then one each interval. More are refused with ErrTooOften. Default 5 s.
	SelfUpdateInterval time.Duration
	// MaxServerEvents is how many events are kept that one server causes, and as many of registrations that were
	// refused: who causes more overwrites its own. Default 200.
	MaxServerEvents int
	// MaxFactsHistory is how many changes of its facts are kept of a server. Default 20.
	MaxFactsHistory int
	// FlapThreshold is how many times within FlapWindow a server must become unresponsive to
	// be held offline, as flapping, until it has been steady for FlapSteady. Default 3 times
	// within 1 hour, 15 minutes. A negative threshold switches that off.
	FlapThreshold int
	FlapWindow    time.Duration
	FlapSteady    time.Duration
	// GuardShare is the share of the servers that must fail for the control plane to suspect itself, and to make
	// no server offline until it is over; at least GuardMinimum servers. Where that share of those polled within
	// GuardWindow fails, a sample of 32 times GuardMinimum of the others is asked at once, and decides (SetSampling). It
	// ends when a tenth less than that fail. Default half, 5 servers, 15 s. A negative share switches that off.
	GuardShare   float64
	GuardMinimum int
	GuardWindow  time.Duration
	// AllowURL, if set, is asked whether a server may be where it says, or an operator, before it is recorded; its
	// error is returned to the caller. It is called at any time, from several goroutines. See AddressRules. Default:
	// anywhere.
	AllowURL func(u *url.URL) error
	// Admit, if set, judges each server that a token would admit: it may refuse the server, or decide its name, channel, properties and cluster. It is asked from several
	// goroutines, before anything is stored, and may be asked again about the same registration. An error, a panic, or no answer
	// within AdmitTimeout (default 10 s) refuses it, with an event. A server that registers again is judged only when it
	// tells its system UUID or machine ID for the first time. Default: the token
	// is enough.
	Admit        func(ctx context.Context, candidate Candidate) (Decision, error)
	AdmitTimeout time.Duration
	// AdoptMembers adds a server that presents the certificate of a known cluster, and says
	// that it is a member of it, to the cluster's record, and pins that certificate for it.
	// Default: it is only shown, and an operator adds it (AddClusterMembers).
	AdoptMembers bool
	// KeepSecrets stores facts with the recovery keys, private keys and passwords in them.
	KeepSecrets bool
}

func (o Options) withDefaults() (Options, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.DefaultChannel == "" {
		o.DefaultChannel = defaultChannel
	}
	if err := checkObjectName("channel", o.DefaultChannel); err != nil {
		return o, err
	}
	err := defaults.Fill(ErrInvalidOptions,
		defaults.Of("OfflineThreshold", &o.OfflineThreshold, defaultOfflineThreshold), defaults.Of("MaxEvents", &o.MaxEvents, defaultMaxEvents), defaults.Of("MaxServerEvents", &o.MaxServerEvents, DefaultMaxServerEvents),
		defaults.Of("SelfUpdateInterval", &o.SelfUpdateInterval, DefaultSelfUpdateInterval),
		defaults.Of("MaxFactsHistory", &o.MaxFactsHistory, DefaultMaxFactsHistory), defaults.Of("GuardMinimum", &o.GuardMinimum, defaultGuardMinimum),
		defaults.Of("RebootTimeout", &o.RebootTimeout, defaultRebootTimeout), defaults.Of("ActionTimeout", &o.ActionTimeout, defaultActionTimeout),
		defaults.Of("TokenLifetime", &o.TokenLifetime, defaultTokenLifetime), defaults.Of("LastSeenInterval", &o.LastSeenInterval, defaultLastSeenInterval), defaults.Of("TokenRetention", &o.TokenRetention, defaultTokenRetention),
		defaults.Of("FlapWindow", &o.FlapWindow, defaultFlapWindow), defaults.Of("FlapSteady", &o.FlapSteady, defaultFlapSteady),
		defaults.Of("GuardWindow", &o.GuardWindow, defaultGuardWindow), defaults.Of("AdmitTimeout", &o.AdmitTimeout, DefaultAdmitTimeout))
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
		o.GuardShare = DefaultGuardShare
	case o.GuardShare < 0:
		o.GuardShare = math.Inf(1)
	case o.GuardShare > 1 || math.IsNaN(o.GuardShare):
		return o, fmt.Errorf("GuardShare is %v, it must not be more than 1: %w", o.GuardShare, ErrInvalidOptions)
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

	clock     func() time.Time
	presence  *presence.Presence
	following following     // of the store, by the presence
	flushing  chan struct{} // full during a flush
	trimming  sync.Mutex    // held while surplus events are deleted
	eventsDue *boundedlog.Due

	refusals   *rate.Limiter // of registrations, that are recorded
	unrecorded atomic.Int64  // refusals since the last one that was
	admissions chan struct{} // full while as many are judged as can be
	jump       clockJumping

	defaultChannel atomic.Pointer[string] // as it was set; nil: that of the options
}

// NewRegistry returns a Registry over a store. The store stays the caller's: close it after
// the Registry. One store carries one Registry at a time.
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

// Close flushes what is only in memory, see Flush. It does not close the store.
func (r *Registry) Close() error { return r.Observer().Flush(context.Background()) }

// now is the time of day as it is stored: UTC, without a monotonic reading. Tests set its clock.
func (r *Registry) now() time.Time { return r.clock().UTC().Round(0) }

func (r *Registry) policy() lifecycle.Policy {
	o := &r.options
	return lifecycle.Policy{OfflineThreshold: o.OfflineThreshold, RebootTimeout: o.RebootTimeout,
		FlapThreshold: o.FlapThreshold, FlapWindow: o.FlapWindow, FlapSteady: o.FlapSteady}
}

// Changes is a step of the change feed.
type Changes struct {
	// Revision to go on from.
	Revision uint64
	// Reset tells that changes may have been missed: read everything again.
	Reset bool
	// Servers whose record, status or versions changed, or that were removed, by name.
	Servers []string
	// Warnings that were raised, changed or cleared, by UUID.
	Warnings []string
	// Clusters whose record changed, or that were removed, by name.
	Clusters []string
}

// Watch yields which servers, clusters and warnings change after revision since; 0 begins with what
// the store still remembers, or with a Reset. It never delays those who change them: what a
// slow reader missed is merged. It ends with ctx's error.
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
