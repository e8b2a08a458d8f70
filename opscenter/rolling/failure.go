package rolling

import (
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Failure tells why a unit halted, and how to go on.
type Failure struct {
	At       time.Time
	Server   string
	Action   lifecycle.Action
	Attempts int
	Reason   string
	// Advice tells operators how to go on.
	Advice string
}

// describe returns the failure for operators.
func (f *Failure) describe(u *Unit) string {
	subject := string(f.Action)
	if f.Server != "" {
		subject += " of server " + f.Server
	}
	if u.Cluster {
		subject += " in cluster " + u.Name
	}
	if subject == "" {
		subject = u.Name
	}
	attempts := ""
	if f.Attempts > 0 {
		attempts = fmt.Sprintf(" (attempt %d)", f.Attempts)
	}
	return fmt.Sprintf("%s%s: %s. What to do: %s", subject, attempts, f.Reason, f.Advice)
}

// haltUnit makes the unit fail, unless it has failed already.
func (a *advance) haltUnit(server string, action lifecycle.Action, attempts int, reason string) {
	u := a.u
	if u.Failure != nil {
		return
	}
	u.Status = UnitFailed
	u.Failure = &Failure{At: a.v.Now, Server: server, Action: action, Attempts: attempts, Reason: reason, Advice: advice(action, attempts)}
	u.Waiting, u.WaitingSince, u.Window = "", time.Time{}, false
	a.Changed = true
}

// adviceBackupImage is the advice for a version that a server does not boot.
const adviceBackupImage = "look at the server's console; cancel the rollout with restore, and roll out a version that boots; or remove the server, and resume without it"

// advice returns the advice for an action that failed after so many attempts.
func advice(action lifecycle.Action, attempts int) string {
	const cancel = ", or cancel the rollout"
	switch {
	case attempts == 0:
		return "clear what it waits for, then resume" + cancel + "; a server that is evacuated by then stays evacuated"
	case action == lifecycle.ActionUpdate:
		return "see the server's log of updates, then resume to try it again" + cancel
	case action == lifecycle.ActionEvacuate:
		return "see the operation on the server: an instance may refuse to move; then resume to try it again, or cancel with restore"
	case action == lifecycle.ActionReboot:
		return "look at the server's console; resume once it is back: if it is on the version it should be on, it is restored, else it is rebooted once more"
	case action == lifecycle.ActionRestore:
		return "see the operation on the server: an instance may not find its way back; then resume to try it again, or restore it by hand and resume"
	}
	return "see the server, then resume to try it again" + cancel
}
