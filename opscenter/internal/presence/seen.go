package presence

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"
)

// The time when a server was last seen changes with every poll. Rows of their own keep these times for many servers each.
// One row lists the members, and is written when servers are added and removed. Another has about three bytes for each
// member: a flush writes only that one.

// Buckets is over how many rows the servers spread.
const Buckets = 256

func bucketOf(id string) int { return int(xxhash.Sum64String(id) % Buckets) }

// bucket is the members of a row.
type bucket struct {
	ids       []string
	version   uint64 // of the stored members
	changed   bool   // since they were stored
	unflushed bool
}

func (b *bucket) add(id string) {
	b.ids = append(b.ids, id)
	b.changed = true
}

func (b *bucket) remove(id string) {
	if i := slices.Index(b.ids, id); i >= 0 {
		b.ids[i] = b.ids[len(b.ids)-1]
		b.ids = b.ids[:len(b.ids)-1]
		b.changed = true
	}
}

// Members is a row that names the servers of a bucket, in the order of Times.
type Members struct {
	Bucket  uint64
	Version uint64
	IDs     []string
}

// Times is a row with the times when the members of a bucket were last seen. Each age is the milliseconds before Newest,
// plus one. 0: never. It is valid only with the Members of its Version.
type Times struct {
	Bucket  uint64
	Version uint64
	Newest  time.Time
	Ages    []byte // uvarints
}

// LoadSeen loads the stored rows of a bucket, once, after the states were applied. times is nil if there are none.
func (f *Flush) LoadSeen(members *Members, times *Times) {
	f.p.mu.Lock()
	defer f.p.mu.Unlock()
	if members.Bucket >= Buckets {
		return
	}
	f.buckets[members.Bucket].version = members.Version
	if times == nil || times.Version != members.Version {
		return
	}
	ages := times.Ages
	for _, id := range members.IDs {
		age, n := binary.Uvarint(ages)
		if n <= 0 {
			break
		}
		ages = ages[n:]
		if t := f.p.tracks[id]; t != nil && age > 0 {
			if at := times.Newest.Add(-time.Duration(age-1) * time.Millisecond); at.After(t.contact.LastSeen) {
				t.contact.LastSeen = at // the state row may have a newer time
			}
		}
	}
}

// add marks a server for the next Take.
func (f *Flush) add(id string, t *track) {
	if !t.unflushed {
		t.unflushed = true
		f.buckets[bucketOf(id)].unflushed = true
	}
}

// rows returns the rows of a bucket. members is nil if the stored ones are right.
func (f *Flush) rows(number uint64) (members *Members, times *Times) {
	b := &f.buckets[number]
	if b.changed {
		b.version = versionOf(b.ids)
		b.changed = false
		members = &Members{Bucket: number, Version: b.version, IDs: slices.Clone(b.ids)}
	}
	times = &Times{Bucket: number, Version: b.version}
	for _, id := range b.ids {
		if seen := f.p.tracks[id].contact.LastSeen; seen.After(times.Newest) {
			times.Newest = seen
		}
	}
	for _, id := range b.ids {
		t := f.p.tracks[id]
		age := uint64(0)
		if !t.contact.LastSeen.IsZero() {
			age = uint64(times.Newest.Sub(t.contact.LastSeen).Milliseconds()) + 1
		}
		times.Ages = binary.AppendUvarint(times.Ages, age)
		t.unflushed = false
	}
	b.unflushed = false
	return members, times
}

// versionOf is a hash of the members in their order. Two Registries that write the rows of a bucket never give one version
// to different members.
func versionOf(ids []string) uint64 {
	var h xxhash.Digest
	h.Reset()
	for _, id := range ids {
		_, _ = h.WriteString(id)
		_, _ = h.Write([]byte{0})
	}
	return h.Sum64()
}

// again marks a bucket for the next Take.
func (f *Flush) again(number uint64) {
	b := &f.buckets[number]
	b.changed = true // the rows may have been stored or not: a new version is right in both cases
	for _, id := range b.ids {
		f.add(id, f.p.tracks[id])
	}
}
