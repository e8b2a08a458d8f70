// Package poller observes all servers of an opscenter.Registry, and records their state in it.
//
// Its main type is Poller. New makes one from a Registry, a Prober and Options. Package
// opscenter/incusos has the Prober for real servers: its Client. Run polls all servers, and
// blocks until its context ends; cancel that context to stop the Poller. Poll polls one
// server at once, with or without Run.
//
// Run polls each server every 5 minutes by default. It polls more often while the state of a
// server is changing, and less often while a server does not answer. It polls at once when a
// server registers or reports a change.
//
// The package is made for large fleets:
//   - The poll that is overdue the longest starts first.
//   - Slow, failing and offline servers have concurrency limits of their own, so they delay no
//     healthy server.
//   - The timeout of a poll follows the usual duration of its server's polls, so a server that falls silent holds up a
//     sweep for seconds only.
//   - An observation without news costs a few microseconds, and writes nothing.
//   - Observations with news are stored in batches.
//
// # A hundred thousand servers
//
// The defaults poll 100,000 servers every 5 minutes if the machine performs 333 polls per second. With these options of
// package controlplane, and a store of package badgerstore, they fit into 4 GB of memory:
//
//	controlplane.Options{
//		// A TLS session for each server: only the first poll of a server needs a full handshake.
//		// At this interval no connection is used twice.
//		Client: incusos.Options{MaxSessions: 110_000, MaxIdleConns: 64},
//	}
//
// Most polls are light: they send the three requests that decide status and recommended action. The facts (hardware, network,
// security, storage) and the applications are read once an hour, see Options.FactsInterval.
//
// An Incus daemon closes idle connections after 30 s. So each poll opens a connection, and resumes a TLS session. If the
// Poller falls behind its schedule, it raises the warning "Polling behind schedule".
//
// # Performance
//
// The machine has 2 shared cores, and the simulated servers are another process on it. The registry is on Badger. The limit is a
// bare loop over net/http. It sends the same requests, 64 at a time, over the same kind of TLS connections, and discards the
// bodies. A full poll reads everything with nine requests. A light poll sends three. Figures are means of 3 sweeps.
//
//	go test -run '^$' -bench 'Polls/servers=1000' -benchtime 3x ./poller
//
//	1,000 servers                         limit       poller      ratio
//	full polls, TLS sessions resumed      606/s       506/s       0.83
//	full polls, connections kept          1,112/s     1,087/s     0.98
//	light polls, TLS sessions resumed     1,282/s     1,231/s     0.96
//	light polls, connections kept         7,132/s     4,365/s     0.61
//
//	one sweep over 1,000 servers                  wanted      poller
//	full handshakes, all answers new and stored   5 s         3.0 s
//	full polls, no full handshake, no commit      2 s         2.0 s
//	a tenth becomes silent, fixed timeout of 2 s              4.1 s (1.7 s without silent servers)
//
// While a tenth of all servers is silent, the others are polled at 0.97 of the rate without silent servers. With the
// default timeouts, a sweep of light polls in which a tenth falls silent ends after 3.0 s, and after 1.1 s without them:
//
//	go test -run '^$' -bench SilentTenth/usual -benchtime 5x ./poller
//
//	100,000 servers without sockets               wanted      poller
//	an unchanged poll                             20 µs       2.6 µs, 3 allocations of 352 B, one of them in the benchmark
//	the same with 26 KiB of facts to compare                  43 µs
//	bytes written to Badger by 100,000 of them    1 MB        0.29 MB, the times at which servers were last seen
//	heap per server, Badger                                   1.4 KiB
//	heap per server, memory                                   9.7 KiB
//
// A sweep over 100,000 servers with real sockets, facts in each poll, no full handshake, and 50 simulated servers that stand
// for 2,000 servers each. The benchmark takes 12 minutes:
//
//	OPSCENTER_BENCH_FLEET=1 go test -run '^$' -bench Fleet -benchtime 1x -timeout 60m ./poller
//
//	                                              wanted      poller
//	time                                          300 s       186 s, which is 538 polls/s
//	resident memory                               4 GB        2.4 GB at most
package poller

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Prober observes one server. The Client of package opscenter/incusos implements it.
//
// Probe must return soon after ctx ends, and must leave no goroutine running. Several goroutines
// call it at once, for different servers, and several calls may share one context. An
// unreachable server is an observation with a Failure.
type Prober interface {
	Probe(ctx context.Context, target opscenter.Target) lifecycle.Observation
}

// Poller polls the servers of a Registry. Its methods may be called from several goroutines at once.
type Poller struct {
	registry *opscenter.Registry
	prober   Prober
	options  Options
	timing   timing

	mu     sync.Mutex
	locks  map[string]chan struct{} // by server ID, present during a poll; the channel is nil unless another poll waits
	active atomic.Bool

	polls, failed, cut, unchanged, stored, dropped, refused atomic.Int64
	running, slow, pending, lag, offlineLag, servers        atomic.Int64
	pendingSize                                             atomic.Int64
	behind, refusing                                        atomic.Bool
}

// New returns a Poller. It does nothing before Run or Poll is called. A negative option is an
// error that wraps opscenter.ErrInvalidOptions.
func New(registry *opscenter.Registry, prober Prober, options Options) (*Poller, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Poller{registry: registry, prober: prober, options: options, locks: map[string]chan struct{}{},
		timing: timing{interval: options.Interval, fast: options.FastInterval, retry: options.RetryInterval,
			maxBackoff: options.MaxBackoff, facts: options.FactsInterval, threshold: registry.Options().OfflineThreshold}}, nil
}

// Errors of a Poller.
var (
	// ErrRunning means that Run was called while another Run of the Poller is active.
	ErrRunning = errors.New("the poller is running")
	// ErrNotRegistered means that the server is pre-registered only. It can be polled once it has registered.
	ErrNotRegistered = errors.New("server has not registered")
	// ErrGrace means that polls or store operations were still active at the end of Options.Grace.
	ErrGrace = errors.New("not ended within the grace period")
)

// Stats describes the work of a Poller. Counters start at 0 with New, and go on over several Runs.
type Stats struct {
	// Servers is the number of servers that Run polls.
	Servers int
	// Running is the number of active polls. Slow is the number of those that are slow, or whose
	// server failed last time.
	Running, Slow int
	// Lag is how late the most overdue poll is, among servers that are not offline. It stays near
	// 0 while the poller keeps up with its schedule. Behind is set while Lag exceeds
	// Options.MaxLag, and until it falls to half of that. OfflineLag is the lag of offline servers.
	Lag, OfflineLag time.Duration
	Behind          bool
	// Polls is the number of polls that ended. Failed counts polls that could not observe their
	// server, Unchanged those without news. Stored counts the stored observations.
	Polls, Failed, Unchanged, Stored int64
	// Cut counts the polls that ended at a timeout shorter than Options.Timeout. Polls counts them, too, and
	// Failed does not: each was repeated with the full timeout. See Options.TimeoutFactor.
	Cut int64
	// Pending is the number of observations that wait to be stored. Refused is how often the
	// store refused a write. Dropped is the number of observations that the poller gave up; it
	// polls their servers again.
	Pending          int
	Refused, Dropped int64
}

// Stats returns the current figures. They are read one by one, and may be of slightly different moments.
func (p *Poller) Stats() Stats {
	return Stats{Servers: int(p.servers.Load()), Running: int(p.running.Load()), Slow: int(p.slow.Load()),
		Lag: time.Duration(p.lag.Load()), OfflineLag: time.Duration(p.offlineLag.Load()), Behind: p.behind.Load(),
		Polls: p.polls.Load(), Failed: p.failed.Load(), Cut: p.cut.Load(), Unchanged: p.unchanged.Load(), Stored: p.stored.Load(),
		Pending: int(p.pending.Load()), Refused: p.refused.Load(), Dropped: p.dropped.Load()}
}

// Poll polls one server now, stores the observation, and returns it. It works with or without
// Run. Polls of the same server run one after the other: Poll waits, until ctx ends, for an
// active poll, and for the store to accept the result of an earlier one.
//
// An unreachable server is no error: the observation then has a Failure. Errors:
// opscenter.ErrNotFound, ErrNotRegistered, the error of ctx, and errors of the store.
func (p *Poller) Poll(ctx context.Context, name string) (lifecycle.Observation, error) {
	info, err := p.registry.Server(ctx, name)
	if err != nil {
		return lifecycle.Observation{}, err
	}
	if info.Certificate == "" {
		return lifecycle.Observation{}, fmt.Errorf("server %q: %w", name, ErrNotRegistered)
	}
	waited, err := p.lock(ctx, info.ID)
	if err != nil {
		return lifecycle.Observation{}, err
	}
	defer p.unlock(info.ID)
	if waited { // the server may have a new address
		again, err := p.registry.Server(ctx, name)
		if err != nil {
			return lifecycle.Observation{}, err
		}
		if again.ID != info.ID {
			return lifecycle.Observation{}, fmt.Errorf("another server took the name %q: %w", name, opscenter.ErrNotFound)
		}
		info = again
	}
	bounded, cancel := context.WithTimeout(ctx, p.options.Timeout)
	defer cancel()
	o, _, err := p.probe(ctx, bounded, info.ProbeTarget(), false)
	if err != nil || p.registry.Observer().RecordUnchanged(&o) {
		return o, err
	}
	return o, p.registry.Observer().Record(ctx, o)
}

// lock waits until no other poll of the server is active, and claims the server. It reports whether it had to wait.
func (p *Poller) lock(ctx context.Context, id string) (waited bool, err error) {
	for ; ; waited = true {
		p.mu.Lock()
		held, busy := p.locks[id]
		if !busy {
			p.locks[id] = nil
			p.mu.Unlock()
			return waited, nil
		}
		if held == nil {
			held = make(chan struct{})
			p.locks[id] = held
		}
		p.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return waited, ctx.Err()
		}
	}
}

// unlock ends the claim of lock, and wakes the polls that wait for the server.
func (p *Poller) unlock(id string) {
	p.mu.Lock()
	held := p.locks[id]
	delete(p.locks, id)
	p.mu.Unlock()
	if held != nil {
		close(held)
	}
}

// probe calls the Prober with the context bounded, and counts the poll. If ctx has ended, the poll
// was cancelled: probe returns an error, as the observation proves nothing about the server. If
// only bounded has ended, the server was too slow, and the observation counts. Its exception are shorter timeouts than
// Options.Timeout: cut then tells that the observation does not count.
func (p *Poller) probe(ctx, bounded context.Context, target opscenter.Target, shorter bool) (o lifecycle.Observation, cut bool, err error) {
	p.running.Add(1)
	defer p.running.Add(-1)
	o = p.prober.Probe(bounded, target)
	if err := ctx.Err(); err != nil {
		return o, false, err
	}
	p.polls.Add(1)
	if shorter && expired(bounded) && incomplete(&o) {
		p.cut.Add(1)
		return o, true, nil
	}
	if o.Failure != nil {
		p.failed.Add(1)
	}
	if p.options.OnPoll != nil {
		shown := o // a copy: without OnPoll, o then stays on the stack
		p.options.OnPoll(&shown)
	}
	return o, false, nil
}
