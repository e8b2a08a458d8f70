package lifecycle

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// Transition is the outcome of Apply.
type Transition struct {
	State   ServerState
	Contact Contact
	// Changed tells whether State differs from what it was.
	Changed bool
	Events  []event.Event
	// Warnings are there to be raised, or seen once more; of the kinds in Judged, all others
	// of the server are cleared.
	Warnings []warning.Input
	Judged   []warning.Kind
}

// bootSlack is how far the clocks of two machines may disagree about when a boot was.
const bootSlack = 5 * time.Second

// BootDrift is by how much the time of a boot must differ from the one known to be another.
const BootDrift = 15 * time.Second

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
	t.presented(o)
	if o.Failure != nil {
		t.failed(o, policy)
	} else {
		t.answered(o, policy)
	}
	t.warn(o, policy)
	t.Changed = !reflect.DeepEqual(*next, state)
	if t.Changed {
		next.LastUpdated = o.At
	}
	return t
}

// frozen reports whether failures make no server offline.
func (p Policy) frozen() bool { return p.FleetUnreachable || p.FleetInDoubt }

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
	t.steadilyDown(o, policy)
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
			t.to(o.At, StatusOffline, DetailShutDown, "the server had said so, and does not answer any more")
		}
		if op := next.Operation; op != nil && op.down() && contact.Acting == 0 {
			t.endOperation(o.At, "", "it is down")
		}
		if op := next.Operation; op != nil && a.Unasked && a.Deadline.IsZero() && !op.down() && contact.Failures >= policy.OfflineThreshold &&
			!policy.frozen() && (contact.Acting == 0 && !op.pending() || !o.At.Before(op.Deadline)) {
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
		t.to(o.At, StatusOffline, DetailUnresponsive, fmt.Sprintf("not back from %s by its deadline: %s", detail, o.Failure.Message))
		return
	}
	if policy.frozen() || contact.Failures < policy.OfflineThreshold || next.Status == StatusUnregistered || next.Status == StatusOffline {
		return
	}
	if op := next.Operation; op != nil && op.pending() && o.At.Before(op.Deadline) {
		return // it may be at another address, and be back at this one
	}
	if op := next.Operation; op != nil && (contact.Acting == 0 || !o.At.Before(op.Deadline)) {
		t.endOperation(o.At, "the server became unresponsive", o.Failure.Message)
	}
	t.to(o.At, StatusOffline, DetailUnresponsive, fmt.Sprintf("%d polls failed in a row: %s", contact.Failures, o.Failure.Message))
	t.outage(o.At, policy)
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
	booted := t.booted(o, seen)
	switch {
	case len(o.Unread) > 0:
		contact.Whole = 0
	case !o.Light && contact.Whole < wholePolls:
		contact.Whole++
	}
	t.read(o)
	if booted != "" && next.Announced == nil && (next.Operation == nil || !next.Operation.pending()) {
		if runs := next.Versions.OS.Version; runs != before {
			booted += fmt.Sprintf("; runs os %s, ran %s", runs, before)
		}
		t.event(o.At, event.ServerRebooted, booted)
	}

	if a := next.Announced; a != nil {
		back, late := returned(*a, o), !o.At.Before(a.deadline(policy))
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
			t.to(o.At, StatusOffline, DetailUnresponsive, "answers, but has not become ready by its deadline")
			return
		}
		next.Announced = nil
		if op := next.Operation; op != nil && (op.Action == ActionReboot || op.down()) && contact.Acting == 0 {
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
			t.to(o.At, StatusOffline, DetailRebooting, "the server says that it is still booting")
		}
		return
	}
	t.settle(o, policy)
}

// booted takes in when the server booted, and says so if that was another boot than the one
// known: seen is when it was last in touch. A boot time that moves because a clock was set is none.
func (t *Transition) booted(o Observation, seen time.Time) string {
	known := t.State.BootedAt
	if o.BootedAt.IsZero() || !known.IsZero() && o.BootedAt.Sub(known).Abs() <= BootDrift {
		return ""
	}
	t.State.BootedAt = o.BootedAt.Truncate(time.Second)
	uptime, up := o.At.Sub(o.BootedAt), seen.Sub(known)
	if known.IsZero() || o.BootedAt.Before(known) || uptime >= up && !o.BootedAt.After(seen.Add(bootSlack)) {
		return ""
	}
	return fmt.Sprintf("booted at %s, was up since %s", t.State.BootedAt.Format(time.RFC3339), known.Format(time.RFC3339))
}

// deadline is when a server that still answers counts as not having gone down.
func (a Announcement) deadline(policy Policy) time.Time {
	if a.Deadline.IsZero() {
		return a.At.Add(policy.RebootTimeout)
	}
	return a.Deadline
}

// returned reports whether an answering server has been down since it was announced.
func returned(a Announcement, o Observation) bool {
	if !o.BootedAt.IsZero() && o.BootedAt.After(a.At.Add(-bootSlack)) {
		return true
	}
	// Suspended servers come back without a boot; others may not tell when they booted.
	return a.WentDown && (o.BootedAt.IsZero() || a.Deadline.IsZero())
}

// read takes over what was read, and only that.
func (t *Transition) read(o Observation) {
	next := &t.State
	if o.Type != nil && *o.Type != next.Type {
		if next.Type != "" && next.Type != TypeUnknown {
			t.event(o.At, event.TypeChanged, fmt.Sprintf("the primary application makes it %s, it was %s", *o.Type, next.Type))
		}
		next.Type = *o.Type
	}
	if o.Versions != nil {
		next.Versions = o.Versions.over(next.Versions, o.UnreadVersions)
		if next.Versions.OS.Plain {
			next.Update, next.UpdateStatus = nil, nil
		}
	}
	if o.MemberName != nil {
		if *o.MemberName != "" {
			next.Stopped = nil // its cluster sees to them from now on
		}
		switch before := next.MemberName; {
		case *o.MemberName == before:
		case *o.MemberName == "":
			t.event(o.At, event.ClusterDiscovered, fmt.Sprintf("is in no Incus cluster any more, was member %s of one", before))
		default:
			t.event(o.At, event.ClusterDiscovered, fmt.Sprintf("is member %s of an Incus cluster", *o.MemberName))
		}
		next.MemberName = *o.MemberName
	}
	if o.Maintenance != nil && next.Stopped == nil {
		// Of a standalone server Incus doesn't know that it is evacuated: we do.
		next.Maintenance = *o.Maintenance
		if !slices.Equal(next.MemberRoles, o.MemberRoles) || (next.MemberRoles == nil) != (o.MemberRoles == nil) {
			next.MemberRoles = o.MemberRoles
		}
	}
	if o.Update != nil && (next.Update == nil || *next.Update != *o.Update) {
		if before := next.Update; before != nil {
			t.event(o.At, event.UpdateSettings, fmt.Sprintf("updates itself as %s, was %s", o.Update, before))
		}
		next.Update = o.Update
	}
	if s := o.UpdateStatus; s != nil && (next.UpdateStatus == nil || next.UpdateStatus.Status != s.Status || !next.UpdateStatus.LastCheck.Equal(s.LastCheck)) {
		next.UpdateStatus = s
	}
	if next.KeyWaits && o.Versions != nil && o.UnreadVersions == 0 && (!next.Versions.NeedsReboot() || next.Versions.OS.StagedVersion() != "") {
		next.KeyWaits = false // it has booted
	}
	if o.Architecture != "" {
		next.Architecture = o.Architecture
	}
	if o.SystemStateTrusted != nil {
		next.SystemStateTrusted = *o.SystemStateTrusted
	}
}

// settle gives a ready server its status and detail.
func (t *Transition) settle(o Observation, policy Policy) {
	next := &t.State
	if op := next.Operation; op != nil {
		switch {
		case t.Contact.Acting > 0:
			if !o.At.Before(op.Deadline) {
				t.endOperation(o.At, "its deadline has passed", "")
			}
		case op.Action == ActionUpdate && reached(next.Versions, op.Targets):
			t.endOperation(o.At, "", "every component has its version")
		case op.Action == ActionUpdate && t.keyApplied(o):
			next.KeyWaits = true
			t.endOperation(o.At, "", "a Secure Boot key was applied, which takes a reboot; the update goes on after it")
		case op.Action == ActionUpdate && t.gaveUp(o) != "":
			t.endOperation(o.At, t.gaveUp(o), "")
		case op.Owner == "" && next.Stopped == nil && (op.Action == ActionEvacuate && next.Maintenance == MaintenanceEvacuated ||
			op.Action == ActionRestore && next.Maintenance == NotInMaintenance):
			// The status can show before all is done: a rollout waits for the operation.
			t.endOperation(o.At, "", "the server is "+next.Maintenance.String())
		case op.Action == ActionReboot:
			t.endOperation(o.At, "", "the server is back")
		case op.Action == ActionFactoryReset && o.BootedAt.After(op.StartedAt.Add(bootSlack)):
			t.endOperation(o.At, "the server has booted, and is what it was", "")
		case op.Action == ActionFactoryReset && !o.BootedAt.IsZero() && o.BootedAt.Before(op.StartedAt) && o.At.Sub(op.StartedAt) >= policy.RebootTimeout:
			t.endOperation(o.At, "the server has not gone down", "") // it was not asked, or would not
		case !o.At.Before(op.Deadline):
			t.endOperation(o.At, "its deadline has passed", "")
		}
	}
	if op := next.Operation; op != nil && op.pending() {
		return // whoever changes it says when that is over, or the deadline does
	}
	detail := DetailNone
	reason := reasonReady
	switch {
	case next.Operation != nil:
		detail, reason = next.Operation.detail(), string(next.Operation.Action)+" under way"
	case next.Maintenance == MaintenanceEvacuating:
		detail, reason = DetailEvacuating, "the cluster says so"
	case next.Maintenance == MaintenanceRestoring:
		detail, reason = DetailRestoring, "the cluster says so"
	}
	if unknown := next.Type == "" || next.Type == TypeUnknown; o.Type == nil && (next.Status == StatusPending || unknown && next.Status != StatusReady) {
		// Something answered; whether it is a whole server is not known.
		next.StatusReason = "answers, but not all could be read"
		return
	}
	if t.held(o, policy) {
		return
	}
	if next.Status != StatusReady || next.StatusDetail != detail {
		t.to(o.At, StatusReady, detail, reason)
	}
}

// idleAfter is how long after it was asked an idle server counts as one that has checked for updates.
const idleAfter = 5 * time.Second

// gaveUp says how the server's check for updates ended that did not bring the versions it was to
// bring; empty: it goes on, or nothing tells.
func (t *Transition) gaveUp(o Observation) string {
	op, s := t.State.Operation, o.UpdateStatus
	if s == nil || !s.Idle() || o.Versions == nil || o.UnreadVersions != 0 || o.At.Before(op.StartedAt.Add(idleAfter)) || !s.after(op.Before) {
		return ""
	}
	return fmt.Sprintf("the server's check for updates has ended without the wanted versions; it says %q", s.Status)
}

// keyApplied reports whether the update has come to a Secure Boot key, and ended with that: the server says so, or it needs a
// reboot by now without a version that is staged.
func (t *Transition) keyApplied(o Observation) bool {
	os := t.State.Versions.OS
	return (t.State.KeyWaits || t.State.Operation.Keys) && os.NeedsReboot && os.StagedVersion() == "" && t.gaveUp(o) != ""
}

// reached reports whether every component has at least its target version.
func reached(v Versions, targets map[string]string) bool {
	for component, target := range targets {
		if have, ok := v.Staged(component); ok && Newer(target, have) {
			return false
		}
	}
	return true
}

func (t *Transition) to(at time.Time, status Status, detail StatusDetail, reason string) {
	next := &t.State
	if next.Status == status && next.StatusDetail == detail {
		return
	}
	from := Describe(next.Status, next.StatusDetail)
	next.Status, next.StatusDetail, next.StatusReason, next.StatusSince = status, detail, truncate.Text(reason, MaxReason), at
	t.event(at, event.StatusChanged, fmt.Sprintf("%s, was %s: %s", Describe(status, detail), from, reason))
}

func (t *Transition) event(at time.Time, kind event.Kind, reason string) {
	t.Events = append(t.Events, event.Event{At: at, Kind: kind, Server: t.State.Name, Reason: truncate.Text(reason, MaxReason)})
}

const reasonReady = "answers, and is ready"

// MaxReason bounds the reasons that are stored, in bytes: parts of them come from servers.
const MaxReason = 1000
