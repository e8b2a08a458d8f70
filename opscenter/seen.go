package opscenter

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/opscenter-go/sdk/storage"
)

// When servers were last seen changes with every poll. It is stored apart from all else, for
// many servers in a row: a list of members, which is written when servers come and go, and
// three bytes or so for each of them, which are all that a flush writes.

// seenBuckets is over how many rows the servers spread.
const seenBuckets = 256

func bucketOf(id string) int { return int(xxhash.Sum64String(id) % seenBuckets) }

// seenBucket is the memory of a row.
type seenBucket struct {
	ids       []string
	version   uint64 // of the stored members
	changed   bool   // since they were stored
	unflushed bool
}

func (b *seenBucket) add(id string) {
	b.ids = append(b.ids, id)
	b.changed = true
}

func (b *seenBucket) remove(id string) {
	if i := slices.Index(b.ids, id); i >= 0 {
		b.ids[i] = b.ids[len(b.ids)-1]
		b.ids = b.ids[:len(b.ids)-1]
		b.changed = true
	}
}

// seenMembers names the servers of a bucket, in the order of seenTimes.
type seenMembers struct {
	Bucket  uint64
	Version uint64
	IDs     []string
}

// seenTimes is when they were last seen: for each, how many milliseconds before Newest, plus
// one; 0: never. It counts only together with the members of its version.
type seenTimes struct {
	Bucket  uint64
	Version uint64
	Newest  time.Time
	Ages    []byte // uvarints
}

func (m *memory) loadSeen(tx storage.ReadTx) error {
	for members, err := range seenMembersTable.Scan(tx, storage.Range{}) {
		if err != nil {
			return err
		}
		if members.Bucket >= seenBuckets {
			continue
		}
		b := &m.buckets[members.Bucket]
		b.version = members.Version
		times, err := seenTimesTable.Find(tx, storage.UintKey(members.Bucket))
		if err != nil {
			return err
		}
		if times == nil || times.Version != members.Version {
			continue
		}
		ages := times.Ages
		for _, id := range members.IDs {
			age, n := binary.Uvarint(ages)
			if n <= 0 {
				break
			}
			ages = ages[n:]
			if t := m.tracks[id]; t != nil && age > 0 {
				if at := times.Newest.Add(-time.Duration(age-1) * time.Millisecond); at.After(t.contact.LastSeen) {
					t.contact.LastSeen = at // what is in the state row may be newer
				}
			}
		}
	}
	return nil
}

// rows returns what is to be stored of a bucket.
func (m *memory) rows(bucket uint64) (members *seenMembers, times *seenTimes) {
	b := &m.buckets[bucket]
	if b.changed {
		b.version++
		b.changed = false
		members = &seenMembers{Bucket: bucket, Version: b.version, IDs: slices.Clone(b.ids)}
	}
	times = &seenTimes{Bucket: bucket, Version: b.version}
	for _, id := range b.ids {
		if seen := m.tracks[id].contact.LastSeen; seen.After(times.Newest) {
			times.Newest = seen
		}
	}
	for _, id := range b.ids {
		t := m.tracks[id]
		age := uint64(0)
		if !t.contact.LastSeen.IsZero() {
			age = uint64(times.Newest.Sub(t.contact.LastSeen).Milliseconds()) + 1
		}
		times.Ages = binary.AppendUvarint(times.Ages, age)
		if t.unflushed {
			t.unflushed = false
			m.pending--
		}
	}
	b.unflushed = false
	return members, times
}

// again makes a bucket whose rows could not be stored due once more.
func (m *memory) again(bucket uint64) {
	b := &m.buckets[bucket]
	b.changed = true // whether they were stored is not known: a new version is right either way
	for _, id := range b.ids {
		m.toFlush(id, m.tracks[id])
	}
}

// flushStep is how many buckets one transaction of a flush writes.
const flushStep = 64

// flushSize is how many bytes it writes, but for the last bucket.
const flushSize = 1 << 20

func (r *Registry) flushSeen(ctx context.Context) error {
	m := &r.memory
	m.mu.Lock()
	m.flushed = time.Now()
	m.mu.Unlock()
	for bucket := uint64(0); bucket < seenBuckets; {
		var members []*seenMembers
		var times []*seenTimes
		m.mu.Lock()
		for size := 0; bucket < seenBuckets && len(times) < flushStep && size < flushSize; bucket++ {
			if !m.buckets[bucket].unflushed {
				continue
			}
			who, when := m.rows(bucket)
			if who != nil {
				members = append(members, who)
				size += 50 * len(who.IDs)
			}
			times = append(times, when)
			size += 2 * len(when.Ages)
		}
		m.mu.Unlock()
		if len(times) == 0 {
			continue
		}
		err := r.store.Update(ctx, func(tx storage.WriteTx) error {
			for _, row := range members {
				if err := seenMembersTable.Put(tx, row); err != nil {
					return err
				}
			}
			for _, row := range times {
				if err := seenTimesTable.Put(tx, row); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			m.mu.Lock()
			for _, row := range times {
				m.again(row.Bucket)
			}
			m.mu.Unlock()
			return fmt.Errorf("storing when servers were last seen: %w", err)
		}
	}
	return nil
}
