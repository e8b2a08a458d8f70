// Package poller finds out how servers are: it asks each of them in turn, every 5 minutes by
// default, more often while something is under way, less often while it does not answer, and
// at once when it registers or says something of itself.
//
// It is made for large fleets: who waits the longest is asked first, servers that fail, or
// take their time, have a budget of their own and keep nobody waiting, an answer that says
// nothing new costs a few microseconds and no write, and what is new is stored in batches.
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

// Prober asks a server how it is. Package opscenter/incusos implements it. Probe returns when
// ctx ends, at the latest, and leaves nothing behind. The context may be shared by several probes.
type Prober interface {
	Probe(ctx context.Context, target opscenter.Target) lifecycle.Observation
}

// Poller polls the servers of a Registry.
type Poller struct {
	registry *opscenter.Registry
	prober   Prober
	options  Options
	timing   timing

	mu     sync.Mutex
	locks  map[string]chan struct{} // by server ID: held while it is polled; a channel if somebody waits
	active atomic.Bool

	polls, failed, unchanged, stored, dropped, refused atomic.Int64
	running, slow, pending, lag, offlineLag, servers   atomic.Int64
	pendingSize                                        atomic.Int64
	behind, refusing                                   atomic.Bool
}

// New returns a Poller. It does nothing before Run or Poll is called.
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
	// ErrRunning: Run was called while it is running.
	ErrRunning = errors.New("the poller is running")
	// ErrNotRegistered: the server has not registered itself, so far, and can't be polled.
	ErrNotRegistered = errors.New("server has not registered")
	// ErrGrace: polls, or the store, did not end within Options.Grace.
	ErrGrace = errors.New("not ended within the grace")
)

// Stats is what a Poller is doing.
type Stats struct {
	// Servers that are polled.
	Servers int
	// Running is how many polls are under way, and Slow how many of them are of servers that
	// fail or take their time.
	Running, Slow int
	// Lag is how long the server has waited for its turn that has waited the longest, of those
	// that are not offline, when Run last looked. It stays near 0 while the poller keeps up;
	// Behind is set while it doesn't. OfflineLag is the same of those that are offline.
	Lag, OfflineLag time.Duration
	Behind          bool
	// Polls ended so far: how many of them failed, how many found nothing new, and how many
	// were of interest, and are stored.
	Polls, Failed, Unchanged, Stored int64
	// Pending is how many observations wait to be stored. Refused is how often the store did
	// not take some, and Dropped how many were given up, to poll the server again instead.
	Pending          int
	Refused, Dropped int64
}

// Stats returns what the Poller is doing.
func (p *Poller) Stats() Stats {
	return Stats{Servers: int(p.servers.Load()), Running: int(p.running.Load()), Slow: int(p.slow.Load()),
		Lag: time.Duration(p.lag.Load()), OfflineLag: time.Duration(p.offlineLag.Load()), Behind: p.behind.Load(),
		Polls: p.polls.Load(), Failed: p.failed.Load(), Unchanged: p.unchanged.Load(), Stored: p.stored.Load(),
		Pending: int(p.pending.Load()), Refused: p.refused.Load(), Dropped: p.dropped.Load()}
}

// Poll polls one server now, and returns what was found once that is stored. Polls of the
// same server come one after the other: while Run holds an observation of the server that the
// store refuses, it waits, until ctx ends. It needs no Run. Errors: opscenter.ErrNotFound,
// ErrNotRegistered, ctx's, and the store's; a server that can't be reached is no error, but a
// Failure of the observation.
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
	if waited { // it may have moved meanwhile
		again, err := p.registry.Server(ctx, name)
		if err != nil {
			return lifecycle.Observation{}, err
		}
		if again.ID != info.ID {
			return lifecycle.Observation{}, fmt.Errorf("server %q is another by now: %w", name, opscenter.ErrNotFound)
		}
		info = again
	}
	bounded, cancel := context.WithTimeout(ctx, p.options.Timeout)
	defer cancel()
	o, err := p.probe(ctx, bounded, info.ProbeTarget())
	if err != nil || p.registry.RecordUnchanged(&o) {
		return o, err
	}
	return o, p.registry.RecordObservations(ctx, o)
}

// lock waits until no other poll of that server is under way, and tells if it had to.
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

func (p *Poller) unlock(id string) {
	p.mu.Lock()
	held := p.locks[id]
	delete(p.locks, id)
	p.mu.Unlock()
	if held != nil {
		close(held)
	}
}

// probe asks a server. A poll that was called off, when ctx has ended, says nothing of the
// server; one that ran into its own deadline, of bounded, does.
func (p *Poller) probe(ctx, bounded context.Context, target opscenter.Target) (lifecycle.Observation, error) {
	p.running.Add(1)
	defer p.running.Add(-1)
	o := p.prober.Probe(bounded, target)
	if err := ctx.Err(); err != nil {
		return o, err
	}
	p.polls.Add(1)
	if o.Failure != nil {
		p.failed.Add(1)
	}
	if p.options.OnPoll != nil {
		shown := o // apart, so that without OnPoll nothing goes to the heap
		p.options.OnPoll(&shown)
	}
	return o, nil
}
