// Package presence keeps the knowledge of a Registry that is in memory only. These are the contacts of polls, the times
// when servers were last seen, and the number of servers of each status. Open warnings and the control plane's suspicion
// of itself are in it, too.
//
// A [Presence] follows the rows of the store: [Presence.Apply] applies changed states and warnings, of any writer. It never
// reads or writes the store itself. The Registry reads the changed rows from the store's Watch, and stores the result of
// [Flush.Take].
//
// A Presence has the contacts, the marks and the counts itself. Handles group the rest, as fields of the Presence:
//
//   - [Guard] tells whether the fleet counts as unreachable. It asks for samples of servers.
//   - [Warnings] counts the causes of open warnings.
//   - [SelfUpdates] limits the self updates of each server.
//   - [Flush] gives out the knowledge that is to be stored, and loads the stored knowledge.
//   - [Local] counts the polls that failed for a reason of the control plane.
//
// All methods, also those of the handles, may be called concurrently. One lock guards all fields of a Presence and of its
// handles. No method waits for anything else.
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

// Presence is the knowledge of a Registry that is in memory only.
type Presence struct {
	// The handles. They have no lock of their own.
	Guard       Guard
	Warnings    Warnings
	SelfUpdates SelfUpdates
	Flush       Flush
	Local       Local

	begun time.Time

	mu     sync.RWMutex
	tracks map[string]*track // by server ID
	names  map[string]string // IDs of servers by name
	counts map[Census]int    // of the tracks
}

// track is the knowledge of one server.
type track struct {
	name      string
	census    Census
	contact   lifecycle.Contact
	unflushed bool   // seen since the last Flush.Take
	epoch     uint32 // grows when the stored state changed
	contacts  uint32 // grows when Change changed the contact
	// settled is the digest of observations that find nothing new. Zero: there is none.
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

// State is the part of a stored state that a Presence needs.
type State struct {
	// ID and Name are the server's.
	ID, Name string
	Census   Census
	// LastSeen as it is stored. It is used for a server that was unknown.
	LastSeen time.Time
}

// StateOf returns the part of a state that a Presence needs.
func StateOf(s *lifecycle.ServerState) State {
	return State{s.ID, s.Name, Census{s.Status, s.StatusDetail, s.Type}, s.LastSeen}
}

// New returns a Presence of no servers.
func New(options Options) *Presence {
	now := time.Now()
	p := &Presence{begun: now, tracks: map[string]*track{}, names: map[string]string{}, counts: map[Census]int{}}
	p.Guard = Guard{p: p, state: guardState{share: options.GuardShare, minimum: options.GuardMinimum, window: options.GuardWindow,
		ready: func() int { return p.count(lifecycle.StatusReady) }}}
	p.Warnings = Warnings{p: p, open: map[Subject]*alarm{}, subjects: map[string]Subject{}}
	p.SelfUpdates = SelfUpdates{p: p, interval: options.SelfUpdateInterval}
	p.Flush = Flush{p: p, taken: now}
	p.Local = Local{p: p}
	return p
}

// Changes are changed rows of the store. They may be applied twice.
type Changes struct {
	// All: these are all rows. Servers and warnings that are not among them were deleted.
	All bool
	// States and Warnings are rows that were written, as they are now.
	States   []State
	Warnings []*warning.Warning
	// GoneStates are the names of servers whose state was deleted, and GoneWarnings the UUIDs of deleted warnings.
	GoneStates   []string
	GoneWarnings []string
}

// Apply applies changed rows. A server whose state was written has no settled observation any more: its next poll is
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
				if p.names[t.name] == id { // else another server has the name by now
					delete(p.names, t.name)
				}
				replaced = append(replaced, id)
			}
		}
	}
	for _, id := range replaced {
		// A server that was renamed meanwhile has another name.
		if t := p.tracks[id]; t != nil && p.names[t.name] != id {
			p.remove(id, t)
		}
	}
	p.Warnings.apply(c)
	p.Guard.endSmall()
}

// IDs returns the IDs of the known servers among some names.
func (p *Presence) IDs(names []string) (out []string) {
	if len(names) == 0 {
		return nil
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, name := range names {
		if id, ok := p.names[name]; ok {
			out = append(out, id)
		}
	}
	return out
}

// add makes a server known.
func (p *Presence) add(s State) *track {
	t := &track{}
	t.contact.LastSeen = s.LastSeen
	p.tracks[s.ID] = t
	p.Flush.buckets[bucketOf(s.ID)].add(s.ID)
	return t
}

func (p *Presence) remove(id string, t *track) {
	p.tally(t.census, -1)
	p.Guard.state.drop(&t.watched)
	p.Guard.state.unsample(&t.watched, p.Elapsed())
	delete(p.tracks, id)
	p.Flush.buckets[bucketOf(id)].remove(id)
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

// Elapsed is the time since the Presence began, by a clock that does not follow the time of day.
func (p *Presence) Elapsed() time.Duration { return time.Since(p.begun) }

// Counts returns the number of servers of each census, and the number of open warnings of each kind.
func (p *Presence) Counts() (servers map[Census]int, warnings map[warning.Kind]int) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	servers, warnings = make(map[Census]int, len(p.counts)), map[warning.Kind]int{}
	for c, n := range p.counts {
		servers[c] = n
	}
	for subject := range p.Warnings.open {
		warnings[subject.Kind]++
	}
	return servers, warnings
}
