package lifecycle

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/event"
)

// End puts into a server's state how the call went that carried an operation out.
//
//   - A failure ends the operation. If unknown is set, the failure does not tell whether the server acted: then polls and
//     the deadline decide.
//   - A success ends all operations but an update, a reboot and a factory reset. These have only been started: a poll or
//     the deadline ends them.
//
// End requests a poll, and sets NotBefore, so that polls that began before at are ignored. If the operation with that ID is
// no longer under way, nothing else changes.
func End(state ServerState, operation string, at time.Time, failure error, unknown bool) Transition {
	t := Transition{State: state}
	next := &t.State
	next.PollRequested, next.NotBefore = at, at
	if ours := next.Operation != nil && next.Operation.ID == operation; ours {
		t.endByEffect(at, failure, unknown)
		next.LastUpdated = at
	}
	return t
}

// endByEffect ends the operation if its call decides that.
func (t *Transition) endByEffect(at time.Time, failure error, unknown bool) {
	next, op := &t.State, t.State.Operation
	switch {
	case unknown:
		// Polls and the deadline decide.
	case failure != nil:
		t.endOperation(at, failure.Error(), "")
		t.giveBackStatus(at, op, fmt.Sprintf("%s failed", op.Action), op.Was, op.WasDetail)
	case op.staysDown():
		t.endOperation(at, "", "the server has accepted it")
	case op.Action == ActionReconfigure:
		t.endOperation(at, "", "done")
		t.giveBackStatus(at, op, "reconfigured", "", DetailNone)
	case op.Action == ActionEvacuate || op.Action == ActionRestore:
		t.endOperation(at, "", "done")
		next.Maintenance = NotInMaintenance
		if op.Action == ActionEvacuate {
			next.Maintenance = MaintenanceEvacuated
		} else {
			next.Stopped = nil
		}
		t.giveBackStatus(at, op, string(op.Action)+" done", "", DetailNone)
	}
}

// endOperation ends the operation under way. failed tells why it failed; it is empty for a success. why is added to the
// event.
func (t *Transition) endOperation(at time.Time, failed, why string) {
	next, op := &t.State, t.State.Operation
	kind := event.ActionFinished
	if failed != "" {
		kind, why = event.ActionFailed, strings.TrimSuffix(failed+": "+why, ": ")
	}
	t.addEvent(at, kind, fmt.Sprintf("%s: %s", op.Action, why))
	next.LastOperation = &Outcome{ID: op.ID, Action: op.Action, Owner: op.Owner, StartedAt: op.StartedAt, EndedAt: at, Failed: truncate.Text(failed, MaxReason)}
	if took := at.Sub(op.StartedAt); failed == "" && took > 0 {
		next.Took = maps.Clone(next.Took)
		if next.Took == nil {
			next.Took = map[Action]time.Duration{}
		}
		next.Took[op.Action] = took
	}
	next.Operation = nil
}

// giveBackStatus replaces the status that the server has because of an operation that is over: by was with its detail, or if
// was is empty, by ready. A status that the server got meanwhile for another reason, for example unresponsive, stays.
func (t *Transition) giveBackStatus(at time.Time, op *Operation, reason string, was Status, detail StatusDetail) {
	if was == "" {
		was, detail = StatusReady, DetailNone
	}
	next := &t.State
	down := (op.Action == ActionReboot || op.staysDown()) && next.StatusDetail == op.detail() && next.Announced != nil && next.Announced.At.Equal(op.StartedAt)
	if down {
		next.Announced = nil
	}
	if down || (next.Status == StatusReady || op.keepsPending() && next.Status == StatusPending) && next.StatusDetail == op.detail() {
		t.setStatus(at, was, detail, reason)
	}
}
