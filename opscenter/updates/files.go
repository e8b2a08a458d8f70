package updates

import (
	"context"
	"errors"
	"io"
	"iter"
)

// Files keeps the files of updates, each under the SHA-256 of its bytes. Dir keeps them in a local directory; another
// backend, an object store say, is held to the same behaviour by package filestest. All methods may be called
// concurrently. What is committed is never changed.
type Files interface {
	// Open opens a file for reading; fs.ErrNotExist if it is not there. A reader that is an *os.File is sent by the
	// operating system, without a copy in memory.
	Open(ctx context.Context, sum string) (io.ReadSeekCloser, error)
	// Create begins to write a file, or goes on with what an earlier Partial of it has left. At most one Partial of a
	// file is open at a time.
	Create(ctx context.Context, sum string) (Partial, error)
	// Remove removes a file, and what is there of an unfinished one. Readers that have it open read on. It is no error
	// if there is none.
	Remove(ctx context.Context, sum string) error
	// List yields the files that are whole, in any order.
	List(ctx context.Context) iter.Seq2[FileInfo, error]
	// Unfinished yields those that are not, with the size of what is there.
	Unfinished(ctx context.Context) iter.Seq2[FileInfo, error]
}

// FileInfo is a file that is kept.
type FileInfo struct {
	SHA256 string
	Size   int64
}

// Partial is a file that is being written.
type Partial interface {
	io.Writer
	// Existing copies what an earlier Partial has left to w, and returns how much that is: what is written goes behind
	// it. A backend that can't go on returns 0. It is called once, before the first Write.
	Existing(w io.Writer) (int64, error)
	// Reset throws away what is there.
	Reset() error
	// Commit makes the file whole: from its return on it is on disk, and Open finds it. A crash before that leaves none.
	// The caller has checked its sum.
	Commit() error
	// Close ends the Partial. What was not committed is kept for the next one, as far as the backend can.
	Close() error
}

// Space is a Files that can tell how much room there is. Dir does; it is optional.
type Space interface {
	// Space returns how many bytes can still be written, and how many there are in all.
	Space(ctx context.Context) (free, total int64, err error)
}

// Claimer is a Files that remembers which store its files belong to: files that no update names are removed, and another
// store names none of them. Dir does; it is optional.
type Claimer interface {
	// Claim makes the files those of an owner, whose name it keeps. ErrNotOwner if they are another's.
	Claim(ctx context.Context, owner string) error
}

// ErrNotOwner: the files belong to another store.
var ErrNotOwner = errors.New("the files belong to another store")

// ErrDiskFull: there is too little room for an update.
var ErrDiskFull = errors.New("too little disk space")
