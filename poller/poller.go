// Package poller finds out how servers are: it asks each of them in turn, every 5 minutes by
// default, more often while something is under way, less often while it does not answer, and
// at once when it registers or says something of itself.
package poller

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
)

// Defaults of Options.
const (
	DefaultInterval      = 5 * time.Minute
	DefaultFastInterval  = 5 * time.Second
	DefaultRetryInterval = 10 * time.Second
	DefaultMaxBackoff    = 15 * time.Minute
	DefaultTimeout       = 30 * time.Second
	DefaultConcurrency   = 64
)

// Prober asks a server how it is. Package opscenter/incusos implements it. Probe returns when
// ctx ends, at the latest, and leaves nothing behind.
type Prober interface {
	Probe(ctx context.Context, target opscenter.Target) opscenter.Observation
}

// Options of New. The zero value is what most programs want.
type Options struct {
	// Logger gets what goes wrong inside. Default: nothing is logged.
	Logger *slog.Logger
	// Interval between two polls of a server that is ready. Default 5 minutes.
	Interval time.Duration
	// FastInterval is for servers on their way: pending, updating, evacuating, rebooting, restoring. Default 5 s.
	FastInterval time.Duration
	// RetryInterval is the time to a second look after a poll failed, and the first step of
	// the backoff while a server is offline. Default 10 s.
	RetryInterval time.Duration
	// MaxBackoff is the last step of the backoff. Default 15 minutes.
	MaxBackoff time.Duration
	// Timeout bounds a poll. Default 30 s.
	Timeout time.Duration
	// Concurrency is how many polls Run has under way at the most. Default 64.
	Concurrency int
}

func (o Options) withDefaults() (Options, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{{"Interval", &o.Interval, DefaultInterval}, {"FastInterval", &o.FastInterval, DefaultFastInterval}, {"RetryInterval", &o.RetryInterval, DefaultRetryInterval},
		{"MaxBackoff", &o.MaxBackoff, DefaultMaxBackoff}, {"Timeout", &o.Timeout, DefaultTimeout}} {
		if *d.value < 0 {
			return o, fmt.Errorf("%s is %s, it must not be negative: %w", d.name, *d.value, opscenter.ErrInvalidOptions)
		}
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	if o.Concurrency < 0 {
		return o, fmt.Errorf("option Concurrency is %d, it must not be negative: %w", o.Concurrency, opscenter.ErrInvalidOptions)
	}
	if o.Concurrency == 0 {
		o.Concurrency = DefaultConcurrency
	}
	// Nothing that is meant to be quicker than a poll in turn is slower than it.
	o.FastInterval, o.RetryInterval = min(o.FastInterval, o.Interval), min(o.RetryInterval, o.Interval)
	return o, nil
}

// Poller polls the servers of a Registry.
type Poller struct {
	registry *opscenter.Registry
	prober   Prober
	options  Options
	timing   timing

	mu      sync.Mutex
	locks   map[string]chan struct{} // by server ID: held while it is polled
	polls   atomic.Int64
	failed  atomic.Int64
	running atomic.Int64
	lag     atomic.Int64
	servers atomic.Int64
	active  atomic.Bool
}

// New returns a Poller. It does nothing before Run or Poll is called.
func New(registry *opscenter.Registry, prober Prober, options Options) (*Poller, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Poller{registry: registry, prober: prober, options: options, locks: map[string]chan struct{}{},
		timing: timing{interval: options.Interval, fast: options.FastInterval, retry: options.RetryInterval,
			maxBackoff: options.MaxBackoff, threshold: registry.Options().OfflineThreshold}}, nil
}

// ErrRunning: Run was called while it is running.
var ErrRunning = errors.New("the poller is running")

// ErrNotRegistered: the server has not registered itself, so far, and can't be polled.
var ErrNotRegistered = errors.New("server has not registered")

// Stats is what a Poller is doing.
type Stats struct {
	// Servers that are polled.
	Servers int
	// Running is how many polls are under way.
	Running int
	// Lag is how long the server has waited for its turn that has waited the longest, when
	// Run last looked. It stays near 0 while the poller keeps up.
	Lag time.Duration
	// Polls ended so far, and how many of them failed.
	Polls, Failed int64
}

// Stats returns what the Poller is doing.
func (p *Poller) Stats() Stats {
	return Stats{Servers: int(p.servers.Load()), Running: int(p.running.Load()), Lag: time.Duration(p.lag.Load()),
		Polls: p.polls.Load(), Failed: p.failed.Load()}
}

// Poll polls one server now, and returns what was found once that is stored. Polls of the
// same server come one after the other. It needs no Run. Errors: opscenter.ErrNotFound,
// ErrNotRegistered, ctx's, and the store's; a server that can't be reached is no error, but a
// Failure of the observation.
func (p *Poller) Poll(ctx context.Context, name string) (opscenter.Observation, error) {
	info, err := p.registry.Server(ctx, name)
	if err != nil {
		return opscenter.Observation{}, err
	}
	if info.Certificate == "" {
		return opscenter.Observation{}, fmt.Errorf("server %q: %w", name, ErrNotRegistered)
	}
	unlock, err := p.lock(ctx, info.ID)
	if err != nil {
		return opscenter.Observation{}, err
	}
	defer unlock()
	return p.probe(ctx, info.Target())
}

// lock waits until no other poll of that server is under way.
func (p *Poller) lock(ctx context.Context, id string) (unlock func(), err error) {
	for {
		p.mu.Lock()
		held, busy := p.locks[id]
		if !busy {
			done := make(chan struct{})
			p.locks[id] = done
			p.mu.Unlock()
			return func() {
				p.mu.Lock()
				delete(p.locks, id)
				p.mu.Unlock()
				close(done)
			}, nil
		}
		p.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// probe asks a server, and stores the answer. A poll that was called off says nothing of the server.
func (p *Poller) probe(ctx context.Context, target opscenter.Target) (opscenter.Observation, error) {
	p.running.Add(1)
	defer p.running.Add(-1)
	bounded, cancel := context.WithTimeout(ctx, p.options.Timeout)
	defer cancel()
	o := p.prober.Probe(bounded, target)
	if err := ctx.Err(); err != nil {
		return o, err
	}
	p.polls.Add(1)
	if o.Failure != nil {
		p.failed.Add(1)
	}
	return o, p.registry.RecordObservations(ctx, o)
}

// Run polls until ctx ends, and returns its error once everything it began has ended. It
// follows the Registry's change feed: new servers are polled at once, removed ones no more.
func (p *Poller) Run(ctx context.Context) error {
	if p.active.Swap(true) {
		return ErrRunning
	}
	defer p.active.Store(false)
	l := &loop{Poller: p, entries: map[string]*entry{}, done: make(chan result), changes: make(chan opscenter.Changes)}
	ctx, cancel := context.WithCancel(ctx)
	var followers sync.WaitGroup
	defer followers.Wait()
	defer cancel()

	revision, err := p.registry.Revision(ctx)
	if err != nil {
		return err
	}
	if err := l.reload(ctx); err != nil {
		return err
	}
	followers.Go(func() { l.follow(ctx, revision) })
	err = l.run(ctx)
	// What was found is in the store but for when servers were last seen.
	flush, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	return errors.Join(err, p.registry.Flush(flush))
}

// loop is the state of a Run. Only its own goroutine touches entries and queue.
type loop struct {
	*Poller
	entries map[string]*entry // by name
	queue   queue
	busy    int
	done    chan result
	changes chan opscenter.Changes
	// stale: something could not be read, and everything is read again then.
	stale      bool
	staleUntil time.Time
}

// result of a worker.
type result struct {
	entry *entry
	info  *opscenter.ServerInfo // nil: gone
}

func (l *loop) follow(ctx context.Context, revision uint64) {
	for ctx.Err() == nil {
		for changes, err := range l.registry.Watch(ctx, revision) {
			if err != nil {
				if ctx.Err() == nil {
					l.options.Logger.ErrorContext(ctx, "the change feed ended, and is tried again", "error", err)
				}
				break
			}
			revision = changes.Revision
			select {
			case l.changes <- changes:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-time.After(l.options.RetryInterval):
		case <-ctx.Done():
		}
	}
}

func (l *loop) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		l.dispatch(ctx, time.Now())
		timer.Reset(l.wait(time.Now()))
		select {
		case <-timer.C:
			if l.stale && !time.Now().Before(l.staleUntil) {
				l.take(ctx, opscenter.Changes{Reset: true})
			}
		case r := <-l.done:
			l.finish(r, time.Now())
		case changes := <-l.changes:
			l.take(ctx, changes)
		case <-ctx.Done():
			for l.busy > 0 {
				l.finish(<-l.done, time.Now())
			}
			return ctx.Err()
		}
	}
}

// take takes in changes; what could not be read is read again later, with all the rest.
func (l *loop) take(ctx context.Context, changes opscenter.Changes) {
	err := l.apply(ctx, changes)
	if changes.Reset {
		l.stale = false
	}
	if err != nil && ctx.Err() == nil {
		l.options.Logger.ErrorContext(ctx, "servers could not be read, and are tried again", "error", err)
		l.stale, l.staleUntil = true, time.Now().Add(l.options.RetryInterval)
	}
}

// wait returns how long there is nothing to do.
func (l *loop) wait(now time.Time) time.Duration {
	wait := time.Hour
	if l.stale {
		wait = max(0, l.staleUntil.Sub(now))
	}
	if len(l.queue) > 0 && l.busy < l.options.Concurrency {
		wait = min(wait, max(0, l.queue[0].due.Sub(now)))
	}
	return wait
}

// dispatch starts the polls that are due, as many as may run.
func (l *loop) dispatch(ctx context.Context, now time.Time) {
	for len(l.queue) > 0 && l.busy < l.options.Concurrency && !l.queue[0].due.After(now) {
		e := heap.Pop(&l.queue).(*entry)
		e.running, e.began = true, now
		l.busy++
		go l.work(ctx, e, e.name, e.id)
	}
	lag := time.Duration(0)
	if len(l.queue) > 0 {
		lag = max(0, now.Sub(l.queue[0].due))
	}
	l.lag.Store(int64(lag))
	l.servers.Store(int64(len(l.entries)))
}

func (l *loop) work(ctx context.Context, e *entry, name, id string) {
	info, err := l.registry.Server(ctx, name)
	if err == nil && info.ID == id && info.Certificate != "" {
		var unlock func()
		if unlock, err = l.lock(ctx, id); err == nil {
			_, err = l.probe(ctx, info.Target())
			unlock()
		}
		if err == nil {
			info, err = l.registry.Server(ctx, name)
		}
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, opscenter.ErrNotFound) {
		l.options.Logger.ErrorContext(ctx, "a poll could not be stored", "server", name, "error", err)
	}
	l.done <- result{e, info}
}

// finish gives a server its next turn.
func (l *loop) finish(r result, now time.Time) {
	l.busy--
	e := r.entry
	e.running = false
	if l.entries[e.name] != e {
		return // removed meanwhile
	}
	switch {
	case e.again:
		e.again = false
		l.queue.set(e, now)
	case r.info != nil:
		l.queue.set(e, l.timing.next(r.info, now))
	default: // not found, or not readable: the feed tells of the first, later tells of the second
		l.queue.set(e, now.Add(l.options.RetryInterval))
	}
}

// reload reads all servers, and forgets those that are gone.
func (l *loop) reload(ctx context.Context) error {
	gone := map[string]*entry{}
	for name, e := range l.entries {
		gone[name] = e
	}
	now := time.Now()
	for info, err := range l.registry.Servers(ctx, opscenter.ServerFilter{}) {
		if err != nil {
			return err
		}
		delete(gone, info.Name)
		l.see(info, now)
	}
	for name := range gone {
		l.remove(name)
	}
	return nil
}

// apply takes in what the change feed tells.
func (l *loop) apply(ctx context.Context, changes opscenter.Changes) error {
	if changes.Reset {
		return l.reload(ctx)
	}
	var failed error
	for _, name := range changes.Servers {
		info, err := l.registry.Server(ctx, name)
		switch {
		case errors.Is(err, opscenter.ErrNotFound):
			l.remove(name)
		case err != nil:
			failed = err // the others are not to suffer
		default:
			l.see(info, time.Now())
		}
	}
	return failed
}

func (l *loop) remove(name string) {
	if e := l.entries[name]; e != nil {
		l.queue.remove(e)
		delete(l.entries, name)
	}
}

// see takes in a server as it is now: a new one, one that asks for a poll, or one whose next
// turn comes sooner than was thought.
func (l *loop) see(info *opscenter.ServerInfo, now time.Time) {
	e := l.entries[info.Name]
	if e != nil && e.id != info.ID {
		l.remove(info.Name) // another server, by the same name
		e = nil
	}
	if e == nil {
		e = &entry{name: info.Name, id: info.ID, index: -1}
		l.entries[info.Name] = e
	}
	due := l.timing.next(info, now)
	asked := info.State.PollRequested
	switch {
	case due.Equal(never):
		if !e.running {
			l.queue.remove(e)
		}
	case asked.After(e.began) && (!e.began.IsZero() || now.Sub(asked) < l.options.Interval):
		if e.running {
			e.again = true // once more, however often it was asked
			e.began = asked
			return
		}
		if e.index < 0 || now.Before(e.due) {
			l.queue.set(e, now) // who waits for its turn keeps its place
		}
	case e.running:
	case e.index < 0 || due.Before(e.due):
		l.queue.set(e, due)
	}
}
