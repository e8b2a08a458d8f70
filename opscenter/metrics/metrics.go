// Package metrics exports metrics of a control plane to Prometheus: servers by status, warnings, polls,
// connections, rollouts, the inventory, the update feed, requests, and the load of the store.
//
// Its main type is Collector. New makes one. Set its OnPoll in poller.Options, pass the poller to
// Polls, and register the Collector with a prometheus.Registry. Rollouts, Inventory and Updates add these parts, and
// HTTP counts the requests to a handler. A Collector runs no goroutines, and needs no stop.
//
// The files beside this package are ready to use: alerts.yaml has alerts for Prometheus, and dashboard.json is a dashboard for
// Grafana, which asks for the Prometheus data source when it is imported.
//
// The package is a module of its own, so that other programs do not depend on
// prometheus/client_golang.
package metrics

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage"
)

// DefaultBuckets are the upper bounds of the histogram of poll durations, in seconds. They range from
// a poll over an open connection to one that ended with its deadline.
var DefaultBuckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// Options configures New.
type Options struct {
	// Registry is the registry to export. Required.
	Registry *opscenter.Registry
	// Client, if set, adds metrics of connections. Default: none.
	Client *incusos.Client
	// Buckets are the upper bounds of the histogram of poll durations, in seconds, ascending.
	// Default DefaultBuckets.
	Buckets []float64
}

// Collector is a prometheus.Collector. A scrape reads counters in memory; of the store it reads the newest rollouts, if Rollouts added them.
// All methods may be called concurrently.
type Collector struct {
	options  Options
	poller   atomic.Pointer[poller.Poller]
	outcomes *prometheus.CounterVec
	duration prometheus.Histogram

	requests  requests
	rollouts  atomic.Pointer[rollout.Manager]
	inventory atomic.Pointer[inventory.Manager]
	updates   atomic.Pointer[updates.Manager]
	failures  atomic.Int64 // of scrapes
}

// New returns a Collector. Set its OnPoll in poller.Options, and pass the poller to Polls.
func New(options Options) *Collector {
	if options.Buckets == nil {
		options.Buckets = DefaultBuckets
	}
	return &Collector{options: options, requests: newRequests(),
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "opscenter_polls_total",
			Help: "Polls by outcome: answered, partial (some parts were unreadable), or the kind of failure: connect, timeout, certificate, untrusted, answer, other."}, []string{"outcome"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "opscenter_poll_duration_seconds",
			Help: "Duration of polls, including failed ones.", Buckets: options.Buckets}),
	}
}

// OnPoll counts a poll. Set it as poller.Options.OnPoll.
func (c *Collector) OnPoll(o *lifecycle.Observation) {
	c.outcomes.WithLabelValues(outcome(o)).Inc()
	c.duration.Observe(o.Took.Seconds())
}

// outcome returns the label of a poll.
func outcome(o *lifecycle.Observation) string {
	switch {
	case o.Failure != nil:
		switch kind := o.Failure.Kind; kind {
		case lifecycle.FailureConnect, lifecycle.FailureTimeout, lifecycle.FailureCertificate, lifecycle.FailureUntrusted, lifecycle.FailureAnswer:
			return kind
		}
		return "other" // other probers may have many kinds; keep the number of labels small
	case len(o.Unread) > 0:
		return "partial"
	}
	return "answered"
}

// Polls adds the metrics of a poller. A later call replaces the poller.
func (c *Collector) Polls(p *poller.Poller) { c.poller.Store(p) }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("opscenter_"+name, help, labels, nil)
}

var (
	servers     = describe("servers", "Servers by status, status detail and type.", "status", "detail", "type")
	warnings    = describe("warnings", "Open warnings by type.", "type")
	unreachable = describe("fleet_unreachable", "1 while so many servers fail at once that the control plane suspects itself, and marks no server as offline.")

	polled    = describe("polled_servers", "Servers that the poller polls.")
	running   = describe("polls_running", "Active polls by lane: slow has the polls of slow and failing servers, main all others.", "lane")
	lag       = describe("poll_lag_seconds", "Delay of the most overdue poll of a server that is not offline.")
	offline   = describe("poll_offline_lag_seconds", "Delay of the most overdue poll of an offline server.")
	cut       = describe("polls_cut_total", "Polls that ended at a shortened timeout, and were repeated with the full one.")
	unchanged = describe("polls_unchanged_total", "Polls without news.")
	stored    = describe("observations_stored_total", "Observations that were stored.")
	pending   = describe("observations_pending", "Observations that wait to be stored.")
	dropped   = describe("observations_dropped_total", "Observations that were dropped. Their servers are polled again.")
	refused   = describe("store_refusals_total", "Writes of observations that the store refused.")

	open       = describe("connections_open", "Open connections to servers, including idle ones.")
	dials      = describe("connections_dialed_total", "Connection attempts.")
	handshakes = describe("tls_handshakes_total", "Successful TLS handshakes with servers, full or resumed.", "kind")
	sessions   = describe("tls_sessions", "TLS sessions that can be resumed.")

	commits  = describe("store_commits_total", "Commits of the store.")
	failed   = describe("store_commits_failed_total", "Commits that failed or were refused.")
	written  = describe("store_written_bytes_total", "Bytes of rows and keys in the commits of the store.")
	watchers = describe("store_watchers", "Active watches of the store.")
	watchLag = describe("store_watch_lag_revisions", "Revisions that the slowest watch is behind.")
)

// Describe implements prometheus.Collector.
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{servers, warnings, unreachable, polled, running, lag, offline, cut, unchanged, stored, pending, dropped, refused,
		open, dials, handshakes, sessions, commits, failed, written, watchers, watchLag} {
		out <- d
	}
	for _, d := range partDescriptions {
		out <- d
	}
	c.outcomes.Describe(out)
	c.duration.Describe(out)
	for _, one := range c.requests.collectors() {
		one.Describe(out)
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	for _, n := range c.options.Registry.Counts() {
		gauge(servers, float64(n.Count), string(n.Status), string(n.StatusDetail), string(n.Type))
	}
	for kind, n := range c.options.Registry.Warnings().Counts() {
		gauge(warnings, float64(n), string(kind))
	}
	held := 0.0
	if c.options.Registry.Observer().FleetUnreachable() {
		held = 1
	}
	gauge(unreachable, held)
	c.collectParts(gauge, counter)
	for _, one := range c.requests.collectors() {
		one.Collect(out)
	}
	c.outcomes.Collect(out)
	c.duration.Collect(out)
	if p := c.poller.Load(); p != nil {
		s := p.Stats()
		gauge(polled, float64(s.Servers))
		gauge(running, float64(s.Running-min(s.Running, s.Slow)), "main")
		gauge(running, float64(s.Slow), "slow")
		gauge(lag, s.Lag.Seconds())
		gauge(offline, s.OfflineLag.Seconds())
		counter(cut, float64(s.Cut))
		counter(unchanged, float64(s.Unchanged))
		counter(stored, float64(s.Stored))
		gauge(pending, float64(s.Pending))
		counter(dropped, float64(s.Dropped))
		counter(refused, float64(s.Refused))
	}
	if c.options.Client != nil {
		s := c.options.Client.Stats()
		gauge(open, float64(s.Open))
		counter(dials, float64(s.Dials))
		counter(handshakes, float64(s.FullHandshakes), "full")
		counter(handshakes, float64(s.ResumedHandshakes), "resumed")
		gauge(sessions, float64(s.Sessions))
	}
	if store, ok := c.options.Registry.Store().(storage.Measured); ok {
		s := store.Stats()
		counter(commits, float64(s.Commits))
		counter(failed, float64(s.Failed))
		counter(written, float64(s.Written))
		gauge(watchers, float64(s.Watchers))
		gauge(watchLag, float64(s.WatchLag))
	}
}
