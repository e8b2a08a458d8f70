package poller

import (
	"log/slog"
	"time"

	"github.com/opscenter-go/sdk/internal/defaults"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Defaults of Options.
const (
	DefaultInterval        = 5 * time.Minute
	DefaultFastInterval    = 5 * time.Second
	DefaultRetryInterval   = 10 * time.Second
	DefaultMaxBackoff      = 15 * time.Minute
	DefaultTimeout         = 30 * time.Second
	DefaultConcurrency     = 64
	DefaultSlowConcurrency = 512
	DefaultSlowAfter       = time.Second
	// DefaultRetryConcurrency and DefaultOfflineConcurrency are for servers that fail.
	DefaultRetryConcurrency   = 256
	DefaultOfflineConcurrency = 128
	DefaultBatchSize          = 50
	DefaultBatchDelay         = 50 * time.Millisecond
	DefaultMaxPending         = 1000
	DefaultMaxPendingSize     = 64 << 20
	DefaultGrace              = 10 * time.Second
	// DefaultMaxLag applies to intervals of 5 minutes and more; to shorter ones a fifth of them.
	DefaultMaxLag = time.Minute
)

// Options of New. The zero value is what most programs want.
type Options struct {
	// Logger gets what goes wrong inside. Default: nothing is logged.
	Logger *slog.Logger
	// Interval between two polls of a server that is ready. Default 5 minutes.
	Interval time.Duration
	// FactsInterval is the time between two polls that read the facts, too: hardware, network,
	// security, storage. The others ask for less than half as much. Default: Interval.
	FactsInterval time.Duration
	// FastInterval is for servers on their way: pending, updating, evacuating, rebooting, restoring. Default 5 s.
	FastInterval time.Duration
	// RetryInterval is the time to a second look after a poll failed, and the first step of
	// the backoff while a server is offline. Default 10 s.
	RetryInterval time.Duration
	// MaxBackoff is the last step of the backoff. Default 15 minutes.
	MaxBackoff time.Duration
	// Timeout bounds a poll. Those under way share their deadlines: it may be a thirty-second
	// part longer. Default 30 s.
	Timeout time.Duration
	// Concurrency is how many polls Run has under way at the most of servers that answered last
	// time. The others have budgets of their own, so that they keep nobody waiting; each poll
	// costs a connection and some 50 KiB. Default 64.
	Concurrency int
	// SlowConcurrency is for polls that were begun under Concurrency, and have taken SlowAfter
	// already. Default 512, 1 s.
	SlowConcurrency int
	SlowAfter       time.Duration
	// RetryConcurrency is for servers that failed last time, and are not offline: a second look,
	// or a reboot that is waited for. Default 256.
	RetryConcurrency int
	// OfflineConcurrency is for servers that are offline. Default 128.
	OfflineConcurrency int
	// BatchSize is how many observations that found something new are stored together, at the
	// most, and BatchDelay how long the first of them waits for others. Default 50, 50 ms.
	BatchSize  int
	BatchDelay time.Duration
	// MaxPending is how many observations are held, and MaxPendingSize how many bytes of facts,
	// while the store refuses to take them. What comes beyond is not held: those servers are
	// polled again in their next turn. Default 1,000, 64 MiB.
	MaxPending     int
	MaxPendingSize int
	// MaxLag is how late the server that has waited the longest may be before the poller counts
	// as behind its schedule, and warns; offline ones don't count. Default 1 minute, or a fifth
	// of Interval if that is less.
	MaxLag time.Duration
	// Grace bounds how long Run takes to end. Default 10 s.
	Grace time.Duration
	// OnPoll, if set, is called with the outcome of each poll, before that is stored, from
	// several goroutines at once. It must not hold them up, nor keep the observation.
	OnPoll func(o *lifecycle.Observation)
}

func (o Options) withDefaults() (Options, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	err := defaults.Fill(opscenter.ErrInvalidOptions,
		defaults.Of("Interval", &o.Interval, DefaultInterval), defaults.Of("FastInterval", &o.FastInterval, DefaultFastInterval),
		defaults.Of("RetryInterval", &o.RetryInterval, DefaultRetryInterval), defaults.Of("MaxBackoff", &o.MaxBackoff, DefaultMaxBackoff),
		defaults.Of("Timeout", &o.Timeout, DefaultTimeout), defaults.Of("SlowAfter", &o.SlowAfter, DefaultSlowAfter),
		defaults.Of("BatchDelay", &o.BatchDelay, DefaultBatchDelay), defaults.Of("Grace", &o.Grace, DefaultGrace),
		defaults.Of("FactsInterval", &o.FactsInterval, 0), defaults.Of("MaxLag", &o.MaxLag, 0),
		defaults.Of("Concurrency", &o.Concurrency, DefaultConcurrency), defaults.Of("SlowConcurrency", &o.SlowConcurrency, DefaultSlowConcurrency),
		defaults.Of("RetryConcurrency", &o.RetryConcurrency, DefaultRetryConcurrency),
		defaults.Of("OfflineConcurrency", &o.OfflineConcurrency, DefaultOfflineConcurrency), defaults.Of("BatchSize", &o.BatchSize, DefaultBatchSize),
		defaults.Of("MaxPending", &o.MaxPending, DefaultMaxPending), defaults.Of("MaxPendingSize", &o.MaxPendingSize, DefaultMaxPendingSize))
	if err != nil {
		return o, err
	}
	// Nothing that is meant to be quicker than a poll in turn is slower than it.
	o.FastInterval, o.RetryInterval = min(o.FastInterval, o.Interval), min(o.RetryInterval, o.Interval)
	if o.FactsInterval == 0 {
		o.FactsInterval = o.Interval
	}
	if o.MaxLag == 0 {
		o.MaxLag = min(DefaultMaxLag, o.Interval/5)
	}
	o.BatchSize = min(o.BatchSize, opscenter.MaxObservations, o.MaxPending)
	return o, nil
}
