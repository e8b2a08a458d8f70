package presence

import "time"

// Seen is the rows of a bucket, to be stored together.
type Seen struct {
	// Members is nil if the stored row is right.
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

// Unflushed is knowledge that was not stored so far.
type Unflushed struct {
	Seen     []Seen
	Warnings []Repeated
}

// FlushDue reports whether the last Take is so long ago.
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

// Take returns what was not stored so far. It counts as stored from then on. Return gives back what could not be stored.
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

// Return gives back what Take returned and could not be stored. It is taken again by the next Take.
func (p *Presence) Return(left Unflushed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, seen := range left.Seen {
		p.again(seen.Times.Bucket)
	}
	for _, w := range left.Warnings {
		a := p.open[p.subjects[w.UUID]]
		if a == nil || a.uuid != w.UUID {
			continue // cleared meanwhile
		}
		a.count += w.Count
		if !a.unflushed {
			a.unflushed = true
			p.pending++
		}
	}
}
