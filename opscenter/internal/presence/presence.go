// Package presence holds what a Registry knows of servers in memory only: the contacts that polls have made, when servers
// were last seen, how many servers there are of each status, which warnings are open, and whether the control plane
// suspects itself.
//
// A [Presence] follows the rows of the store: [Presence.Apply] takes in which states and warnings changed, whoever wrote
// them. It never reads or writes the store itself. The Registry reads the changed rows from the store's Watch, and
// stores what [Presence.Take] returns.
//
// All methods may be called concurrently. One lock guards all of it; no method blocks.
package presence

import (
	"sync"
	"time"

	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// Options of New. All are required.
type Options struct {
	// GuardShare, GuardMinimum and GuardWindow are those of opscenter.Options.
	GuardShare   float64
	GuardMinimum int
	GuardWindow  time.Duration
	// SelfUpdateInterval is that of opscenter.Options.
	SelfUpdateInterval time.Duration
}

// Presence is the memory of a Registry.
type Presence struct {
	options Options
	begun   time.Time

	mu       sync.RWMutex
	tracks   map[string]*track // by server ID
	names    map[string]string // IDs of servers by name
	counts   map[Census]int    // of the tracks
	buckets  [Buckets]bucket   // of when servers were last seen
	open     map[Subject]*alarm
	subjects map[string]Subject // of the open warnings, by UUID
	guard    guard
	local    localTrouble
	taken    time.Time // when Take was last called
	pending  int       // things that Take would return
}

// track is what is known of one server.
type track struct {
	name      string
	census    Census
	contact   lifecycle.Contact
	unflushed bool   // seen since the last Take
	epoch     uint32 // grows when the stored state changed
	contacts  uint32 // grows when something else than a poll changed the contact
	// settled is the digest of observations that find nothing new; zero: there is none.
	settled     facts.Digest
	watched     watched // by the guard
	selfUpdates selfUpdateRate
}

// Census is the values that servers are counted by.
type Census struct {
	Status lifecycle.Status
	Detail lifecycle.StatusDetail
	Type   lifecycle.ServerType
}

// State is what a Presence needs to know of a stored state.
type State struct {
	// ID and Name are the server's.
	ID, Name string
	Census   Census
	// LastSeen as it is stored. It counts for a server that was not known.
	LastSeen time.Time
}

// StateOf returns what a Presence needs to know of a state.
func StateOf(s *lifecycle.ServerState) State {
	return State{s.ID, s.Name, Census{s.Status, s.StatusDetail, s.Type}, s.LastSeen}
}

// Subject identifies a warning: there is at most one of each kind about a server.
type Subject struct {
	Kind warning.Kind
	// ServerID is empty for a warning about the fleet.
	ServerID string
}

// New returns a Presence of no servers.
func New(options Options) *Presence {
	now := time.Now()
	p := &Presence{options: options, begun: now, taken: now, tracks: map[string]*track{}, names: map[string]string{},
		counts: map[Census]int{}, open: map[Subject]*alarm{}, subjects: map[string]Subject{}}
	p.guard = guard{share: options.GuardShare, minimum: options.GuardMinimum, window: options.GuardWindow, ready: func() int { return p.count(lifecycle.StatusReady) }}
	return p
}

// Changes are rows of the store that changed. Applying the same rows twice is harmless.
type Changes struct {
	// All: the rows are all there are. What is not among them is gone.
	All bool
	// States and Warnings are rows that were written, as they are now.
	States   []State
	Warnings []*warning.Warning
	// GoneStates are the names of servers whose state was deleted, and GoneWarnings the UUIDs of deleted warnings.
	GoneStates   []string
	GoneWarnings []string
}

// Apply takes in changed rows. A server whose state was written has no settled observation any more: the next poll is
// compared with the store.
func (p *Presence) Apply(c Changes) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var replaced []string
	for _, s := range c.States {
		if id, ok := p.names[s.Name]; ok && id != s.ID {
			replaced = append(replaced, id)
		}
		t := p.tracks[s.ID]
		if t == nil {
			t = p.add(s)
		} else {
			t.epoch++
			t.settled = facts.Digest{}
			p.tally(t.census, -1)
			if t.name != s.Name && p.names[t.name] == s.ID {
				delete(p.names, t.name)
			}
		}
		t.name, t.census = s.Name, s.Census
		p.names[s.Name] = s.ID
		p.tally(t.census, 1)
	}
	for _, name := range c.GoneStates {
		if id, ok := p.names[name]; ok {
			replaced = append(replaced, id)
			delete(p.names, name)
		}
	}
	if c.All {
		known := make(map[string]bool, len(c.States))
		for _, s := range c.States {
			known[s.ID] = true
		}
		for id, t := range p.tracks {
			if !known[id] {
				delete(p.names, t.name)
				replaced = append(replaced, id)
			}
		}
	}
	for _, id := range replaced {
		// A server that was renamed meanwhile has another name by now.
		if t := p.tracks[id]; t != nil && p.names[t.name] != id {
			p.remove(id, t)
		}
	}
	p.applyWarnings(c)
	p.endSmall()
}

// add makes a server known.
func (p *Presence) add(s State) *track {
	t := &track{}
	t.contact.LastSeen = s.LastSeen
	p.tracks[s.ID] = t
	p.buckets[bucketOf(s.ID)].add(s.ID)
	return t
}

func (p *Presence) remove(id string, t *track) {
	p.tally(t.census, -1)
	p.guard.drop(&t.watched)
	p.guard.unsample(&t.watched, p.elapsed())
	if t.unflushed {
		p.pending--
	}
	delete(p.tracks, id)
	p.buckets[bucketOf(id)].remove(id)
}

func (p *Presence) tally(c Census, n int) {
	if p.counts[c] += n; p.counts[c] == 0 {
		delete(p.counts, c)
	}
}

// count returns how many servers have a status.
func (p *Presence) count(status lifecycle.Status) (n int) {
	for c, some := range p.counts {
		if c.Status == status {
			n += some
		}
	}
	return n
}

// elapsed is a clock that a change of the time of day leaves alone.
func (p *Presence) elapsed() time.Duration { return time.Since(p.begun) }

// Elapsed is how long there is a Presence, by a clock that a change of the time of day leaves alone.
func (p *Presence) Elapsed() time.Duration { return p.elapsed() }

// Counts returns how many servers there are of each census, and how many open warnings of each kind.
func (p *Presence) Counts() (servers map[Census]int, warnings map[warning.Kind]int) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	servers, warnings = make(map[Census]int, len(p.counts)), map[warning.Kind]int{}
	for c, n := range p.counts {
		servers[c] = n
	}
	for subject := range p.open {
		warnings[subject.Kind]++
	}
	return servers, warnings
}
