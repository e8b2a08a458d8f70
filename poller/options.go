package poller

import (
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/opscenter-go/sdk/internal/defaults"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Defaults of Options.
const (
	DefaultInterval        = 5 * time.Minute
	DefaultFactsInterval   = time.Hour
	DefaultFastInterval    = 5 * time.Second
	DefaultRetryInterval   = 10 * time.Second
	DefaultMaxBackoff      = 15 * time.Minute
	DefaultTimeout         = 30 * time.Second
	DefaultMinTimeout      = 2 * time.Second
	DefaultTimeoutFactor   = 4
	DefaultConcurrency     = 64
	DefaultSlowConcurrency = 512
	DefaultSlowAfter       = time.Second
	// DefaultRetryConcurrency applies to servers that failed last time, DefaultOfflineConcurrency to offline ones.
	DefaultRetryConcurrency   = 256
	DefaultOfflineConcurrency = 128
	DefaultBatchSize          = 50
	DefaultBatchDelay         = 50 * time.Millisecond
	DefaultMaxPending         = 1000
	DefaultMaxPendingSize     = 64 << 20 // bytes
	DefaultGrace              = 10 * time.Second
	// DefaultMaxLag applies to intervals of 5 minutes and more. For shorter intervals the default is a fifth of the interval.
	DefaultMaxLag = time.Minute
)

// Options configures New. The zero value suits most programs. Negative values are invalid, except for TimeoutFactor.
type Options struct {
	// Logger receives internal errors. Default: nothing is logged.
	Logger *slog.Logger
	// Interval is the time between two polls of a server that is ready. Default 5 minutes.
	Interval time.Duration
	// FactsInterval is the time between two polls that also read the facts (hardware, network, security, storage) and all
	// applications. Other polls send three requests. A poll reads the facts, too, when a server reports something, and
	// after a boot and a change of versions. With Interval or less, each poll reads them. Default 1 hour.
	FactsInterval time.Duration
	// FastInterval is the time between two polls of a server whose state is changing: pending,
	// updating, evacuating, rebooting, restoring. It is at most Interval. Default 5 s.
	FastInterval time.Duration
	// RetryInterval is the time to the next poll after a failed one, and the first step of
	// the backoff while a server is offline. It is at most Interval. Default 10 s.
	RetryInterval time.Duration
	// MaxBackoff is the last step of the backoff. Default 15 minutes.
	MaxBackoff time.Duration
	// Timeout bounds a poll. Polls that start at about the same time share a deadline, so a poll
	// may take 1/32 longer. Default 30 s.
	Timeout time.Duration
	// TimeoutFactor and MinTimeout shorten the timeout in Run for servers that usually answer sooner, so
	// that servers that fall silent hold up a sweep for seconds only. The timeout is TimeoutFactor times the
	// usual duration of the server's successful polls, at least MinTimeout, and at most Timeout. It is
	// rounded up by at most a quarter. Polls with facts and light ones have usual durations of their own.
	// Until its first light poll, a server's light polls are expected to take as long as those with facts.
	//
	// A poll that ends at such a shorter timeout is no failure. The next poll follows at once with the full
	// Timeout, and only its outcome counts. So a server that answers within Timeout never fails because of
	// these options. Timeout applies to servers whose last poll failed, to servers without a successful
	// poll since Run began, and to Poll. The durations are kept in memory.
	//
	// A TimeoutFactor below 0 means that Timeout applies to all polls; between 0 and 1 it is invalid.
	// Default 4, 2 s.
	TimeoutFactor float64
	MinTimeout    time.Duration
	// Concurrency is how many polls Run performs at once for servers that answered last time.
	// Slow, failing and offline servers have limits of their own, so they delay no healthy server.
	// Each poll costs a connection and about 50 KiB of memory. Default 64.
	Concurrency int
	// SlowConcurrency limits slow polls: those that began under Concurrency and take longer than a limit. The limit is TimeoutFactor
	// times the mean duration of successful polls, at least 100 ms, and at most SlowAfter. With a negative TimeoutFactor it is
	// SlowAfter. Default 512, 1 s.
	SlowConcurrency int
	SlowAfter       time.Duration
	// RetryConcurrency limits polls of servers that failed last time, and are not offline yet:
	// first retries, and servers that are rebooting. Default 256.
	RetryConcurrency int
	// OfflineConcurrency limits polls of servers that are offline. Default 128.
	OfflineConcurrency int
	// BatchSize is the largest number of changed observations that one transaction stores.
	// BatchDelay is how long the first observation of a batch waits for others. Default 50, 50 ms.
	BatchSize  int
	BatchDelay time.Duration
	// MaxPending is how many observations the poller holds while the store refuses writes, and
	// MaxPendingSize how many bytes of facts. The poller drops further observations, and polls
	// their servers again at their next turn. Default 1,000, 64 MiB.
	MaxPending     int
	MaxPendingSize int
	// MaxLag is how late a poll may start before the poller counts as behind its schedule, and
	// raises a warning. Offline servers don't count. Default 1 minute, or a fifth of Interval if
	// that is less.
	MaxLag time.Duration
	// Grace bounds how long Run takes to return after its context ended. Default 10 s.
	Grace time.Duration
	// OnPoll, if set, is called with the outcome of each poll, before the outcome is stored. A poll that was cut
	// short (Stats.Cut) has no outcome.
	// Several goroutines call it at once. It must return quickly, and must not keep the observation.
	OnPoll func(o *lifecycle.Observation)
}

func (o Options) withDefaults() (Options, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	err := defaults.Fill(opscenter.ErrInvalidOptions,
		defaults.Of("Interval", &o.Interval, DefaultInterval), defaults.Of("FastInterval", &o.FastInterval, DefaultFastInterval),
		defaults.Of("RetryInterval", &o.RetryInterval, DefaultRetryInterval), defaults.Of("MaxBackoff", &o.MaxBackoff, DefaultMaxBackoff),
		defaults.Of("Timeout", &o.Timeout, DefaultTimeout), defaults.Of("MinTimeout", &o.MinTimeout, DefaultMinTimeout),
		defaults.Of("SlowAfter", &o.SlowAfter, DefaultSlowAfter),
		defaults.Of("BatchDelay", &o.BatchDelay, DefaultBatchDelay), defaults.Of("Grace", &o.Grace, DefaultGrace),
		defaults.Of("FactsInterval", &o.FactsInterval, DefaultFactsInterval), defaults.Of("MaxLag", &o.MaxLag, 0),
		defaults.Of("Concurrency", &o.Concurrency, DefaultConcurrency), defaults.Of("SlowConcurrency", &o.SlowConcurrency, DefaultSlowConcurrency),
		defaults.Of("RetryConcurrency", &o.RetryConcurrency, DefaultRetryConcurrency),
		defaults.Of("OfflineConcurrency", &o.OfflineConcurrency, DefaultOfflineConcurrency), defaults.Of("BatchSize", &o.BatchSize, DefaultBatchSize),
		defaults.Of("MaxPending", &o.MaxPending, DefaultMaxPending), defaults.Of("MaxPendingSize", &o.MaxPendingSize, DefaultMaxPendingSize))
	if err != nil {
		return o, err
	}
	switch f := o.TimeoutFactor; {
	case f == 0:
		o.TimeoutFactor = DefaultTimeoutFactor
	case f > 0 && f < 1, math.IsNaN(f):
		return o, fmt.Errorf("TimeoutFactor is %v, it must be at least 1, or negative: %w", f, opscenter.ErrInvalidOptions)
	}
	// The fast and retry intervals never exceed the normal one.
	o.FastInterval, o.RetryInterval = min(o.FastInterval, o.Interval), min(o.RetryInterval, o.Interval)
	if o.MaxLag == 0 {
		o.MaxLag = min(DefaultMaxLag, o.Interval/5)
	}
	o.BatchSize = min(o.BatchSize, opscenter.MaxObservations, o.MaxPending)
	return o, nil
}
