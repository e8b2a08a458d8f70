package lifecycle

import (
	"fmt"
	"reflect"
	"time"

	"github.com/opscenter-go/sdk/opscenter/event"
)

// Apply applies the observation of a poll to the state of a server. It is pure: the same input always gives the same
// outcome, and the arguments are not changed. The package comment shows how observations change the status. The rules
// are:
//
//   - A server that answers and says that it is ready becomes ready.
//   - Policy.OfflineThreshold failures in a row make a server offline (unresponsive).
//   - A server that went down on purpose stays offline until it is back, or its deadline has passed. It is back if it
//     has booted since, or if polls failed and then succeed again.
//   - During a change of its configuration, or a factory reset, a server may fail until the operation's deadline.
//   - A poll of a server that is about to go down does not count in Contact.Good.
//   - A value that could not be read stays as it was.
//   - A server that became unresponsive Policy.FlapThreshold times within Policy.FlapWindow is held offline, until it has
//     answered for Policy.FlapSteady, or has not answered for that long.
//   - While Policy says that the fleet is unreachable, or may be, failures make no server offline.
func Apply(state ServerState, contact Contact, o Observation, policy Policy) Transition {
	t := Transition{State: state, Contact: contact}
	next := &t.State
	if state.Announced != nil {
		announced := *state.Announced // the caller shares its state with others: change a copy
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
		// This failure may be the control plane's fault: the server gets all its attempts once that is over.
		contact.Failures = 1
	}
	if contact.Failures >= policy.OfflineThreshold {
		contact.AnsweringSince = time.Time{} // fewer failures do not interrupt it
	}
	if contact.FirstFailure.After(o.At) {
		contact.FirstFailure = o.At // the clock was set back
	}
	t.endFlappingWhenDown(o, policy)
	if a := next.Announced; a != nil {
		if o.At.Before(a.At) {
			return // the poll began before the announcement
		}
		a.WentDown = true
		if !a.Answered.IsZero() {
			if contact.Failures < policy.OfflineThreshold || policy.frozen() {
				return
			}
			a.Answered = time.Time{}
			t.setStatus(o.At, StatusOffline, DetailShutDown, "the server had announced that it goes down, and no longer answers")
		}
		if op := next.Operation; op != nil && op.staysDown() && contact.Acting == 0 {
			t.endOperation(o.At, "", "the server is down")
		}
		if op := next.Operation; op != nil && a.Unasked && a.Deadline.IsZero() && !op.staysDown() && contact.Failures >= policy.OfflineThreshold &&
			!policy.frozen() && (contact.Acting == 0 && !op.keepsPending() || !o.At.Before(op.Deadline)) {
			t.endOperation(o.At, "the server has shut down, as it had announced", o.Failure.Message)
		}
		if a.Deadline.IsZero() || o.At.Before(a.Deadline) || policy.frozen() {
			return // a server that was shut down may stay down
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
		return // the server may be on its way to another address, or back to this one
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
			return // the poll began before the announcement
		case !back && !late && a.Unasked && o.Ready:
			// The server said that it goes down, but it is still up.
			if a.Answered.IsZero() {
				a.Answered = o.At
			}
			t.settle(o, policy)
			return
		case !back && !late:
			contact.Good = 0
			return // about to go down: the poll tells nothing about the time after it
		case !o.Ready && !late:
			a.WentDown = true
			return // back, but still booting
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
