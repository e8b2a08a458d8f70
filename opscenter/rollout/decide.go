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

// gateInterval is how long an answer of the health gate counts. A closed gate is asked again after it.
const gateInterval = 10 * time.Second

// startedAction is an action that was stored. It is carried out after the commit.
type startedAction struct {
	info      *opscenter.ServerInfo
	operation *lifecycle.Operation
}

// decision is the result of decide for one unit.
type decision struct {
	rolling.Result
	stored  *storedUnit // before the decision
	unit    *Unit       // after it
	rollout *Rollout
	infos   []*opscenter.ServerInfo
	gone    bool // the rollout or the unit has ended
}

// decide reads a unit and its servers, and lets package rolling advance a copy of it. It stores nothing.
func (e *engine) decide(s *opscenter.Snapshot, u *activeUnit, at time.Time) (*decision, error) {
	d := &decision{}
	r, err := rollouts.Find(s, storage.StringKey(u.id))
	if err != nil {
		return nil, err
	}
	stored, err := findUnit(s, u.id, u.index)
	if err != nil {
		return nil, err
	}
	if r == nil || stored == nil || r.State.Status.Ended() || stored.Status == rolling.UnitDone || stored.Status == rolling.UnitCancelled {
		d.gone = true
		return d, nil
	}
	d.rollout, d.stored, d.unit = r.clone(), stored, stored.copied()
	view := rolling.View{Now: at, Epoch: e.epoch, Prefix: u.id[len(u.id)-12:] + "."}
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
	if e.registry.Observer().FleetUnreachable() {
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

// checkUnit decides on a unit, stores the decision, and carries it out. An error ends the lease.
func (e *engine) checkUnit(u *activeUnit) error {
	if err := e.renewLease(); err != nil {
		return err
	}
	var d *decision
	err := e.registry.Read(e.ctx, func(s *opscenter.Snapshot) (err error) {
		d, err = e.decide(s, u, e.now())
		return err
	})
	var started []startedAction
	if err == nil && !d.gone && (d.Changed || len(d.Commands) > 0 || d.unit.Status != d.stored.Status) {
		err = e.registry.Write(e.ctx, func(tx *opscenter.Tx) (err error) {
			started = nil
			if err := e.held(tx, e.epoch); err != nil {
				return err
			}
			if d, err = e.decide(tx.Snapshot(), u, tx.Now()); err != nil || d.gone {
				return err
			}
			started, err = e.storeDecision(tx, d)
			return err
		})
	}
	switch {
	case errors.Is(err, errLease) || err != nil && e.ctx.Err() != nil:
		return err
	case err != nil:
		// The unit is tried again later, so the other units need not wait.
		e.log.ErrorContext(e.ctx, "a rollout's next step could not be stored, and is tried again", "rollout", u.id, "error", err)
		u.wake = time.Now().Add(retryInterval)
		if u.errors++; u.errors >= maxErrors {
			e.failUnit(u, err)
		}
		return nil
	case d.gone:
		e.dropUnit(u)
		return nil
	}
	u.errors = 0
	// Stored actions are carried out even if ctx ends meanwhile: Run waits for their goroutines.
	for _, b := range started {
		e.carryOut(u, b.info, b.operation)
	}
	for _, c := range d.Commands {
		if c.Again {
			e.carryOn(u, c)
		}
	}
	if len(started) > 0 {
		u.gate = nil // the gate is asked again for the next server
	}
	e.indexNames(u, &d.unit.Unit)
	u.wake = e.localTime(d.Wake)
	e.schedulePolls(u, d)
	if d.AskGate {
		e.askGate(u, d.unit.Name, d.infos)
	}
	if d.unit.Status != d.stored.Status || d.unit.Aside != d.stored.Aside {
		u.activeRollout.due = true
		if d.unit.Status == rolling.UnitDone || d.unit.Status == rolling.UnitCancelled {
			e.dropUnit(u)
		}
	}
	return nil
}

// maxErrors bounds the failed attempts, in a row, to store a unit's next step. After that the unit fails.
const maxErrors = 10

// failUnit makes a unit fail whose next step can't be stored, so that an operator learns of it.
func (e *engine) failUnit(u *activeUnit, reason error) {
	err := e.registry.Write(e.ctx, func(tx *opscenter.Tx) error {
		if err := e.held(tx, e.epoch); err != nil {
			return err
		}
		stored, err := getUnit(tx, u.id, u.index)
		if err != nil {
			return err
		}
		known, err := find(tx, u.id)
		if err != nil || stored.Status != rolling.UnitRunning {
			return err
		}
		next, r := stored.copied(), known.clone()
		next.Halt(tx.Now(), fmt.Sprintf("the next step can't be stored: %v", reason))
		r.State.Moved(&next.Unit, next.Index, stored.Status, tx.Now())
		if err := e.step().putUnit(tx, stored, next); err != nil {
			return err
		}
		if err := rollouts.Put(tx, r); err != nil {
			return err
		}
		return tx.Record(eventOf(tx, r, "", "", event.Rollout, fmt.Sprintf("%s: %s", r.State.Status, next.Failure.Reason)))
	})
	if err != nil {
		e.logFailure(e.ctx, err)
	} else {
		u.errors = 0
	}
}

// localTime converts a time of the Registry's clock to one with a monotonic reading, at least 1 ms from now.
func (e *engine) localTime(at time.Time) time.Time {
	if at.IsZero() {
		return at
	}
	return time.Now().Add(max(time.Millisecond, at.Sub(e.now())))
}

// schedulePolls sets when the servers of a unit are polled, and when a closed gate is asked again.
func (e *engine) schedulePolls(u *activeUnit, d *decision) {
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

// dropUnit drops a unit that has ended.
func (e *engine) dropUnit(u *activeUnit) {
	delete(u.units, u.index)
	e.unindexNames(u)
	u.activeRollout.due = true
}

// storeDecision stores a decision, with the intent of each new action. It returns the actions to carry out.
func (e *engine) storeDecision(tx *opscenter.Tx, d *decision) (started []startedAction, err error) {
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
		list = append(list, eventOf(tx, r, n.Server, cluster, event.RolloutStep, text))
	}
	for _, c := range d.Commands {
		if c.Again {
			continue
		}
		operation, info, err := tx.Begin(opscenter.Intent{ServerID: c.ServerID, ID: c.ID, Action: c.Action, Mode: c.Mode, Owner: r.ID, Targets: c.Targets, Timeout: c.Timeout})
		if err != nil {
			return nil, fmt.Errorf("%s of server %q: %w", c.Action, c.Server, err)
		}
		started = append(started, startedAction{info, operation})
	}
	status := r.State.Status
	r.State.Moved(&d.unit.Unit, d.unit.Index, d.stored.Status, tx.Now())
	if d.stored.Status == rolling.UnitFailed && d.unit.Status != rolling.UnitFailed {
		r.State.Relieve()
	}
	if r.State.Status != status {
		list = append(list, eventOf(tx, r, "", cluster, event.Rollout, fmt.Sprintf("%s: %s", r.State.Status, r.State.Reason)))
	}
	if d.unit.Status == rolling.UnitDone || d.unit.Status == rolling.UnitCancelled {
		if err := tx.Release(r.ID, claimName(&d.unit.Unit), d.unit.Cluster); err != nil {
			return nil, err
		}
	}
	if d.unit.Status != d.stored.Status || len(d.Notes) > 0 {
		r.LastUpdated = tx.Now()
		if err := rollouts.Put(tx, r); err != nil {
			return nil, err
		}
	}
	if err := e.step().putUnit(tx, d.stored, d.unit); err != nil {
		return nil, err
	}
	return started, tx.Record(list...)
}

// checkRollout begins the next units of a rollout, or drops them if it is cancelled, and ends the rollout after the
// last one. more: there is more to do at once. An error ends the lease.
func (e *engine) checkRollout(c *activeRollout) (more bool, err error) {
	if err := e.renewLease(); err != nil {
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
		r, at, step := stored.clone(), tx.Now(), e.step()
		var list []event.Event
		var taken room
		for more = true; ; {
			cancelling := r.State.Status == rolling.StatusCancelling && r.State.Next < r.State.Units
			ok, wake, _ := r.State.Admit(at)
			if again = wake; !ok && !cancelling {
				more = false
				break
			}
			u, err := getUnit(tx, c.id, r.State.Next)
			if err != nil {
				return err
			}
			if !step.take(&taken, len(u.Members)) {
				break
			}
			next := u.copied()
			if cancelling {
				r.State.Drop(&next.Unit, at)
				if err := tx.Release(c.id, claimName(&next.Unit), next.Cluster); err != nil {
					return err
				}
			} else {
				r.State.Begin(&next.Unit, at)
			}
			if err := step.putUnit(tx, u, next); err != nil {
				return err
			}
			added = append(added, next)
		}
		if r.State.Finish(at) {
			text := string(r.State.Status)
			if r.State.Reason != "" {
				text += ": " + r.State.Reason
			}
			list = append(list, eventOf(tx, r, "", "", event.Rollout, text))
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
	c.wake = e.localTime(again)
	for _, u := range added {
		if u.Status == rolling.UnitRunning {
			e.add(c, u)
			more = true
		}
	}
	if ended {
		for _, u := range c.units {
			e.unindexNames(u)
		}
		delete(e.rollouts, c.id)
		if err := e.prune(e.ctx); err != nil {
			e.logFailure(e.ctx, err)
		}
		return false, nil
	}
	if more {
		c.due = true
	}
	return more, nil
}

// prune removes the oldest ended rollouts beyond Options.MaxHistory.
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
