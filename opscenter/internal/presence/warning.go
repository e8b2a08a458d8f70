package presence

import (
	"time"

	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// Warnings is the handle for open warnings.
type Warnings struct {
	p        *Presence
	open     map[Subject]*alarm
	subjects map[string]Subject // of the open warnings, by UUID
}

// Subject identifies a warning: there is at most one of each kind about a server, or about a controller.
type Subject struct {
	Kind warning.Kind
	// ServerID is empty for a warning about the fleet.
	ServerID string
	// Controller is the name of the controller that the warning is about. Empty: it is about none, or about one without a name.
	Controller string
}

// SubjectOf returns the subject of a warning.
func SubjectOf(w *warning.Warning) Subject { return Subject{w.Kind, w.ServerID, w.Controller} }

// alarm is the part of an open warning that is in memory: its count changes with every poll.
type alarm struct {
	uuid      string
	message   string
	count     int // since the last Flush.Take
	last      time.Time
	unflushed bool
}

// apply applies changed warnings.
func (h *Warnings) apply(c Changes) {
	if c.All {
		known := make(map[string]bool, len(c.Warnings))
		for _, w := range c.Warnings {
			known[w.UUID] = true
		}
		for uuid := range h.subjects {
			if !known[uuid] {
				h.close(uuid)
			}
		}
	}
	for _, uuid := range c.GoneWarnings {
		h.close(uuid)
	}
	for _, w := range c.Warnings {
		subject := SubjectOf(w)
		if a := h.open[subject]; a != nil && a.uuid == w.UUID {
			continue // it is counted here, and was flushed or acknowledged
		} else if a != nil {
			h.close(a.uuid) // it was cleared, and raised again
		}
		h.open[subject] = &alarm{uuid: w.UUID, message: w.Message, last: w.LastSeen}
		h.subjects[w.UUID] = subject
		if t := h.p.tracks[w.ServerID]; t != nil {
			t.settled = facts.Digest{} // the next poll must see whether the warning still holds
		}
	}
}

// close removes a warning.
func (h *Warnings) close(uuid string) {
	subject, ok := h.subjects[uuid]
	if !ok {
		return
	}
	delete(h.subjects, uuid)
	if a := h.open[subject]; a != nil && a.uuid == uuid {
		delete(h.open, subject)
	}
}

// IsOpen reports whether a warning is open.
func (h *Warnings) IsOpen(subject Subject) bool {
	h.p.mu.RLock()
	defer h.p.mu.RUnlock()
	return h.open[subject] != nil
}

// Needs reports whether the store must change for the warnings of a transition. Either a warning with a cause is
// not open, or an open one has no cause any more.
func (h *Warnings) Needs(id string, t *lifecycle.Transition) bool {
	h.p.mu.RLock()
	defer h.p.mu.RUnlock()
	for _, w := range t.Warnings {
		if h.open[Subject{Kind: w.Kind, ServerID: id}] == nil {
			return true
		}
	}
	for _, kind := range t.Judged {
		if h.open[Subject{Kind: kind, ServerID: id}] != nil && t.Clears(kind) {
			return true
		}
	}
	return false
}

// ofPolls are the kinds that polls raise and clear.
var ofPolls = []warning.Kind{warning.Unreachable, warning.Certificate, warning.Identity, warning.Untrusted, warning.Flapping, warning.Unreadable, warning.Facts}

// anyOfPolls reports whether warnings of a server are open that polls raise and clear.
func (h *Warnings) anyOfPolls(id string) bool {
	for _, kind := range ofPolls {
		if h.open[Subject{Kind: kind, ServerID: id}] != nil {
			return true
		}
	}
	return false
}

// Repeat counts one more cause of an open warning. An empty message keeps the present one.
func (h *Warnings) Repeat(subject Subject, message string, at time.Time) {
	h.p.mu.Lock()
	defer h.p.mu.Unlock()
	h.repeat(subject, message, at)
}

func (h *Warnings) repeat(subject Subject, message string, at time.Time) {
	a := h.open[subject]
	if a == nil || at.Equal(a.last) {
		return
	}
	a.count++
	a.last = at
	if message != "" {
		a.message = message
	}
	a.unflushed = true
}

// Show adds to a stored warning the part that is not flushed.
func (h *Warnings) Show(w *warning.Warning) {
	h.p.mu.RLock()
	defer h.p.mu.RUnlock()
	if a := h.open[SubjectOf(w)]; a != nil && a.uuid == w.UUID && a.unflushed {
		w.Count, w.LastSeen, w.Message = w.Count+a.count, a.last, a.message
	}
}
