package storage

import (
	"errors"
	"fmt"
)

// Sentinel errors. Backends wrap them with the name of the table and the key, see [Error].
var (
	// ErrNotFound: no row has that key.
	ErrNotFound = errors.New("not found")
	// ErrExists: another row holds that key of a unique index.
	ErrExists = errors.New("already exists")
	// ErrConflict: the row differs from the one that the caller expects.
	ErrConflict = errors.New("conflict")
	// ErrTooLarge: a key, a row or a transaction is over its limit.
	ErrTooLarge = errors.New("too large")
	// ErrEncoding: a row has no stored form, or would not come back as it is: a string in it is not
	// valid UTF-8, or a time is beyond the year 9999.
	ErrEncoding = errors.New("can't be encoded, or is not valid UTF-8")
	// ErrClosed: the store is closed.
	ErrClosed = errors.New("store is closed")
	// ErrCorrupt: stored data was damaged.
	ErrCorrupt = errors.New("store is corrupt")
	// ErrMutated: a row that was handed out for reading was modified by the reader.
	ErrMutated = errors.New("a stored row was modified in place")
	// ErrSchema: a table is not attached, or was attached with another definition.
	ErrSchema = errors.New("schema mismatch")
	// ErrReadOnly: a write was attempted outside [Store.Update].
	ErrReadOnly = errors.New("transaction is over or read-only")
	// ErrDiskFull: the file system has too little space left to accept a write safely.
	ErrDiskFull = errors.New("disk is full")
	// ErrUnavailable: nothing was committed, because the engine can't be reached or takes no commits
	// at present. The caller may try again.
	ErrUnavailable = errors.New("store is unavailable")
	// ErrUnknown: the Update may have been committed, or may not. The store settles it before its next
	// commit; a store that refuses all commits from then on settles it when it is opened again.
	ErrUnknown = errors.New("outcome of the commit is unknown")
	// ErrLocked: another process has the store open.
	ErrLocked = errors.New("store is in use by another process")
	// ErrFormat: the store was written by a version this one can't read.
	ErrFormat = errors.New("unsupported store format")
)

// Error tells which table, index and key a sentinel error is about.
type Error struct {
	Table string
	Index string // empty: the primary key
	Key   Key
	Err   error
}

// Error implements error. Keys are shown in the readable form of [Key.String].
func (e *Error) Error() string {
	name := e.Table
	if e.Index != "" {
		name += "." + e.Index
	}
	if e.Key == nil {
		return fmt.Sprintf("table %s: %v", name, e.Err)
	}
	return fmt.Sprintf("table %s: %s: %v", name, e.Key, e.Err)
}

// Unwrap returns the sentinel.
func (e *Error) Unwrap() error { return e.Err }
