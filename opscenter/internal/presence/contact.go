package presence

import (
	"time"

	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// Contact returns the contact with a server. It is zero for an unknown server.
func (p *Presence) Contact(id string) lifecycle.Contact {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if t := p.tracks[id]; t != nil {
		return t.contact
	}
	return lifecycle.Contact{}
}

// Change changes the contact with a server for another reason than a poll. The next poll is compared with the store. A
// poll that is under way does not overwrite the change. Change ignores an unknown server.
func (p *Presence) Change(id string, change func(*lifecycle.Contact)) (known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.tracks[id]; t != nil {
		t.settled = facts.Digest{}
		t.contacts++
		p.see(id, t, change)
		return true
	}
	return false
}

// see changes a contact, and marks a new time when the server was seen for the next Flush.Take.
func (p *Presence) see(id string, t *track, change func(*lifecycle.Contact)) {
	before := t.contact.LastSeen
	change(&t.contact)
	if !t.contact.LastSeen.Equal(before) {
		p.Flush.add(id, t)
	}
}

// Mark is the version of the knowledge of a server at one moment.
type Mark struct{ epoch, contacts uint32 }

// Mark returns the version of the knowledge of a server. The caller takes it before it reads the store for an
// observation.
func (p *Presence) Mark(id string) Mark {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if t := p.tracks[id]; t != nil {
		return Mark{t.epoch, t.contacts}
	}
	return Mark{}
}

// Unchanged records an observation that finds the same values as the settled one of the server, and returns true. For all
// others it does nothing and returns false.
func (p *Presence) Unchanged(id string, found facts.Digest, at time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tracks[id]
	if t == nil || !found.Same(t.settled) || p.Guard.state.on {
		return false
	}
	if !t.contact.LastSeen.Equal(at) {
		t.contact.LastSeen = at
		p.Flush.add(id, t)
	}
	t.contact.Good++
	p.Guard.state.observe(&t.watched, p.Elapsed(), false)
	return true
}

// Outcome is the result of an observation.
type Outcome struct {
	// Mark was taken before the store was read for the observation.
	Mark Mark
	// Contact is that of the transition. Failed: the poll did not reach the server.
	Contact lifecycle.Contact
	Failed  bool
	// Found is the digest of the observation. Steady: the same observation would find nothing new. Stored: the
	// observation may have been stored. Then the next one is compared with the store.
	Found          facts.Digest
	Steady, Stored bool
	// At is when the poll began, and Now the time of day.
	At, Now  time.Time
	Warnings []warning.Input
}

// Observed records the result of an observation. It ignores an unknown server.
func (p *Presence) Observed(id string, o Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tracks[id]
	if t == nil {
		return
	}
	p.see(id, t, func(c *lifecycle.Contact) {
		acting, seen := c.Acting, c.LastSeen
		if t.contacts == o.Mark.contacts { // else a newer Change holds
			*c = o.Contact
			c.Acting = acting
		}
		c.LastSeen = o.Contact.LastSeen
		if o.Failed || seen.After(c.LastSeen) && !seen.After(o.Now) {
			c.LastSeen = seen
		}
	})
	if !o.Stored && t.epoch == o.Mark.epoch && !o.Found.None() && o.Steady && !p.Warnings.anyOfPolls(id) {
		t.settled = o.Found.Over(t.settled)
	} else {
		t.settled = facts.Digest{}
	}
	for _, w := range o.Warnings {
		p.Warnings.repeat(Subject{Kind: w.Kind, ServerID: id}, w.Message, o.At)
	}
}
