package lifecycle

import (
	"fmt"
	"reflect"
	"time"

	"github.com/opscenter-go/sdk/opscenter/event"
)

// Apply applies an observation to the state of a server. It is pure: the same input always
// gives the same outcome. The rules are those of the status machine in the design:
//
//   - The first answer of a ready server makes it ready.
//   - OfflineThreshold consecutive failures make it offline, unresponsive.
//   - A server that went down on purpose stays so until it is back: booted since, or
//     unreachable and reachable again; or until its deadline has passed.
//   - A poll of a server that is about to go down is no good poll.
//   - What could not be read keeps its value.
//   - A server that became unresponsive FlapThreshold times within FlapWindow is held offline
//     until it has answered, or not answered, for FlapSteady.
//   - While the fleet is unreachable, nobody becomes offline.
func Apply(state ServerState, contact Contact, o Observation, policy Policy) Transition {
	t := Transition{State: state, Contact: contact}
	next := &t.State
	if state.Announced != nil {
		announced := *state.Announced // rows are shared: what changes is copied
		next.Announced = &announced
	}
	t.noteCertificate(o)
	if o.Failure != nil {
		t.failed(o, policy)
	} else {
		t.answered(o, policy)
	}
	t.judgeWarnings(o, policy)
	t.Changed = !reflect.DeepEqual(*next, state)
	if t.Changed {
		next.LastUpdated = o.At
	}
	return t
}

func (t *Transition) failed(o Observation, policy Policy) {
	next, contact := &t.State, &t.Contact
	if contact.Failures == 0 {
		contact.FirstFailure = o.At
	}
	contact.Failures++
	contact.Good = 0
	contact.LastFailure = o.Failure
	if policy.FleetUnreachable && next.Status == StatusReady {
		// Whoever fails for a reason of ours has all its failures before it once that is over.
		contact.Failures = 1
	}
	if contact.Failures >= policy.OfflineThreshold {
		contact.AnsweringSince = time.Time{} // one failure is none
	}
	if contact.FirstFailure.After(o.At) {
		contact.FirstFailure = o.At // the clock was set back
	}
	t.endFlappingWhenDown(o, policy)
	if a := next.Announced; a != nil {
		if o.At.Before(a.At) {
			return // asked before it said so
		}
		a.WentDown = true
		if !a.Answered.IsZero() {
			if contact.Failures < policy.OfflineThreshold || policy.frozen() {
				return
			}
			a.Answered = time.Time{}
			t.setStatus(o.At, StatusOffline, DetailShutDown, "the server had said so, and does not answer any more")
		}
		if op := next.Operation; op != nil && op.staysDown() && contact.Acting == 0 {
			t.endOperation(o.At, "", "it is down")
		}
		if op := next.Operation; op != nil && a.Unasked && a.Deadline.IsZero() && !op.staysDown() && contact.Failures >= policy.OfflineThreshold &&
			!policy.frozen() && (contact.Acting == 0 && !op.keepsPending() || !o.At.Before(op.Deadline)) {
			t.endOperation(o.At, "the server has shut down, as it had said", o.Failure.Message)
		}
		if a.Deadline.IsZero() || o.At.Before(a.Deadline) || policy.frozen() {
			return // a server that was shut down may stay so
		}
		detail := next.StatusDetail
		next.Announced = nil
		if next.Operation != nil {
			t.endOperation(o.At, fmt.Sprintf("not back from %s by its deadline", detail), o.Failure.Message)
		}
		t.setStatus(o.At, StatusOffline, DetailUnresponsive, fmt.Sprintf("not back from %s by its deadline: %s", detail, o.Failure.Message))
		return
	}
	if policy.frozen() || contact.Failures < policy.OfflineThreshold || next.Status == StatusUnregistered || next.Status == StatusOffline {
		return
	}
	if op := next.Operation; op != nil && op.keepsPending() && o.At.Before(op.Deadline) {
		return // it may be at another address, and be back at this one
	}
	if op := next.Operation; op != nil && (contact.Acting == 0 || !o.At.Before(op.Deadline)) {
		t.endOperation(o.At, "the server became unresponsive", o.Failure.Message)
	}
	t.setStatus(o.At, StatusOffline, DetailUnresponsive, fmt.Sprintf("%d polls failed in a row: %s", contact.Failures, o.Failure.Message))
	t.noteOutage(o.At, policy)
}

func (t *Transition) answered(o Observation, policy Policy) {
	next, contact := &t.State, &t.Contact
	seen := contact.LastSeen
	contact.LastSeen = o.At
	contact.Failures, contact.LastFailure, contact.FirstFailure = 0, nil, time.Time{}
	if contact.AnsweringSince.IsZero() || contact.AnsweringSince.After(o.At) {
		contact.AnsweringSince = o.At
	}
	switch {
	case !o.Ready || o.Type == nil || o.Versions == nil || o.UnreadVersions != 0 || *o.Type == TypeIncus && o.Maintenance == nil:
		contact.Good = 0
	default:
		contact.Good++
	}
	before := next.Versions.OS.Version
	booted := t.noteBoot(o, seen)
	switch {
	case len(o.Unread) > 0:
		contact.Whole = 0
	case !o.Light && contact.Whole < wholePolls:
		contact.Whole++
	}
	t.takeOver(o)
	if booted != "" && next.Announced == nil && (next.Operation == nil || !next.Operation.keepsPending()) {
		if runs := next.Versions.OS.Version; runs != before {
			booted += fmt.Sprintf("; runs os %s, ran %s", runs, before)
		}
		t.addEvent(o.At, event.ServerRebooted, booted)
	}

	if a := next.Announced; a != nil {
		back, late := cameBack(*a, o), !o.At.Before(a.deadline(policy))
		switch {
		case o.At.Before(a.At):
			contact.Good = 0
			return // asked before it said so
		case !back && !late && a.Unasked && o.Ready:
			// It said that it goes down, and answers: whatever becomes of that, it is up.
			if a.Answered.IsZero() {
				a.Answered = o.At
			}
			t.settle(o, policy)
			return
		case !back && !late:
			contact.Good = 0
			return // still about to go down: what it is like does not last
		case !o.Ready && !late:
			a.WentDown = true
			return // back, and booting
		case !o.Ready:
			if op := next.Operation; op != nil && op.Action == ActionReboot {
				t.endOperation(o.At, "answers, but has not become ready by its deadline", "")
			}
			t.setStatus(o.At, StatusOffline, DetailUnresponsive, "answers, but has not become ready by its deadline")
			return
		}
		next.Announced = nil
		if op := next.Operation; op != nil && (op.Action == ActionReboot || op.staysDown()) && contact.Acting == 0 {
			switch {
			case !back:
				t.endOperation(o.At, "the server did not go down by the deadline", "")
			case op.Action == ActionReboot:
				t.endOperation(o.At, "", "the server is back")
			default:
				t.endOperation(o.At, "", "the server was down, and is back")
			}
		}
	}
	if !o.Ready {
		if next.Status == StatusReady {
			since := o.At
			if !o.BootedAt.IsZero() {
				since = o.BootedAt
			}
			next.Announced = &Announcement{At: since, Deadline: o.At.Add(policy.RebootTimeout), WentDown: true}
			t.setStatus(o.At, StatusOffline, DetailRebooting, "the server says that it is still booting")
		}
		return
	}
	t.settle(o, policy)
}
