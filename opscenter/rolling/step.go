package rolling

import (
	"fmt"
	"strconv"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// deadlineSlack is how long after its deadline a step counts as lost. Before that, the Registry ends the operation at its
// deadline, with an outcome.
const deadlineSlack = 30 * time.Second

// Advance decides the next steps of a unit. It stores in the unit the outcomes of the steps under way, and the steps that
// begin. The caller stores the unit, and then carries out the Commands as they are. cancel is empty, unless the rollout is
// being cancelled. While paused is set, no step begins. Advance changes the unit, and nothing else.
func (u *Unit) Advance(p *Policy, cal *Calendar, v View, cancel CancelMode, paused bool) Result {
	a := advance{u: u, p: p, cal: &cal.calendar, v: v, cancel: cancel}
	for i := range u.Members {
		u.Members[i].index = i
	}
	if u.Status == UnitPending || u.Status.ended() {
		return a.Result
	}
	a.resolveSteps()
	if u.Status == UnitRunning {
		a.finishMembers()
	}
	if u.Status == UnitRunning && !paused {
		a.beginSteps()
	}
	if u.Status == UnitRunning && !a.AskGate {
		a.noteWaiting(paused)
	}
	for i := range u.Members {
		if s := u.Members[i].Step; s != nil {
			a.wake(s.Deadline.Add(deadlineSlack))
		}
	}
	return a.Result
}

// advance is one decision.
type advance struct {
	Result
	u      *Unit
	p      *Policy
	cal    *calendar
	v      View
	cancel CancelMode

	wait       string           // the first reason that keeps a step from beginning; empty: there is none
	waitServer string           // the server and the action of that step
	waitAction lifecycle.Action // ActionNone: the reason is about the unit
	waitsTime  bool             // the reason passes with time, without an operator
	waitsOut   bool             // the step is of a member that is out
	waitsAll   bool             // the reason keeps all members from beginning
	progress   bool             // a step is under way, or has begun
}

// server returns the server of a member; nil: it was removed.
func (a *advance) server(m *Member) *Server { return a.v.Servers[m.index] }

// note adds a Note, unless the View is quiet.
func (a *advance) note(server string, kind NoteKind, text string) {
	a.Changed = true
	if a.v.quiet {
		return
	}
	a.Notes = append(a.Notes, Note{Server: server, Kind: kind, Text: text})
}

// finishMembers marks the members that are finished, and ends the unit when all are.
func (a *advance) finishMembers() {
	u := a.u
	all := true
	for i := range u.Members {
		m := &u.Members[i]
		if m.Step != nil {
			all = false
			continue
		}
		if m.Left != "" || m.Finished {
			continue
		}
		s := a.server(m)
		if m.Rebooted && s.Ready && m.needsReboot(s) && (a.cancel == "" || a.cancel == CancelFinish) && a.p.Goal.single() == lifecycle.ActionNone {
			a.haltUnit(m.Server, lifecycle.ActionReboot, max(1, m.Attempts), "it still needs a reboot after its reboot")
			return
		}
		if why := s.skips(m.Targets); why != "" && m.Updated && s.Ready && a.cancel == "" && a.p.Goal.single() == lifecycle.ActionNone && a.p.Goal != GoalStage {
			a.haltUnit(m.Server, lifecycle.ActionReboot, max(1, m.Attempts), why) // the other members would not boot it either
			u.Failure.Advice = adviceBackupImage
			return
		}
		action := a.next(m, s)
		if !m.Updated && !m.KeyWaits && action != lifecycle.ActionUpdate && s.Ready && a.cancel == "" {
			m.Updated = true
			a.Changed = true
		}
		if action != lifecycle.ActionNone {
			all = false
			continue
		}
		if !s.Ready && m.Begun && a.cancel == "" && a.p.Goal != GoalPowerOff {
			all = false // nothing is left to do, but the server is not back
			a.waitOn("", lifecycle.ActionNone, fmt.Sprintf("all is done with server %s, which is %s", m.Server, s.Condition))
			continue
		}
		if m.Begun && !(a.cancel != "" && m.Evacuated) {
			m.Begun = false
			a.Changed = true
		}
		if a.cancel == "" && a.nothingLeft(m, s) {
			m.Finished = true
			a.Changed = true
		}
	}
	if !all {
		return
	}
	if a.cancel != "" {
		a.endUnit(UnitCancelled)
		return
	}
	if a.v.Now.Before(u.FreeAt) {
		a.waitWindow("", lifecycle.ActionNone, "the delay after a restore", u.FreeAt)
		return
	}
	if !a.p.Force && a.mustEndHealthy() {
		if why := a.unhealthyMember(nil); why != "" {
			a.waitOn("", lifecycle.ActionNone, "all is done; "+why)
			return
		}
	}
	a.endUnit(UnitDone)
}

// nothingLeft reports whether no further action on a member can become necessary. A server that is not ready may still turn
// out to need a reboot.
func (a *advance) nothingLeft(m *Member, s *Server) bool {
	return s.Ready || a.p.Goal == GoalPowerOff
}

// mustEndHealthy reports whether all members must be healthy before the unit ends: an action on one of them has ended.
func (a *advance) mustEndHealthy() bool {
	return a.u.Touched && a.p.Goal != GoalPowerOff && a.p.Goal != GoalEvacuate
}

// endUnit ends the unit.
func (a *advance) endUnit(status UnitStatus) {
	u := a.u
	u.Status, u.EndedAt = status, a.v.Now
	u.Waiting, u.WaitingSince, u.Window = "", time.Time{}, false
	a.Changed = true
}

// beginSteps begins the steps that can begin.
func (a *advance) beginSteps() {
	u := a.u
	if a.v.Hold != "" {
		a.waitWindow("", lifecycle.ActionNone, a.v.Hold, a.v.Now.Add(HoldInterval))
		return
	}
	// First the members that have begun: a member that is out comes back before another one goes out.
	out := 0
	for i := range u.Members {
		m := &u.Members[i]
		if m.Begun || m.Evacuated {
			out++
			a.tryBegin(m)
		}
	}
	a.waitsOut = a.wait != "" // its reason counts more than those of the others
	updates := false
	for i := range u.Members {
		m := &u.Members[i]
		if m.Step != nil {
			updates = updates || m.Step.Action == lifecycle.ActionUpdate
			continue
		}
		if m.Left != "" || m.Finished || m.Begun {
			continue
		}
		s := a.server(m)
		if a.next(m, s) == lifecycle.ActionUpdate {
			// All members are updated first, one by one.
			if !updates {
				a.tryBegin(m)
			}
			updates = true
		}
	}
	if updates && a.p.Goal.single() == lifecycle.ActionNone && a.cancel == "" || out >= a.p.MaxUnavailable {
		return
	}
	for i := range u.Members {
		m := &u.Members[i]
		if m.Begun || m.Evacuated {
			continue
		}
		if a.tryBegin(m); m.Begun {
			out++
		}
		if a.waitsAll || out >= a.p.MaxUnavailable {
			break // the reason keeps the other members waiting, too
		}
	}
}

// tryBegin begins the next step of a member, if it can begin, or notes why it can not.
func (a *advance) tryBegin(m *Member) {
	if m.Step != nil || m.Left != "" || m.Finished || a.u.Status != UnitRunning {
		return
	}
	s := a.server(m)
	action := a.next(m, s)
	if action == lifecycle.ActionNone {
		return
	}
	if m.Failing != action {
		m.Attempts, m.NotBefore = 0, time.Time{} // they were those of another action
	}
	if late := a.v.Now.Add(a.p.backoff(max(1, m.Attempts))); m.NotBefore.After(late) {
		m.NotBefore = late // the clock was set back
	}
	if late := a.v.Now.Add(a.u.PostRestoreDelay); a.u.FreeAt.After(late) {
		a.u.FreeAt = late
	}
	if a.v.Now.Before(m.NotBefore) {
		a.waitWindow(m.Server, action, fmt.Sprintf("attempt %d of %d", m.Attempts+1, max(0, a.p.Retries)+1), m.NotBefore)
		return
	}
	if reason := a.notReady(m, s, action); reason != "" {
		a.waitOn(m.Server, action, reason)
		return
	}
	fresh := !m.Begun && !m.Evacuated
	if fresh && a.cancel == "" && a.v.Now.Before(a.u.FreeAt) {
		a.waitWindow(m.Server, action, "the delay after a restore", a.u.FreeAt)
		a.waitsAll = true
		return
	}
	if !a.p.Force && a.cancel != CancelRestore {
		if again, ok := a.cal.fits(a.v.Now, a.expectedTime(m, s, action)); !ok {
			a.waitWindow(m.Server, action, "the next maintenance window", again)
			a.waitsAll = true
			return
		}
	}
	if !a.p.Force && a.cancel != CancelRestore {
		if reason := a.mustStay(m, action, fresh); reason != "" {
			a.waitOn(m.Server, action, reason)
			return
		}
		if fresh && !a.v.GateAsked {
			a.AskGate, a.waitsAll = true, true
			return
		}
		if fresh && a.v.Gate != "" {
			a.waitOn(m.Server, action, "the health gate: "+shorten(a.v.Gate))
			a.waitsAll = true
			return
		}
	}
	a.start(m, s, action, a.whyNext(m, s, action))
}

// command returns the command for an action on a member.
func (a *advance) command(m *Member, action lifecycle.Action) Command {
	c := Command{Server: m.Server, ServerID: m.ID, Action: action, Timeout: a.p.timeout(action)}
	switch action {
	case lifecycle.ActionEvacuate:
		if c.Mode = a.p.EvacuateMode; c.Mode == "auto" && a.u.Cluster && len(a.u.Members) == 1 {
			c.Mode = "stop" // there is no other member
		}
	case lifecycle.ActionRestore:
		if len(a.u.Members) > 1 { // instances that were stopped, and not moved, must start again
			c.Mode = a.u.RestoreMode
		}
	case lifecycle.ActionUpdate:
		c.Targets = m.Targets
	}
	return c
}

// start begins a step.
func (a *advance) start(m *Member, s *Server, action lifecycle.Action, why string) {
	m.Number++
	id := m.ID // a model needs no ID that differs from that of the step before
	if !a.v.quiet {
		id = a.v.Prefix + m.ID + "." + strconv.Itoa(m.Number)
	}
	step := &Step{ID: id, Action: action, Why: why, Attempt: m.Attempts + 1,
		StartedAt: a.v.Now, Deadline: a.v.Now.Add(a.p.timeout(action)), Epoch: a.v.Epoch}
	m.Step = step
	if action != lifecycle.ActionUpdate {
		m.Begun = true
	}
	switch action {
	case lifecycle.ActionReboot:
		m.Version, m.RebootAsked = s.Staged, a.v.Now
	case lifecycle.ActionEvacuate:
		m.Asked = true
	}
	c := a.command(m, action)
	c.ID, c.Why = step.ID, why
	a.Commands = append(a.Commands, c)
	a.progress = true
	if !a.v.quiet {
		a.note(m.Server, NoteBegun, string(action)+": "+why)
	}
}
