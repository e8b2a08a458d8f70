package rolling

import (
	"slices"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// UnitStatus is where a unit is.
type UnitStatus string

const (
	UnitPending   UnitStatus = "pending"   // its turn has not come
	UnitRunning   UnitStatus = "running"   // it is being worked on
	UnitFailed    UnitStatus = "failed"    // it waits for somebody to resume it
	UnitDone      UnitStatus = "done"      // everything in it is
	UnitCancelled UnitStatus = "cancelled" // given up
)

// ended reports whether nothing more happens to the unit.
func (s UnitStatus) ended() bool { return s == UnitDone || s == UnitCancelled }

// Unit is a cluster, or a server that is in none, on its way through a rollout.
type Unit struct {
	// Name of the cluster, or of the server.
	Name    string
	Cluster bool
	Wave    int // from 0
	Status  UnitStatus
	// Members in the order in which they are worked on; all of a cluster, for what must hold.
	Members []Member
	// Expected is how long its actions are taken to last: the mean of what they took before.
	Expected map[lifecycle.Action]time.Duration
	// Assumed tells that some of these were never seen.
	Assumed bool
	// PostRestoreDelay and RestoreMode in force.
	PostRestoreDelay time.Duration
	RestoreMode      string

	StartedAt, EndedAt time.Time
	// FreeAt is when the delay after the last restore is over.
	FreeAt time.Time
	// Waiting says what the next step waits for, since when; Window, that it is only time.
	Waiting      string
	WaitingSince time.Time
	Window       bool
	// Told is what was last noted of that.
	Told string
	// Aside: it has waited for AsideAfter while nothing of it is out. It counts in State.Running, but takes no place of
	// Policy.Parallel.
	Aside bool `json:",omitempty"`
	// Failure is why it failed.
	Failure *Failure
	// Touched: something was done with a member.
	Touched bool
	// Steps is how many actions were expected when it was planned.
	Steps int
}

// Clone returns a copy of a unit that can be advanced without changing the original.
func (u *Unit) Clone() *Unit {
	out := *u
	out.Members = slices.Clone(u.Members)
	for i := range out.Members {
		m := &out.Members[i]
		if m.Step != nil {
			step := *m.Step
			m.Step = &step
		}
		m.Done = slices.Clip(m.Done)
	}
	if u.Failure != nil {
		failure := *u.Failure
		out.Failure = &failure
	}
	return &out
}

// AsideAfter is how long a unit of which nothing is out stands still before it keeps no other waiting any more.
const AsideAfter = 2 * time.Minute

// standsStill reports whether nothing could go on in a unit for a while, and nothing of it is out.
func (u *Unit) standsStill(now time.Time) bool {
	if u.Status != UnitRunning || u.WaitingSince.IsZero() || now.Before(u.WaitingSince.Add(AsideAfter)) {
		return false
	}
	return !slices.ContainsFunc(u.Members, func(m Member) bool { return m.Begun || m.Evacuated || m.Step != nil })
}

// Halt makes a unit fail for a reason that is none of its servers'.
func (u *Unit) Halt(now time.Time, reason string) {
	u.Status = UnitFailed
	u.Failure = &Failure{At: now, Reason: shorten(reason), Advice: "see to the reason, then resume, or cancel the rollout"}
	u.Waiting, u.WaitingSince, u.Window = "", time.Time{}, false
}

// Resume lets a unit that failed go on from where it came to a halt. A server that somebody
// evacuated meanwhile is left so from then on. servers are those of its members, in their order.
func (u *Unit) Resume(servers []*Server) {
	if u.Status != UnitFailed {
		return
	}
	u.Status, u.Failure = UnitRunning, nil
	u.Waiting, u.WaitingSince, u.Window = "", time.Time{}, false
	for i := range u.Members {
		m, s := &u.Members[i], servers[i]
		m.Attempts, m.NotBefore, m.Failing = 0, time.Time{}, lifecycle.ActionNone
		if s == nil {
			continue
		}
		if m.needsReboot(s) {
			m.Rebooted = false
		}
		if s.Evacuated && !m.Evacuated && !m.Begun {
			m.EvacuatedBefore = true
		}
	}
}
