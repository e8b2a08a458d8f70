package lifecycle

import (
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter/event"
)

// Begin gives a server's state the intent of an action, before the action has an effect. An operation that is under way
// already counts as failed: the action takes its place. The operation remembers a status other than ready, which the
// server gets back if the action fails. text is for the event. The operation's StartedAt is the time of the change.
func Begin(state ServerState, operation *Operation, text string) Transition {
	t := Transition{State: state}
	next, at := &t.State, operation.StartedAt
	switch { // forced
	case next.Operation != nil:
		operation.Was, operation.WasDetail = next.Operation.Was, next.Operation.WasDetail
		t.endOperation(at, fmt.Sprintf("%s took its place", operation.Action), "")
	case next.Status != StatusReady:
		operation.Was, operation.WasDetail = next.Status, next.StatusDetail
	}
	next.Operation = operation
	switch operation.Action {
	case ActionUpdate:
		t.to(at, StatusReady, operation.detail(), "asked to update")
	case ActionReboot:
		next.Announced = &Announcement{At: at, Deadline: operation.Deadline}
		t.to(at, StatusOffline, DetailRebooting, "asked to reboot")
	case ActionPowerOff, ActionSuspend:
		next.Announced = &Announcement{At: at}
		t.to(at, StatusOffline, DetailShutDown, "asked to "+actionWords[operation.Action])
	case ActionReconfigure, ActionFactoryReset:
		next.Announced = nil
		t.to(at, StatusPending, operation.detail(), "asked to "+actionWords[operation.Action])
	default:
		t.to(at, StatusReady, operation.detail(), "asked to "+string(operation.Action))
	}
	t.event(at, event.ActionStarted, text)
	next.LastUpdated = at
	return t
}

var actionWords = map[Action]string{ActionPowerOff: "power off", ActionSuspend: "suspend", ActionReconfigure: "change its configuration", ActionFactoryReset: "install itself anew"}

// End tells a server's state how the effect of an operation went. A failure ends the operation, unless its outcome is
// unknown: then polls and the deadline decide. A success ends an evacuation, a restore or a power off, which are done
// by then. An update and a reboot have only been started: a poll ends them. A poll is requested either way, and polls
// that began before count for nothing. An operation that is not under way any more is left alone.
func End(state ServerState, operation string, at time.Time, failure error, unknown bool) Transition {
	t := Transition{State: state}
	next := &t.State
	next.PollRequested, next.NotBefore = at, at
	if ours := next.Operation != nil && next.Operation.ID == operation; ours {
		t.end(at, failure, unknown)
		next.LastUpdated = at
	}
	return t
}

// end ends the operation as its effect went.
func (t *Transition) end(at time.Time, failure error, unknown bool) {
	next, op := &t.State, t.State.Operation
	switch {
	case unknown:
		// Left to polls, and to the deadline.
	case failure != nil:
		t.endOperation(at, failure.Error(), "")
		t.release(at, op, fmt.Sprintf("%s failed", op.Action), op.Was, op.WasDetail)
	case op.down():
		t.endOperation(at, "", "the server has accepted it")
	case op.Action == ActionReconfigure:
		t.endOperation(at, "", "done")
		t.release(at, op, "reconfigured", "", DetailNone)
	case op.Action == ActionEvacuate || op.Action == ActionRestore:
		t.endOperation(at, "", "done")
		next.Maintenance = NotInMaintenance
		if op.Action == ActionEvacuate {
			next.Maintenance = MaintenanceEvacuated
		} else {
			next.Stopped = nil
		}
		t.release(at, op, string(op.Action)+" done", "", DetailNone)
	}
}

// release takes back the status that was given for the sake of an operation that is over; what
// the server has become meanwhile for other reasons, unresponsive say, it stays. It is ready
// then, or what it was before.
func (t *Transition) release(at time.Time, op *Operation, reason string, was Status, detail StatusDetail) {
	if was == "" {
		was, detail = StatusReady, DetailNone
	}
	next := &t.State
	down := (op.Action == ActionReboot || op.down()) && next.StatusDetail == op.detail() && next.Announced != nil && next.Announced.At.Equal(op.StartedAt)
	if down {
		next.Announced = nil
	}
	if down || (next.Status == StatusReady || op.pending() && next.Status == StatusPending) && next.StatusDetail == op.detail() {
		t.to(at, was, detail, reason)
	}
}

// Lose makes a server unresponsive that was looked for, and not seen. It stays so until it answers.
func MarkLost(state ServerState, at time.Time, why string) Transition {
	t := Transition{State: state}
	t.State.Announced = nil
	t.to(at, StatusOffline, DetailUnresponsive, why)
	t.State.LastUpdated = at
	return t
}
