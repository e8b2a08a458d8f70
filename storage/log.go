package storage

import "fmt"

// The number of an appended row is its commit's revision, shifted by logIndexBits, plus the row's place
// among all rows that the commit appends. So it grows in commit order, and no row that counts is
// read or written for it. An engine that knows a commit's revision only afterwards makes the number then.
//
// Numbers that programs gave by a counter row before there were logs stay valid, and order before
// all new ones. Such a counter grew by at most MaxTxWrites in each commit, and the store's revision by at
// least 1: the counter is below MaxTxWrites * revision, which is below LogNumber(revision, 0).
//
// JavaScript reads whole numbers up to 2^53 exactly, which leaves 37 bits for the revision: 1.3e11
// commits, 43 years at 100 commits a second. The number itself has room for 2^48 commits.
const logIndexBits = 16

// MaxTxAppends bounds how many rows one commit may append, over all logs. MaxTxWrites is lower, so one
// Update never reaches it; a backend that commits several Updates together keeps their sum within it.
const MaxTxAppends = 1 << logIndexBits

const _ = uint(MaxTxAppends - MaxTxWrites) // which the argument about counters above rests on, too

// LogNumber returns the number of the row at place index, from 0, among those that the commit of revision appended.
func LogNumber(revision uint64, index int) uint64 { return revision<<logIndexBits | uint64(index) }

// logSchema is the part of a schema that only logs have.
type logSchema struct {
	number func(row any) *uint64
	// clone returns a shallow copy of a row.
	clone func(row any) any
}

// NewLog declares a table whose rows get their primary key, a number, from the store: see [Table.Append].
// Numbers grow in commit order, with gaps, and are never used twice. They stay below 2^53, which
// JavaScript reads exactly, for the first 1.3e11 commits of a store. A reader that goes on after the greatest
// number it has seen misses no row.
//
// number returns the field that holds the number. The field must be part of T itself and of its JSON form. A table
// that kept numbers of its own counter in that field, under UintKey, can become a log: its rows order before all new ones.
//
// A store that takes over the rows of another one must begin at a revision that is no lower, so that its
// numbers go on from theirs. A log has no unique index.
func NewLog[T any](name string, number func(*T) *uint64) *Table[T] {
	t := NewTable(name, func(row *T) Key { return UintKey(*number(row)) })
	var one T
	*number(&one) = 1
	two := one
	if *number(&two) = 2; *number(&one) != 1 {
		panic(fmt.Sprintf("storage: two rows of log %s share one number: it is not part of the row", name))
	}
	if data, err := t.schema.encode(&two); err == nil {
		if stored, err := t.schema.decode(data); err == nil && *number(stored.(*T)) != 2 {
			panic(fmt.Sprintf("storage: the number of log %s is not part of the row's JSON form", name))
		}
	}
	t.schema.log = &logSchema{
		number: func(row any) *uint64 { return number(row.(*T)) },
		clone:  func(row any) any { out := *row.(*T); return &out },
	}
	return t
}

// IsLog reports whether rows of the table are appended; see [NewLog].
func (t *TableSchema) IsLog() bool { return t.log != nil }

// WithKey returns a shallow copy of row with the key of a row that is appended: for backends. index is the
// row's place among all that the commit of revision appends, from 0. ErrSchema if the table is no log,
// ErrTooLarge for an index beyond MaxTxAppends.
func (t *TableSchema) WithKey(row any, revision uint64, index int) (any, error) {
	if t.log == nil {
		return nil, &Error{Table: t.Name, Err: fmt.Errorf("only a log is appended to: %w", ErrSchema)}
	}
	if index >= MaxTxAppends {
		return nil, &Error{Table: t.Name, Err: fmt.Errorf("more than %d rows are appended together: %w", MaxTxAppends, ErrTooLarge)}
	}
	out := t.log.clone(row)
	*t.log.number(out) = LogNumber(revision, index)
	return out, nil
}

// CheckPut returns ErrNotFound for a row of a log whose number no commit up to revision has given: for backends,
// which call it before each Put. Any row of another table is right.
func (t *TableSchema) CheckPut(row any, revision uint64) error {
	if t.log == nil {
		return nil
	}
	if n := *t.log.number(row); n == 0 || n >= LogNumber(revision+1, 0) {
		return t.Primary.Wrap(UintKey(n), fmt.Errorf("a log gives its rows their numbers, and has not given this one: %w", ErrNotFound))
	}
	return nil
}
