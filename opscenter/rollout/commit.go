package rollout

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/storage"
)

// commitInterval is the least time between two commits of decisions. Decisions that become due meanwhile share the next one.
const commitInterval = 10 * time.Millisecond

// write runs fn in a transaction in which the lease is held. It waits until commitInterval has passed since the last one that
// was committed.
func (e *engine) write(fn func(*opscenter.Tx) error) error {
	if err := e.renewLease(); err != nil {
		return err
	}
	if pause := commitInterval - time.Since(e.committed); pause > 0 {
		sleep(e.ctx, pause)
	}
	err := e.registry.Write(e.ctx, func(tx *opscenter.Tx) error {
		if err := e.held(tx, e.epoch); err != nil {
			return err
		}
		return fn(tx)
	})
	if err == nil {
		e.committed = time.Now()
	}
	return err
}

// ends reports whether an error of write ends the lease. If it is not known whether a commit happened, the next lease takes
// over the actions that may have been stored.
func (e *engine) ends(err error) bool {
	return errors.Is(err, errLease) || errors.Is(err, storage.ErrUnknown) || e.ctx.Err() != nil
}

// What a decision writes at the most, beside the rows of the members: the rows and index entries of the unit, its claim and
// an event of the rollout; those of a command, which are the state of its server and events; and those of a note. Sizes are
// in bytes.
const (
	writesOfDecision, sizeOfDecision = 4, 4 << 10
	writesOfCommand, sizeOfCommand   = 10, 6 << 10
	writesOfNote, sizeOfNote         = 2, 1 << 10
)

// nextDecisions returns the number of decisions for the next transaction.
func (s txLimits) nextDecisions(list []*decision) int {
	writes, size := 0, 0
	for i, d := range list {
		writes += writesOfDecision + d.changed + writesOfCommand*len(d.Commands) + writesOfNote*len(d.Notes)
		size += sizeOfDecision + memberSize*d.changed + sizeOfCommand*len(d.Commands) + sizeOfNote*len(d.Notes)
		if i > 0 && (writes > s.rows || size > s.size) {
			return i
		}
	}
	return len(list)
}

// errFailed: some decisions of a transaction can't be stored. See decision.failed.
var errFailed = errors.New("a decision can't be stored")

// store stores decisions in one transaction, and carries them out. A decision that can't be stored is made again on the newest
// rows, in a transaction of its own. An error ends the lease.
func (e *engine) store(list []*decision) error {
	err := e.write(func(tx *opscenter.Tx) error { return e.storeDecisions(tx, list) })
	switch {
	case err == nil:
		for _, d := range list {
			if d.stale {
				d.active.due = true
			} else {
				e.applyStored(d)
			}
		}
		return nil
	case e.ends(err):
		return err
	case len(list) == 1:
		return e.checkAlone(list[0].active)
	case errors.Is(err, errFailed):
		var rest, failed []*decision
		for _, d := range list {
			if d.failed != nil {
				failed = append(failed, d)
			} else {
				rest = append(rest, d)
			}
		}
		if len(rest) > 0 {
			err = e.store(rest)
		} else {
			err = nil
		}
		for _, d := range failed {
			if err == nil {
				err = e.checkAlone(d.active)
			}
		}
		return err
	case errors.Is(err, storage.ErrTooLarge):
		if err := e.store(list[:len(list)/2]); err != nil {
			return err
		}
		return e.store(list[len(list)/2:])
	}
	for _, d := range list {
		e.tryAgain(d.active, err)
	}
	return nil
}

// checkAlone decides on a unit within the transaction that stores the decision. An error ends the lease.
func (e *engine) checkAlone(u *activeUnit) error {
	var d *decision
	err := e.write(func(tx *opscenter.Tx) (err error) {
		if d, err = e.read(tx.Snapshot(), u, tx.Now()); err != nil || d.gone {
			return err
		}
		if d.advance(); !d.changes() {
			return nil
		}
		if err := e.storeDecisions(tx, []*decision{d}); d.failed == nil {
			return err
		}
		return d.failed
	})
	switch {
	case err != nil && e.ends(err):
		return err
	case err != nil:
		e.tryAgain(u, err)
	case d.gone:
		e.dropUnit(u)
	case d.stale:
		u.due = true
	default:
		e.applyStored(d)
	}
	return nil
}

// storeDecisions stores decisions. It marks those as stale whose rollout or unit has changed since: they are not stored.
// Only the goroutine of the engine changes a unit that runs, and a unit that has failed runs once another goroutine resumes
// it. So the status tells whether a unit has changed. A decision that begins an action is stale, too, if a server of the unit
// has changed. Tx.Begin checks the server on which the action begins, and the claim.
func (e *engine) storeDecisions(tx *opscenter.Tx, list []*decision) error {
	known := map[string]*Rollout{}
	changed := map[*Rollout]bool{}
	failed := false
	for _, d := range list {
		d.started, d.stale, d.failed = nil, false, nil
		r, ok := known[d.active.id]
		if !ok {
			found, err := rollouts.Find(tx, storage.StringKey(d.active.id))
			if err != nil {
				return err
			}
			if found != nil {
				r = found.clone()
			}
			known[d.active.id] = r
		}
		row, err := units.Find(tx, unitKey(d.active.id, d.active.index))
		if err != nil {
			return err
		}
		if r == nil || row == nil || row.Status != d.stored.Status || r.State.Status != d.rollout.State.Status || r.State.Cancel != d.rollout.State.Cancel {
			d.stale = true
			continue
		}
		if d.stale, err = e.outdated(tx, d); err != nil {
			return err
		} else if d.stale {
			continue
		}
		touched, err := e.storeDecision(tx, r, d)
		switch {
		case errors.Is(err, errFailed):
			failed = true
		case err != nil:
			return err
		case touched:
			changed[r] = true
		}
	}
	if failed {
		return errFailed
	}
	for r := range changed {
		if err := rollouts.Put(tx, r); err != nil {
			return err
		}
	}
	return nil
}

// outdated reports whether a decision that begins an action was made on other states of the unit's servers than the stored ones,
// or before the fleet became unreachable. An action may cost the quorum of a cluster whose other members were up a moment ago.
func (e *engine) outdated(tx *opscenter.Tx, d *decision) (bool, error) {
	if !slices.ContainsFunc(d.Commands, func(c rolling.Command) bool { return !c.Again }) {
		return false, nil
	}
	if d.view.Hold == "" && e.registry.Observer().FleetUnreachable() {
		return true, nil
	}
	for _, before := range d.view.Servers {
		if before == nil {
			continue // it was removed before the decision
		}
		now, err := tx.Snapshot().ServerByID(before.ID)
		if errors.Is(err, opscenter.ErrNotFound) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if !sameForRolling(before, now.Rolling()) {
			return true, nil
		}
	}
	return false, nil
}

// sameForRolling reports whether package rolling decides the same about both. It may change now. The number of good polls grows with
// each poll. A decision that rests on fewer holds with more.
func sameForRolling(before, now *rolling.Server) bool {
	if before.Good > 0 && now.Good > 0 {
		now.Good = before.Good
	}
	return reflect.DeepEqual(before, now)
}

// storeDecision stores a decision, with the intent of each new action, and changes the rollout. touched: the rollout has to
// be stored. errFailed: an action can't begin, for the reason in d.failed.
func (e *engine) storeDecision(tx *opscenter.Tx, r *Rollout, d *decision) (touched bool, err error) {
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
		if errors.Is(err, storage.ErrTooLarge) {
			return false, err
		}
		if err != nil {
			d.failed = fmt.Errorf("%s of server %q: %w", c.Action, c.Server, err)
			return false, errFailed
		}
		d.started = append(d.started, startedAction{info, operation})
	}
	status, aside, waits := r.State.Status, r.State.Aside, r.State.Waits
	r.State.Moved(&d.unit.Unit, d.unit.Index, d.stored.Status, d.view.Now)
	if d.stored.Status == rolling.UnitFailed && d.unit.Status != rolling.UnitFailed {
		r.State.Relieve()
	}
	if r.State.Status != status {
		list = append(list, eventOf(tx, r, "", cluster, event.Rollout, fmt.Sprintf("%s: %s", r.State.Status, r.State.Reason)))
	}
	if d.unit.Status == rolling.UnitDone || d.unit.Status == rolling.UnitCancelled {
		if err := tx.Release(r.ID, claimName(&d.unit.Unit), d.unit.Cluster); err != nil {
			return false, err
		}
	}
	if touched = d.unit.Status != d.stored.Status || len(d.Notes) > 0 || r.State.Aside != aside || r.State.Waits != waits; touched {
		r.LastUpdated = tx.Now()
	}
	if err := e.limits().putUnit(tx, d.stored, d.unit); err != nil {
		return false, err
	}
	return touched, tx.Record(list...)
}
