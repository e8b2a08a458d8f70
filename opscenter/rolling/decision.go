package rolling

import (
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

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

func (r *Result) wake(at time.Time) {
	if !at.IsZero() && (r.Wake.IsZero() || at.Before(r.Wake)) {
		r.Wake = at
	}
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
