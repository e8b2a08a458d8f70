package lifecycle

import (
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter/event"
)

// Telling are the circumstances of a self update.
type Telling struct {
	// At is when the self update arrived.
	At time.Time
	// Event: a cause by which the server does not go down makes an event.
	Event bool
	// Poll is after how long such a cause requests a poll; below 0: it requests none.
	Poll time.Duration
	// RebootTimeout is how long the server may take for a reboot.
	RebootTimeout time.Duration
}

// Tell applies a self update to a server's state. A server that says that it goes down is offline from now on. After all
// other causes the status stays, and Tell requests a poll.
func Tell(state ServerState, cause Cause, telling Telling) Transition {
	at := telling.At
	t := Transition{State: state}
	next := &t.State
	switch cause {
	case CauseSystemRebootTriggered:
		next.Announced = &Announcement{At: at, Deadline: at.Add(telling.RebootTimeout)}
		if op := next.Operation; op != nil && op.Action == ActionReboot && op.Deadline.After(next.Announced.Deadline) {
			next.Announced.Deadline = op.Deadline // the operation gives it more time
		}
		t.setStatus(at, StatusOffline, DetailRebooting, "the server said that it reboots")
	case CauseSystemShutdownTriggered, CauseSuspendTriggered:
		before, op := next.Announced, next.Operation
		next.Announced = &Announcement{At: at, Unasked: true}
		switch {
		case op != nil && op.Action == ActionReboot && before != nil: // an action reboots it: it should be back by then
			next.Announced.Unasked, next.Announced.Deadline = false, before.Deadline
		case before != nil && !before.Unasked && before.Deadline.IsZero(): // an action shuts it down
			next.Announced.Unasked = false
		}
		t.setStatus(at, StatusOffline, DetailShutDown, fmt.Sprintf("the server said that it goes down: %s", cause))
	default:
		if cause == CauseSecureBootUpdateApplied {
			next.KeyWaits = true
		}
		if telling.Event {
			t.addEvent(at, event.SelfUpdate, string(cause))
		}
		if telling.Poll >= 0 {
			next.PollRequested = at.Add(telling.Poll)
		}
		if cause == CauseSystemIsReady && next.Announced != nil {
			// The server says that it is back. Without that, a poll might not be able to tell.
			next.Announced = &Announcement{At: time.Unix(0, 0).UTC(), WentDown: true, Deadline: next.Announced.Deadline}
		}
	}
	next.LastUpdated = at
	return t
}
