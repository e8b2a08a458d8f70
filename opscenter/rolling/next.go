package rolling

import (
	"fmt"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// next returns the next action on a member; ActionNone: there is none. It follows the tables of lifecycle.Recommend, but with
// the fixed targets of the member, and with the evacuations of this rollout.
func (a *advance) next(m *Member, s *Server) lifecycle.Action {
	switch {
	case m.Left != "" || m.Finished:
		return lifecycle.ActionNone
	case a.cancel == CancelRestore && m.Evacuated:
		return lifecycle.ActionRestore
	case a.cancel == CancelFinish && m.Begun && a.p.Goal.single() == lifecycle.ActionNone:
		return a.nextReboot(m, s)
	case a.cancel != "":
		return lifecycle.ActionNone
	case a.p.Goal.single() != lifecycle.ActionNone:
		return a.nextSingle(m, s, a.p.Goal.single())
	case m.KeyWaits:
		return a.nextReboot(m, s)
	case !m.Updated && s.behind(m.Targets):
		return lifecycle.ActionUpdate
	case a.p.Goal == GoalStage:
		return lifecycle.ActionNone
	}
	return a.nextReboot(m, s)
}

// nextReboot returns the next action on the way to a reboot, and back from it.
func (a *advance) nextReboot(m *Member, s *Server) lifecycle.Action {
	needs := m.needsReboot(s) || m.Reboot && !m.Rebooted
	switch {
	case !needs && m.Evacuated:
		return lifecycle.ActionRestore
	case !needs:
		return lifecycle.ActionNone
	case s.Incus && !s.Evacuated:
		return lifecycle.ActionEvacuate
	}
	return lifecycle.ActionReboot
}

// nextSingle returns the action of the goal, until it has succeeded once, or if its effect is already there ActionNone.
func (a *advance) nextSingle(m *Member, s *Server, action lifecycle.Action) lifecycle.Action {
	for i := range m.Done {
		if m.Done[i].Action == action && m.Done[i].Failed == "" {
			return lifecycle.ActionNone
		}
	}
	switch {
	case action == lifecycle.ActionUpdate && !s.behind(m.Targets),
		action == lifecycle.ActionEvacuate && s.Evacuated,
		action == lifecycle.ActionRestore && !s.Evacuated && !s.Moving:
		return lifecycle.ActionNone
	}
	return action
}

// whyNext tells operators why an action is the next.
func (a *advance) whyNext(m *Member, s *Server, action lifecycle.Action) string {
	switch {
	case action == lifecycle.ActionRestore && a.cancel == CancelRestore:
		return "the rollout was cancelled after it had evacuated the server"
	case a.p.Goal.single() != lifecycle.ActionNone:
		return "it was asked for"
	case action == lifecycle.ActionUpdate && a.keysLeft(m, s) == 1:
		return s.describe(s.Outdated(m.Targets)) + "; a Secure Boot key may take a reboot before"
	case action == lifecycle.ActionUpdate && a.keysLeft(m, s) > 0:
		return fmt.Sprintf("%s; its Secure Boot keys may take up to %d reboots before", s.describe(s.Outdated(m.Targets)), a.keysLeft(m, s))
	case action == lifecycle.ActionUpdate:
		return s.describe(s.Outdated(m.Targets))
	case action == lifecycle.ActionRestore:
		return "it was evacuated for its reboot"
	case m.KeyWaits:
		return "a Secure Boot key takes a reboot, and the update goes on after that"
	case s.NeedsReboot && s.Staged != "":
		return "os " + s.Staged + " is staged over " + orUnknown(s.Running)
	case s.NeedsReboot:
		return "the server says that it needs a reboot"
	}
	return "a rolling reboot was asked for"
}
