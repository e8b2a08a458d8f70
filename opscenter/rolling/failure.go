package rolling

import (
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Failure is why a unit came to a halt, and what can be done.
type Failure struct {
	At       time.Time
	Server   string
	Action   lifecycle.Action
	Attempts int
	Reason   string
	// Advice tells an operator what to do.
	Advice string
}

func (f *Failure) describe(u *Unit) string {
	what := string(f.Action)
	if f.Server != "" {
		what += " of server " + f.Server
	}
	if u.Cluster {
		what += " in cluster " + u.Name
	}
	if what == "" {
		what = u.Name
	}
	attempts := ""
	if f.Attempts > 0 {
		attempts = fmt.Sprintf(" (attempt %d)", f.Attempts)
	}
	return fmt.Sprintf("%s%s: %s. What to do: %s", what, attempts, f.Reason, f.Advice)
}

// haltUnit brings the unit to a halt.
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

// adviceBackupImage is what to do about a version that a server does not boot.
const adviceBackupImage = "look at the server's console; cancel the rollout with restore, and roll out a version that boots; or remove the server, and resume without it"

func advice(action lifecycle.Action, attempts int) string {
	const cancel = ", or cancel the rollout"
	switch {
	case attempts == 0:
		return "see to what it waits for, then resume; a server that somebody evacuated is left so from then on" + cancel
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
