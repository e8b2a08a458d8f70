// Package metrics shows a control plane to Prometheus: how many servers there are of each
// kind, how the polls go, and whether the store keeps up. It is a module of its own, so that
// only those who want it have prometheus/client_golang among their dependencies.
package metrics

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage"
)

// DefaultBuckets are the upper bounds of the histogram of poll durations, in seconds: from a
// poll over a kept connection to one that ran into its deadline.
var DefaultBuckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// Options of New.
type Options struct {
	// Registry to show. It must be given.
	Registry *opscenter.Registry
	// Client, if given, tells of connections.
	Client *incusos.Client
	// Buckets of the histogram of poll durations, in seconds. Default DefaultBuckets.
	Buckets []float64
}

// Collector is a prometheus.Collector. A scrape reads counters that are kept anyway; it does
// not ask the store. All methods may be called concurrently.
type Collector struct {
	options  Options
	poller   atomic.Pointer[poller.Poller]
	outcomes *prometheus.CounterVec
	duration prometheus.Histogram
}

// New returns a Collector. Give its OnPoll to the poller's Options, and the poller to Polls.
func New(options Options) *Collector {
	if options.Buckets == nil {
		options.Buckets = DefaultBuckets
	}
	return &Collector{options: options,
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "opscenter_polls_total",
			Help: "Polls by outcome: answered, partial (not all could be read), or the kind of failure: connect, timeout, certificate, untrusted, answer, other."}, []string{"outcome"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "opscenter_poll_duration_seconds",
			Help: "How long polls took, failed ones included.", Buckets: options.Buckets}),
	}
}

// OnPoll counts a poll. It is for poller.Options.OnPoll.
func (c *Collector) OnPoll(o *lifecycle.Observation) {
	c.outcomes.WithLabelValues(outcome(o)).Inc()
	c.duration.Observe(o.Took.Seconds())
}

func outcome(o *lifecycle.Observation) string {
	switch {
	case o.Failure != nil:
		switch kind := o.Failure.Kind; kind {
		case lifecycle.FailureConnect, lifecycle.FailureTimeout, lifecycle.FailureCertificate, lifecycle.FailureUntrusted, lifecycle.FailureAnswer:
			return kind
		}
		return "other" // of a prober that has kinds of its own: labels are to be few
	case len(o.Unread) > 0:
		return "partial"
	}
	return "answered"
}

// Polls shows what a poller does, too.
func (c *Collector) Polls(p *poller.Poller) { c.poller.Store(p) }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("opscenter_"+name, help, labels, nil)
}

var (
	servers     = describe("servers", "Servers by status, detail of it, and type.", "status", "detail", "type")
	warnings    = describe("warnings", "Warnings there are, by type.", "type")
	unreachable = describe("fleet_unreachable", "1 while so many servers fail at once that the control plane suspects itself, and makes none offline.")

	polled    = describe("polled_servers", "Servers that are polled.")
	running   = describe("polls_running", "Polls under way, by lane: those of servers that fail or take their time have one of their own.", "lane")
	lag       = describe("poll_lag_seconds", "How long the server has waited for its turn that has waited the longest, of those that are not offline.")
	offline   = describe("poll_offline_lag_seconds", "The same, of those that are offline.")
	unchanged = describe("polls_unchanged_total", "Polls that found nothing new.")
	stored    = describe("observations_stored_total", "Polls whose outcome was of interest, and is stored.")
	pending   = describe("observations_pending", "Outcomes of polls that wait to be stored.")
	dropped   = describe("observations_dropped_total", "Outcomes of polls that were given up, to poll the server again instead.")
	refused   = describe("store_refusals_total", "How often the store did not take outcomes of polls.")

	open       = describe("connections_open", "Connections to servers, idle ones included.")
	dials      = describe("connections_dialed_total", "Connections begun.")
	handshakes = describe("tls_handshakes_total", "TLS handshakes with servers that succeeded: full, or resumed.", "kind")
	sessions   = describe("tls_sessions", "TLS sessions that can be resumed.")

	commits  = describe("store_commits_total", "Commits of the store.")
	failed   = describe("store_commits_failed_total", "Commits the store refused, or could not carry out.")
	written  = describe("store_written_bytes_total", "Size of the rows and keys in those commits.")
	watchers = describe("store_watchers", "Watches of the store.")
	watchLag = describe("store_watch_lag_revisions", "How many revisions the slowest of them is behind.")
)

// Describe implements prometheus.Collector.
func (c *Collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{servers, warnings, unreachable, polled, running, lag, offline, unchanged, stored, pending, dropped, refused,
		open, dials, handshakes, sessions, commits, failed, written, watchers, watchLag} {
		out <- d
	}
	c.outcomes.Describe(out)
	c.duration.Describe(out)
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
	for kind, n := range c.options.Registry.CountWarnings() {
		gauge(warnings, float64(n), string(kind))
	}
	held := 0.0
	if c.options.Registry.FleetUnreachable() {
		held = 1
	}
	gauge(unreachable, held)
	c.outcomes.Collect(out)
	c.duration.Collect(out)
	if p := c.poller.Load(); p != nil {
		s := p.Stats()
		gauge(polled, float64(s.Servers))
		gauge(running, float64(s.Running-min(s.Running, s.Slow)), "main")
		gauge(running, float64(s.Slow), "slow")
		gauge(lag, s.Lag.Seconds())
		gauge(offline, s.OfflineLag.Seconds())
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
