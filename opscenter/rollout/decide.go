package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/storage"
)

// gateInterval is how long what the health gate said counts, and after which one that is
// closed is asked again.
const gateInterval = 10 * time.Second

// begun is an action that was stored, to be carried out once that is committed.
type begun struct {
	info      *opscenter.ServerInfo
	operation *lifecycle.Operation
}

// decision is what became of a unit.
type decision struct {
	rolling.Result
	unit    *Unit
	rollout *Rollout
	infos   []*opscenter.ServerInfo
	before  rolling.UnitStatus
	aside   bool
	gone    bool // the rollout is none any more
}

// decide reads a unit, and lets it advance. Nothing is stored.
func (e *engine) decide(s *opscenter.Snapshot, u *unitCourse) (*decision, error) {
	d := &decision{}
	r, err := rollouts.Find(s, storage.StringKey(u.id))
	if err != nil {
		return nil, err
	}
	stored, err := units.Find(s, storage.StringKey(u.id).Uint(uint64(u.index)))
	if err != nil {
		return nil, err
	}
	if r == nil || stored == nil || r.State.Status.Ended() || stored.Status == rolling.UnitDone || stored.Status == rolling.UnitCancelled {
		d.gone = true
		return d, nil
	}
	d.rollout, d.before, d.aside = r.clone(), stored.Status, stored.Aside
	d.unit = &Unit{Rollout: stored.Rollout, Index: stored.Index, Unit: *stored.Unit.Clone()}
	view := rolling.View{Now: now(), Epoch: e.epoch, Prefix: u.id[len(u.id)-12:] + "."}
	for i := range d.unit.Members {
		info, err := s.ServerByID(d.unit.Members[i].ID)
		switch {
		case errors.Is(err, opscenter.ErrNotFound):
			view.Servers = append(view.Servers, nil)
			continue
		case err != nil:
			return nil, err
		}
		d.infos = append(d.infos, info)
		view.Servers = append(view.Servers, info.Rolling())
	}
	if e.registry.FleetUnreachable() {
		view.Hold = "so much of the fleet is unreachable that the fault may be the control plane's own"
	}
	view.GateAsked = e.options.HealthGate == nil
	if g := u.gate; g != nil && !g.asking && time.Since(g.at) < gateInterval {
		view.GateAsked, view.Gate = true, g.closed
	}
	state := &d.rollout.State
	d.Result = d.unit.Advance(&state.Policy, u.calendar, view, state.Cancel, state.Status == rolling.StatusPaused)
	return d, nil
}

// unit looks at a unit, and does what is to be done next.
func (e *engine) unit(u *unitCourse) error {
	if err := e.keep(); err != nil {
		return err
	}
	var d *decision
	err := e.registry.Read(e.ctx, func(s *opscenter.Snapshot) (err error) {
		d, err = e.decide(s, u)
		return err
	})
	var started []begun
	if err == nil && !d.gone && (d.Changed || len(d.Commands) > 0 || d.unit.Status != d.before) {
		err = e.registry.Write(e.ctx, func(tx *opscenter.Tx) (err error) {
			started = nil
			if err := e.held(tx, e.epoch); err != nil {
				return err
			}
			if d, err = e.decide(tx.Snapshot(), u); err != nil || d.gone {
				return err
			}
			started, err = e.store(tx, d)
			return err
		})
	}
	switch {
	case errors.Is(err, errLease) || err != nil && e.ctx.Err() != nil:
		return err
	case err != nil:
		// What it is about is tried again; other units are not kept waiting.
		e.log.ErrorContext(e.ctx, "a rollout's next step could not be stored, and is tried again", "rollout", u.id, "error", err)
		u.wake = time.Now().Add(retryInterval)
		if u.errors++; u.errors >= maxErrors {
			e.halt(u, err)
		}
		return nil
	case d.gone:
		e.forget(u)
		return nil
	}
	u.errors = 0
	// What is stored is carried out, even if this controller is to end: it waits for it.
	for _, b := range started {
		e.carryOut(u, b.info, b.operation)
	}
	for _, c := range d.Commands {
		if c.Again {
			e.carryOn(u, c)
		}
	}
	if len(started) > 0 {
		u.gate = nil // the next server is another question
	}
	e.name(u, &d.unit.Unit)
	u.wake = later(d.Wake)
	e.attend(u, d)
	if d.AskGate {
		e.askGate(u, d.unit.Name, d.infos)
	}
	if d.unit.Status != d.before || d.unit.Aside != d.aside {
		u.course.look = true
		if d.unit.Status == rolling.UnitDone || d.unit.Status == rolling.UnitCancelled {
			e.forget(u)
		}
	}
	return nil
}

// maxErrors is how often a unit's next step may fail to be stored, in a row, until the unit
// fails for that.
const maxErrors = 10

// halt makes a unit fail whose next step can't be stored: somebody has to know.
func (e *engine) halt(u *unitCourse, reason error) {
	err := e.registry.Write(e.ctx, func(tx *opscenter.Tx) error {
		if err := e.held(tx, e.epoch); err != nil {
			return err
		}
		stored, err := units.Get(tx, storage.StringKey(u.id).Uint(uint64(u.index)))
		if err != nil {
			return err
		}
		known, err := find(tx, u.id)
		if err != nil || stored.Status != rolling.UnitRunning {
			return err
		}
		next, r := &Unit{Rollout: stored.Rollout, Index: stored.Index, Unit: *stored.Unit.Clone()}, known.clone()
		next.Halt(now(), fmt.Sprintf("the next step can't be stored: %v", reason))
		r.State.Moved(&next.Unit, next.Index, stored.Status, now())
		if err := units.Put(tx, next); err != nil {
			return err
		}
		if err := rollouts.Put(tx, r); err != nil {
			return err
		}
		return tx.Record(eventOf(r, "", "", event.Rollout, fmt.Sprintf("%s: %s", r.State.Status, next.Failure.Reason)))
	})
	if err != nil {
		e.failed(e.ctx, err)
	} else {
		u.errors = 0
	}
}

// later makes a time of the day one of the monotonic clock.
func later(at time.Time) time.Time {
	if at.IsZero() {
		return at
	}
	return time.Now().Add(max(time.Millisecond, at.Sub(now())))
}

// attend decides whether the servers of a unit are polled.
func (e *engine) attend(u *unitCourse, d *decision) {
	busy := d.unit.Status == rolling.UnitRunning && d.unit.Waiting != "" && !d.unit.Window
	for i := range d.unit.Members {
		busy = busy || d.unit.Members[i].Step != nil
	}
	switch {
	case !busy:
		u.poll = time.Time{}
	case u.poll.IsZero():
		u.poll = time.Now().Add(min(time.Second, e.options.PollInterval))
	}
	if g := u.gate; g != nil && !g.asking && g.closed != "" {
		if again := g.at.Add(gateInterval); u.wake.IsZero() || again.Before(u.wake) {
			u.wake = again
		}
	}
}

func (e *engine) forget(u *unitCourse) {
	delete(u.units, u.index)
	e.unname(u)
	u.course.look = true
}

// store stores what was decided, with the intent to carry it out.
func (e *engine) store(tx *opscenter.Tx, d *decision) (started []begun, err error) {
	r := d.rollout
	cluster := ""
	if d.unit.Cluster {
		cluster = d.unit.Name
	}
	var list []event.Event
	for _, n := range d.Notes {
		text := string(n.Kind) + ": " + n.Text
		if n.Kind == rolling.NoteEnded {
			text = n.Text + ": done"
			r.State.StepsDone++
		}
		list = append(list, eventOf(r, n.Server, cluster, event.RolloutStep, text))
	}
	for _, c := range d.Commands {
		if c.Again {
			continue
		}
		operation, info, err := tx.Begin(opscenter.Intent{ServerID: c.ServerID, ID: c.ID, Action: c.Action, Mode: c.Mode, Owner: r.ID, Targets: c.Targets, Timeout: c.Timeout})
		if err != nil {
			return nil, fmt.Errorf("%s of server %q: %w", c.Action, c.Server, err)
		}
		started = append(started, begun{info, operation})
	}
	status := r.State.Status
	r.State.Moved(&d.unit.Unit, d.unit.Index, d.before, now())
	if d.before == rolling.UnitFailed && d.unit.Status != rolling.UnitFailed {
		r.State.Relieve()
	}
	if r.State.Status != status {
		list = append(list, eventOf(r, "", cluster, event.Rollout, fmt.Sprintf("%s: %s", r.State.Status, r.State.Reason)))
	}
	if d.unit.Status == rolling.UnitDone || d.unit.Status == rolling.UnitCancelled {
		if err := tx.Release(r.ID, claimName(&d.unit.Unit), d.unit.Cluster); err != nil {
			return nil, err
		}
	}
	if d.unit.Status != d.before || len(d.Notes) > 0 {
		r.LastUpdated = now()
		if err := rollouts.Put(tx, r); err != nil {
			return nil, err
		}
	}
	if err := units.Put(tx, d.unit); err != nil {
		return nil, err
	}
	return started, tx.Record(list...)
}

// rollout looks at a rollout as a whole: it begins with the next units, or drops them, and
// ends it. It reports whether there is more to do at once.
func (e *engine) rollout(c *course) (more bool, err error) {
	if err := e.keep(); err != nil {
		return false, err
	}
	var added []*Unit
	var again time.Time
	ended := false
	idle := errors.New("nothing to do")
	err = e.registry.Write(e.ctx, func(tx *opscenter.Tx) error {
		added, again, ended, more = nil, time.Time{}, false, false
		if err := e.held(tx, e.epoch); err != nil {
			return err
		}
		stored, err := rollouts.Find(tx, storage.StringKey(c.id))
		if err != nil {
			return err
		}
		if stored == nil || stored.State.Status.Ended() {
			ended = true
			return idle
		}
		r, at := stored.clone(), now()
		var list []event.Event
		members := 0
		for len(added) < unitsPerStep && members < membersPerStep {
			cancelling := r.State.Status == rolling.StatusCancelling && r.State.Next < r.State.Units
			ok, wake, _ := r.State.Admit(at)
			if again = wake; !ok && !cancelling {
				break
			}
			u, err := units.Get(tx, storage.StringKey(c.id).Uint(uint64(r.State.Next)))
			if err != nil {
				return err
			}
			next := &Unit{Rollout: u.Rollout, Index: u.Index, Unit: *u.Unit.Clone()}
			if cancelling {
				r.State.Drop(&next.Unit, at)
				if err := tx.Release(c.id, claimName(&next.Unit), next.Cluster); err != nil {
					return err
				}
			} else {
				r.State.Begin(&next.Unit, at)
			}
			if err := units.Put(tx, next); err != nil {
				return err
			}
			added = append(added, next)
			members += len(next.Members)
		}
		more = len(added) == unitsPerStep || members >= membersPerStep
		if r.State.Finish(at) {
			text := string(r.State.Status)
			if r.State.Reason != "" {
				text += ": " + r.State.Reason
			}
			list = append(list, eventOf(r, "", "", event.Rollout, text))
			ended = r.State.Status.Ended()
		} else if len(added) == 0 {
			return idle
		}
		r.LastUpdated = at
		if err := rollouts.Put(tx, r); err != nil {
			return err
		}
		return tx.Record(list...)
	})
	switch {
	case errors.Is(err, idle):
	case errors.Is(err, errLease) || err != nil && e.ctx.Err() != nil:
		return false, err
	case err != nil:
		e.log.ErrorContext(e.ctx, "a rollout could not go on, and is tried again", "rollout", c.id, "error", err)
		c.wake = time.Now().Add(retryInterval)
		return false, nil
	}
	c.wake = later(again)
	for _, u := range added {
		if u.Status == rolling.UnitRunning {
			e.add(c, u)
			more = true
		}
	}
	if ended {
		for _, u := range c.units {
			e.unname(u)
		}
		delete(e.rollouts, c.id)
		if err := e.prune(e.ctx); err != nil {
			e.failed(e.ctx, err)
		}
		return false, nil
	}
	if more {
		c.look = true
	}
	return more, nil
}

// prune removes the oldest of the rollouts that ended, beyond Options.MaxHistory.
func (m *Manager) prune(ctx context.Context) error {
	var old []string
	err := m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		kept := 0
		for r, err := range byEnd.Scan(s, storage.Range{Prefix: storage.StringKey("ended"), Reverse: true}) {
			if err != nil {
				return err
			}
			if kept++; kept > m.options.MaxHistory {
				old = append(old, r.ID)
			}
		}
		return nil
	})
	for _, id := range old {
		if err == nil {
			err = m.erase(ctx, id)
		}
	}
	return err
}
