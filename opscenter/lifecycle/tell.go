package lifecycle

import (
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter/event"
)

// Telling is how a server's self update is taken in.
type Telling struct {
	At time.Time
	// Event makes an event of a cause that announces nothing.
	Event bool
	// Poll is in how long such a cause requests a poll; below 0: it requests none.
	Poll time.Duration
	// RebootTimeout is how long the server may take to come back from a reboot.
	RebootTimeout time.Duration
}

// Tell changes a server's state as its self update says: a server that goes down on purpose is offline from now on.
func Tell(state ServerState, cause Cause, telling Telling) Transition {
	at := telling.At
	t := Transition{State: state}
	next := &t.State
	switch cause {
	case CauseSystemRebootTriggered:
		next.Announced = &Announcement{At: at, Deadline: at.Add(telling.RebootTimeout)}
		if op := next.Operation; op != nil && op.Action == ActionReboot && op.Deadline.After(next.Announced.Deadline) {
			next.Announced.Deadline = op.Deadline // it was given more time
		}
		t.setStatus(at, StatusOffline, DetailRebooting, "the server said that it reboots")
	case CauseSystemShutdownTriggered, CauseSuspendTriggered:
		before, op := next.Announced, next.Operation
		next.Announced = &Announcement{At: at, Unasked: true}
		switch {
		case op != nil && op.Action == ActionReboot && before != nil: // by us, who wait for it to be back
			next.Announced.Unasked, next.Announced.Deadline = false, before.Deadline
		case before != nil && !before.Unasked && before.Deadline.IsZero(): // by us
			next.Announced.Unasked = false
		}
		t.setStatus(at, StatusOffline, DetailShutDown, fmt.Sprintf("the server said so: %s", cause))
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
			// It was down, and is back: its word settles what a poll might be in doubt about.
			next.Announced = &Announcement{At: time.Unix(0, 0).UTC(), WentDown: true, Deadline: next.Announced.Deadline}
		}
	}
	next.LastUpdated = at
	return t
}
