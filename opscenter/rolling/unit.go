package rolling

import (
	"slices"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// UnitStatus is the status of a unit.
type UnitStatus string

const (
	UnitPending   UnitStatus = "pending"   // it has not begun
	UnitRunning   UnitStatus = "running"   // it has begun
	UnitFailed    UnitStatus = "failed"    // it waits until an operator resumes it
	UnitDone      UnitStatus = "done"      // all its members are
	UnitCancelled UnitStatus = "cancelled" // it is over, and not done
)

// ended reports whether the unit is over.
func (s UnitStatus) ended() bool { return s == UnitDone || s == UnitCancelled }

// Unit is a cluster, or a server that is in no cluster, in a rollout.
type Unit struct {
	// Name of the cluster, or of the server.
	Name    string
	Cluster bool
	Wave    int // from 0
	Status  UnitStatus
	// Members are in the order in which they are worked on. All members of a cluster are in it, as the health of each
	// counts.
	Members []Member
	// Expected is how long each action will probably take: the mean time of earlier ones.
	Expected map[lifecycle.Action]time.Duration
	// Assumed: some of the Expected times are defaults, as there are no earlier actions.
	Assumed bool
	// PostRestoreDelay and RestoreMode are those of the cluster, or else of the Policy.
	PostRestoreDelay time.Duration
	RestoreMode      string

	StartedAt, EndedAt time.Time
	// FreeAt is when the PostRestoreDelay after the last restore is over.
	FreeAt time.Time
	// Waiting tells what the next step waits for, WaitingSince since when. Window: the wait is over after some time, without
	// an operator, as for a maintenance window.
	Waiting      string
	WaitingSince time.Time
	Window       bool
	// Told is the Waiting of the last Note about it.
	Told string
	// Aside: the unit has waited for AsideAfter with no member out. It counts in State.Running, but not for
	// Policy.Parallel.
	Aside bool `json:",omitempty"`
	// Failure tells why the unit failed; nil: it has not.
	Failure *Failure
	// Touched: an action on a member has ended.
	Touched bool
	// Steps is how many actions the plan has for the unit.
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

// AsideAfter is after how long a unit that waits with no member out lets the next unit begin.
const AsideAfter = 2 * time.Minute

// standsStill reports whether the unit has waited for AsideAfter with no member out.
func (u *Unit) standsStill(now time.Time) bool {
	if u.Status != UnitRunning || u.WaitingSince.IsZero() || now.Before(u.WaitingSince.Add(AsideAfter)) {
		return false
	}
	return !slices.ContainsFunc(u.Members, func(m Member) bool { return m.Begun || m.Evacuated || m.Step != nil })
}

// Halt makes the unit fail for a reason that does not come from its servers.
func (u *Unit) Halt(now time.Time, reason string) {
	u.Status = UnitFailed
	u.Failure = &Failure{At: now, Reason: shorten(reason), Advice: "clear the reason, then resume, or cancel the rollout"}
	u.Waiting, u.WaitingSince, u.Window = "", time.Time{}, false
}

// Resume makes a unit that has failed go on from where it halted. A server that was evacuated meanwhile, and not by the
// rollout, stays evacuated. servers are those of the members, in their order.
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
