package rolling

import (
	"fmt"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// resolveSteps finds the outcomes of the steps under way, and other changes of the members.
func (a *advance) resolveSteps() {
	for i := range a.u.Members {
		m := &a.u.Members[i]
		s := a.server(m)
		if s != nil && s.Name != m.Server {
			if f := a.u.Failure; f != nil && f.Server == m.Server {
				f.Server = s.Name
			}
			m.Server = s.Name
			a.Changed = true
		}
		if gone := a.whyGone(m, s); gone != "" {
			now := m.Left == "" || m.Step != nil
			if now {
				if m.Step != nil {
					a.recordStep(m, gone, "")
				}
				// The other members do not wait for it.
				m.Left, m.Step, m.Begun, m.Evacuated, m.Asked = gone, nil, false, false, false
				a.note(m.Server, NoteLeft, gone)
			}
			a.goOnWithout(m, now)
			continue
		}
		if m.Step != nil {
			a.resolveStep(m, s)
		}
		if m.Asked && !m.Evacuated && m.Step == nil && (s.Evacuated || s.Moving) {
			m.Evacuated, a.Changed = true, true // the request had an effect, even if it seemed to fail
		}
		if m.Reboot && m.Step == nil && !m.RebootAsked.IsZero() && s.BootedAt.After(m.RebootAsked) {
			m.Reboot, m.Rebooted, a.Changed = false, true, true // late, but rebooted
		}
		if m.KeyWaits && m.Step == nil && s.Ready && !s.NeedsReboot {
			m.KeyWaits, a.Changed = false, true // the server has booted
		}
		if m.Evacuated && m.Step == nil && s.Ready && !s.Evacuated && !s.Moving {
			m.Evacuated, m.Asked = false, false // an operator restored it
			a.note(m.Server, NoteNoticed, "it is not evacuated any more")
		}
	}
}

// goOnWithout resumes a unit that has failed because of a member that was removed or left: either its own step failed, or,
// with now set, another member had waited for it.
func (a *advance) goOnWithout(m *Member, now bool) {
	u := a.u
	if u.Status != UnitFailed || u.Failure == nil || u.Failure.Server != m.Server && !(now && u.Failure.Attempts == 0) {
		return
	}
	u.Status, u.Failure = UnitRunning, nil
	u.Waiting, u.WaitingSince, u.Window = "", time.Time{}, false
	a.note(m.Server, NoteNoticed, "the rollout goes on without it")
}

// whyGone tells why a server is no longer a member of the unit; empty: it is one.
func (a *advance) whyGone(m *Member, s *Server) string {
	switch {
	case s == nil:
		return "the server was removed"
	case a.u.Cluster && s.Cluster != a.u.Name:
		return "the server is not a member of the cluster any more"
	case !a.u.Cluster && s.Cluster != "":
		return "the server is a member of a cluster now"
	}
	return ""
}

// resolveStep finds the outcome of the step of a member.
func (a *advance) resolveStep(m *Member, s *Server) {
	step := m.Step
	switch {
	case s.Operation != nil && s.Operation.ID == step.ID:
		if a.v.Now.After(step.Deadline.Add(deadlineSlack)) {
			a.stepFailed(m, s, fmt.Sprintf("not done within %s", step.Deadline.Sub(step.StartedAt)))
			return
		}
		a.progress = true
		if step.Epoch != a.v.Epoch {
			a.takeOver(m, s)
		}
		return
	case s.Last != nil && s.Last.ID == step.ID && s.Last.Failed != "":
		if step.Action == lifecycle.ActionReboot && s.Running == m.Version && m.Version != "" && s.Ready && s.Staged == "" {
			break // late, but on its version
		}
		a.stepFailed(m, s, s.Last.Failed)
		return
	}
	if (step.Action == lifecycle.ActionUpdate || step.Action == lifecycle.ActionReboot) && s.Good == 0 && !a.v.Now.After(step.Deadline.Add(deadlineSlack)) {
		a.progress = true
		return // no poll has read the server since
	}
	// The operation has ended, or its outcome was not stored: the state of the server decides.
	if a.keyApplied(m, s) {
		m.KeysApplied++
		a.stepSucceeded(m, s, "a Secure Boot key was applied, which takes a reboot; the update goes on after the reboot")
		m.KeyWaits, m.Rebooted = a.p.Goal.single() == lifecycle.ActionNone, false
		return
	}
	if wrong := a.missing(m, s); wrong != "" {
		a.stepFailed(m, s, wrong)
		return
	}
	note := ""
	if s.Last == nil || s.Last.ID != step.ID {
		note = "its outcome was not stored; the server is as it should be"
	}
	a.stepSucceeded(m, s, note)
}

// keyApplied reports whether an update ended because the server applied a Secure Boot key: the server needs a reboot, and no
// version is staged.
func (a *advance) keyApplied(m *Member, s *Server) bool {
	return m.Step.Action == lifecycle.ActionUpdate && a.keysLeft(m, s) > 0 && s.behind(m.Targets) && s.NeedsReboot && s.Staged == ""
}

// keysLeft returns how many Secure Boot keys a server may still apply. A server takes the newest release of its channel. That
// may be newer than the plan, and bring more keys.
func (a *advance) keysLeft(m *Member, s *Server) int {
	if a.p.Goal == GoalStage {
		return 0
	}
	return max(m.Keys, s.SecureBootKeys) - m.KeysApplied
}

// takeOver continues a step that an earlier controller began. It repeats the request, unless that is a reboot or a power off.
func (a *advance) takeOver(m *Member, s *Server) {
	step := m.Step
	step.Epoch = a.v.Epoch
	a.note(m.Server, NoteTakeOver, fmt.Sprintf("%s, begun before the controller restarted", step.Action))
	if step.Action == lifecycle.ActionReboot || step.Action == lifecycle.ActionPowerOff {
		return
	}
	c := a.command(m, step.Action)
	c.ID, c.Why, c.Again = step.ID, step.Why, true
	a.Commands = append(a.Commands, c)
}

// missing tells which effect of its step a server lacks; empty: none.
func (a *advance) missing(m *Member, s *Server) string {
	switch m.Step.Action {
	case lifecycle.ActionUpdate:
		if s.behind(m.Targets) {
			return "the versions are not there: " + s.describe(s.Outdated(m.Targets))
		}
	case lifecycle.ActionEvacuate:
		if !s.Evacuated {
			return "the server is not evacuated"
		}
	case lifecycle.ActionRestore:
		if s.Evacuated || s.Moving {
			return "the server is not restored"
		}
	case lifecycle.ActionReboot:
		switch {
		case m.Version != "" && s.Running != m.Version && !lifecycle.Newer(s.Running, m.Version):
			return fmt.Sprintf("it returned on version %s, %s was staged", orUnknown(s.Running), m.Version)
		case !s.Ready:
			return "the server is not ready: " + s.Condition
		}
	}
	return ""
}

// orUnknown returns a version, or "unknown" for an empty one.
func orUnknown(version string) string {
	if version == "" {
		return "unknown"
	}
	return version
}

// recordStep moves the step of a member to the ended ones.
func (a *advance) recordStep(m *Member, failed, note string) {
	step := m.Step
	a.u.Touched = true
	if a.v.quiet && a.p.Goal.single() == lifecycle.ActionNone {
		m.Step = nil
		a.Changed = true
		return
	}
	m.Done = append(m.Done, Done{Action: step.Action, Why: step.Why, Attempt: step.Attempt, StartedAt: step.StartedAt, EndedAt: a.v.Now, Failed: shorten(failed), Note: note})
	if over := len(m.Done) - MaxDone; over > 0 {
		m.Done = append([]Done(nil), m.Done[over:]...)
	}
	m.Step = nil
	a.Changed = true
}

// stepSucceeded ends the step of a member with success.
func (a *advance) stepSucceeded(m *Member, s *Server, note string) {
	action := m.Step.Action
	a.recordStep(m, "", note)
	m.Attempts, m.NotBefore, m.Failing = 0, time.Time{}, lifecycle.ActionNone
	switch action {
	case lifecycle.ActionEvacuate:
		m.Evacuated = true
	case lifecycle.ActionRestore:
		m.Evacuated, m.Asked = false, false
		a.u.FreeAt = a.v.Now.Add(a.u.PostRestoreDelay)
	case lifecycle.ActionReboot:
		m.Rebooted, m.Reboot, m.Version = !m.KeyWaits, false, ""
		m.KeyWaits = false
	}
	a.note(m.Server, NoteEnded, string(action))
}

// stepFailed ends the step of a member with a failure, and decides whether there is another attempt.
func (a *advance) stepFailed(m *Member, s *Server, reason string) {
	step := *m.Step
	a.recordStep(m, reason, "")
	m.Attempts, m.Failing = step.Attempt, step.Action
	if step.Action == lifecycle.ActionEvacuate && (s.Evacuated || s.Moving) {
		m.Evacuated = true // probably by this rollout: a cancel must be able to restore it
	}
	reason = shorten(reason)
	a.note(m.Server, NoteFailed, fmt.Sprintf("%s, attempt %d: %s", step.Action, step.Attempt, reason))
	// A server that went down and is not ready is not rebooted again: a second reboot may do harm.
	final := step.Action == lifecycle.ActionReboot && (!s.Ready || strings.HasPrefix(reason, "it returned on"))
	if !final && step.Attempt <= a.p.Retries {
		m.NotBefore = a.v.Now.Add(a.p.backoff(step.Attempt))
		return
	}
	a.haltUnit(m.Server, step.Action, step.Attempt, reason)
	if s.skips(m.Targets) != "" {
		a.u.Failure.Advice = adviceBackupImage
	}
}
