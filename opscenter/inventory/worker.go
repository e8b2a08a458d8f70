package inventory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/time/rate"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// scanRestFactor times the duration of a scan is the pause after it, in which events cause no scan. After a scan of one
// second the pause is ten seconds, see [Options.rest].
const scanRestFactor = 10

// rest returns the pause after a scan of that duration. It is bounded: a scan may be slow only because the cluster
// elected a leader, and changes must not stay hidden for minutes afterwards.
func (o Options) rest(took time.Duration) time.Duration {
	return min(scanRestFactor*took, max(took, o.MaxBackoff))
}

// relistRestFactor is the same for the lists that are read again after events. They are short.
const relistRestFactor = 2

// firstBackoff is the pause after the first failed attempt to connect to a unit.
const firstBackoff = time.Second

// steadyAfter is the least duration of a session after which the backoff starts again.
const steadyAfter = 10 * time.Second

// request asks a worker to read an object, or to scan the unit. done gets the result.
type request struct {
	ref  ref
	scan bool
	done chan error
}

// worker keeps the inventory of one unit. Only its goroutine writes the unit's objects.
type worker struct {
	m        *Manager
	id       string
	cluster  bool
	cancel   context.CancelFunc
	ended    chan struct{}
	requests chan *request
	notify   chan struct{} // pending has new work
	wake     chan struct{} // its servers have changed

	mu        sync.Mutex
	members   map[string]bool
	pending   *pending
	since     time.Time // when pending was no longer empty
	status    Status
	eventless map[string]*eventless // daemons without a stream of events, by ID of the server

	// The fields below belong to the goroutine alone.
	attempt    int
	target     opscenter.Target
	daemon     Daemon
	settling   []settling
	scopesNext time.Time // before that time, events cause no list
	scanNext   time.Time // before that time, events cause no scan
	scanRetry  time.Time // when an incomplete scan is repeated; zero: none
	excessNext time.Time // when a truncated unit is scanned again; zero: it is not truncated
	failures   int
	reserved   bool          // the worker holds a place for a stream
	streaming  bool          // the session has a stream of events
	waited     time.Duration // for events, see awaitEvents
	unread     map[Kind]bool // kinds that were never fully scanned
	doubtful   bool          // there are instances in error, whose member may not answer
	begun      bool          // the unit is stored
	counted    bool          // used is known
	used       usage         // the stored objects
	excess     excess        // the objects beyond the budget
	warned     bool          // the warning about an excess is raised
	cleared    bool          // the warning is known to be cleared
	looks      *rate.Limiter // objects that are read one by one
	reads      *rate.Limiter // bytes that are read
}

// settling is an object that is read again at a time, see Options.Settle.
type settling struct {
	late
	at time.Time
}

func newWorker(m *Manager, id string, cluster bool) *worker {
	return &worker{m: m, id: id, cluster: cluster, ended: make(chan struct{}), requests: make(chan *request), notify: make(chan struct{}, 1),
		wake: make(chan struct{}, 1), eventless: map[string]*eventless{}, pending: newPending(m.options.MaxPending), looks: looks(&m.options), reads: rate.NewLimiter(readRate, readBurst)}
}

func (w *worker) start(ctx context.Context) {
	ctx, w.cancel = context.WithCancel(ctx)
	go func() {
		defer close(w.ended)
		defer w.cancel()
		w.run(ctx)
		if w.reserved {
			<-w.m.streams
		}
	}()
}

func (w *worker) stop() { w.cancel() }

// setMembers sets the names of the servers, and wakes the worker: a server may have changed.
func (w *worker) setMembers(members map[string]bool) {
	w.mu.Lock()
	w.members = maps.Clone(members)
	w.mu.Unlock()
	signal(w.wake)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// show returns a copy of the status, without the name of the unit.
func (w *worker) show() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.status
	out.Skipped = maps.Clone(w.status.Skipped)
	out.Pending = len(w.pending.tasks)
	out.Events = w.pending.events
	return out
}

func (w *worker) set(change func(*Status)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.status)
}

// run runs one session after another until ctx ends.
func (w *worker) run(ctx context.Context) {
	backoff := firstBackoff
	for ctx.Err() == nil {
		w.drain(w.wake)
		begun := time.Now()
		err := w.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errStreamAvailable) { // no failure: the next session follows the stream
			w.set(func(s *Status) { s.Following = false })
			backoff = firstBackoff
			continue
		}
		w.mu.Lock()
		// The backoff stays for a stream that breaks again and again: each session begins with a scan.
		if w.status.Following && time.Since(begun) > max(steadyAfter, scanRestFactor*w.status.ScanTook) {
			backoff = firstBackoff
		}
		w.status.Following = false
		w.mu.Unlock()
		retry := time.Now().Add(jitter(backoff))
		w.set(func(s *Status) {
			if s.Failure == "" {
				s.FailedAt = w.m.now()
			}
			s.Failure, s.NextRetry = truncate.Text(err.Error(), maxText), retry.UTC().Round(0)
		})
		w.m.log.InfoContext(ctx, "the inventory of a unit is not current", "unit", w.id, "error", err, "retry", time.Until(retry).Round(time.Millisecond))
		w.attempt++
		if !w.pause(ctx, retry, err) {
			return
		}
		backoff = min(2*backoff, w.m.options.MaxBackoff)
	}
}

func (w *worker) drain(c chan struct{}) {
	select {
	case <-c:
	default:
	}
}

// jitter returns a random duration between d/2 and d, to spread retries after a common failure.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1)
}

// pause waits until that time, or until the ready servers of the unit change. It answers requests with why. False: ctx
// has ended.
func (w *worker) pause(ctx context.Context, until time.Time, why error) bool {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	before, _ := w.ready(ctx)
	for {
		select {
		case <-timer.C:
			return true
		case <-w.wake:
			if now, err := w.ready(ctx); err == nil && len(now) > 0 && !slices.EqualFunc(now, before, sameTarget) {
				return true
			}
		case r := <-w.requests:
			r.done <- why
		case <-ctx.Done():
			return false
		}
	}
}

// sameTarget reports whether a ready server is the same one, at the same place. Its other fields change with its state.
func sameTarget(a, b opscenter.Target) bool { return sameServer(&a, &b) }

var errNoServer = errors.New("no server of the unit is ready")

// ready returns the servers of the unit that are ready, sorted by name.
func (w *worker) ready(ctx context.Context) (out []opscenter.Target, err error) {
	w.mu.Lock()
	members := slices.Sorted(maps.Keys(w.members))
	w.mu.Unlock()
	present := map[string]bool{} // by ID
	defer func() {
		if err == nil {
			w.forgetEventless(present)
		}
	}()
	for _, name := range members {
		info, err := w.m.registry.Server(ctx, name)
		switch {
		case errors.Is(err, opscenter.ErrNotFound):
			continue
		case err != nil:
			return nil, err
		}
		present[info.ID] = true
		if info.State.Status == lifecycle.StatusReady {
			out = append(out, info.Target())
		} else {
			w.retryEvents(info.ID)
		}
	}
	return out, nil
}

// choose returns the server to read from. After a failed session it chooses the next one that is ready.
func (w *worker) choose(ctx context.Context) (opscenter.Target, error) {
	ready, err := w.ready(ctx)
	if err != nil {
		return opscenter.Target{}, err
	}
	if len(ready) == 0 {
		return opscenter.Target{}, errNoServer
	}
	// Units begin at different members, to spread the load.
	return ready[(uint64(w.attempt)+xxhash.Sum64String(w.id))%uint64(len(ready))], nil
}

// session connects, scans, and follows events until the connection is lost.
func (w *worker) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := w.storeUnit(ctx); err != nil {
		return err
	}
	target, err := w.choose(ctx)
	if err != nil {
		return err
	}
	w.target = target
	if !w.counted {
		if w.used, err = w.usage(ctx); err != nil {
			return err
		}
		w.counted = true
	}
	stream, release, noEvents, err := w.openFirst(ctx, target)
	if err != nil {
		return err
	}
	w.streaming = stream != nil
	lost := make(chan error, 1)
	var reading sync.WaitGroup
	defer reading.Wait()
	others := newListeners(w)
	defer others.group.Wait()
	defer cancel()
	if stream != nil {
		defer release()
		defer stream.Close()
		reading.Go(func() { lost <- fmt.Errorf("the stream of events was lost: %w", w.readEvents(stream)) })
	}
	if noEvents {
		reading.Go(func() { lost <- others.retryStream(ctx) })
	}
	if stream != nil || noEvents {
		if err := others.update(ctx, true); err != nil {
			return err
		}
		others.waitTried(ctx)
	}
	w.set(func(s *Status) { s.Server = target.Name })
	w.demandScan(connected)
	w.scanNext, w.scanRetry, w.excessNext = time.Time{}, time.Time{}, time.Time{}
	return w.loop(ctx, lost, others, stream != nil || noEvents)
}

// openFirst opens the stream of a session. Without an error, stream is nil if all streams are in use. It is nil, too, if
// noEvents is set: the daemon answers, but has no stream.
func (w *worker) openFirst(ctx context.Context, target opscenter.Target) (stream Stream, release func(), noEvents bool, err error) {
	reserved := w.reserved
	w.reserved = false
	if pause, _ := w.untilEvents(target.ID); pause > 0 {
		if reserved {
			<-w.m.streams
		}
		return nil, nil, true, nil
	}
	stream, release, err = w.open(ctx, target, reserved)
	switch {
	case err == nil:
		w.noteStream(ctx, target)
	case errors.Is(err, errStreams):
		return nil, nil, false, nil
	case ctx.Err() == nil && w.noteRefusal(ctx, target, err):
		return nil, nil, true, nil
	default:
		return nil, nil, false, fmt.Errorf("server %s: %w", target.Name, err)
	}
	return stream, release, false, nil
}

// storeUnit stores the row of the unit, after the removal of an earlier inventory has ended.
func (w *worker) storeUnit(ctx context.Context) error {
	if w.begun {
		return nil
	}
	err := w.m.waitPurged(ctx, w.id)
	if err == nil {
		err = w.m.registry.Write(ctx, func(tx *opscenter.Tx) error {
			known, err := units.Find(tx, storage.StringKey(w.id))
			if err != nil || known != nil {
				return err
			}
			return units.Put(tx, &unitRow{ID: w.id, Cluster: w.cluster})
		})
	}
	w.begun = err == nil
	return err
}

// readEvents adds events to pending until the stream ends. It never waits for the work that they cause.
func (w *worker) readEvents(stream Stream) error {
	for {
		e, err := stream.Next()
		if err != nil {
			return err
		}
		at := time.Now()
		w.mu.Lock()
		before := len(w.pending.tasks)
		empty := w.pending.empty()
		w.pending.add(e, w.m.now())
		if empty && !w.pending.empty() || before == 0 && len(w.pending.tasks) > 0 {
			w.since = at
		}
		w.mu.Unlock()
		signal(w.notify)
	}
}

// demandScan asks for a scan for that reason.
func (w *worker) demandScan(why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pending.empty() {
		w.since = time.Now()
	}
	w.pending.demand(why)
}
