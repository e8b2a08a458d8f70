package opscenter

import (
	"context"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// memory is what a Registry keeps out of the store, because it changes with every poll, or
// because it would have to be counted again and again.
type memory struct {
	mu      sync.RWMutex
	tracks  map[string]*track         // by server ID
	counts  map[census]int            // of the stored states
	buckets [seenBuckets]seenBucket   // of when servers were last seen
	open    map[warningSubject]*alarm // the warnings there are
	// While transactions are under way, whose outcome is heard of in any order: servers that
	// were removed, and the number of the transaction that cleared a warning.
	underway int
	ghosts   map[string]bool
	cleared  map[warningSubject]uint64
	guard    guard
	local    localTrouble
	flushed  time.Time
	pending  int // things to flush
	begun    time.Time
}

// track is what is known in memory of one server.
type track struct {
	contact   lifecycle.Contact
	unflushed bool   // seen since the last flush
	epoch     uint32 // grows when the stored state was written
	contacts  uint32 // grows when something else than a poll changed the contact
	// settled is the digest of observations that find nothing new; zero: there is none.
	settled     facts.Digest
	watched     watched // by the guard
	selfUpdates selfUpdateRate
}

// census is what servers are counted by.
type census struct {
	Status lifecycle.Status
	Detail lifecycle.StatusDetail
	Type   lifecycle.ServerType
}

func censusOf(s *lifecycle.ServerState) census {
	if s == nil {
		return census{}
	}
	return census{s.Status, s.StatusDetail, s.Type}
}

// load reads what the memory begins with.
func (m *memory) load(tx storage.ReadTx) error {
	for state, err := range states.Scan(tx, storage.Range{}) {
		if err != nil {
			return err
		}
		m.counts[censusOf(state)]++
		m.add(state.ID).contact.LastSeen = state.LastSeen
	}
	if err := m.loadSeen(tx); err != nil {
		return err
	}
	if err := m.loadWarnings(tx); err != nil {
		return err
	}
	m.endSmall()
	return nil
}

// Refresh makes the servers known that another Registry over the same store has registered:
// what polls find of a server that is not known counts for nothing. Who takes over from
// another controller calls it; package rollout does.
func (r *Registry) Refresh(ctx context.Context) error {
	m := &r.memory
	return r.store.View(ctx, func(tx storage.ReadTx) error {
		for state, err := range states.Scan(tx, storage.Range{}) {
			if err != nil {
				return err
			}
			m.mu.Lock()
			if m.tracks[state.ID] == nil && !m.ghosts[state.ID] {
				m.tally(censusOf(state), 1)
				m.add(state.ID).contact.LastSeen = state.LastSeen
			}
			m.mu.Unlock()
		}
		return nil
	})
}

// add makes a server known.
func (m *memory) add(id string) *track {
	t := &track{}
	m.tracks[id] = t
	m.buckets[bucketOf(id)].add(id)
	return t
}

// committed takes in what a transaction wrote. Transactions may come out of order; counts
// are sums, and each server is added and removed once.
func (m *memory) committed(w *writing) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range w.states {
		if c.before != (census{}) {
			m.tally(c.before, -1)
		}
		if c.after != (census{}) {
			m.tally(c.after, 1)
		}
		t := m.tracks[c.id]
		switch {
		case c.after == (census{}) && t == nil:
			m.ghosts[c.id] = true
		case c.after == (census{}):
			m.remove(c.id, t)
		case t == nil && (m.ghosts[c.id] || c.before != (census{})):
			// Removed meanwhile; or made in a transaction that will be heard of later.
		case t == nil:
			m.add(c.id)
		default:
			t.epoch++
			t.settled = facts.Digest{}
		}
	}
	m.warned(w)
}

// begin and end frame a transaction.
func (m *memory) begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.underway++
}

func (m *memory) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.underway--; m.underway == 0 {
		clear(m.ghosts)
		clear(m.cleared)
	}
}

func (m *memory) tally(c census, n int) {
	if m.counts[c] += n; m.counts[c] == 0 {
		delete(m.counts, c)
	}
}

func (m *memory) remove(id string, t *track) {
	m.guard.drop(&t.watched)
	m.guard.unsample(&t.watched, m.elapsed())
	m.endSmall()
	if t.unflushed {
		m.pending--
	}
	delete(m.tracks, id)
	m.buckets[bucketOf(id)].remove(id)
}

// mark notes how new is what is known of the servers of some observations.
func (m *memory) mark(list []observed) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for i := range list {
		if t := m.tracks[list[i].ID]; t != nil {
			list[i].epoch, list[i].contacts = t.epoch, t.contacts
		}
	}
}

// change changes what is known of the polls of a server, unless it was removed.
func (m *memory) change(id string, change func(*lifecycle.Contact)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.tracks[id]; t != nil {
		t.settled = facts.Digest{}
		t.contacts++
		m.see(id, t, change)
	}
}

// see changes a contact, and notes when the server was seen.
func (m *memory) see(id string, t *track, change func(*lifecycle.Contact)) {
	before := t.contact.LastSeen
	change(&t.contact)
	if !t.contact.LastSeen.Equal(before) {
		m.toFlush(id, t)
	}
}

func (m *memory) toFlush(id string, t *track) {
	if !t.unflushed {
		t.unflushed = true
		m.buckets[bucketOf(id)].unflushed = true
		m.pending++
	}
}

// elapsed is a clock that no change of the time of day moves.
func (m *memory) elapsed() time.Duration { return time.Since(m.begun) }

// Counts tells how many servers there are of each status, detail and type.
func (r *Registry) Counts() []ServerCount {
	m := &r.memory
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]ServerCount, 0, len(m.counts))
	for c, n := range m.counts {
		out = append(out, ServerCount{Status: c.Status, StatusDetail: c.Detail, Type: c.Type, Count: n})
	}
	return out
}

// ServerCount is how many servers have a status, a detail and a type.
type ServerCount struct {
	Status       lifecycle.Status
	StatusDetail lifecycle.StatusDetail
	Type         lifecycle.ServerType
	Count        int
}

// contact returns a copy of what is known of the polls of a server.
func (r *Registry) contact(id string) lifecycle.Contact {
	m := &r.memory
	m.mu.RLock()
	defer m.mu.RUnlock()
	if t := m.tracks[id]; t != nil {
		return t.contact
	}
	return lifecycle.Contact{}
}

// setContact changes what is known of the polls of a server.
func (r *Registry) setContact(id string, change func(*lifecycle.Contact)) {
	r.memory.change(id, change)
}

// seen notes that a server was in touch.
func (r *Registry) seen(id string, at time.Time) {
	r.setContact(id, func(c *lifecycle.Contact) { c.LastSeen = at })
}

// Flush stores what is only in memory: when servers were last seen, and how often there was
// cause for each warning. The Registry does so itself, every Options.LastSeenInterval while
// observations come in, and at Close.
func (r *Registry) Flush(ctx context.Context) error {
	select { // one at a time
	case r.flushing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-r.flushing }()
	if err := r.flushSeen(ctx); err != nil {
		return err
	}
	return r.flushWarnings(ctx)
}

// flushDue reports whether it is time for a flush.
func (r *Registry) flushDue() bool {
	m := &r.memory
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.pending > 0 && time.Since(m.flushed) >= r.options.LastSeenInterval
}
