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

// Run polls all servers until ctx ends. It follows the Registry's change feed: it polls new
// servers at once, and stops polling removed ones.
//
// Run returns the error of ctx after its polls have ended, and after observations and last-seen
// times are stored. If that takes longer than Options.Grace, the error also wraps ErrGrace. Other
// errors: ErrRunning if a Run is active, and errors of the store. Run may be called again after
// it returned.
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
	p.registry.Observer().SetSampling(true)
	defer p.registry.Observer().SetSampling(false)
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

// end waits for polls and pending observations, and stores last-seen times. It takes at most Options.Grace.
func (l *loop) end(ctx context.Context, recorder *recorder, followers *sync.WaitGroup) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.stopWorkers()
		followers.Wait()
		recorder.stop()
	}()
	go l.discard(ended)
	recorder.drain()
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.options.Grace)
	defer cancel()
	// A poll that does not end must not prevent the last flush: a quarter of the grace is left for it.
	most := time.NewTimer(l.options.Grace * 3 / 4)
	defer most.Stop()
	select {
	case <-ended:
	case <-most.C:
	}
	flushed := make(chan error, 1) // a store may ignore the end of its context
	go func() { flushed <- l.registry.Observer().Flush(bounded) }()
	var err error
	select {
	case err = <-flushed:
	case <-bounded.Done():
		err = fmt.Errorf("last-seen times are not stored: %w", bounded.Err())
	}
	select {
	case <-ended:
		return err
	case <-bounded.Done():
	}
	recorder.abort()
	return errors.Join(err, fmt.Errorf("%w of %s: %d polls are active, %d observations are not stored", ErrGrace, l.options.Grace, l.running.Load(), l.pending.Load()))
}

// loop is the state of a Run. Only the goroutine of Run uses its fields; other goroutines use the channels.
type loop struct {
	*Poller
	begun   time.Time
	entries map[string]*entry // by name
	queues  [3]queue          // by class
	lanes   [3]lane           // by class
	slow    lane              // for slow polls of the class answering
	mean    meanDuration      // of all polls
	idle    int               // workers without a task
	workers sync.WaitGroup
	work    chan task
	done    chan result
	changes chan opscenter.Changes
	records chan record
	// stale: a server could not be read. The loop reads all servers again at staleUntil.
	stale         bool
	staleUntil    time.Duration
	othersPolled  time.Duration                // when pollOthers last moved polls forward
	generations   map[time.Duration]generation // by timeout
	samplePending bool                         // a sample could not be drawn, and is to be tried again
	sampleTried   time.Duration                // when a sample was last tried
}

// generation is a context for all polls with the same timeout that begin within a short time.
type generation struct {
	ctx    context.Context
	cancel context.CancelFunc
	until  time.Duration
}

// task is a poll for a worker to perform.
type task struct {
	entry  *entry
	target opscenter.Target
	// timeout is Options.Timeout or less, see Options.TimeoutFactor. ctx is the generation's.
	timeout time.Duration
	ctx     context.Context
}

// result reports the progress of a poll to the loop. A poll with news sends two results: the first
// when it ends, the second when its observation is stored or dropped. Other polls send one.
type result struct {
	entry *entry
	over  bool // the poll has ended, and its worker is free
	final bool // the next poll of the server can be scheduled
	// unchanged: the server is steady, and the poll had no news. Otherwise info is the server's
	// new state, or nil if that could not be read.
	unchanged bool
	// cut: the poll ended at a timeout below Options.Timeout, and has no outcome.
	cut bool
	// answered: the poll succeeded in the time took. light: it read no facts.
	answered, light bool
	took            time.Duration
	failed          bool
	dropped         bool          // the observation was not stored
	at              time.Duration // when the poll ended
	facts           bool          // the poll read all facts
	info            *opscenter.ServerInfo
}

func newLoop(p *Poller) *loop {
	return &loop{Poller: p, begun: time.Now(), entries: map[string]*entry{}, generations: map[time.Duration]generation{}, slow: lane{limit: p.options.SlowConcurrency},
		lanes: [3]lane{answering: {limit: p.options.Concurrency}, retrying: {limit: p.options.RetryConcurrency}, offline: {limit: p.options.OfflineConcurrency}},
		work:  make(chan task), done: make(chan result, 64), changes: make(chan opscenter.Changes), records: make(chan record, 2*p.options.BatchSize)}
}

// now returns the time since Run began.
func (l *loop) now() time.Duration { return time.Since(l.begun) }

// run starts polls and handles their results until ctx ends.
func (l *loop) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		l.dispatch(ctx)
		timer.Reset(l.wait())
		select {
		case <-timer.C:
			if l.stale && l.now() >= l.staleUntil {
				l.applyOrRetry(ctx, opscenter.Changes{Reset: true})
			}
			l.sample()
		case r := <-l.done:
			l.finish(ctx, r)
			for range len(l.done) {
				l.finish(ctx, <-l.done)
			}
		case changes := <-l.changes:
			l.applyOrRetry(ctx, changes)
		case <-ctx.Done():
			return
		}
	}
}

// stopWorkers cancels the active polls, and waits for them.
func (l *loop) stopWorkers() {
	close(l.work)
	for _, g := range l.generations {
		g.cancel()
	}
	l.workers.Wait()
}

// discard drops the results that arrive after run returned, until ended is closed. Workers could not send them otherwise.
func (l *loop) discard(ended <-chan struct{}) {
	for {
		select {
		case <-l.done:
		case <-ended:
			return
		}
	}
}

// wait returns the time until the loop has to act by itself.
func (l *loop) wait() time.Duration {
	now, wait := l.now(), time.Hour
	until := func(at time.Duration) { wait = min(wait, max(0, at-now)) }
	if l.registry.Observer().FleetUnreachable() {
		until(now + lagInterval) // for the next sample
	}
	if l.samplePending {
		until(l.sampleTried + samplePause)
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
			until(max(due, now) + lagInterval) // to measure the lag
		}
	}
	if first := l.lanes[answering].first; first != nil && !l.slow.full() {
		until(first.began + l.options.slowAfter(l.mean))
	}
	return wait
}

// samplePause is the least time between two attempts to draw a sample. Each attempt walks through all servers.
const samplePause = 50 * time.Millisecond

// lagInterval is how often the lag is measured while all workers are busy.
const lagInterval = time.Second

// dispatch starts the polls that are due, within the limits of their lanes, and measures the lag.
func (l *loop) dispatch(ctx context.Context) {
	now := l.now()
	// Slow polls move to the slow lane, and make room for others.
	normal, slowAfter := &l.lanes[answering], l.options.slowAfter(l.mean)
	for e := normal.first; e != nil && !l.slow.full() && e.began+slowAfter <= now; e = normal.first {
		normal.remove(e)
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
	l.lag.Store(int64(max(lags[answering], lags[retrying])))
	l.offlineLag.Store(int64(lags[offline]))
	l.servers.Store(int64(len(l.entries)))
	l.Poller.slow.Store(int64(l.slow.busy + l.lanes[retrying].busy + l.lanes[offline].busy))
}

// begin gives the poll of an entry to a worker.
func (l *loop) begin(ctx context.Context, e *entry, lane *lane, now time.Duration) {
	e.dequeue()
	e.running, e.began = true, now
	lane.add(e)
	t := task{entry: e, target: e.target, timeout: l.options.Timeout}
	t.target.Light = now < e.facts
	if e.class == answering {
		t.timeout = l.options.timeout(e.pace.usual(t.target.Light))
	}
	t.ctx = l.deadline(ctx, t.timeout, now)
	if l.idle > 0 {
		l.idle--
		l.work <- t
		return
	}
	l.workers.Go(func() { l.runWorker(ctx, t) })
}

// deadline returns a context for a poll that begins now. Polls that begin at about the same time share a deadline. A timer
// for each poll would cost more than the rest of its scheduling.
func (l *loop) deadline(ctx context.Context, timeout, now time.Duration) context.Context {
	g := l.generations[timeout]
	if g.ctx == nil || now >= g.until {
		step := timeout / 32
		g.ctx, g.cancel = context.WithTimeout(ctx, timeout+step)
		g.until = now + step
		l.generations[timeout] = g
	}
	return g.ctx
}

// runWorker performs the first task, and then tasks from l.work until that is closed.
func (l *loop) runWorker(ctx context.Context, t task) {
	for ok := true; ok; t, ok = <-l.work {
		l.done <- l.poll(ctx, t)
	}
}

// poll performs a task. It passes news to the recorder, which sends a second result once the news is stored.
func (l *loop) poll(ctx context.Context, t task) result {
	id := t.target.ID
	r := result{entry: t.entry, over: true, final: true, at: l.now(), light: t.target.Light}
	waited, err := l.lock(ctx, id)
	if err != nil {
		return r
	}
	if waited {
		// The timeout starts now, after the wait. The server may have a new address, or be deleted.
		info, err := l.registry.Server(ctx, t.target.Name)
		if err != nil || info.ID != id {
			l.unlock(id)
			return r
		}
		light := t.target.Light
		t.target = info.ProbeTarget()
		t.target.Light = light
		var cancel context.CancelFunc
		t.ctx, cancel = context.WithTimeout(ctx, t.timeout)
		defer cancel()
	}
	began := l.now()
	o, cut, err := l.probe(ctx, t.ctx, t.target, t.timeout < l.options.Timeout)
	r.at = l.now()
	if err != nil || cut {
		l.unlock(id)
		r.cut = cut
		return r
	}
	r.answered, r.took = o.Failure == nil, r.at-began
	if o.Failure != nil && o.Failure.Kind == lifecycle.FailureLocal { // the loop polls it again soon
		if err := l.registry.Observer().Record(ctx, o); err != nil {
			l.options.Logger.ErrorContext(ctx, "the warning of a local failure could not be stored", "error", err)
		}
		l.unlock(id)
		return r
	}
	if l.registry.Observer().RecordUnchanged(&o) {
		l.unchanged.Add(1)
		l.unlock(id)
		r.unchanged, r.facts = true, o.Facts != nil
		return r
	}
	r.final = !l.queueRecord(t.entry, o, r.at)
	if r.final {
		r.failed, r.dropped = o.Failure != nil, true
		l.unlock(id)
	}
	return r
}

// queueRecord passes an observation to the recorder, and reports whether the recorder took it. It drops
// the observation if the store refuses writes and MaxPending is reached, or if the recorder takes
// nothing for as long as Timeout. It is a function of its own so that other observations stay on the stack.
func (l *loop) queueRecord(e *entry, o lifecycle.Observation, at time.Duration) (queued bool) {
	one := record{entry: e, observation: o, at: at}
	size := int64(one.size())
	if l.refusing.Load() && (l.pending.Load() >= int64(l.options.MaxPending) || l.pendingSize.Load()+size > int64(l.options.MaxPendingSize)) {
		l.dropped.Add(1)
		return false
	}
	l.pending.Add(1)
	l.pendingSize.Add(size)
	select {
	case l.records <- one:
		return true
	default:
	}
	timer := time.NewTimer(l.options.Timeout)
	defer timer.Stop()
	select {
	case l.records <- one:
		return true
	case <-timer.C:
	}
	l.pending.Add(-1)
	l.pendingSize.Add(-size)
	l.dropped.Add(1)
	return false
}

// finish handles a result, and schedules the next poll of its server.
func (l *loop) finish(ctx context.Context, r result) {
	e := r.entry
	if r.over {
		e.lane.remove(e)
		l.idle++
		switch {
		case r.answered:
			e.pace.learn(r.light, r.took)
			l.mean.learn(r.took)
		case r.cut:
			e.pace = pace{}
		}
		if e.early != nil { // the second result arrived first
			r, e.early = *e.early, nil
		}
	} else if e.lane != nil {
		e.early = &r // handled with the first result
		return
	}
	if !r.final {
		return
	}
	e.running = false
	if e.removed {
		return
	}
	if e.stale { // the server changed during the poll, most often by the poll itself
		e.stale = false
		if info, err := l.registry.Server(ctx, e.target.Name); err == nil && info.ID == e.target.ID {
			r.info, r.unchanged = info, false
		}
	}
	if r.info != nil {
		e.describe(r.info)
	}
	now := r.at // intervals count from the end of the poll, not from the commit of its observation
	if r.facts {
		// Rather read facts half an interval early than a whole one late.
		e.facts = now + l.options.FactsInterval - min(l.options.FactsInterval, l.options.Interval)/2
	}
	if r.failed && (e.class == answering || e.doubted) {
		l.pollOthers(e, now)
	}
	e.doubted = r.cut && l.answers(r.info)
	if r.failed || l.samplePending {
		defer l.sample() // after this entry is back in its queue
	}
	switch {
	case e.again:
		e.again, e.facts = false, 0
		if e.doubted {
			e.class = retrying
		}
		l.enqueue(e, now)
	case e.doubted: // the retry has the full Timeout
		e.class = retrying
		l.enqueue(e, now)
	case r.info != nil:
		l.schedule(e, r.info, now)
	case r.unchanged:
		e.class = answering
		l.enqueue(e, now+l.timing.phased(e.target.ID, l.timeOfDay(now)))
	case r.dropped: // polled at its next turn, to spare the store
		l.enqueue(e, now+l.timing.phased(e.target.ID, l.timeOfDay(now)))
	default: // not readable, or deleted; the change feed reports a deletion
		l.enqueue(e, now+l.options.RetryInterval)
	}
}

// answers reports whether a server is polled as one that answered last time. Nil: its state did not change.
func (l *loop) answers(info *opscenter.ServerInfo) bool {
	if info == nil {
		return true
	}
	wait, class := l.timing.next(info, time.Now())
	return wait != never && class == answering
}

// timeOfDay converts a time since Run began to the time of day.
func (l *loop) timeOfDay(at time.Duration) time.Time { return time.Now().Add(at - l.now()) }

// schedule queues the next poll of a server according to its state.
func (l *loop) schedule(e *entry, info *opscenter.ServerInfo, now time.Duration) {
	wait, class := l.timing.next(info, l.timeOfDay(now))
	e.class = class
	if wait == never {
		e.dequeue()
		return
	}
	l.enqueue(e, now+wait)
}

// enqueue puts an entry into the queue of its class.
func (l *loop) enqueue(e *entry, due time.Duration) {
	l.queues[e.class].set(e, due)
}

// pollOthers polls some other servers at once when a server begins to fail. Their answers show whether
// the server or the control plane is at fault, before the server becomes offline.
func (l *loop) pollOthers(failed *entry, now time.Duration) {
	o := l.registry.Options()
	if o.GuardShare > 1 || l.othersPolled > 0 && now-l.othersPolled < l.options.RetryInterval {
		return
	}
	l.othersPolled = now
	// The others are neighbours in the heap, from a random position.
	q := &l.queues[answering]
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

// sample polls random servers at once if the Registry asks for a sample. The Registry does so while many servers fail,
// to find out whether the control plane is at fault.
func (l *loop) sample() {
	n, unbiased := l.registry.Observer().SampleSize()
	if n == 0 {
		l.samplePending = false
		return
	}
	now := l.now()
	if l.samplePending && now-l.sampleTried < samplePause {
		return
	}
	l.sampleTried = now
	// A server in doubt has not failed.
	eligible := func(e *entry) bool {
		return !e.removed && (e.class == answering || e.doubted || unbiased && e.class == retrying)
	}
	from := slices.Clone([]*entry(l.queues[answering]))
	for _, e := range l.queues[retrying] {
		if eligible(e) {
			from = append(from, e)
		}
	}
	for _, lane := range []*lane{&l.lanes[answering], &l.slow, &l.lanes[retrying]} { // active polls are part of the sample, too
		for e := lane.first; e != nil; e = e.next {
			if eligible(e) {
				from = append(from, e)
			}
		}
	}
	of := 0 // includes servers whose observations are being stored
	for _, e := range l.entries {
		if eligible(e) {
			of++
		}
	}
	// While many observations are being stored, the rest is no fair sample. The loop tries again after samplePause.
	if l.samplePending = 4*len(from) < 3*min(n, of); l.samplePending {
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
	l.registry.Observer().BeginSample(of, ids...)
}
