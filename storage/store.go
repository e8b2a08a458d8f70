// Package storage is the contract between the domain and the place where it keeps its rows.
//
// Rows are Go structs. Generics live at the edge, in [Table] and [Index]; a backend sees
// one untyped [TableSchema] and derives everything from it. Two backends come with the SDK,
// memstore (go-memdb) and badgerstore (Badger); package storetest holds every backend to the
// same behaviour, and may be run by backends of your own.
//
// A table declared with [NewTable] names its rows by their contents. A log, declared with [NewLog], names them
// by the commit that appended them, so that they order as they were committed and no counter is needed.
//
// Several stores may stand over one engine, as those of several controllers do. An Update is serializable over
// all of them; a View of one store shows the commits of the others as they arrive, and [Synced] waits for
// them. An Update then may fail with [ErrUnavailable] or [ErrUnknown].
package storage

import (
	"context"
	"fmt"
	"iter"
)

// Limits that every backend keeps, so that what fits into one fits into all. A backend may have other
// limits for one Update: see [LimitsOf].
const (
	// MaxKeySize bounds an encoded key, in bytes.
	MaxKeySize = 4 << 10
	// MaxRowSize bounds an encoded row, in bytes.
	MaxRowSize = 1 << 20
	// MaxTxSize bounds what one Update may write, in bytes of encoded keys and rows.
	MaxTxSize = 4 << 20
	// MaxTxWrites bounds how many rows and index entries one Update may write or delete.
	MaxTxWrites = 40_000
)

// Store is a transactional store of rows. All methods may be called concurrently.
type Store interface {
	// Attach makes tables known, before their first use. It is idempotent. A table whose
	// indexes changed since the rows were written has them rebuilt. ErrSchema if another
	// table of that name is attached already, ErrExists if a new unique index does not hold for the rows.
	//
	// Each store over an engine may attach a definition of its own, as two releases do. A store that
	// does not know a unique index of another store can read the table. Its writes return ErrSchema.
	Attach(ctx context.Context, tables ...*TableSchema) error

	// View runs fn on one snapshot. Rows are shared between readers: read, never modify
	// (Table.Modify is the way to change one). The transaction ends when fn returns. No writer
	// ever waits for a View, and fn may call Update, whose effects it does not see. fn must not call Close.
	//
	// The snapshot shows all Updates of this Store that have returned. It shows those of other stores
	// over the same engine as they arrive; see [Synced].
	View(ctx context.Context, fn func(ReadTx) error) error

	// Update runs fn in an atomic, serializable transaction: when Update returns nil, all
	// that fn wrote is visible to every View of this Store and, on a durable backend, on disk; on an error,
	// of fn or of the store, nothing is. The exception is ErrUnknown: the transaction may have been
	// committed, or may not. ErrUnavailable: it was not, and the caller may try again.
	//
	// fn may be run many times, also on a snapshot that turns out to be old. Only the writes and the
	// error of the last run count. Of a run whose outcome is not kept, nothing may
	// leave fn: it must have no effects outside tx that it does not reset at its start.
	//
	// fn must not call the store's own methods. A context that ends before fn is run
	// ends Update with its error; once fn has run, the outcome is waited for.
	Update(ctx context.Context, fn func(WriteTx) error) error

	// Watch yields what was committed after revision since, in commit order: the keys
	// that changed in the named tables (all, if none is named). Several commits are merged
	// into one Batch for a reader that is slower than the writers; no writer ever waits for
	// a reader. A first or later Batch may have Reset set: the store can't tell what changed
	// since, and everything must be read again. The sequence ends with ctx's error, or ErrClosed.
	// With a ctx that has ended, it still yields the first Batch of earlier commits, if there is any: a
	// reader catches up so without waiting.
	Watch(ctx context.Context, since uint64, tables ...string) iter.Seq2[Batch, error]

	// Close waits for the transactions under way, and ends the store. What was acknowledged
	// is kept by a durable backend. Later calls return ErrClosed; closing again is no error.
	Close() error
}

// Stats is what a store has done since it was opened.
type Stats struct {
	// Commits that changed something; Updates that are committed together count once.
	Commits uint64
	// Failed is how many commits the store refused or could not carry out.
	Failed uint64
	// Written is the size of the rows and keys in those commits, in bytes, as far as the store
	// knows it; 0: it doesn't.
	Written uint64
	// Watchers is how many Watches there are, and WatchLag how many revisions the slowest of
	// them is behind.
	Watchers int
	WatchLag uint64
}

// Measured is a Store that counts. Both backends of the SDK do; it is optional.
type Measured interface {
	Stats() Stats
}

// Synced is a Store that can catch up with the other stores over its engine. Both backends of the
// SDK implement it; it is optional.
type Synced interface {
	// Sync returns once every later View shows all that any store over the same engine had committed
	// when Sync was called. For the only store over its engine it returns at once. Errors: those of
	// ctx, ErrClosed, and ErrUnavailable if the engine can't be reached.
	Sync(ctx context.Context) error
}

// Limits are those of one Update.
type Limits struct {
	// MaxTxWrites bounds how many rows and index entries it may write or delete.
	MaxTxWrites int
	// MaxTxSize bounds the encoded keys and rows that it may write, in bytes.
	MaxTxSize int
}

// Rows returns how many of the wanted rows one Update may write or delete, where each row takes up to perRow writes: itself
// and its index entries. It is 1 at least.
func (l Limits) Rows(wanted, perRow int) int { return max(1, min(wanted, l.MaxTxWrites/perRow)) }

// Limited is a Store whose limits differ from MaxTxWrites and MaxTxSize. It is optional; see [LimitsOf].
type Limited interface {
	Limits() Limits
}

// LimitsOf returns the limits of a store: MaxTxWrites and MaxTxSize, unless the store tells others.
// A limit of 0 or less that a store tells is the default, too.
func LimitsOf(store Store) Limits {
	out := Limits{MaxTxWrites: MaxTxWrites, MaxTxSize: MaxTxSize}
	limited, ok := store.(Limited)
	if !ok {
		return out
	}
	told := limited.Limits()
	if told.MaxTxWrites > 0 {
		out.MaxTxWrites = told.MaxTxWrites
	}
	if told.MaxTxSize > 0 {
		out.MaxTxSize = told.MaxTxSize
	}
	return out
}

// ReadTx reads one snapshot. It must not be used by several goroutines at once, nor after its function returned.
type ReadTx interface {
	// Revision is the store's revision this snapshot shows: it grows, by any step, with every commit
	// that changed something. For a durable backend it goes on after reopening. All stores over one
	// engine count the same revisions.
	Revision() uint64

	// Get returns the row that key leads to in ix, which must be the primary or a unique
	// index. ErrNotFound if there is none.
	Get(ix *IndexSchema, key Key) (any, error)

	// Scan yields the rows of ix in the order of their entries, as they were when the
	// scan began: what the same transaction writes meanwhile is not seen by it.
	Scan(ix *IndexSchema, r Range) iter.Seq2[any, error]

	// Keys yields the primary keys of the rows that Scan yields, in the same order. It decodes no row, so
	// it costs less, and damaged rows go unnoticed. The caller may keep the keys.
	Keys(ix *IndexSchema, r Range) iter.Seq2[Key, error]
}

// WriteTx reads its own writes, except rows that it appends.
type WriteTx interface {
	ReadTx

	// Put stores row under its primary key, replacing the one there, and moves its index
	// entries. ErrExists if another row has a key of a unique index; the transaction
	// can go on then. The store keeps no reference to row. In a log, Put replaces rows that were
	// appended: ErrNotFound for a number that was not given yet.
	Put(t *TableSchema, row any) error

	// Append stores row in a log, see [NewLog], under a number that the store gives when it commits.
	// Rows order by number as their commits do, and in one commit as Append was called. Append reads
	// nothing, so Updates that append never conflict over it.
	//
	// Neither Get nor Scan of this transaction finds the row: its number is known after the commit.
	// A Batch of Watch names it behind the other rows of the transaction. The store keeps no reference
	// to row and does not modify it. ErrSchema if t is no log.
	Append(t *TableSchema, row any) error

	// Delete removes the row with that primary key. ErrNotFound if there is none.
	Delete(t *TableSchema, key Key) error
}

// Range selects entries of an index. The zero value selects all, in ascending order.
type Range struct {
	// Prefix selects the entries that begin with it.
	Prefix Key
	// After selects the entries beyond it in the direction of the scan, exclusive. It need
	// not be the key of an entry. The Position of the last Entry of a page is the After of the next.
	After Key
	// Reverse scans in descending order.
	Reverse bool
}

// Batch is what changed between two revisions.
type Batch struct {
	// Revision up to which this batch tells all; the since to go on from.
	Revision uint64
	// Reset tells that changes may have been missed: read everything again.
	Reset bool
	// Changes in the order in which the keys last changed, each key once.
	Changes []Change
}

// Change names a row that was written or deleted. Read it to know which.
type Change struct {
	Table string
	Key   Key
}

// Bounds returns where a scan of r begins and ends among sorted entries: from is the first
// possible entry (inclusive), to the first beyond (exclusive), nil for none. After is taken
// into account on the side where the scan begins.
func (r Range) Bounds() (from, to Key) {
	from, to = r.Prefix, r.Prefix.after()
	if r.After == nil {
		return from, to
	}
	if !r.Reverse {
		if next := append(r.After.Clone(), 0); next.Compare(from) > 0 {
			from = next
		}
		return from, to
	}
	if to == nil || r.After.Compare(to) < 0 {
		to = r.After
	}
	return from, to
}

// Contains reports whether a scan of r may yield the entry at position p.
func (r Range) Contains(p Key) bool {
	if !p.HasPrefix(r.Prefix) {
		return false
	}
	if r.After == nil {
		return true
	}
	if r.Reverse {
		return p.Compare(r.After) < 0
	}
	return p.Compare(r.After) > 0
}

// CheckKey returns ErrTooLarge for a key over MaxKeySize.
func CheckKey(key Key) error {
	if len(key) > MaxKeySize {
		return fmt.Errorf("key of %d bytes, at most %d are allowed: %w", len(key), MaxKeySize, ErrTooLarge)
	}
	return nil
}
