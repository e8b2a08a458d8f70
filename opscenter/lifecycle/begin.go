package lifecycle

import (
	"fmt"

	"github.com/opscenter-go/sdk/opscenter/event"
)

// Begin puts an operation into a server's state. The caller stores that state before it carries the operation out, so that
// the intent survives a crash. Begin does not check whether the server is ready: the caller does, unless the operation is
// forced.
//
// An operation that is already under way counts as failed: the new one takes its place. If the server is not ready, Begin
// sets Was and WasDetail of the operation, and the server gets that status back if the operation fails. The operation's
// StartedAt is the time of the change. text is the reason of the event.
func Begin(state ServerState, operation *Operation, text string) Transition {
	t := Transition{State: state}
	next, at := &t.State, operation.StartedAt
	switch { // these are for a forced operation
	case next.Operation != nil:
		operation.Was, operation.WasDetail = next.Operation.Was, next.Operation.WasDetail
		t.endOperation(at, fmt.Sprintf("%s took its place", operation.Action), "")
	case next.Status != StatusReady:
		operation.Was, operation.WasDetail = next.Status, next.StatusDetail
	}
	next.Operation = operation
	switch operation.Action {
	case ActionUpdate:
		t.setStatus(at, StatusReady, operation.detail(), "asked to update")
	case ActionReboot:
		next.Announced = &Announcement{At: at, Deadline: operation.Deadline}
		t.setStatus(at, StatusOffline, DetailRebooting, "asked to reboot")
	case ActionPowerOff, ActionSuspend:
		next.Announced = &Announcement{At: at}
		t.setStatus(at, StatusOffline, DetailShutDown, "asked to "+actionWords[operation.Action])
	case ActionReconfigure, ActionFactoryReset:
		next.Announced = nil
		t.setStatus(at, StatusPending, operation.detail(), "asked to "+actionWords[operation.Action])
	default:
		t.setStatus(at, StatusReady, operation.detail(), "asked to "+string(operation.Action))
	}
	t.addEvent(at, event.ActionStarted, text)
	next.LastUpdated = at
	return t
}

var actionWords = map[Action]string{ActionPowerOff: "power off", ActionSuspend: "suspend", ActionReconfigure: "change its configuration", ActionFactoryReset: "install itself anew"}
