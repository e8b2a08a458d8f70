package presence

import (
	"time"

	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// alarm is the part of an open warning that is in memory: its count changes with every poll.
type alarm struct {
	uuid      string
	message   string
	count     int // since the last Take
	last      time.Time
	unflushed bool
}

// applyWarnings applies changed warnings.
func (p *Presence) applyWarnings(c Changes) {
	if c.All {
		known := make(map[string]bool, len(c.Warnings))
		for _, w := range c.Warnings {
			known[w.UUID] = true
		}
		for uuid := range p.subjects {
			if !known[uuid] {
				p.close(uuid)
			}
		}
	}
	for _, uuid := range c.GoneWarnings {
		p.close(uuid)
	}
	for _, w := range c.Warnings {
		subject := Subject{w.Kind, w.ServerID}
		if a := p.open[subject]; a != nil && a.uuid == w.UUID {
			continue // it is counted here, and was flushed or acknowledged
		} else if a != nil {
			p.close(a.uuid) // it was cleared, and raised again
		}
		p.open[subject] = &alarm{uuid: w.UUID, message: w.Message, last: w.LastSeen}
		p.subjects[w.UUID] = subject
		if t := p.tracks[w.ServerID]; t != nil {
			t.settled = facts.Digest{} // the next poll must see whether the warning still holds
		}
	}
}

// close removes a warning.
func (p *Presence) close(uuid string) {
	subject, ok := p.subjects[uuid]
	if !ok {
		return
	}
	delete(p.subjects, uuid)
	if a := p.open[subject]; a != nil && a.uuid == uuid {
		if a.unflushed {
			p.pending--
		}
		delete(p.open, subject)
	}
}

// IsOpen reports whether a warning is open.
func (p *Presence) IsOpen(subject Subject) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.open[subject] != nil
}

// NeedsWarning reports whether the store must change for the warnings of a transition. Either a warning with a cause is
// not open, or an open one has no cause any more.
func (p *Presence) NeedsWarning(id string, t *lifecycle.Transition) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, w := range t.Warnings {
		if p.open[Subject{w.Kind, id}] == nil {
			return true
		}
	}
	for _, kind := range t.Judged {
		if p.open[Subject{kind, id}] != nil && t.Clears(kind) {
			return true
		}
	}
	return false
}

// ofPolls are the kinds that polls raise and clear.
var ofPolls = []warning.Kind{warning.Unreachable, warning.Certificate, warning.Identity, warning.Untrusted, warning.Flapping, warning.Unreadable, warning.Facts}

// hasWarnings reports whether warnings of a server are open that polls raise and clear.
func (p *Presence) hasWarnings(id string) bool {
	for _, kind := range ofPolls {
		if p.open[Subject{kind, id}] != nil {
			return true
		}
	}
	return false
}

// Repeat counts one more cause of an open warning. An empty message keeps the present one.
func (p *Presence) Repeat(subject Subject, message string, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.repeat(subject, message, at)
}

func (p *Presence) repeat(subject Subject, message string, at time.Time) {
	a := p.open[subject]
	if a == nil || at.Equal(a.last) {
		return
	}
	a.count++
	a.last = at
	if message != "" {
		a.message = message
	}
	if !a.unflushed {
		a.unflushed = true
		p.pending++
	}
}

// Show adds to a stored warning the part that is not flushed.
func (p *Presence) Show(w *warning.Warning) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if a := p.open[Subject{w.Kind, w.ServerID}]; a != nil && a.uuid == w.UUID && a.unflushed {
		w.Count, w.LastSeen, w.Message = w.Count+a.count, a.last, a.message
	}
}
