package lifecycle

import (
	"fmt"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// Transition is the outcome of Apply.
type Transition struct {
	State   ServerState
	Contact Contact
	// Changed tells whether State differs from what it was.
	Changed bool
	Events  []event.Event
	// Warnings are there to be raised, or seen once more; of the kinds in Judged, all others
	// of the server are cleared.
	Warnings []warning.Input
	Judged   []warning.Kind
}

// Steady reports whether nothing is under way on a server, and nothing is in doubt: then the
// same observation finds nothing new the next time.
func (t *Transition) Steady() bool {
	s := &t.State
	return s.Status == StatusReady && s.StatusDetail == DetailNone && s.Announced == nil && s.Operation == nil &&
		s.FlappingSince.IsZero() && t.Contact.Failures == 0 && t.Contact.Acting == 0 && len(t.Warnings) == 0 && len(t.Events) == 0
}

// Clears reports whether the kind was judged, and is not deserved.
func (t *Transition) Clears(kind warning.Kind) bool {
	return slices.Contains(t.Judged, kind) && !slices.ContainsFunc(t.Warnings, func(w warning.Input) bool { return w.Kind == kind })
}

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

// MaxReason bounds the reasons that are stored, in bytes: parts of them come from servers.
const MaxReason = 1000
