package lifecycle

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/event"
)

// End tells a server's state how the effect of an operation went. A failure ends the operation, unless its outcome is
// unknown: then polls and the deadline decide. A success ends an evacuation, a restore or a power off, which are done
// by then. An update and a reboot have only been started: a poll ends them. A poll is requested either way, and polls
// that began before count for nothing. An operation that is not under way any more is left alone.
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

// endByEffect ends the operation as its effect went.
func (t *Transition) endByEffect(at time.Time, failure error, unknown bool) {
	next, op := &t.State, t.State.Operation
	switch {
	case unknown:
		// Left to polls, and to the deadline.
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

// endOperation ends the operation under way: failed says why it failed, empty that it did not; why, what else is to be said.
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

// giveBackStatus takes back the status that was given for the sake of an operation that is over; what
// the server has become meanwhile for other reasons, unresponsive say, it stays. It is ready
// then, or what it was before.
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
