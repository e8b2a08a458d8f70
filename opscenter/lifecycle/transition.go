package lifecycle

import (
	"fmt"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// Transition is the outcome of Apply, Tell, Begin, End and MarkLost.
type Transition struct {
	// State is the server's state from now on.
	State ServerState
	// Contact and Changed are set by Apply alone. Changed tells whether State differs from the state before.
	Contact Contact
	Changed bool
	// Events tell what happened, in order.
	Events []event.Event
	// Warnings are the warnings that the observation gives cause for. Judged are the kinds that it decides about: a
	// warning of a kind in Judged that is not in Warnings is to be cleared. Warnings of other kinds stay.
	Warnings []warning.Input
	Judged   []warning.Kind
}

// Steady reports whether the same observation would change nothing the next time: the server is ready, nothing is under way
// on it, and there is no cause for a warning.
func (t *Transition) Steady() bool {
	s := &t.State
	return s.Status == StatusReady && s.StatusDetail == DetailNone && s.Announced == nil && s.Operation == nil &&
		s.FlappingSince.IsZero() && t.Contact.Failures == 0 && t.Contact.Acting == 0 && len(t.Warnings) == 0 && len(t.Events) == 0
}

// Clears reports whether a warning of that kind is to be cleared: it is in Judged, and not in Warnings.
func (t *Transition) Clears(kind warning.Kind) bool {
	return slices.Contains(t.Judged, kind) && !slices.ContainsFunc(t.Warnings, func(w warning.Input) bool { return w.Kind == kind })
}

// setStatus sets the status, with an event if it differs from the one before.
func (t *Transition) setStatus(at time.Time, status Status, detail StatusDetail, reason string) {
	next := &t.State
	if next.Status == status && next.StatusDetail == detail {
		return
	}
	from := Describe(next.Status, next.StatusDetail)
	next.Status, next.StatusDetail, next.StatusReason, next.StatusSince = status, detail, truncate.Text(reason, MaxReason), at
	t.addEvent(at, event.StatusChanged, fmt.Sprintf("%s, was %s: %s", Describe(status, detail), from, reason))
}

func (t *Transition) addEvent(at time.Time, kind event.Kind, reason string) {
	t.Events = append(t.Events, event.Event{At: at, Kind: kind, Server: t.State.Name, Reason: truncate.Text(reason, MaxReason)})
}

// MaxReason bounds reasons, as parts of them come from servers: a longer one is cut there, and ends with "…". In bytes.
const MaxReason = 1000
