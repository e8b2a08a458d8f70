package presence

import "time"

// Seen is the rows of a bucket, to be stored together.
type Seen struct {
	// Members is nil if the stored row is still right.
	Members *Members
	Times   *Times
}

// Flush is the handle for the knowledge that is to be stored.
type Flush struct {
	p       *Presence
	buckets [Buckets]bucket // of when servers were last seen
	taken   time.Time       // when Take was last called
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

// Due reports whether the last Take was at least interval ago.
func (f *Flush) Due(interval time.Duration) bool {
	f.p.mu.RLock()
	defer f.p.mu.RUnlock()
	return time.Since(f.taken) >= interval
}

// Take returns the knowledge that is not stored yet. It counts as stored from then on. The caller gives it back with
// Return if it could not be stored.
func (f *Flush) Take() (out Unflushed) {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	f.taken = time.Now()
	for number := range uint64(Buckets) {
		if f.buckets[number].unflushed {
			var seen Seen
			seen.Members, seen.Times = f.rows(number)
			out.Seen = append(out.Seen, seen)
		}
	}
	for _, a := range f.p.Warnings.open {
		if a.unflushed {
			out.Warnings = append(out.Warnings, Repeated{a.uuid, a.count, a.last, a.message})
			a.unflushed, a.count = false, 0
		}
	}
	return out
}

// Return takes back a result of Take that could not be stored. The next Take returns it again.
func (f *Flush) Return(left Unflushed) {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	for _, seen := range left.Seen {
		f.again(seen.Times.Bucket)
	}
	for _, w := range left.Warnings {
		a := f.p.Warnings.open[f.p.Warnings.subjects[w.UUID]]
		if a == nil || a.uuid != w.UUID {
			continue // it was cleared meanwhile
		}
		a.count += w.Count
		a.unflushed = true
	}
}
