package rolling

import (
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// notReady tells why no action can begin on a server; empty: one can.
func (a *advance) notReady(m *Member, s *Server, action lifecycle.Action) string {
	switch {
	case s.Operation != nil:
		return fmt.Sprintf("server %s: %s is under way, and not for this rollout", m.Server, s.Operation.Action)
	case s.Moving && !m.Evacuated:
		return fmt.Sprintf("server %s is being evacuated or restored, and not by this rollout", m.Server)
	case !s.Ready:
		return fmt.Sprintf("server %s is %s", m.Server, s.Condition)
	case action == lifecycle.ActionUpdate && s.skips(m.Targets) != "":
		return fmt.Sprintf("server %s: %s", m.Server, s.skips(m.Targets))
	case s.Evacuated && !m.Evacuated && !m.EvacuatedBefore && a.p.Goal.single() == lifecycle.ActionNone && action != lifecycle.ActionUpdate:
		return fmt.Sprintf("server %s was evacuated, and not by this rollout", m.Server)
	}
	return ""
}

// expectedTime returns how long a step will probably take, together with the steps that must follow it.
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

// mustStay tells why a member must not be taken out, or updated, now; empty: it may.
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
		return fmt.Sprintf("without server %s the cluster would have no database quorum", m.Server)
	}
	return ""
}

// howOut tells in what way a member is out; empty: it is not. A member that was evacuated before is out only if it does not
// answer, or is being rebooted.
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

// unhealthyMember tells which member other than but is not healthy, and why; empty: all are. Members that this rollout has
// taken out do not count.
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
			return fmt.Sprintf("server %s was evacuated, and not by this rollout", m.Server)
		case s.Good < a.p.GoodPolls && m.Step == nil:
			return fmt.Sprintf("server %s: %d good polls in a row are wanted", m.Server, a.p.GoodPolls)
		}
	}
	return ""
}

// costsQuorum reports whether the database loses its majority if that member goes out, too. Incus has three voters. With
// fewer than three members it has one, whose vote goes to another member when it leaves in order. If the voters are not
// known, each member may be one.
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
		if other == m || !s.Online || working { // a member that others evacuated still votes
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
