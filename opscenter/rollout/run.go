package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/storage"
)

// retryInterval is the pause after an error of the store.
const retryInterval = time.Second

// Run carries out all open rollouts, also those that are started meanwhile, until ctx ends. While another Manager of the
// store holds the lease, Run stands by. It takes over when that lease expires.
//
// When ctx ends, actions that have begun go on in the servers. The next Run continues them. Run returns ctx's error, or
// ErrRunning.
func (m *Manager) Run(ctx context.Context) error {
	if !m.running.TryLock() {
		return ErrRunning
	}
	defer m.running.Unlock()
	for ctx.Err() == nil {
		pause := m.options.Lease / 3
		open, revision, err := m.open(ctx)
		switch {
		case err != nil:
			m.logFailure(ctx, err)
			pause = retryInterval
		case len(open) == 0:
			m.awaitChange(ctx, revision)
			continue
		default:
			var epoch uint64
			var until time.Time
			if epoch, until, err = m.acquire(ctx); err != nil {
				m.logFailure(ctx, err)
				pause = retryInterval
			} else if epoch != 0 {
				m.lead(ctx, epoch)
				continue
			} else if wait := until.Sub(m.now()); wait > 0 {
				pause = min(pause, wait)
			}
		}
		sleep(ctx, pause)
	}
	return ctx.Err()
}

// logFailure logs an internal error, unless ctx has ended.
func (m *Manager) logFailure(ctx context.Context, err error) {
	if ctx.Err() == nil {
		m.log.ErrorContext(ctx, "rollouts can't be carried out, and are tried again", "error", err)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// open returns the rollouts that have not ended.
func (m *Manager) open(ctx context.Context) (out []*Rollout, revision uint64, err error) {
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		out, revision = nil, s.Revision()
		for r, err := range byEnd.Scan(s, storage.Range{Prefix: storage.StringKey("")}) {
			if err != nil {
				return err
			}
			out = append(out, r)
		}
		return nil
	})
	return out, revision, err
}

// awaitChange waits until any rollout changes.
func (m *Manager) awaitChange(ctx context.Context, revision uint64) {
	for _, err := range m.Watch(ctx, revision) {
		if err != nil {
			m.logFailure(ctx, err)
			sleep(ctx, retryInterval)
		}
		return
	}
}

// engine carries out rollouts while the lease is held. One goroutine owns all its fields. Other goroutines poll and act, and
// hand their results to it with post.
type engine struct {
	*Manager
	epoch uint64
	ctx   context.Context // of this lease
	group sync.WaitGroup

	rollouts map[string]*activeRollout // by ID
	byServer map[string][]*activeUnit  // by name of the server
	events   chan func()               // functions that other goroutines have posted
	polls    chan struct{}             // bounds polls
	busy     busyServers               // servers that are being polled, or acted on
	reload   time.Time                 // when to load new rollouts; zero: not
	renewed  time.Time                 // when the lease was last renewed
	// committed is when a decision was last committed.
	committed time.Time
}

// activeRollout is an open rollout that was loaded.
type activeRollout struct {
	id       string
	calendar *rolling.Calendar
	units    map[int]*activeUnit // running and failed units, by index
	due      bool                // to be checked in the next round
	wake     time.Time           // when it is due; zero: not
	seen     rolloutSeen         // when it was last checked
}

// activeUnit is a running or failed unit.
type activeUnit struct {
	*activeRollout
	index int
	due   bool      // to be checked in the next round
	wake  time.Time // when it is due; zero: not
	poll  time.Time // when its servers are polled; zero: not
	names []string  // names of its servers
	gate  *gate     // last answer; nil: not asked so far
	// errors counts the failed attempts, in a row, to store its next step.
	errors int
}

// gate is the answer of the health gate.
type gate struct {
	asking bool      // the answer has not come so far
	at     time.Time // time of the answer
	closed string    // reason why the gate is closed; empty: it is open
}

// lead carries out rollouts until no open one is left, the lease is lost, or ctx ends.
func (m *Manager) lead(ctx context.Context, epoch uint64) {
	ctx, cancel := context.WithCancel(ctx)
	e := &engine{Manager: m, epoch: epoch, ctx: ctx, rollouts: map[string]*activeRollout{}, byServer: map[string][]*activeUnit{},
		events: make(chan func()), polls: make(chan struct{}, m.options.MaxPolls), renewed: time.Now()}
	err := e.run()
	cancel()
	e.drain()
	switch {
	case errors.Is(err, errLease):
		m.log.WarnContext(ctx, "another controller carries out the rollouts now")
	case err != nil && !errors.Is(err, context.Canceled):
		m.logFailure(context.WithoutCancel(ctx), err)
		sleep(ctx, retryInterval)
	}
	if !errors.Is(err, errLease) {
		bounded, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer done()
		if err := m.release(bounded, epoch); err != nil && !errors.Is(err, errLease) {
			m.logFailure(bounded, err)
		}
	}
}

// drain waits for all goroutines, and drops the functions that they post.
func (e *engine) drain() {
	ended := make(chan struct{})
	go func() {
		e.group.Wait()
		close(ended)
	}()
	for {
		select {
		case <-e.events:
		case <-ended:
			return
		}
	}
}

// post hands a function to the engine's goroutine. It drops the function if the lease has ended.
func (e *engine) post(fn func()) {
	select {
	case e.events <- fn:
	case <-e.ctx.Done():
	}
}

// run is the loop of the engine's goroutine.
func (e *engine) run() error {
	_, revision, err := e.open(e.ctx)
	if err == nil {
		err = e.loadAll()
	}
	if err != nil {
		return err
	}
	e.group.Go(func() { e.follow(revision) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if !e.reload.IsZero() && !e.reload.After(time.Now()) {
			if err := e.loadAll(); err != nil {
				return err
			}
		}
		// What happens until then shares the next commit.
		wake := e.committed.Add(commitInterval)
		if !wake.After(time.Now()) {
			var err error
			if wake, err = e.round(); err != nil {
				return err
			}
			if len(e.rollouts) == 0 && e.reload.IsZero() {
				return nil
			}
		}
		next := e.renewed.Add(e.options.Lease / 3)
		if !e.reload.IsZero() && e.reload.Before(next) {
			next = e.reload
		}
		if !wake.IsZero() && wake.Before(next) {
			next = wake
		}
		timer.Reset(max(0, time.Until(next)))
		select {
		case <-timer.C:
		case fn := <-e.events:
			fn()
			e.takeEvents()
		case <-e.changed:
			e.reload = time.Now()
			for _, c := range e.rollouts {
				c.due = true
			}
		case <-e.ctx.Done():
			return e.ctx.Err()
		}
		if err := e.renewLease(); err != nil {
			return err
		}
	}
}

// takeEvents calls the functions that other goroutines wait to hand over.
func (e *engine) takeEvents() {
	for {
		select {
		case fn := <-e.events:
			fn()
		default:
			return
		}
	}
}

// renewLease renews the lease when a third of its time is over.
func (e *engine) renewLease() error {
	if time.Since(e.renewed) < e.options.Lease/3 {
		return nil
	}
	begun := time.Now()
	err := e.renew(e.ctx, e.epoch)
	if err == nil {
		e.renewed = begun
	}
	return err
}

// loadAll loads the open rollouts that are not loaded so far. It tries again those that fail.
func (e *engine) loadAll() error {
	open, _, err := e.open(e.ctx)
	if err != nil {
		return err
	}
	e.reload = time.Time{}
	for _, r := range open {
		if e.rollouts[r.ID] == nil {
			e.loadOne(r.ID)
		}
	}
	return nil
}

// startInterval is the time between two checks of a rollout that is still being stored.
const startInterval = 5 * time.Second

// loadOne loads a rollout. After an error it schedules another attempt, so that the other rollouts go on.
func (e *engine) loadOne(id string) {
	if err := e.load(id); err != nil {
		e.logFailure(e.ctx, fmt.Errorf("rollout %s: %w", id, err))
		e.reload = time.Now().Add(retryInterval)
	}
}

// follow marks rollouts and servers that change in the store, until the lease ends. A server that is being polled or acted on
// is marked after that.
func (e *engine) follow(revision uint64) {
	store := e.registry.Store()
	for e.ctx.Err() == nil {
		for batch, err := range store.Watch(e.ctx, revision, "servers", "states", rollouts.Name()) {
			if err != nil {
				e.logFailure(e.ctx, err)
				break
			}
			revision = batch.Revision
			var names, ids []string
			for _, change := range batch.Changes {
				name, ok := change.Key.FirstString()
				switch {
				case !ok:
				case change.Table == rollouts.Name():
					ids = append(ids, name)
				case e.options.Poller == nil || !e.busy.has(name): // its own poll marks a busy one
					names = append(names, name)
				}
			}
			if batch.Reset || len(names) > 0 || len(ids) > 0 {
				e.post(func() { e.markDue(batch.Reset, names, ids) })
			}
		}
		sleep(e.ctx, retryInterval)
	}
}

// markDue marks the rollouts with these IDs and the units of these servers as due, and loads new rollouts. A rollout that is
// due has its units marked if it was paused, resumed or cancelled: most of its changes only count steps.
func (e *engine) markDue(all bool, names, ids []string) {
	for _, c := range e.rollouts {
		c.due = c.due || all || slices.Contains(ids, c.id)
		for _, u := range c.units {
			u.due = u.due || all
		}
	}
	for _, name := range names {
		for _, u := range e.byServer[name] {
			u.due = true
		}
	}
	if all {
		e.reload = time.Now()
	}
	for _, id := range ids {
		if e.rollouts[id] == nil {
			e.loadOne(id)
		}
	}
}

// load loads an open rollout with its running and failed units. It removes a rollout that was never stored completely.
func (e *engine) load(id string) error {
	var c *activeRollout
	erase := false
	err := e.registry.Read(e.ctx, func(s *opscenter.Snapshot) error {
		r, err := rollouts.Find(s, storage.StringKey(id))
		if err != nil || r == nil || r.State.Status.Ended() {
			return err
		}
		if r.State.Status == rolling.StatusStarting {
			erase = e.now().Sub(r.LastUpdated) > startTimeout
			if e.reload.IsZero() {
				e.reload = time.Now().Add(startInterval)
			}
			return nil
		}
		calendar, err := rolling.NewCalendar(r.State.Policy.Windows)
		if err != nil {
			return err
		}
		c = &activeRollout{id: id, calendar: calendar, units: map[int]*activeUnit{}, due: true}
		if r.State.Running+r.State.Failed == 0 {
			return nil
		}
		for row, err := range units.Scan(s, storage.Range{Prefix: storage.StringKey(id)}) {
			if err != nil {
				return err
			}
			if row.Status != rolling.UnitRunning && row.Status != rolling.UnitFailed {
				continue
			}
			u, err := join(s, row)
			if errors.Is(err, storage.ErrCorrupt) || errors.Is(err, storage.ErrNotFound) {
				// One damaged unit must not stop the others.
				e.log.ErrorContext(e.ctx, "a unit can't be read, and stands still", "rollout", id, "unit", row.Index, "error", err)
				continue
			}
			if err != nil {
				return err
			}
			e.add(c, &u.Unit)
		}
		return nil
	})
	if erase {
		e.log.WarnContext(e.ctx, "a rollout that was never stored completely is removed", "rollout", id)
		return e.erase(e.ctx, id)
	}
	if err == nil && c != nil {
		e.rollouts[id] = c
	}
	return err
}

// add adds a running or failed unit.
func (e *engine) add(c *activeRollout, u *Unit) {
	known := &activeUnit{activeRollout: c, index: u.Index, due: true}
	c.units[u.Index] = known
	e.indexNames(known, &u.Unit)
}

// indexNames indexes a unit by the names of its servers, because changes come by name.
func (e *engine) indexNames(known *activeUnit, u *rolling.Unit) {
	var names []string
	for i := range u.Members {
		names = append(names, u.Members[i].Server)
	}
	if slices.Equal(names, known.names) {
		return
	}
	e.unindexNames(known)
	known.names = names
	for _, name := range names {
		e.byServer[name] = append(e.byServer[name], known)
	}
}

// unindexNames removes a unit from the index.
func (e *engine) unindexNames(known *activeUnit) {
	for _, name := range known.names {
		list := slices.DeleteFunc(e.byServer[name], func(other *activeUnit) bool { return other == known })
		if e.byServer[name] = list; len(list) == 0 {
			delete(e.byServer, name)
		}
	}
}

// round checks all due rollouts and units, and returns the time of the next round; zero: none is known.
func (e *engine) round() (wake time.Time, err error) {
	sooner := func(at time.Time) {
		if !at.IsZero() && (wake.IsZero() || at.Before(wake)) {
			wake = at
		}
	}
	for again := true; again; {
		again = false
		var due []*activeUnit
		now := time.Now()
		for _, c := range e.rollouts {
			for _, u := range c.units {
				if u.due || !u.wake.IsZero() && !u.wake.After(now) {
					u.due, u.wake = false, time.Time{}
					due = append(due, u)
				}
			}
		}
		if err := e.checkUnits(due); err != nil {
			return wake, err
		}
		for _, c := range e.rollouts {
			if c.due || !c.wake.IsZero() && !c.wake.After(time.Now()) {
				c.due, c.wake = false, time.Time{}
				more, err := e.checkRollout(c)
				if err != nil {
					return wake, err
				}
				again = again || more
			}
		}
	}
	at := time.Now()
	for _, c := range e.rollouts {
		sooner(c.wake)
		for _, u := range c.units {
			if sooner(u.wake); u.due {
				sooner(at)
			}
			if !u.poll.IsZero() && !u.poll.After(at) {
				e.pollUnit(u)
				u.poll = at.Add(e.options.PollInterval)
			}
			sooner(u.poll)
		}
	}
	return wake, nil
}
