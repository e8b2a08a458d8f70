package updates

import (
	"context"
	"errors"
	"io"
	"iter"
)

// Files stores the files of updates, each under the SHA-256 of its bytes. Dir stores them in a local directory. Package
// filestest tests other implementations, for instance an object store. All methods may be called concurrently. A committed
// file never changes.
type Files interface {
	// Open opens a file for reading. It returns fs.ErrNotExist if the file is not stored. The operating system sends a
	// reader that is an *os.File without a copy in memory.
	Open(ctx context.Context, sum string) (io.ReadSeekCloser, error)
	// Create begins to write a file, or resumes the file that an earlier Partial left. The caller opens at most one
	// Partial of a file at a time.
	Create(ctx context.Context, sum string) (Partial, error)
	// Remove removes a complete or incomplete file. Readers that have it open can still read it. Removing a missing file
	// is no error.
	Remove(ctx context.Context, sum string) error
	// List yields the complete files, in any order.
	List(ctx context.Context) iter.Seq2[FileInfo, error]
	// Unfinished yields the incomplete files, with their present sizes, in any order.
	Unfinished(ctx context.Context) iter.Seq2[FileInfo, error]
}

// FileInfo describes a stored file.
type FileInfo struct {
	// SHA256 of the complete file, as 64 lower-case hexadecimal digits.
	SHA256 string
	// Size is the number of stored bytes.
	Size int64
}

// Partial is a file being written.
type Partial interface {
	io.Writer
	// Existing copies the bytes that an earlier Partial left to w, and returns their number. Later writes append to them.
	// A backend that can't resume returns 0. The caller calls Existing once, before the first Write.
	Existing(w io.Writer) (int64, error)
	// Reset removes all bytes written so far.
	Reset() error
	// Commit completes the file. When Commit returns, the file is on disk and Open finds it. After an earlier crash, Open
	// does not find it. The caller checks the sum before it calls Commit.
	Commit() error
	// Close ends the Partial. If the backend can, it keeps uncommitted bytes for the next Partial.
	Close() error
}

// Space is an optional interface of a Files that can report its free space. Dir implements it.
type Space interface {
	// Space returns the number of bytes that can still be written, and the total capacity in bytes. It returns
	// errors.ErrUnsupported if it does not know them.
	Space(ctx context.Context) (free, total int64, err error)
}

// Claimer is an optional interface of a Files that remembers which store owns its files. Dir implements it. It prevents a
// loss: the Manager removes files that its store does not list, which are all files of another store.
type Claimer interface {
	// Claim records the owner of the files. It returns ErrNotOwner if another owner is recorded.
	Claim(ctx context.Context, owner string) error
}

// ErrNotOwner: the files belong to another store.
var ErrNotOwner = errors.New("the files belong to another store")

// ErrDiskFull: an update needs more free space than there is beyond Options.Reserve.
var ErrDiskFull = errors.New("too little disk space")
