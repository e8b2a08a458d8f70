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

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// share is which part of its time a unit may spend with scans that events have caused: after
// one that took a second, there is none for ten, see [Options.rest].
const share = 10

// rest is how long a unit is left alone after a scan that took so long. One that was slow only
// because the cluster was, electing a leader, must not hide it for minutes afterwards.
func (o Options) rest(took time.Duration) time.Duration {
	return min(share*took, max(took, o.MaxBackoff))
}

// scopesShare is the same of the lists of what an object has to do with, which are short.
const scopesShare = 2

// firstBackoff is before the second try to reach a unit.
const firstBackoff = time.Second

// steady is how long a unit must at least be followed, before the next loss counts as the first.
const steady = 10 * time.Second

// request is something that somebody waits for.
type request struct {
	ref  ref
	scan bool
	done chan error
}

// worker keeps the inventory of one unit. All that is written of it, its goroutine writes.
type worker struct {
	m        *Manager
	id       string
	cluster  bool
	cancel   context.CancelFunc
	ended    chan struct{}
	requests chan *request
	notify   chan struct{} // something was added to pending
	wake     chan struct{} // its servers have changed

	mu      sync.Mutex
	members map[string]bool
	pending *pending
	since   time.Time // when pending was no longer empty
	status  Status

	// of the goroutine alone
	attempt    int
	target     opscenter.Target
	daemon     Daemon
	settling   []settling
	scopesNext time.Time // before which nothing is listed again
	scanNext   time.Time // before which no event causes a scan
	scanRetry  time.Time // when a scan that failed is tried again; zero: none
	excessNext time.Time // when a unit that had more than may be kept is scanned again; zero: it hadn't
	failures   int
	reserved   bool          // a place for a stream is this one's
	unread     map[Kind]bool // kinds of which not all was read so far
	doubtful   bool          // there are instances whose member could not say how they are
	begun      bool          // the unit is stored
	counted    bool          // used is known
	used       usage         // what is kept
	excess     excess        // what was too much
	warned     bool          // that there is an excess
	cleared    bool          // the warning is known to be cleared
	looks      *rate.Limiter // objects that are looked at one by one
	reads      *rate.Limiter // bytes that are read
}

type settling struct {
	ref ref
	at  time.Time
}

func newWorker(m *Manager, id string, cluster bool) *worker {
	return &worker{m: m, id: id, cluster: cluster, ended: make(chan struct{}), requests: make(chan *request), notify: make(chan struct{}, 1),
		wake: make(chan struct{}, 1), pending: newPending(m.options.MaxPending), looks: looks(&m.options), reads: rate.NewLimiter(readRate, readBurst)}
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

// setMembers tells which servers there are, and that something about them has changed.
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

// run connects, follows, and does that again when the connection is lost.
func (w *worker) run(ctx context.Context) {
	backoff := firstBackoff
	for ctx.Err() == nil {
		w.drain(w.wake)
		begun := time.Now()
		err := w.session(ctx)
		if ctx.Err() != nil {
			return
		}
		w.mu.Lock()
		// A stream that breaks again and again must not make a scan of each time.
		if w.status.Following && time.Since(begun) > max(steady, share*w.status.ScanTook) {
			backoff = firstBackoff
		}
		w.status.Following = false
		w.mu.Unlock()
		retry := time.Now().Add(jitter(backoff))
		w.set(func(s *Status) {
			if s.Failure == "" {
				s.FailedAt = now()
			}
			s.Failure, s.NextRetry = limited(err.Error()), retry.UTC().Round(0)
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

// jitter spreads what failed together.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1)
}

// pause waits until it is time, or other servers of the unit are ready, or the same elsewhere. Who asks for
// something meanwhile learns why it can't be.
func (w *worker) pause(ctx context.Context, until time.Time, why error) bool {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	before, _ := w.ready(ctx)
	for {
		select {
		case <-timer.C:
			return true
		case <-w.wake:
			if now, err := w.ready(ctx); err == nil && len(now) > 0 && !slices.Equal(now, before) {
				return true
			}
		case r := <-w.requests:
			r.done <- why
		case <-ctx.Done():
			return false
		}
	}
}

var errNoServer = errors.New("no server of it is ready")

// ready returns the servers that can be read from, by name.
func (w *worker) ready(ctx context.Context) (out []opscenter.Target, err error) {
	w.mu.Lock()
	members := slices.Sorted(maps.Keys(w.members))
	w.mu.Unlock()
	for _, name := range members {
		info, err := w.m.registry.Server(ctx, name)
		switch {
		case errors.Is(err, opscenter.ErrNotFound):
			continue
		case err != nil:
			return nil, err
		}
		if info.State.Status == lifecycle.StatusReady {
			out = append(out, info.Target())
		}
	}
	return out, nil
}

// choose returns the server to read from: one that is ready, another each time one has failed.
func (w *worker) choose(ctx context.Context) (opscenter.Target, error) {
	ready, err := w.ready(ctx)
	if err != nil {
		return opscenter.Target{}, err
	}
	if len(ready) == 0 {
		return opscenter.Target{}, errNoServer
	}
	// Units begin at different members, so that not all of them burden the first.
	return ready[(uint64(w.attempt)+xxhash.Sum64String(w.id))%uint64(len(ready))], nil
}

// session listens, scans, and follows, until the connection is lost.
func (w *worker) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := w.begin(ctx); err != nil {
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
	reserved := w.reserved
	w.reserved = false
	stream, release, err := w.open(ctx, target, reserved)
	if err != nil && !errors.Is(err, errStreams) {
		return fmt.Errorf("server %s: %w", target.Name, err)
	}
	lost := make(chan error, 1)
	var reading sync.WaitGroup
	defer reading.Wait()
	others := newListeners(w)
	defer others.group.Wait()
	defer cancel()
	if stream != nil {
		defer release()
		defer stream.Close()
		reading.Go(func() { lost <- w.read(stream) })
		if err := others.update(ctx, true); err != nil {
			return err
		}
		others.tried(ctx)
	}
	w.set(func(s *Status) { s.Server = target.Name })
	w.demand(connected)
	w.scanNext, w.scanRetry, w.excessNext = time.Time{}, time.Time{}, time.Time{}
	return w.loop(ctx, lost, others, stream != nil)
}

// begin notes that there is an inventory of the unit, once nothing of an earlier one is being removed any more.
func (w *worker) begin(ctx context.Context) error {
	if w.begun {
		return nil
	}
	err := w.m.purged(ctx, w.id)
	if err == nil {
		err = w.m.registry.Store().Update(ctx, func(tx storage.WriteTx) error {
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

// read takes in events. It never waits for what is done about them.
func (w *worker) read(stream Stream) error {
	for {
		e, err := stream.Next()
		if err != nil {
			return err
		}
		at := time.Now()
		w.mu.Lock()
		before := len(w.pending.tasks)
		empty := w.pending.empty()
		w.pending.add(e, at.UTC().Round(0))
		if empty && !w.pending.empty() || before == 0 && len(w.pending.tasks) > 0 {
			w.since = at
		}
		w.mu.Unlock()
		signal(w.notify)
	}
}

// demand asks for a scan.
func (w *worker) demand(why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pending.empty() {
		w.since = time.Now()
	}
	w.pending.demand(why)
}
