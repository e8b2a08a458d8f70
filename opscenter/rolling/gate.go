package rolling

import (
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// notReady says why a server can't be acted on.
func (a *advance) notReady(m *Member, s *Server, action lifecycle.Action) string {
	switch {
	case s.Operation != nil:
		return fmt.Sprintf("server %s: %s, asked for by somebody else, is under way", m.Server, s.Operation.Action)
	case s.Moving && !m.Evacuated:
		return fmt.Sprintf("server %s is being evacuated or restored by somebody else", m.Server)
	case !s.Ready:
		return fmt.Sprintf("server %s is %s", m.Server, s.Condition)
	case action == lifecycle.ActionUpdate && s.skips(m.Targets) != "":
		return fmt.Sprintf("server %s: %s", m.Server, s.skips(m.Targets))
	case s.Evacuated && !m.Evacuated && !m.EvacuatedBefore && a.p.Goal.single() == lifecycle.ActionNone && action != lifecycle.ActionUpdate:
		return fmt.Sprintf("server %s was evacuated by somebody else", m.Server)
	}
	return ""
}

// expectedTime is how long a step is expected to take with all that must follow it.
func (a *advance) expectedTime(m *Member, s *Server, action lifecycle.Action) time.Duration {
	e := a.u.Expected
	if a.p.Goal.single() != lifecycle.ActionNone {
		return e[action]
	}
	switch action {
	case lifecycle.ActionEvacuate:
		return e[lifecycle.ActionEvacuate] + e[lifecycle.ActionReboot] + e[lifecycle.ActionRestore]
	case lifecycle.ActionReboot:
		if m.Evacuated {
			return e[lifecycle.ActionReboot] + e[lifecycle.ActionRestore]
		}
	}
	return e[action]
}

// mustStay says why a member must not be taken out, or updated, now.
func (a *advance) mustStay(m *Member, action lifecycle.Action, fresh bool) string {
	if !a.u.Cluster || len(a.u.Members) == 1 {
		return ""
	}
	if fresh && action != lifecycle.ActionRestore {
		if reason := a.unhealthyMember(m); reason != "" {
			a.waitsAll = true
			return reason
		}
	}
	if action == lifecycle.ActionUpdate || action == lifecycle.ActionRestore {
		return ""
	}
	out := 1
	for i := range a.u.Members {
		if other := &a.u.Members[i]; other != m && a.howOut(other) != "" {
			out++
		}
	}
	if out > a.p.MaxUnavailable {
		a.waitsAll = true
		for i := range a.u.Members {
			if other := &a.u.Members[i]; other != m {
				if how := a.howOut(other); how != "" {
					return fmt.Sprintf("server %s is %s, at most %d may be out", other.Server, how, a.p.MaxUnavailable)
				}
			}
		}
	}
	if a.costsQuorum(m) {
		return fmt.Sprintf("without server %s, too, the cluster would have no database quorum", m.Server)
	}
	return ""
}

// howOut says how a member is out, empty if it is not. Those that were evacuated before are so
// only when they don't answer, or are rebooted.
func (a *advance) howOut(m *Member) string {
	s := a.server(m)
	switch {
	case a.whyGone(m, s) != "":
		return ""
	case m.Step != nil && m.Step.Action != lifecycle.ActionUpdate:
		return "out: " + string(m.Step.Action)
	case !s.Online:
		return s.Condition
	case m.Begun || m.Evacuated:
		return "being worked on"
	case m.EvacuatedBefore && a.p.Goal.single() == lifecycle.ActionNone:
		return ""
	case s.Evacuated:
		return "evacuated"
	case s.Moving:
		return "being evacuated or restored"
	}
	return ""
}

// unhealthyMember says which other member is not as it should be, but for those we have taken out.
func (a *advance) unhealthyMember(but *Member) string {
	if !a.u.Cluster {
		return ""
	}
	for i := range a.u.Members {
		m := &a.u.Members[i]
		s := a.server(m)
		if m == but || a.whyGone(m, s) != "" || m.Step != nil && m.Step.Action != lifecycle.ActionUpdate || m.Begun || m.Evacuated {
			continue
		}
		switch {
		case !s.Online, !s.Ready && m.Step == nil:
			return fmt.Sprintf("server %s is %s", m.Server, s.Condition)
		case s.Evacuated && !m.EvacuatedBefore && a.p.Goal.single() == lifecycle.ActionNone:
			return fmt.Sprintf("server %s was evacuated by somebody else", m.Server)
		case s.Good < a.p.GoodPolls && m.Step == nil:
			return fmt.Sprintf("server %s: %d good polls in a row are wanted", m.Server, a.p.GoodPolls)
		}
	}
	return ""
}

// costsQuorum reports whether taking a member out, with those that are, costs the database
// its majority. Incus has three voters, or with less than three members one, whose vote goes
// to another member when it leaves in order. Where it is not known who votes, everybody may.
func (a *advance) costsQuorum(m *Member) bool {
	members, voters, out, votersOut, known := 0, 0, 0, 0, true
	for i := range a.u.Members {
		other := &a.u.Members[i]
		s := a.server(other)
		if a.whyGone(other, s) != "" {
			continue
		}
		members++
		known = known && s.RolesKnown
		if s.Voter {
			voters++
		}
		working := other.Begun || other.Evacuated || other.Step != nil && other.Step.Action != lifecycle.ActionUpdate
		if other == m || !s.Online || working { // one that somebody else evacuated votes on
			out++
			if s.Voter {
				votersOut++
			}
		}
	}
	switch {
	case members <= 1:
		return false
	case members == 2:
		return out > 1
	case !known:
		return out > 1
	}
	return votersOut > (voters-1)/2 && votersOut > 0
}
