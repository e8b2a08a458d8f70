package rollout

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
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

// decision is a decision on one unit. read sets its input, and advance its result. storeDecisions stores it.
type decision struct {
	active  *activeUnit
	gone    bool // the rollout or the unit has ended
	rollout *Rollout
	stored  *storedUnit
	infos   []*opscenter.ServerInfo
	view    rolling.View

	rolling.Result
	unit    *Unit
	changed int // members that differ from the stored ones

	started []startedAction
	stale   bool  // the rollout or the unit has changed since it was read
	failed  error // an action can't begin
}

// changes reports whether the decision has to be stored.
func (d *decision) changes() bool {
	return d.Changed || len(d.Commands) > 0 || d.unit.Status != d.stored.Status
}

// read reads a unit and its servers. It stores nothing. Only the goroutine of the engine calls it.
func (e *engine) read(s *opscenter.Snapshot, u *activeUnit, at time.Time) (*decision, error) {
	d := &decision{active: u}
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
	d.rollout, d.stored = r, stored
	d.view = rolling.View{Now: at, Epoch: e.epoch, Prefix: u.id[len(u.id)-12:] + "."}
	for i := range stored.Members {
		info, err := s.ServerByID(stored.Members[i].ID)
		switch {
		case errors.Is(err, opscenter.ErrNotFound):
			d.view.Servers = append(d.view.Servers, nil)
			continue
		case err != nil:
			return nil, err
		}
		d.infos = append(d.infos, info)
		d.view.Servers = append(d.view.Servers, info.Rolling())
	}
	if e.registry.Observer().FleetUnreachable() {
		d.view.Hold = "so much of the fleet is unreachable that the fault may be the control plane's own"
	}
	d.view.GateAsked = e.options.HealthGate == nil
	if g := u.gate; g != nil && !g.asking && time.Since(g.at) < gateInterval {
		d.view.GateAsked, d.view.Gate = true, g.closed
	}
	return d, nil
}

// advance lets package rolling advance a copy of the unit. It changes nothing but d, so several goroutines may advance
// decisions at once.
func (d *decision) advance() {
	state := &d.rollout.State
	d.unit = d.stored.copied()
	d.Result = d.unit.Advance(&state.Policy, d.active.calendar, d.view, state.Cancel, state.Status == rolling.StatusPaused)
	if d.changes() {
		d.changed = changedMembers(d.stored, d.unit)
	}
}

// decide decides on units, all on one snapshot. A unit that can't be read is tried again later, and is not in the result.
func (e *engine) decide(list []*activeUnit) (out []*decision, err error) {
	failures := map[*activeUnit]error{}
	err = e.registry.Read(e.ctx, func(s *opscenter.Snapshot) (err error) {
		out = nil
		clear(failures)
		at := e.now()
		for _, u := range list {
			d, err := e.read(s, u, at)
			if err != nil {
				failures[u] = err
				continue
			}
			out = append(out, d)
		}
		return nil
	})
	if err != nil && e.ctx.Err() != nil {
		return nil, err
	}
	if err != nil {
		for _, u := range list {
			failures[u] = err
		}
		out = nil
	}
	for u, err := range failures {
		e.tryAgain(u, err)
	}
	advanceAll(out)
	return out, nil
}

// advancesAtOnce is how many decisions one goroutine takes at the least. Fewer are not worth another goroutine.
const advancesAtOnce = 16

// advanceAll advances decisions, on all processors if there are many.
func advanceAll(list []*decision) {
	workers := max(1, min(runtime.GOMAXPROCS(0), len(list)/advancesAtOnce))
	var group sync.WaitGroup
	for part := range slices.Chunk(list, max(1, (len(list)+workers-1)/workers)) {
		work := func() {
			for _, d := range part {
				if !d.gone {
					d.advance()
				}
			}
		}
		if workers == 1 {
			work()
		} else {
			group.Go(work)
		}
	}
	group.Wait()
}

// checkUnits decides on units, stores the decisions, and carries them out. An error ends the lease.
func (e *engine) checkUnits(list []*activeUnit) error {
	if len(list) == 0 {
		return nil
	}
	decisions, err := e.decide(list)
	if err != nil {
		return err
	}
	var changed []*decision
	for _, d := range decisions {
		switch {
		case d.gone:
			e.dropUnit(d.active)
		case d.changes():
			changed = append(changed, d)
		default:
			e.applyStored(d)
		}
	}
	limits := e.limits()
	for len(changed) > 0 {
		n := limits.nextDecisions(changed)
		if err := e.store(changed[:n]); err != nil {
			return err
		}
		changed = changed[n:]
	}
	return nil
}

// applyStored carries out a decision that is stored, and schedules the next one on the unit.
func (e *engine) applyStored(d *decision) {
	u := d.active
	u.errors = 0
	// Stored actions are carried out even if ctx ends meanwhile: Run waits for their goroutines.
	for _, b := range d.started {
		e.carryOut(u, b.info, b.operation)
	}
	for _, c := range d.Commands {
		if c.Again {
			e.carryOn(u, c)
		}
	}
	if len(d.started) > 0 {
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
}

// tryAgain schedules another attempt to store the next step of a unit, so that the other units need not wait. After
// maxErrors attempts the unit fails.
func (e *engine) tryAgain(u *activeUnit, err error) {
	e.log.ErrorContext(e.ctx, "a rollout's next step could not be stored, and is tried again", "rollout", u.id, "error", err)
	u.wake = time.Now().Add(retryInterval)
	if u.errors++; u.errors >= maxErrors {
		e.failUnit(u, err)
	}
}

// maxErrors bounds the failed attempts, in a row, to store a unit's next step. After that the unit fails.
const maxErrors = 10

// failUnit makes a unit fail whose next step can't be stored, so that an operator learns of it.
func (e *engine) failUnit(u *activeUnit, reason error) {
	err := e.write(func(tx *opscenter.Tx) error {
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
		if err := e.limits().putUnit(tx, stored, next); err != nil {
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
