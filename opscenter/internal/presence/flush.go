package presence

import "time"

// Seen is the rows of a bucket, to be stored together.
type Seen struct {
	// Members is nil if the stored row is still right.
	Members *Members
	Times   *Times
}

// Repeated is how often an open warning had cause since the last Take.
type Repeated struct {
	UUID    string
	Count   int
	Last    time.Time
	Message string
}

// Unflushed is knowledge that is not stored yet.
type Unflushed struct {
	Seen     []Seen
	Warnings []Repeated
}

// FlushDue reports whether the last Take was at least interval ago.
func (p *Presence) FlushDue(interval time.Duration) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return time.Since(p.taken) >= interval
}

// Pending reports whether Take would return anything.
func (p *Presence) Pending() bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.pending > 0
}

// Take returns the knowledge that is not stored yet. It counts as stored from then on. The caller gives it back with
// Return if it could not be stored.
func (p *Presence) Take() (out Unflushed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken = time.Now()
	for number := range uint64(Buckets) {
		if p.buckets[number].unflushed {
			var seen Seen
			seen.Members, seen.Times = p.rows(number)
			out.Seen = append(out.Seen, seen)
		}
	}
	for _, a := range p.open {
		if a.unflushed {
			out.Warnings = append(out.Warnings, Repeated{a.uuid, a.count, a.last, a.message})
			a.unflushed, a.count = false, 0
			p.pending--
		}
	}
	return out
}

// Return takes back a result of Take that could not be stored. The next Take returns it again.
func (p *Presence) Return(left Unflushed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, seen := range left.Seen {
		p.again(seen.Times.Bucket)
	}
	for _, w := range left.Warnings {
		a := p.open[p.subjects[w.UUID]]
		if a == nil || a.uuid != w.UUID {
			continue // it was cleared meanwhile
		}
		a.count += w.Count
		if !a.unflushed {
			a.unflushed = true
			p.pending++
		}
	}
}
