package rolling

import (
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// View is the input of a decision.
type View struct {
	Now time.Time
	// Servers are those of the unit's members, in their order; nil for a server that was removed.
	Servers []*Server
	// Hold tells why no step may begin; empty: steps may begin. Result.Wake then asks for a decision after HoldInterval.
	Hold string
	// Gate tells why the embedder's health gate is closed; empty: it is open. It is needed once a Result has AskGate set.
	Gate string
	// GateAsked: the gate was asked, so that Gate is valid.
	GateAsked bool
	// Epoch is that of the controller. A step of an earlier epoch is taken over.
	Epoch uint64
	// Prefix begins the IDs of steps.
	Prefix string

	quiet bool // make no notes
}

// HoldInterval is after how long to decide again while View.Hold is set.
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
	// Again: an earlier controller may already have carried it out.
	Again bool
}

// Result is a decision.
type Result struct {
	Commands []Command
	// Changed: the unit has changed, and the caller stores it.
	Changed bool
	// AskGate: the caller asks the embedder's health gate, and calls Advance again with the answer in the View.
	AskGate bool
	// Wake is when to decide again, if nothing changes before; zero: only after a change.
	Wake time.Time
	// Notes tell what happened. The caller makes events of them.
	Notes []Note
}

// wake sets Wake to at, unless it is earlier.
func (r *Result) wake(at time.Time) {
	if !at.IsZero() && (r.Wake.IsZero() || at.Before(r.Wake)) {
		r.Wake = at
	}
}

// Note tells what happened to a server. Without a Server it is about the unit.
type Note struct {
	Server string
	Kind   NoteKind
	Text   string
}

// NoteKind is the kind of a Note.
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
