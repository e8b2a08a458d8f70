package lifecycle

import (
	"fmt"

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
