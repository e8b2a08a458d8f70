// Package boundedlog keeps the rows of a log within limits: so many of each class, and so many of each owner, so
// that an owner who writes much overwrites nothing but its own.
//
// The rows are the caller's, numbered in the order in which they are written. Nothing here ever looks for the
// oldest row: a store would have to walk over all that were deleted before it.
package boundedlog

import (
	"errors"

	"github.com/opscenter-go/sdk/storage"
)

// Log keeps the rows of one log. Its methods work within a transaction, and may be called concurrently.
type Log struct {
	// remove removes a row, if it is there and of that class, and reports whether it was.
	remove func(tx storage.WriteTx, class string, number uint64) (bool, error)
	counts *storage.Table[count]
	owners *storage.Table[owner]
	places *storage.Table[place]
}

// count is how many rows of a class there are; none of them has a number up to Floor.
type count struct {
	Class       string
	Kept, Floor uint64
}

// owner is how many rows one has written.
type owner struct {
	Name    string
	Written uint64
}

// place is where an owner's row has its number; the places of an owner are a ring.
type place struct {
	Owner         string
	Place, Number uint64
}

// New returns a Log whose tables' names begin with name.
func New(name string, remove func(tx storage.WriteTx, class string, number uint64) (bool, error)) *Log {
	return &Log{
		remove: remove,
		counts: storage.NewTable(name+"_counts", func(c *count) storage.Key { return storage.StringKey(c.Class) }),
		owners: storage.NewTable(name+"_owners", func(o *owner) storage.Key { return storage.StringKey(o.Name) }),
		places: storage.NewTable(name+"_places", func(p *place) storage.Key { return storage.StringKey(p.Owner).Uint(p.Place) }),
	}
}

// Schemas are those of the tables.
func (l *Log) Schemas() []*storage.TableSchema {
	return []*storage.TableSchema{l.counts.Schema(), l.owners.Schema(), l.places.Schema()}
}

// step is how many numbers one call passes, at the most, in search of rows to remove.
const step = 64

// Limits of a row: how many there may be of its class, and how many its owner may have. An Owner that is empty
// has no share of its own.
type Limits struct {
	Class string
	Max   uint64
	Owner string
	Share uint64
}

// Added takes note of a row that was written, and removes what it is one too many of.
func (l *Log) Added(tx storage.WriteTx, number uint64, limits Limits) error {
	c, err := l.count(tx, limits.Class)
	if err != nil {
		return err
	}
	c.Kept++
	if limits.Owner != "" && limits.Share > 0 {
		old, err := l.push(tx, limits.Owner, limits.Share, number)
		if err == nil && old > 0 {
			err = l.take(tx, &c, old)
		}
		if err != nil {
			return err
		}
	}
	if _, err := l.shrink(tx, &c, limits.Max, number, step); err != nil {
		return err
	}
	return l.counts.Put(tx, &c)
}

func (l *Log) count(tx storage.ReadTx, class string) (count, error) {
	found, err := l.counts.Find(tx, storage.StringKey(class))
	if err != nil || found == nil {
		return count{Class: class}, err
	}
	return *found, nil
}

// push puts a number into the ring of an owner, and returns the one whose place it takes; 0: none's.
func (l *Log) push(tx storage.WriteTx, name string, share, number uint64) (old uint64, err error) {
	next := owner{Name: name}
	known, err := l.owners.Find(tx, storage.StringKey(name))
	if err != nil {
		return 0, err
	}
	if known != nil {
		next.Written = known.Written
	}
	at := place{Owner: name, Place: next.Written % share, Number: number}
	taken, err := l.places.Find(tx, storage.StringKey(name).Uint(at.Place))
	if err != nil {
		return 0, err
	}
	if taken != nil {
		old = taken.Number
	}
	next.Written++
	return old, errors.Join(l.places.Put(tx, &at), l.owners.Put(tx, &next))
}

func (l *Log) take(tx storage.WriteTx, c *count, number uint64) error {
	removed, err := l.remove(tx, c.Class, number)
	if removed && c.Kept > 0 {
		c.Kept--
	}
	return err
}

// shrink removes the oldest rows of a class while there are too many; more: there are, still.
func (l *Log) shrink(tx storage.WriteTx, c *count, limit, last uint64, steps int) (more bool, err error) {
	for ; c.Kept > limit && c.Floor < last; steps-- {
		if steps == 0 {
			return true, nil
		}
		c.Floor++
		if err := l.take(tx, c, c.Floor); err != nil {
			return false, err
		}
	}
	return false, nil
}

// Removed takes note that rows of a class were removed by the caller.
func (l *Log) Removed(tx storage.WriteTx, class string, n uint64) error {
	c, err := l.count(tx, class)
	if err != nil {
		return err
	}
	c.Kept -= min(n, c.Kept)
	return l.counts.Put(tx, &c)
}

// Counted reports whether it is known how many rows of a class there are: of a log that was written by an earlier
// release it isn't, until Recount.
func (l *Log) Counted(tx storage.ReadTx, class string) (bool, error) {
	found, err := l.counts.Find(tx, storage.StringKey(class))
	return found != nil, err
}

// Recount stores how many rows of a class there are, and the number below the first of them.
func (l *Log) Recount(tx storage.WriteTx, class string, kept, floor uint64) error {
	return l.counts.Put(tx, &count{Class: class, Kept: kept, Floor: floor})
}

// Shrink removes some of what is over a limit that was lowered since it was written; more: there is more. last is
// the number of the newest row.
func (l *Log) Shrink(tx storage.WriteTx, class string, limit, last uint64) (more bool, err error) {
	c, err := l.count(tx, class)
	if err != nil || c.Kept <= limit {
		return false, err
	}
	if more, err = l.shrink(tx, &c, limit, last, 8*step); err != nil {
		return false, err
	}
	return more, l.counts.Put(tx, &c)
}

// Forget removes what is known of an owner's share; its rows stay. more: there is more to be removed, in another
// transaction.
func (l *Log) Forget(tx storage.WriteTx, name string) (more bool, err error) {
	var all []storage.Key
	for p, err := range l.places.Scan(tx, storage.Range{Prefix: storage.StringKey(name)}) {
		if err != nil {
			return false, err
		}
		if len(all) == 8*step {
			more = true
			break
		}
		all = append(all, storage.StringKey(name).Uint(p.Place))
	}
	for _, key := range all {
		if err := l.places.Delete(tx, key); err != nil {
			return false, err
		}
	}
	if err := l.owners.Delete(tx, storage.StringKey(name)); err != nil && !errors.Is(err, storage.ErrNotFound) {
		return false, err
	}
	return more, nil
}
