package rolling

import (
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// waitOn notes a reason to wait that does not pass with time: an operator may have to act.
func (a *advance) waitOn(server string, action lifecycle.Action, reason string) {
	if a.wait == "" || a.waitsTime && !a.waitsOut {
		a.wait, a.waitsTime, a.waitServer, a.waitAction = reason, false, server, action
	}
}

// waitWindow notes a reason to wait that passes with time.
func (a *advance) waitWindow(server string, action lifecycle.Action, reason string, until time.Time) {
	a.Result.wake(until)
	if a.wait == "" {
		a.wait, a.waitsTime, a.waitServer, a.waitAction = reason, true, server, action
	}
}

// noteWaiting stores in the unit what it waits for. If it has waited for longer than GateTimeout, the unit fails.
func (a *advance) noteWaiting(paused bool) {
	u := a.u
	for i := range u.Members {
		a.progress = a.progress || u.Members[i].Step != nil
	}
	wait := a.wait
	if wait != "" && a.waitAction != lifecycle.ActionNone {
		wait = string(a.waitAction) + " of " + a.waitServer + ": " + wait
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
	stuck := wait != "" && !a.waitsTime && !a.progress && !paused
	u.Window = wait != "" && a.waitsTime
	if !stuck {
		if !u.WaitingSince.IsZero() {
			u.WaitingSince, a.Changed = time.Time{}, true
		}
		return
	}
	if u.WaitingSince.IsZero() || u.WaitingSince.After(a.v.Now) {
		u.WaitingSince, a.Changed = a.v.Now, true
	}
	if u.standsStill(a.v.Now) != u.Aside {
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
	a.haltUnit(a.waitServer, a.waitAction, attempts, fmt.Sprintf("waited %s: %s", a.p.GateTimeout, wait))
	a.note(a.waitServer, NoteFailed, u.Failure.Reason)
}
