package poller

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Run polls until ctx ends, and returns its error once everything it began has ended, or
// with ErrGrace after Options.Grace. It follows the Registry's change feed: new servers are
// polled at once, removed ones no more. What was found is stored by then, and so is when
// servers were last seen.
func (p *Poller) Run(ctx context.Context) error {
	if p.active.Swap(true) {
		return ErrRunning
	}
	defer p.active.Store(false)
	defer func() {
		p.behind.Store(false)
		p.lag.Store(0)
		p.offlineLag.Store(0)
	}()
	p.registry.SetSampling(true)
	defer p.registry.SetSampling(false)
	l := newLoop(p)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	revision, err := p.registry.Revision(ctx)
	if err != nil {
		return err
	}
	if err := l.reload(ctx); err != nil {
		return err
	}
	var followers sync.WaitGroup
	followers.Go(func() { l.follow(ctx, revision) })
	recorder := newRecorder(l)
	recorder.start(ctx)
	l.run(ctx)

	return errors.Join(ctx.Err(), l.end(ctx, recorder, &followers))
}

// end waits for all that was begun, and stores what is only in memory, within the grace.
func (l *loop) end(ctx context.Context, recorder *recorder, followers *sync.WaitGroup) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.stopWorkers()
		followers.Wait()
		recorder.stop()
	}()
	go l.discard(ended)
	recorder.hurry()
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.options.Grace)
	defer cancel()
	// A poll that does not end must not cost what the others found: part of the grace is theirs.
	most := time.NewTimer(l.options.Grace * 3 / 4)
	defer most.Stop()
	select {
	case <-ended:
	case <-most.C:
	}
	flushed := make(chan error, 1) // a store may not end with its context
	go func() { flushed <- l.registry.Flush(bounded) }()
	var err error
	select {
	case err = <-flushed:
	case <-bounded.Done():
		err = fmt.Errorf("when servers were last seen is not stored: %w", bounded.Err())
	}
	select {
	case <-ended:
		return err
	case <-bounded.Done():
	}
	recorder.giveUp()
	return errors.Join(err, fmt.Errorf("%w of %s: %d polls are under way, %d observations are not stored", ErrGrace, l.options.Grace, l.running.Load(), l.pending.Load()))
}

// loop is the state of a Run. Only its own goroutine touches it, but for the channels.
type loop struct {
	*Poller
	begun   time.Time
	entries map[string]*entry // by name
	queues  [3]queue          // by class
	lanes   [3]lane           // likewise
	slow    lane              // of the living
	idle    int               // workers
	workers sync.WaitGroup
	work    chan task
	done    chan result
	changes chan opscenter.Changes
	records chan record
	// stale: something could not be read, and everything is read again then.
	stale      bool
	staleUntil time.Duration
	asked      time.Duration // when others were last asked because one failed
	generation generation
	postponed  bool          // a sample is to be tried again
	drawn      time.Duration // when that was last tried
}

// generation is a context that all polls share which begin within a short time.
type generation struct {
	ctx    context.Context
	cancel context.CancelFunc
	until  time.Duration
}

// task is a poll to carry out.
type task struct {
	entry  *entry
	target opscenter.Target
	ctx    context.Context // of the generation
}

// result tells of a poll. Those that found something new come twice: when the poll is over,
// and when what it found is stored.
type result struct {
	entry *entry
	over  bool // the worker is free
	final bool // the entry can have its next turn
	// unchanged: the server is steady, and nothing is new. Otherwise info is how it is now,
	// nil if that could not be found out.
	unchanged bool
	failed    bool
	dropped   bool          // what was found is not stored
	at        time.Duration // when the poll ended
	facts     bool          // were read
	info      *opscenter.ServerInfo
}

func newLoop(p *Poller) *loop {
	return &loop{Poller: p, begun: time.Now(), entries: map[string]*entry{}, slow: lane{limit: p.options.SlowConcurrency},
		lanes: [3]lane{living: {limit: p.options.Concurrency}, suspect: {limit: p.options.RetryConcurrency}, dead: {limit: p.options.OfflineConcurrency}},
		work:  make(chan task), done: make(chan result, 64), changes: make(chan opscenter.Changes), records: make(chan record, 2*p.options.BatchSize)}
}

// now is the time since the beginning.
func (l *loop) now() time.Duration { return time.Since(l.begun) }

func (l *loop) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		l.dispatch(ctx)
		timer.Reset(l.wait())
		select {
		case <-timer.C:
			if l.stale && l.now() >= l.staleUntil {
				l.take(ctx, opscenter.Changes{Reset: true})
			}
			l.sample()
		case r := <-l.done:
			l.finish(ctx, r)
			for range len(l.done) {
				l.finish(ctx, <-l.done)
			}
		case changes := <-l.changes:
			l.take(ctx, changes)
		case <-ctx.Done():
			return
		}
	}
}

// stopWorkers waits for the polls under way.
func (l *loop) stopWorkers() {
	close(l.work)
	if l.generation.cancel != nil {
		l.generation.cancel()
	}
	l.workers.Wait()
}

// discard takes outcomes that nobody waits for any more, until everything has ended.
func (l *loop) discard(ended <-chan struct{}) {
	for {
		select {
		case <-l.done:
		case <-ended:
			return
		}
	}
}

// wait returns how long there is nothing to do.
func (l *loop) wait() time.Duration {
	now, wait := l.now(), time.Hour
	until := func(at time.Duration) { wait = min(wait, max(0, at-now)) }
	if l.registry.FleetUnreachable() {
		until(now + lagInterval) // for the next sample
	}
	if l.postponed {
		until(l.drawn + samplePause)
	}
	if l.stale {
		until(l.staleUntil)
	}
	for class := range l.queues {
		if q := l.queues[class]; len(q) == 0 {
			continue
		} else if due := q[0].due; !l.lanes[class].full() {
			until(due)
		} else {
			until(max(due, now) + lagInterval) // to tell how late it is
		}
	}
	if first := l.lanes[living].first; first != nil && !l.slow.full() {
		until(first.began + l.options.SlowAfter)
	}
	return wait
}

// samplePause is the least time between two tries to draw a sample: each looks at all servers.
const samplePause = 50 * time.Millisecond

// lagInterval is how often it is looked how late those are for whom there is no room.
const lagInterval = time.Second

// dispatch starts the polls that are due, as many as may run.
func (l *loop) dispatch(ctx context.Context) {
	now := l.now()
	// Who keeps a poll waiting makes room for the others.
	main := &l.lanes[living]
	for e := main.first; e != nil && !l.slow.full() && e.began+l.options.SlowAfter <= now; e = main.first {
		main.remove(e)
		l.slow.add(e)
	}
	var lags [3]time.Duration
	for class := range l.queues {
		q, lane := &l.queues[class], &l.lanes[class]
		for e := q.first(now); e != nil && !lane.full(); e = q.first(now) {
			l.begin(ctx, e, lane, now)
		}
		if e := q.first(now); e != nil {
			lags[class] = now - e.due
		}
	}
	l.lag.Store(int64(max(lags[living], lags[suspect])))
	l.offlineLag.Store(int64(lags[dead]))
	l.servers.Store(int64(len(l.entries)))
	l.Poller.slow.Store(int64(l.slow.busy + l.lanes[suspect].busy + l.lanes[dead].busy))
}

func (l *loop) begin(ctx context.Context, e *entry, lane *lane, now time.Duration) {
	e.leave()
	e.running, e.began = true, now
	lane.add(e)
	if l.generation.ctx == nil || now >= l.generation.until {
		// Polls that begin close to each other share a deadline: each of its own would cost
		// more than all else about them.
		step := l.options.Timeout / 32
		l.generation.ctx, l.generation.cancel = context.WithTimeout(ctx, l.options.Timeout+step)
		l.generation.until = now + step
	}
	t := task{entry: e, target: e.target, ctx: l.generation.ctx}
	t.target.Light = now < e.facts
	if l.idle > 0 {
		l.idle--
		l.work <- t
		return
	}
	l.workers.Go(func() { l.serve(ctx, t) })
}

// serve carries out polls, one after the other.
func (l *loop) serve(ctx context.Context, t task) {
	for ok := true; ok; t, ok = <-l.work {
		l.done <- l.poll(ctx, t)
	}
}

// poll carries out a poll. What is new goes to a recorder, which tells of it when it is stored.
func (l *loop) poll(ctx context.Context, t task) result {
	id := t.target.ID
	r := result{entry: t.entry, over: true, final: true, at: l.now()}
	waited, err := l.lock(ctx, id)
	if err != nil {
		return r
	}
	if waited {
		// Its time begins now; and it may have moved, or be gone.
		info, err := l.registry.Server(ctx, t.target.Name)
		if err != nil || info.ID != id {
			l.unlock(id)
			return r
		}
		light := t.target.Light
		t.target = info.ProbeTarget()
		t.target.Light = light
		var cancel context.CancelFunc
		t.ctx, cancel = context.WithTimeout(ctx, l.options.Timeout)
		defer cancel()
	}
	o, err := l.probe(ctx, t.ctx, t.target)
	r.at = l.now()
	if err != nil {
		l.unlock(id)
		return r
	}
	if o.Failure != nil && o.Failure.Kind == lifecycle.FailureLocal { // it is asked again soon
		if err := l.registry.RecordObservations(ctx, o); err != nil {
			l.options.Logger.ErrorContext(ctx, "a warning could not be stored", "error", err)
		}
		l.unlock(id)
		return r
	}
	if l.registry.RecordUnchanged(&o) {
		l.unchanged.Add(1)
		l.unlock(id)
		r.unchanged, r.facts = true, o.Facts != nil
		return r
	}
	r.final = l.hand(t.entry, o, r.at)
	if r.final {
		r.failed, r.dropped = o.Failure != nil, true
		l.unlock(id)
	}
	return r
}

// hand gives an observation to a recorder, or reports that it is given up: the store refuses
// what it is given, and enough is held, or it has taken nothing for as long as a poll may take.
// It is apart, so that an observation that is not handed over stays on the stack.
func (l *loop) hand(e *entry, o lifecycle.Observation, at time.Duration) (dropped bool) {
	one := record{entry: e, observation: o, at: at}
	size := int64(one.size())
	if l.refusing.Load() && (l.pending.Load() >= int64(l.options.MaxPending) || l.pendingSize.Load()+size > int64(l.options.MaxPendingSize)) {
		l.dropped.Add(1)
		return true
	}
	l.pending.Add(1)
	l.pendingSize.Add(size)
	select {
	case l.records <- one:
		return false
	default:
	}
	patience := time.NewTimer(l.options.Timeout)
	defer patience.Stop()
	select {
	case l.records <- one:
		return false
	case <-patience.C:
	}
	l.pending.Add(-1)
	l.pendingSize.Add(-size)
	l.dropped.Add(1)
	return true
}

// finish takes in the outcome of a poll.
func (l *loop) finish(ctx context.Context, r result) {
	e := r.entry
	if r.over {
		e.lane.remove(e)
		l.idle++
		if e.early != nil { // stored already
			r, e.early = *e.early, nil
		}
	} else if e.lane != nil {
		e.early = &r // the worker is not back, yet
		return
	}
	if !r.final {
		return
	}
	e.running = false
	if e.removed {
		return
	}
	if e.stale { // changed while it was polled, by the poll itself most often
		e.stale = false
		if info, err := l.registry.Server(ctx, e.target.Name); err == nil && info.ID == e.target.ID {
			r.info, r.unchanged = info, false
		}
	}
	now := r.at // the turns are counted from the polls, not from when they were stored
	if r.facts {
		// Half an interval early is better than one late.
		e.facts = now + l.options.FactsInterval - min(l.options.FactsInterval, l.options.Interval)/2
	}
	if r.failed && e.class == living {
		l.askAround(e, now)
	}
	if r.failed || l.postponed {
		defer l.sample() // once its own entry is in its place
	}
	switch {
	case e.again:
		e.again, e.facts = false, 0
		l.enqueue(e, now)
	case r.info != nil:
		l.schedule(e, r.info, now)
	case r.unchanged:
		e.class = living
		l.enqueue(e, now+l.timing.phased(e.target.ID, l.timeOfDay(now)))
	case r.dropped: // the store has enough to do
		l.enqueue(e, now+l.timing.phased(e.target.ID, l.timeOfDay(now)))
	default: // not found, or not readable: the feed tells of the first, the next poll of the other
		l.enqueue(e, now+l.options.RetryInterval)
	}
}

// timeOfDay is what the clock showed, or will, by what it shows now.
func (l *loop) timeOfDay(at time.Duration) time.Time { return time.Now().Add(at - l.now()) }

// schedule gives a server its next turn by how it is.
func (l *loop) schedule(e *entry, info *opscenter.ServerInfo, now time.Duration) {
	wait, class := l.timing.next(info, l.timeOfDay(now))
	e.class = class
	if wait == never {
		e.leave()
		return
	}
	l.enqueue(e, now+wait)
}

func (l *loop) enqueue(e *entry, due time.Duration) {
	l.queues[e.class].set(e, due)
}

// askAround polls some other servers at once, when one begins to fail: whether it is the
// server, or all of us, shows before the server is given up.
func (l *loop) askAround(failed *entry, now time.Duration) {
	o := l.registry.Options()
	if o.GuardShare > 1 || l.asked > 0 && now-l.asked < l.options.RetryInterval {
		return
	}
	l.asked = now
	// Some that lie next to each other in the heap, from anywhere: they are in no order that matters.
	q := &l.queues[living]
	n := min(2*o.GuardMinimum, len(*q))
	others := make([]*entry, 0, n)
	for i, first := 0, rand.IntN(max(1, len(*q))); i < n; i++ {
		others = append(others, (*q)[(first+i)%len(*q)])
	}
	for _, e := range others {
		if e != failed && e.due > now {
			q.set(e, now)
		}
	}
}

// sample polls some servers at once, drawn by chance, where the Registry wants to know whose fault it is that so many fail.
func (l *loop) sample() {
	n, unbiased := l.registry.SampleSize()
	if n == 0 {
		l.postponed = false
		return
	}
	now := l.now()
	if l.postponed && now-l.drawn < samplePause {
		return
	}
	l.drawn = now
	from := slices.Clone([]*entry(l.queues[living]))
	under := []*lane{&l.lanes[living], &l.slow} // what is asked already tells as much
	if unbiased {
		from = append(from, l.queues[suspect]...)
		under = append(under, &l.lanes[suspect])
	}
	for _, lane := range under {
		for e := lane.first; e != nil; e = e.next {
			if !e.removed {
				from = append(from, e)
			}
		}
	}
	of := 0 // with those whose answers are being stored
	for _, e := range l.entries {
		if e.class == living || unbiased && e.class == suspect {
			of++
		}
	}
	// What is left over while answers are being stored is no fair sample: it is tried again after samplePause.
	if l.postponed = 4*len(from) < 3*min(n, of); l.postponed {
		return
	}
	rand.Shuffle(len(from), func(i, k int) { from[i], from[k] = from[k], from[i] })
	var ids []string
	for _, e := range from[:min(n, len(from))] {
		ids = append(ids, e.target.ID)
		if e.queue != nil && e.due > now {
			l.queues[e.class].set(e, now)
		}
	}
	l.registry.BeginSample(of, ids...)
}
