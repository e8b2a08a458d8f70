package lifecycle

import (
	"fmt"
	"time"
)

// reasonReady is the StatusReason of a server that is ready, with which nothing is under way.
const reasonReady = "answers, and is ready"

// settle ends the operation of a server that says that it is ready, if it is over, and sets the status.
func (t *Transition) settle(o Observation, policy Policy) {
	next := &t.State
	if op := next.Operation; op != nil {
		switch {
		case t.Contact.Acting > 0:
			if !o.At.Before(op.Deadline) {
				t.endOperation(o.At, "its deadline has passed", "")
			}
		case op.Action == ActionUpdate && targetsReached(next.Versions, op.Targets):
			t.endOperation(o.At, "", "every component has its target version")
		case op.Action == ActionUpdate && t.keyApplied(o):
			next.KeyWaits = true
			t.endOperation(o.At, "", "a Secure Boot key was applied, which takes a reboot; the update goes on after the reboot")
		case op.Action == ActionUpdate && t.updateGaveUp(o) != "":
			t.endOperation(o.At, t.updateGaveUp(o), "")
		case op.Owner == "" && next.Stopped == nil && (op.Action == ActionEvacuate && next.Maintenance == MaintenanceEvacuated ||
			op.Action == ActionRestore && next.Maintenance == NotInMaintenance):
			// Incus may say so before the call has returned. A rollout waits for the call.
			t.endOperation(o.At, "", "the server is "+next.Maintenance.String())
		case op.Action == ActionReboot:
			t.endOperation(o.At, "", "the server is back")
		case op.Action == ActionFactoryReset && o.BootedAt.After(op.StartedAt.Add(bootSlack)):
			t.endOperation(o.At, "the server has booted without a factory reset", "")
		case op.Action == ActionFactoryReset && !o.BootedAt.IsZero() && o.BootedAt.Before(op.StartedAt) && o.At.Sub(op.StartedAt) >= policy.RebootTimeout:
			t.endOperation(o.At, "the server has not gone down", "") // the request did not reach it, or it refused
		case !o.At.Before(op.Deadline):
			t.endOperation(o.At, "its deadline has passed", "")
		}
	}
	if op := next.Operation; op != nil && op.keepsPending() {
		return // the call that changes the server ends it, or the deadline does
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
		// The server answered, but it is not known what it is.
		next.StatusReason = "answers, but not all could be read"
		return
	}
	if t.heldOffline(o, policy) {
		return
	}
	if next.Status != StatusReady || next.StatusDetail != detail {
		t.setStatus(o.At, StatusReady, detail, reason)
	}
}

// idleAfter is how long after the request for an update a server that is idle counts as one that has checked for updates.
const idleAfter = 5 * time.Second

// updateGaveUp tells how the server's check for updates ended without the wanted versions; empty: the check goes on, or the
// server does not tell.
func (t *Transition) updateGaveUp(o Observation) string {
	op, s := t.State.Operation, o.UpdateStatus
	if s == nil || !s.Idle() || o.Versions == nil || o.UnreadVersions != 0 || o.At.Before(op.StartedAt.Add(idleAfter)) || !s.checkedSince(op.Before) {
		return ""
	}
	return fmt.Sprintf("the server's check for updates has ended without the wanted versions; it says %q", s.Status)
}

// keyApplied reports whether the update ended because the server applied a Secure Boot key: the server said so, or a key was
// expected. In both cases it needs a reboot, and no version is staged.
func (t *Transition) keyApplied(o Observation) bool {
	os := t.State.Versions.OS
	return (t.State.KeyWaits || t.State.Operation.Keys) && os.NeedsReboot && os.StagedVersion() == "" && t.updateGaveUp(o) != ""
}

// targetsReached reports whether every component has at least its target version.
func targetsReached(v Versions, targets map[string]string) bool {
	for component, target := range targets {
		if have, ok := v.Staged(component); ok && Newer(target, have) {
			return false
		}
	}
	return true
}
