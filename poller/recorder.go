package poller

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
)

// record is an observation that finds something new, on its way into the store. Its server
// is not polled again before it is stored, or given up: so the order is kept.
type record struct {
	entry       *entry
	observation lifecycle.Observation
	at          time.Duration // when the poll ended
}

func (r *record) size() int {
	if r.observation.Facts == nil {
		return 0
	}
	return r.observation.Facts.Size()
}

// recorder stores observations in batches.
type recorder struct {
	*loop
	wait   sync.WaitGroup
	care   sync.WaitGroup
	cancel context.CancelFunc
	ending chan struct{}
	haste  chan struct{} // closed when nothing is to wait for others any more
}

// Pauses between two attempts to store what the store refused.
const (
	storeRetry    = time.Second
	maxStoreRetry = 30 * time.Second
)

// careInterval is how often it is looked whether anything is to be flushed, or to be warned of.
const careInterval = time.Second

func newRecorder(l *loop) *recorder {
	return &recorder{loop: l, ending: make(chan struct{}), haste: make(chan struct{})}
}

func (r *recorder) start(ctx context.Context) {
	// What was found is stored, even while Run ends.
	ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	n := min(4, runtime.GOMAXPROCS(0)) // taking facts in is work, and the store commits them together
	for range n {
		b := &batch{recorder: r}
		r.wait.Go(func() { b.run(ctx) })
	}
	r.care.Go(func() { r.takeCare(ctx) })
}

// hurry has everything stored at once from now on.
func (r *recorder) hurry() { close(r.haste) }

// stop stores what is left. Nothing may be handed over any more.
func (r *recorder) stop() {
	close(r.records)
	r.wait.Wait()
	close(r.ending)
	r.care.Wait()
	r.cancel()
}

// giveUp ends what does not end.
func (r *recorder) giveUp() { r.cancel() }

// takeCare flushes what is only in memory, and tells when the poller falls behind.
func (r *recorder) takeCare(ctx context.Context) {
	ticker := time.NewTicker(careInterval)
	defer ticker.Stop()
	warned := r.registry.CountWarnings()[warning.Behind] > 0 // by an earlier Run
	for {
		select {
		case <-ticker.C:
		case <-r.ending:
			return
		}
		if err := r.registry.FlushDue(ctx); err != nil && !errors.Is(err, storage.ErrClosed) {
			r.options.Logger.ErrorContext(ctx, "when servers were last seen could not be stored, and is kept", "error", err)
		}
		lag := time.Duration(r.lag.Load())
		behind := lag > r.options.MaxLag || r.behind.Load() && lag > r.options.MaxLag/2
		r.behind.Store(behind)
		var err error
		switch {
		case behind:
			err = r.registry.Warn(ctx, "", warning.Input{Kind: warning.Behind,
				Message: fmt.Sprintf("a server has waited %s for its turn: more polls are due than %d at a time can do, or than this machine can", lag.Round(time.Second), r.options.Concurrency)})
		case !behind && warned:
			err = r.registry.ClearWarning(ctx, "", warning.Behind)
		}
		if err == nil {
			warned = behind
		}
	}
}

// batch is what one goroutine of a recorder holds.
type batch struct {
	*recorder
	list   []record
	size   int
	hasty  bool
	pause  time.Duration // until the next attempt; 0: the store takes what it is given
	failed bool          // just now
}

// maxBatch is how many bytes of facts are stored together, beyond the first server's.
const maxBatch = opscenter.MaxObservationsSize

func (b *batch) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	haste := b.haste
	for {
		select {
		case one, ok := <-b.records:
			if !ok {
				b.store(ctx)
				b.abandon(ctx)
				return
			}
			b.add(ctx, one)
			switch {
			case b.pause > 0: // the timer runs
			case len(b.list) >= b.options.BatchSize || b.size > maxBatch || b.hasty:
				b.store(ctx)
			case len(b.list) == 1:
				timer.Reset(b.options.BatchDelay)
			}
		case <-timer.C:
			b.store(ctx)
		case <-haste:
			haste, b.hasty = nil, true
			b.store(ctx)
		}
		if b.failed {
			b.failed = false
			timer.Reset(b.pause)
		}
	}
}

// add takes in an observation, unless the store refuses them, and too much is held already.
func (b *batch) add(ctx context.Context, one record) {
	if b.pause > 0 && (b.pending.Load() > int64(b.options.MaxPending) || b.pendingSize.Load() > int64(b.options.MaxPendingSize)) {
		b.drop(one)
		return
	}
	b.list = append(b.list, one)
	b.size += one.size()
}

// store stores what is held, in the order in which it came. What the store refuses for a
// while is kept.
func (b *batch) store(ctx context.Context) {
	for len(b.list) > 0 {
		n, size := 0, 0
		for n < len(b.list) && n < b.options.BatchSize {
			if size += b.list[n].size(); n > 0 && size > maxBatch {
				break
			}
			n++
		}
		if !b.storeSome(ctx, n) {
			b.pause, b.failed = min(maxStoreRetry, max(storeRetry, 2*b.pause)), true
			b.refusing.Store(true)
			return
		}
		b.pause = 0
		b.refusing.Store(false)
	}
	b.list, b.size = nil, 0
}

// storeSome stores the first n. It reports whether the store is of use.
func (b *batch) storeSome(ctx context.Context, n int) bool {
	observations := make([]lifecycle.Observation, n)
	for i := range observations {
		observations[i] = b.list[i].observation
	}
	err := b.registry.RecordObservations(ctx, observations...)
	closed := errors.Is(err, storage.ErrClosed)
	if err != nil && n > 1 && !temporary(err) && !closed {
		// One of them must not harm the others.
		for range n {
			if !b.storeSome(ctx, 1) {
				return false
			}
		}
		return true
	}
	if err != nil {
		b.refused.Add(1)
		b.options.Logger.ErrorContext(ctx, "observations could not be stored", "servers", n, "first", observations[0].Server, "kept", temporary(err), "error", err)
		if temporary(err) {
			return false
		}
	}
	done := b.list[:n]
	b.list = b.list[n:]
	for _, one := range done {
		b.size -= one.size()
		if err != nil {
			b.drop(one)
			continue
		}
		b.stored.Add(1)
		b.tell(ctx, one)
	}
	return true
}

// temporary reports whether the store may take later the observations that it refuses now. After
// storage.ErrUnknown an observation may be stored twice, which does no harm.
func temporary(err error) bool {
	if errors.Is(err, storage.ErrUnavailable) || errors.Is(err, storage.ErrUnknown) {
		return true // whatever the cause
	}
	for _, lasting := range []error{storage.ErrTooLarge, storage.ErrEncoding, storage.ErrCorrupt, storage.ErrMutated, storage.ErrExists, storage.ErrSchema, storage.ErrClosed, storage.ErrNotFound} {
		if errors.Is(err, lasting) {
			return false
		}
	}
	return true
}

// tell tells the loop how a server is, now that it is stored.
func (b *batch) tell(ctx context.Context, one record) {
	o := &one.observation
	b.release(one)
	r := result{entry: one.entry, final: true, at: one.at, failed: o.Failure != nil, facts: o.Facts != nil && len(o.Unread) == 0}
	if info, err := b.registry.Server(ctx, o.Server); err == nil && info.ID == o.ID {
		r.info = info
	}
	b.done <- r
}

// release lets the server be polled again.
func (b *batch) release(one record) {
	b.pending.Add(-1)
	b.pendingSize.Add(-int64(one.size()))
	b.unlock(one.observation.ID)
}

// drop gives an observation up: the server is polled again in its turn.
func (b *batch) drop(one record) {
	b.dropped.Add(1)
	b.release(one)
	b.done <- result{entry: one.entry, final: true, at: one.at, failed: one.observation.Failure != nil, dropped: true}
}

// abandon gives up what is held, at the end.
func (b *batch) abandon(ctx context.Context) {
	if len(b.list) > 0 {
		b.options.Logger.ErrorContext(ctx, "the store took no more; what was found last is found again after the next start", "servers", len(b.list))
	}
	for _, one := range b.list {
		b.drop(one)
	}
}
