package rolling

import (
	"fmt"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"strconv"
	"time"
)

// deadlineSlack is given to the registry, which ends an operation at its deadline itself and
// tells how, before a step counts as lost.
const deadlineSlack = 30 * time.Second

// Advance decides what a unit does next, and notes it in the unit: outcomes of steps under
// way, and the steps that begin, which are to be carried out as they are. cancel is empty
// while the rollout is not being cancelled; with paused, nothing is begun. It is pure but for the unit.
func (u *Unit) Advance(p *Policy, cal *Calendar, v View, cancel CancelMode, paused bool) Result {
	a := advance{u: u, p: p, cal: &cal.calendar, v: v, cancel: cancel}
	for i := range u.Members {
		u.Members[i].index = i
	}
	if u.Status == UnitPending || u.Status.ended() {
		return a.Result
	}
	a.resolve()
	if u.Status == UnitRunning {
		a.end()
	}
	if u.Status == UnitRunning && !paused {
		a.begin()
	}
	if u.Status == UnitRunning && !a.AskGate {
		a.waiting(paused)
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

	wait     string // the first reason not to begin something
	window   bool   // it is only time
	waitFor  string // the server
	waitWhat lifecycle.Action
	progress bool // something is under way, or was begun
	begun    bool // what is waited for concerns a member that is out
	all      bool // what is waited for concerns all members
}

// server returns the server of a member, which is one of the unit's own.
func (a *advance) server(m *Member) *Server { return a.v.Servers[m.index] }

func (a *advance) note(server string, kind NoteKind, text string) {
	a.Changed = true
	if a.v.quiet {
		return
	}
	a.Notes = append(a.Notes, Note{Server: server, Kind: kind, Text: text})
}

// next returns what is to be done with a member next, None if nothing. It is the table of
// the specification, on targets that don't change, for those that this rollout evacuates itself.
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

// nextSingle carries out one action once, unless what it brings about is there.
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

// why says why an action is the next.
func (a *advance) why(m *Member, s *Server, action lifecycle.Action) string {
	switch {
	case action == lifecycle.ActionRestore && a.cancel == CancelRestore:
		return "the rollout was cancelled, and had evacuated it"
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
		return "a Secure Boot key takes a reboot, and the update goes on after it"
	case s.NeedsReboot && s.Staged != "":
		return "os " + s.Staged + " is staged over " + orUnknown(s.Running)
	case s.NeedsReboot:
		return "the server says that it needs a reboot"
	}
	return "a rolling reboot was asked for"
}

// end notes which members are finished, and ends the unit when all are.
func (a *advance) end() {
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
			a.fail(m.Server, lifecycle.ActionReboot, max(1, m.Attempts), "it needs a reboot still, after its reboot")
			return
		}
		if why := s.skips(m.Targets); why != "" && m.Updated && s.Ready && a.cancel == "" && a.p.Goal.single() == lifecycle.ActionNone && a.p.Goal != GoalStage {
			a.fail(m.Server, lifecycle.ActionReboot, max(1, m.Attempts), why) // the others would come to the same
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
			all = false // nothing is known to be left, but it is not back
			a.waitOn("", lifecycle.ActionNone, fmt.Sprintf("server %s, with which all is done, is %s", m.Server, s.Condition))
			continue
		}
		if m.Begun && !(a.cancel != "" && m.Evacuated) {
			m.Begun = false
			a.Changed = true
		}
		if a.cancel == "" && a.settled(m, s) {
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
	if !a.p.Force && a.touched() {
		if why := a.healthy(nil); why != "" {
			a.waitOn("", lifecycle.ActionNone, "all is done; "+why)
			return
		}
	}
	a.endUnit(UnitDone)
}

// settled reports whether nothing can turn up any more that is to be done with a member: one
// that waits for others may find that its update needs a reboot after all.
func (a *advance) settled(m *Member, s *Server) bool {
	return s.Ready || a.p.Goal == GoalPowerOff
}

// touched reports whether anything was done in the unit.
func (a *advance) touched() bool {
	return a.u.Touched && a.p.Goal != GoalPowerOff && a.p.Goal != GoalEvacuate
}

func (a *advance) endUnit(status UnitStatus) {
	u := a.u
	u.Status, u.EndedAt = status, a.v.Now
	u.Waiting, u.WaitingSince, u.Window = "", time.Time{}, false
	a.Changed = true
}

// begin begins what can be begun.
func (a *advance) begin() {
	u := a.u
	if a.v.Hold != "" {
		a.waitWindow("", lifecycle.ActionNone, a.v.Hold, a.v.Now.Add(HoldInterval))
		return
	}
	// First what was begun: a member that is out comes back before another one goes.
	out := 0
	for i := range u.Members {
		m := &u.Members[i]
		if m.Begun || m.Evacuated {
			out++
			a.try(m)
		}
	}
	a.begun = a.wait != "" // that is what counts
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
			// All members first, one by one.
			if !updates {
				a.try(m)
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
		if a.try(m); m.Begun {
			out++
		}
		if a.all || out >= a.p.MaxUnavailable {
			break // what is in the way is in everybody's way
		}
	}
}

// try begins the next step of a member, if it can be.
func (a *advance) try(m *Member) {
	if m.Step != nil || m.Left != "" || m.Finished || a.u.Status != UnitRunning {
		return
	}
	s := a.server(m)
	action := a.next(m, s)
	if action == lifecycle.ActionNone {
		return
	}
	if m.Failing != action {
		m.Attempts, m.NotBefore = 0, time.Time{} // that was another one
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
		a.all = true
		return
	}
	if !a.p.Force && a.cancel != CancelRestore {
		if again, ok := a.cal.fits(a.v.Now, a.takes(m, s, action)); !ok {
			a.waitWindow(m.Server, action, "the next maintenance window", again)
			a.all = true
			return
		}
	}
	if !a.p.Force && a.cancel != CancelRestore {
		if reason := a.mayLeave(m, action, fresh); reason != "" {
			a.waitOn(m.Server, action, reason)
			return
		}
		if fresh && !a.v.GateAsked {
			a.AskGate, a.all = true, true
			return
		}
		if fresh && a.v.Gate != "" {
			a.waitOn(m.Server, action, "the health gate: "+cut(a.v.Gate))
			a.all = true
			return
		}
	}
	a.start(m, s, action, a.why(m, s, action))
}

// command returns a step as it is to be carried out.
func (a *advance) command(m *Member, action lifecycle.Action) Command {
	c := Command{Server: m.Server, ServerID: m.ID, Action: action, Timeout: a.p.timeout(action)}
	switch action {
	case lifecycle.ActionEvacuate:
		if c.Mode = a.p.EvacuateMode; c.Mode == "auto" && a.u.Cluster && len(a.u.Members) == 1 {
			c.Mode = "stop" // there is nowhere to go
		}
	case lifecycle.ActionRestore:
		if len(a.u.Members) > 1 { // what was stopped, and not moved, is to be started
			c.Mode = a.u.RestoreMode
		}
	case lifecycle.ActionUpdate:
		c.Targets = m.Targets
	}
	return c
}

func (a *advance) start(m *Member, s *Server, action lifecycle.Action, why string) {
	m.Number++
	id := m.ID // on a model nobody confuses it with the one before
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

// waitOn notes what a step waits for that somebody has to see to.
func (a *advance) waitOn(server string, action lifecycle.Action, reason string) {
	if a.wait == "" || a.window && !a.begun {
		a.wait, a.window, a.waitFor, a.waitWhat = reason, false, server, action
	}
}

// waitWindow notes what passes by itself.
func (a *advance) waitWindow(server string, action lifecycle.Action, reason string, until time.Time) {
	a.Result.wake(until)
	if a.wait == "" {
		a.wait, a.window, a.waitFor, a.waitWhat = reason, true, server, action
	}
}

// waiting keeps what is waited for, and fails the unit when that took too long.
func (a *advance) waiting(paused bool) {
	u := a.u
	for i := range u.Members {
		a.progress = a.progress || u.Members[i].Step != nil
	}
	wait := a.wait
	if wait != "" && a.waitWhat != lifecycle.ActionNone {
		wait = string(a.waitWhat) + " of " + a.waitFor + ": " + wait
	}
	if u.Waiting != wait {
		u.Waiting, a.Changed = wait, true
	}
	switch told := !a.progress && wait != ""; {
	case told && u.Told != wait:
		u.Told = wait
		a.note("", NoteWaiting, wait)
	case !told && u.Told != "":
		u.Told, a.Changed = "", true
	}
	stuck := wait != "" && !a.window && !a.progress && !paused
	u.Window = wait != "" && a.window
	if !stuck {
		if !u.WaitingSince.IsZero() {
			u.WaitingSince, a.Changed = time.Time{}, true
		}
		return
	}
	if u.WaitingSince.IsZero() || u.WaitingSince.After(a.v.Now) {
		u.WaitingSince, a.Changed = a.v.Now, true
	}
	if u.stands(a.v.Now) != u.Aside {
		a.Changed = true
	}
	if aside := u.WaitingSince.Add(AsideAfter); a.v.Now.Before(aside) {
		a.Result.wake(aside)
	}
	until := u.WaitingSince.Add(a.p.GateTimeout)
	if a.v.Now.Before(until) {
		a.Result.wake(until)
		return
	}
	attempts := 0
	a.fail(a.waitFor, a.waitWhat, attempts, fmt.Sprintf("waited %s: %s", a.p.GateTimeout, wait))
	a.note(a.waitFor, NoteFailed, u.Failure.Reason)
}
