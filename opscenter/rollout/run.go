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

// retryInterval is the pause after the store refused.
const retryInterval = time.Second

// Run carries out all rollouts that are open, and those that are started meanwhile, until ctx
// ends. Where another Manager of the store does, it stands by, and takes over when that one
// is not heard of any more. What it has begun with servers when ctx ends goes on there, and is
// taken up again by the next Run. It returns ctx's error, or ErrRunning.
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
			m.failed(ctx, err)
			pause = retryInterval
		case len(open) == 0:
			m.await(ctx, revision)
			continue
		default:
			var epoch uint64
			var until time.Time
			if epoch, until, err = m.acquire(ctx); err != nil {
				m.failed(ctx, err)
				pause = retryInterval
			} else if epoch != 0 {
				m.lead(ctx, epoch)
				continue
			} else if wait := time.Until(until); wait > 0 {
				pause = min(pause, wait)
			}
		}
		sleep(ctx, pause)
	}
	return ctx.Err()
}

func (m *Manager) failed(ctx context.Context, err error) {
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

// await waits for any rollout to change.
func (m *Manager) await(ctx context.Context, revision uint64) {
	for _, err := range m.Watch(ctx, revision) {
		if err != nil {
			m.failed(ctx, err)
			sleep(ctx, retryInterval)
		}
		return
	}
}

// engine carries out rollouts while the lease is held. All but its goroutines' own work is
// done by one goroutine.
type engine struct {
	*Manager
	epoch uint64
	ctx   context.Context // of this lease
	group sync.WaitGroup

	rollouts map[string]*course
	byServer map[string][]*unitCourse // by name
	events   chan func()              // what other goroutines have to say
	polls    chan struct{}            // bounds them
	polling  map[string]bool          // servers that are asked now
	reload   time.Time                // when to look for rollouts that are not known; zero: not
	renewed  time.Time
}

// course is a rollout under way.
type course struct {
	id       string
	calendar *rolling.Calendar
	units    map[int]*unitCourse // those that run, or failed
	look     bool                // to be looked at
	wake     time.Time
}

// unitCourse is a unit under way.
type unitCourse struct {
	*course
	index int
	look  bool
	wake  time.Time
	poll  time.Time // when its servers are asked next; zero: they are not
	names []string
	gate  *gate
	// errors in a row, of storing its next step.
	errors int
}

// gate is what the embedder's health gate said.
type gate struct {
	asking bool
	at     time.Time
	closed string
}

// lead carries out rollouts until there are none, the lease is lost, or ctx ends.
func (m *Manager) lead(ctx context.Context, epoch uint64) {
	ctx, cancel := context.WithCancel(ctx)
	e := &engine{Manager: m, epoch: epoch, ctx: ctx, rollouts: map[string]*course{}, byServer: map[string][]*unitCourse{},
		events: make(chan func()), polls: make(chan struct{}, m.options.MaxPolls), polling: map[string]bool{}, renewed: time.Now()}
	err := e.run()
	cancel()
	e.drain()
	switch {
	case errors.Is(err, errLease):
		m.log.WarnContext(ctx, "another controller carries out the rollouts now")
	case err != nil && !errors.Is(err, context.Canceled):
		m.failed(context.WithoutCancel(ctx), err)
		sleep(ctx, retryInterval)
	}
	if !errors.Is(err, errLease) {
		bounded, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer done()
		if err := m.release(bounded, epoch); err != nil && !errors.Is(err, errLease) {
			m.failed(bounded, err)
		}
	}
}

// drain waits for all goroutines, hearing what they have to say.
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

// say hands something to the engine's own goroutine.
func (e *engine) say(do func()) {
	select {
	case e.events <- do:
	case <-e.ctx.Done():
	}
}

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
		wake, err := e.round()
		if err != nil {
			return err
		}
		if len(e.rollouts) == 0 && e.reload.IsZero() {
			return nil
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
		case do := <-e.events:
			do()
		case <-e.changed:
			e.reload = time.Now()
			for _, c := range e.rollouts {
				c.look = true
			}
		case <-e.ctx.Done():
			return e.ctx.Err()
		}
		if err := e.keep(); err != nil {
			return err
		}
	}
}

// keep renews the lease when a third of its time is over.
func (e *engine) keep() error {
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

// loadAll loads the rollouts that are not known, yet. What can't be is tried again.
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

// startInterval is when to look again whether a rollout that is being started has been, or is dead.
const startInterval = 5 * time.Second

// loadOne loads a rollout; one that can't be must not keep the others from going on.
func (e *engine) loadOne(id string) {
	if err := e.load(id); err != nil {
		e.failed(e.ctx, fmt.Errorf("rollout %s: %w", id, err))
		e.reload = time.Now().Add(retryInterval)
	}
}

// follow looks again at what changes, until the lease ends.
func (e *engine) follow(revision uint64) {
	store := e.registry.Store()
	for e.ctx.Err() == nil {
		for batch, err := range store.Watch(e.ctx, revision) {
			if err != nil {
				e.failed(e.ctx, err)
				break
			}
			revision = batch.Revision
			var names, ids []string
			for _, change := range batch.Changes {
				name, ok := change.Key.FirstString()
				switch {
				case !ok:
				case change.Table == "servers" || change.Table == "states":
					names = append(names, name)
				case change.Table == rollouts.Name():
					ids = append(ids, name)
				}
			}
			if batch.Reset || len(names) > 0 || len(ids) > 0 {
				e.say(func() { e.take(batch.Reset, names, ids) })
			}
		}
		sleep(e.ctx, retryInterval)
	}
}

// take marks what is to be looked at.
func (e *engine) take(all bool, names, ids []string) {
	for _, c := range e.rollouts {
		if all || slices.Contains(ids, c.id) {
			c.look = true
			for _, u := range c.units {
				u.look = true
			}
		}
	}
	for _, name := range names {
		for _, u := range e.byServer[name] {
			u.look = true
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

// load begins to carry out a rollout.
func (e *engine) load(id string) error {
	var c *course
	erase := false
	err := e.registry.Read(e.ctx, func(s *opscenter.Snapshot) error {
		r, err := rollouts.Find(s, storage.StringKey(id))
		if err != nil || r == nil || r.State.Status.Ended() {
			return err
		}
		if r.State.Status == rolling.StatusStarting {
			erase = now().Sub(r.LastUpdated) > startTimeout
			if e.reload.IsZero() {
				e.reload = time.Now().Add(startInterval)
			}
			return nil
		}
		calendar, err := rolling.NewCalendar(r.State.Policy.Windows)
		if err != nil {
			return err
		}
		c = &course{id: id, calendar: calendar, units: map[int]*unitCourse{}, look: true}
		if r.State.Running+r.State.Failed == 0 {
			return nil
		}
		for u, err := range units.Scan(s, storage.Range{Prefix: storage.StringKey(id)}) {
			if err != nil {
				return err
			}
			if u.Status == rolling.UnitRunning || u.Status == rolling.UnitFailed {
				e.add(c, u)
			}
		}
		return nil
	})
	if erase {
		e.log.WarnContext(e.ctx, "a rollout that was never written down as a whole is removed", "rollout", id)
		return e.erase(e.ctx, id)
	}
	if err == nil && c != nil {
		e.rollouts[id] = c
	}
	return err
}

// add begins to carry out a unit.
func (e *engine) add(c *course, u *Unit) {
	known := &unitCourse{course: c, index: u.Index, look: true}
	c.units[u.Index] = known
	e.name(known, &u.Unit)
}

// name notes the names of the servers of a unit: changes come by name.
func (e *engine) name(known *unitCourse, u *rolling.Unit) {
	var names []string
	for i := range u.Members {
		names = append(names, u.Members[i].Server)
	}
	if slices.Equal(names, known.names) {
		return
	}
	e.unname(known)
	known.names = names
	for _, name := range names {
		e.byServer[name] = append(e.byServer[name], known)
	}
}

func (e *engine) unname(known *unitCourse) {
	for _, name := range known.names {
		list := slices.DeleteFunc(e.byServer[name], func(other *unitCourse) bool { return other == known })
		if e.byServer[name] = list; len(list) == 0 {
			delete(e.byServer, name)
		}
	}
}

// round looks at all that is to be looked at, and returns when to do so again.
func (e *engine) round() (wake time.Time, err error) {
	sooner := func(at time.Time) {
		if !at.IsZero() && (wake.IsZero() || at.Before(wake)) {
			wake = at
		}
	}
	for again := true; again; {
		again = false
		for _, c := range e.rollouts {
			for _, u := range c.units {
				if u.look || !u.wake.IsZero() && !u.wake.After(time.Now()) {
					u.look, u.wake = false, time.Time{}
					if err := e.unit(u); err != nil {
						return wake, err
					}
				}
			}
			if c.look || !c.wake.IsZero() && !c.wake.After(time.Now()) {
				c.look, c.wake = false, time.Time{}
				more, err := e.rollout(c)
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
			sooner(u.wake)
			if !u.poll.IsZero() && !u.poll.After(at) {
				e.ask(u)
				u.poll = at.Add(e.options.PollInterval)
			}
			sooner(u.poll)
		}
	}
	return wake, nil
}
