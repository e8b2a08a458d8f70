package rolling

import (
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"slices"
	"strings"
	"time"
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

// stands reports whether nothing could go on in a unit for a while, and nothing of it is out.
func (u *Unit) stands(now time.Time) bool {
	if u.Status != UnitRunning || u.WaitingSince.IsZero() || now.Before(u.WaitingSince.Add(AsideAfter)) {
		return false
	}
	return !slices.ContainsFunc(u.Members, func(m Member) bool { return m.Begun || m.Evacuated || m.Step != nil })
}

// Member is a server on its way through a rollout.
type Member struct {
	Server, ID string
	// Left says why nothing is done with it; empty: something is.
	Left string
	// Targets are the versions it is to reach. They don't change, whatever is published meanwhile.
	Targets map[string]string
	// Updated: it has reached them.
	Updated bool
	// Keys is how many Secure Boot keys it may apply on the way there, as planned, and KeysApplied how many it has.
	// KeyWaits: one was applied, and waits for a reboot; the update goes on after that.
	Keys        int  `json:",omitempty"`
	KeysApplied int  `json:",omitempty"`
	KeyWaits    bool `json:",omitempty"`
	// Reboot: it is to be rebooted whether it needs it or not, and was not so far.
	Reboot bool
	// EvacuatedBefore: somebody else evacuated it; it is left so.
	EvacuatedBefore bool
	// Evacuated: this rollout did, and has not restored it.
	Evacuated bool
	// Asked: this rollout asked it to be evacuated. Found evacuated later, that is its doing.
	Asked bool
	// RebootAsked is when it was last asked to reboot.
	RebootAsked time.Time
	// Begun: it was taken out, or is about to be, and is not done.
	Begun bool
	// Rebooted by this rollout.
	Rebooted bool
	// Version of the operating system it must be on after the reboot under way.
	Version string
	// Finished: nothing is left to do.
	Finished bool

	// Step is under way; nil: none.
	Step *Step
	// Attempts of the action that failed last, the next not before NotBefore.
	Attempts  int
	Failing   lifecycle.Action
	NotBefore time.Time
	// Number of the steps so far.
	Number int
	// Done are the steps that ended, the last MaxDone of them.
	Done []Done

	index int // among the members
}

// State says for people where the server is.
func (m *Member) State() string {
	switch {
	case m.Step != nil:
		return string(m.Step.Action) + " under way"
	case m.Left != "":
		return "left alone"
	case m.Finished:
		return "done"
	case m.Evacuated:
		return "evacuated"
	case m.Begun:
		return "begun"
	}
	return "waiting for its turn"
}

// needsReboot reports whether a member is to be rebooted for the rollout's sake. After its
// reboot what was staged meanwhile is another rollout's.
func (m *Member) needsReboot(s *Server) bool {
	if !m.Rebooted || !s.NeedsReboot {
		return s.NeedsReboot
	}
	target := m.Targets[lifecycle.ComponentOS]
	return s.Staged == "" || lifecycle.Newer(target, s.Running)
}

// Limits of what is kept of a unit.
const (
	// MaxDone bounds the ended steps that are kept of a server in one rollout.
	MaxDone = 20
	// MaxText bounds a text that comes from servers, in bytes.
	MaxText = 300
	// MaxMembers bounds the members of a cluster that can be rolled through.
	MaxMembers = 300
)

// cut bounds a text from elsewhere.
func cut(text string) string {
	if len(text) > MaxText {
		text = text[:MaxText] + "…"
	}
	return strings.ToValidUTF8(text, "�")
}

// Step is an action under way.
type Step struct {
	// ID is that of the server's Operation.
	ID        string
	Action    lifecycle.Action
	Why       string
	Attempt   int
	StartedAt time.Time
	Deadline  time.Time
	// Epoch of the controller that carries it out.
	Epoch uint64
}

// Done is a step that ended.
type Done struct {
	Action    lifecycle.Action
	Why       string
	Attempt   int
	StartedAt time.Time
	EndedAt   time.Time
	// Failed says why it failed; empty: it did not. Note is what else is to be said.
	Failed string
	Note   string
}

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

// View is what a decision is made on.
type View struct {
	Now time.Time
	// Servers are those of the unit's members, in their order; nil for one that is gone.
	Servers []*Server
	// Hold says why nothing may be begun at all; empty: it may. It is to be asked for again after HoldInterval.
	Hold string
	// Gate says why the embedder's own health gate is closed; asked for when a Result says AskGate.
	Gate string
	// GateAsked tells that it was asked.
	GateAsked bool
	// Epoch of the controller that asks; a step of an earlier one is taken over.
	Epoch uint64
	// Prefix of the IDs of steps.
	Prefix string

	quiet bool // no notes are wanted
}

// HoldInterval is when to look again while nothing may be begun.
const HoldInterval = 10 * time.Second

// Command is an action to carry out.
type Command struct {
	Server, ServerID string
	ID               string
	Action           lifecycle.Action
	Mode             string
	Why              string
	Targets          map[string]string
	Timeout          time.Duration
	// Again: it may have been carried out before, by a controller that is gone.
	Again bool
}

// Result of a decision.
type Result struct {
	Commands []Command
	// Changed tells that the unit is not as it was.
	Changed bool
	// AskGate tells that the embedder's health gate is to be asked, and the question put again.
	AskGate bool
	// Wake is when to ask again, if nothing changes before; zero: only then.
	Wake time.Time
	// Notes are what happened, for events.
	Notes []Note
}

// Note tells what happened to a server.
type Note struct {
	Server string
	Kind   NoteKind
	Text   string
}

// NoteKind says what a Note is about.
type NoteKind string

const (
	NoteBegun    NoteKind = "begun"
	NoteEnded    NoteKind = "ended"
	NoteFailed   NoteKind = "failed"
	NoteLeft     NoteKind = "left"
	NoteWaiting  NoteKind = "waiting"
	NoteNoticed  NoteKind = "noticed"
	NoteTakeOver NoteKind = "taken over"
)

func (r *Result) wake(at time.Time) {
	if !at.IsZero() && (r.Wake.IsZero() || at.Before(r.Wake)) {
		r.Wake = at
	}
}
