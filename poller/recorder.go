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

// record is an observation with news that waits to be stored. The poller does not poll the server
// again before the record is stored or dropped. This keeps the order of observations.
type record struct {
	entry       *entry
	observation lifecycle.Observation
	at          time.Duration // when the poll ended
}

// size returns the bytes of facts.
func (r *record) size() int {
	if r.observation.Facts == nil {
		return 0
	}
	return r.observation.Facts.Size()
}

// recorder stores observations in batches. It owns the goroutines that do so.
type recorder struct {
	*loop
	batches     sync.WaitGroup
	maintenance sync.WaitGroup
	cancel      context.CancelFunc
	ending      chan struct{} // closed to end maintain
	draining    chan struct{} // closed once records are no longer to wait for a full batch
}

// Pauses between two attempts to store the same observations: the first and the longest.
const (
	storeRetry    = time.Second
	maxStoreRetry = 30 * time.Second
)

// maintenanceInterval is how often maintain flushes last-seen times and checks the lag. A warning may be so late.
const maintenanceInterval = 5 * time.Second

func newRecorder(l *loop) *recorder {
	return &recorder{loop: l, ending: make(chan struct{}), draining: make(chan struct{})}
}

func (r *recorder) start(ctx context.Context) {
	// Observations are stored even while Run ends.
	ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	n := min(4, runtime.GOMAXPROCS(0)) // comparing facts takes CPU time, and the store commits concurrent transactions together
	for range n {
		b := &batch{recorder: r}
		r.batches.Go(func() { b.run(ctx) })
	}
	r.maintenance.Go(func() { r.maintain(ctx) })
}

// drain makes all batches store their records at once from now on.
func (r *recorder) drain() { close(r.draining) }

// stop stores the remaining records, and waits for the recorder's goroutines. No record may be sent afterwards.
func (r *recorder) stop() {
	close(r.records)
	r.batches.Wait()
	close(r.ending)
	r.maintenance.Wait()
	r.cancel()
}

// abort cancels the store operations that are still active.
func (r *recorder) abort() { r.cancel() }

// maintain stores last-seen times when they are due, and raises or clears the warning that the poller is behind.
func (r *recorder) maintain(ctx context.Context) {
	ticker := time.NewTicker(maintenanceInterval)
	defer ticker.Stop()
	warned := r.registry.Warnings().Counts()[warning.Behind] > 0 // an earlier Run may have left the warning
	for {
		select {
		case <-ticker.C:
		case <-r.ending:
			return
		}
		if err := r.registry.Observer().Maintain(ctx); err != nil && !errors.Is(err, storage.ErrClosed) {
			r.options.Logger.ErrorContext(ctx, "last-seen times could not be stored; they are kept in memory", "error", err)
		}
		lag := time.Duration(r.lag.Load())
		behind := lag > r.options.MaxLag || r.behind.Load() && lag > r.options.MaxLag/2
		r.behind.Store(behind)
		var err error
		switch {
		case behind:
			err = r.registry.Warnings().Raise(ctx, "", warning.Input{Kind: warning.Behind,
				Message: fmt.Sprintf("the most overdue poll is %s late: more polls are due than Concurrency %d or this machine can do", lag.Round(time.Second), r.options.Concurrency)})
		case !behind && warned:
			err = r.registry.Warnings().Clear(ctx, "", warning.Behind)
		}
		if err == nil {
			warned = behind
		}
	}
}

// batch holds the records of one recorder goroutine.
type batch struct {
	*recorder
	list     []record
	size     int           // bytes of facts in list
	draining bool          // store each record at once
	pause    time.Duration // before the next attempt; 0 while the store accepts records
	failed   bool          // the last attempt failed, and the timer is to be set
}

// maxBatch is how many bytes of facts one transaction stores, if it has more than one observation.
const maxBatch = opscenter.MaxObservationsSize

// run collects and stores records until the channel of records is closed.
func (b *batch) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	draining := b.recorder.draining
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
			case b.pause > 0: // the timer starts the next attempt
			case len(b.list) >= b.options.BatchSize || b.size > maxBatch || b.draining:
				b.store(ctx)
			case len(b.list) == 1:
				timer.Reset(b.options.BatchDelay)
			}
		case <-timer.C:
			b.store(ctx)
		case <-draining:
			draining, b.draining = nil, true
			b.store(ctx)
		}
		if b.failed {
			b.failed = false
			timer.Reset(b.pause)
		}
	}
}

// add keeps a record. It drops the record if the store refuses writes and too much is held already.
func (b *batch) add(ctx context.Context, one record) {
	if b.pause > 0 && (b.pending.Load() > int64(b.options.MaxPending) || b.pendingSize.Load() > int64(b.options.MaxPendingSize)) {
		b.drop(one)
		return
	}
	b.list = append(b.list, one)
	b.size += one.size()
}

// store stores the records in the order of their arrival. It keeps records that the store refuses with a
// temporary error, and sets the pause before the next attempt.
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

// storeSome stores the first n records, and drops those that the store will never accept. It returns false if
// the store refused all writes: the records are then kept.
func (b *batch) storeSome(ctx context.Context, n int) bool {
	observations := make([]lifecycle.Observation, n)
	for i := range observations {
		observations[i] = b.list[i].observation
	}
	err := b.registry.Observer().Record(ctx, observations...)
	closed := errors.Is(err, storage.ErrClosed)
	if err != nil && n > 1 && !temporary(err) && !closed {
		// One invalid observation must not affect the others: store them one by one.
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
		b.reportStored(ctx, one)
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

// reportStored sends the loop the state of a server after its observation was stored.
func (b *batch) reportStored(ctx context.Context, one record) {
	o := &one.observation
	b.release(one)
	r := result{entry: one.entry, final: true, at: one.at, failed: o.Failure != nil, facts: o.Facts != nil && len(o.Unread) == 0}
	if info, err := b.registry.Server(ctx, o.Server); err == nil && info.ID == o.ID {
		r.info = info
	}
	b.done <- r
}

// release allows the next poll of the server.
func (b *batch) release(one record) {
	b.pending.Add(-1)
	b.pendingSize.Add(-int64(one.size()))
	b.unlock(one.observation.ID)
}

// drop discards an observation. The loop polls the server again at its next turn.
func (b *batch) drop(one record) {
	b.dropped.Add(1)
	b.release(one)
	b.done <- result{entry: one.entry, final: true, at: one.at, failed: one.observation.Failure != nil, dropped: true}
}

// abandon drops the records that could not be stored before the end.
func (b *batch) abandon(ctx context.Context) {
	if len(b.list) > 0 {
		b.options.Logger.ErrorContext(ctx, "the store refused the last observations; polls after the next start will find them again", "servers", len(b.list))
	}
	for _, one := range b.list {
		b.drop(one)
	}
}
