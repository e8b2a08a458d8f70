package badgerstore

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"github.com/opscenter-go/sdk/internal/durable"
	"github.com/opscenter-go/sdk/storage"
)

// A backup is a line, a header as JSON on a line, entries, and the SHA-256 of all before it. An entry
// is the length of its key plus one, the key, the revision it was written at, and its value: the
// length plus one and the bytes; 0 stands for the value of the backup before. A key of length plus one
// 0 ends them. Numbers are those of encoding/binary's Uvarint. Keys are in ascending order, all that
// the store has at that revision: so what is missing was deleted.
const backupMagic = "opscenter backup 3\n"

// earlierMagics begin the backups of stores of earlier formats. They have the same form. An earlier release must refuse a
// backup with rows that it would not understand: see formatVersion.
var earlierMagics = []string{"opscenter backup 1\n", "opscenter backup 2\n"}

// Bounds of what is believed of a backup.
const (
	maxBackupHeader = 4 << 10
	maxBackupKey    = 64 << 10
	maxBackupValue  = 256 << 20
)

type backupHeader struct {
	// Revision of the store, Since of the backup that this one goes on from; 0: it is whole.
	Revision uint64 `json:"revision"`
	Since    uint64 `json:"since"`
}

// Backup writes what the store holds to w, as it is at one revision, while the store goes on. since is
// the revision of an earlier backup of this store: rows that are as they were then are not repeated;
// 0: all rows are written. It returns the revision, for the next backup. See [Restore].
//
// Rows hold what the program keeps: tokens, and secrets if it keeps them. Guard a backup as the store.
//
// Errors: storage.ErrClosed, storage.ErrCorrupt for a row that can't be read, ErrNoBackup for a since
// that is later than the store, and those of ctx and w.
func (s *Store) Backup(ctx context.Context, w io.Writer, since uint64) (revision uint64, err error) {
	if revision, err = s.beginRead(); err != nil {
		return 0, err
	}
	defer s.endRead(revision)
	if since > revision {
		return 0, fmt.Errorf("badgerstore: the store is at revision %d, the earlier backup at %d: %w", revision, since, ErrNoBackup)
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			revision, err = 0, fmt.Errorf("badgerstore: %s: %w: %v", s.dir, storage.ErrCorrupt, r)
		}
	}()
	out := &backupWriter{w: bufio.NewWriterSize(w, 1<<20), sum: sha256.New()}
	header, err := json.Marshal(backupHeader{revision, since})
	if err != nil {
		return 0, err
	}
	out.write([]byte(backupMagic), header, []byte("\n"))
	txn := s.db.NewTransactionAt(revision, false)
	defer txn.Discard()
	options := badger.DefaultIteratorOptions
	options.PrefetchValues = false
	it := txn.NewIterator(options)
	defer it.Close()
	n := 0
	for it.Rewind(); it.Valid(); it.Next() {
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return 0, ctx.Err()
		}
		item := it.Item()
		out.uint(uint64(len(item.Key())) + 1)
		out.write(item.Key())
		out.uint(item.Version())
		if item.Version() <= since {
			out.uint(0)
			continue
		}
		err := item.Value(func(value []byte) error {
			out.uint(uint64(len(value)) + 1)
			out.write(value)
			return out.err
		})
		if out.err != nil {
			return 0, out.err
		}
		if err != nil {
			return 0, fmt.Errorf("badgerstore: %s: %w: %v", s.dir, storage.ErrCorrupt, err)
		}
	}
	out.uint(0)
	out.write(out.sum.Sum(nil))
	if out.err == nil {
		out.err = out.w.Flush()
	}
	if out.err != nil {
		return 0, out.err
	}
	return revision, ctx.Err()
}

// ErrNoBackup: what was to be restored is no backup, or not the one that follows.
var ErrNoBackup = errors.New("not a backup that can be used here")

// backupWriter writes, and sums up, until the first error.
type backupWriter struct {
	w   *bufio.Writer
	sum hash.Hash
	err error
}

func (b *backupWriter) write(parts ...[]byte) {
	for _, data := range parts {
		if b.err == nil {
			_, _ = b.sum.Write(data)
			_, b.err = b.w.Write(data)
		}
	}
}

func (b *backupWriter) uint(n uint64) { b.write(binary.AppendUvarint(nil, n)) }

// Restore makes a store in dir out of a backup, and of those that were made since, in their order.
// dir must be empty, or not be there. The store is made beside it, verified as [Open] does, and moved
// into its place: when Restore fails, dir is as it was.
//
// Errors: fs.ErrExist if dir is not empty; ErrNoBackup for what is no backup, or does not go on from
// the one before; storage.ErrFormat for one of a newer release; storage.ErrCorrupt for one that is
// damaged or cut off; storage.ErrDiskFull before the last DefaultMinFree bytes are written; those of
// ctx, of the readers and of the file system.
func Restore(ctx context.Context, dir string, backups ...io.Reader) error {
	if len(backups) == 0 {
		return fmt.Errorf("badgerstore: none is given: %w", ErrNoBackup)
	}
	dir = filepath.Clean(dir)
	switch entries, err := os.ReadDir(dir); {
	case err == nil && len(entries) > 0:
		return fmt.Errorf("badgerstore: %s is not empty: %w", dir, fs.ErrExist)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("badgerstore: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("badgerstore: %w", err)
	}
	made, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".restore.*")
	if err != nil {
		return fmt.Errorf("badgerstore: %w", err)
	}
	defer os.RemoveAll(made)
	revision, err := restoreInto(ctx, made, backups)
	if err != nil {
		return err
	}
	j, err := openJournal(made)
	if err != nil {
		return err
	}
	err = errors.Join(j.acknowledge(revision), j.close())
	if err != nil {
		return fmt.Errorf("badgerstore: %w", err)
	}
	store, err := Open(made, Options{MinFree: -1})
	if err != nil {
		return fmt.Errorf("badgerstore: the backup of revision %d is not whole: %w", revision, err)
	}
	if err := store.Close(); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("badgerstore: %w", err)
	}
	if err := errors.Join(os.Rename(made, dir), durable.SyncDir(filepath.Dir(dir))); err != nil {
		return fmt.Errorf("badgerstore: %w", err)
	}
	return nil
}

// restoreInto writes backups into an empty directory, and returns the revision of the last.
func restoreInto(ctx context.Context, dir string, backups []io.Reader) (revision uint64, err error) {
	j, err := openJournal(dir) // before Badger's files: a directory with those alone is refused
	if err != nil {
		return 0, err
	}
	defer j.close()
	db, err := open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for i, r := range backups {
		in := &backupReader{r: bufio.NewReaderSize(r, 1<<20), sum: sha256.New()}
		header, err := in.header()
		switch {
		case err != nil:
			return 0, fmt.Errorf("badgerstore: backup %d: %w", i+1, err)
		case i == 0 && header.Since != 0:
			return 0, fmt.Errorf("badgerstore: the first backup goes on from revision %d, and is not whole: %w", header.Since, ErrNoBackup)
		case i > 0 && header.Since != revision:
			return 0, fmt.Errorf("badgerstore: backup %d goes on from revision %d, the one before is of %d: %w", i+1, header.Since, revision, ErrNoBackup)
		}
		if err := in.entries(ctx, db, dir, header); err != nil {
			return 0, fmt.Errorf("badgerstore: backup %d: %w", i+1, err)
		}
		revision = header.Revision
	}
	return revision, nil
}

// backupReader reads, and sums up.
type backupReader struct {
	r   *bufio.Reader
	sum hash.Hash
}

// ReadByte is for binary.ReadUvarint.
func (b *backupReader) ReadByte() (byte, error) {
	c, err := b.r.ReadByte()
	if err == nil {
		_, _ = b.sum.Write([]byte{c})
	}
	return c, cutOff(err)
}

// cutOff names an end that comes too early.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the backup is cut off", storage.ErrCorrupt)
	}
	return err
}

func (b *backupReader) uint() (uint64, error) {
	n, err := binary.ReadUvarint(b)
	if err != nil && err.Error() == "binary: varint overflows a 64-bit integer" {
		err = storage.ErrCorrupt
	}
	return n, err
}

// bytes reads that many, of which there is room for no more than have come.
func (b *backupReader) bytes(n, limit uint64) ([]byte, error) {
	if n > limit {
		return nil, fmt.Errorf("%w: a length of %d bytes, at most %d are possible", storage.ErrCorrupt, n, limit)
	}
	var out bytes.Buffer
	if _, err := io.CopyN(&out, b.r, int64(n)); err != nil {
		return nil, cutOff(err)
	}
	_, _ = b.sum.Write(out.Bytes())
	return out.Bytes(), nil
}

func (b *backupReader) header() (out backupHeader, err error) {
	magic, err := b.bytes(uint64(len(backupMagic)), maxBackupHeader)
	if err != nil || !bytes.HasPrefix(magic, []byte("opscenter backup ")) {
		return out, ErrNoBackup
	}
	if string(magic) != backupMagic && !slices.Contains(earlierMagics, string(magic)) {
		return out, fmt.Errorf("%w: %q, this release reads %q", storage.ErrFormat, bytes.TrimSpace(magic), backupMagic[:len(backupMagic)-1])
	}
	var line []byte
	for len(line) < maxBackupHeader {
		c, err := b.ReadByte()
		if err != nil {
			return out, err
		}
		if c == '\n' {
			break
		}
		line = append(line, c)
	}
	if err := json.Unmarshal(line, &out); err != nil || out.Since > out.Revision {
		return out, fmt.Errorf("%w: its header can't be read", storage.ErrCorrupt)
	}
	return out, nil
}

// entries writes the entries of a backup over what is in the database, and deletes what it has not.
func (b *backupReader) entries(ctx context.Context, db *badger.DB, dir string, header backupHeader) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", storage.ErrCorrupt, r)
		}
	}()
	txn := db.NewTransactionAt(math.MaxUint64, false) // what the backups before have brought
	defer txn.Discard()
	options := badger.DefaultIteratorOptions
	options.PrefetchValues = false
	have := txn.NewIterator(options)
	defer have.Close()
	have.Rewind()
	batch := db.NewManagedWriteBatch()
	defer batch.Cancel()
	var last []byte
	unchecked := math.MaxInt // bytes
	for n := 1; ; n++ {
		if unchecked > DefaultMinFree/16 {
			if free := freeSpace(dir); free >= 0 && free < DefaultMinFree { // Badger can't report the end of the disk
				return fmt.Errorf("%s has %d bytes left, %d are wanted: %w", dir, free, DefaultMinFree, storage.ErrDiskFull)
			}
			unchecked = 0
		}
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		length, err := b.uint()
		if err != nil {
			return err
		}
		var key []byte
		if length > 0 {
			if key, err = b.bytes(length-1, maxBackupKey); err != nil {
				return err
			}
			if len(key) == 0 || last != nil && bytes.Compare(key, last) <= 0 {
				return fmt.Errorf("%w: its keys are not in order", storage.ErrCorrupt)
			}
			last = key
		}
		for ; have.Valid() && (key == nil || bytes.Compare(have.Item().Key(), key) < 0); have.Next() {
			if err := batch.DeleteAt(have.Item().KeyCopy(nil), header.Revision); err != nil {
				return err
			}
		}
		if key == nil {
			break
		}
		version, err := b.uint()
		if err != nil {
			return err
		}
		if length, err = b.uint(); err != nil {
			return err
		}
		there := have.Valid() && bytes.Equal(have.Item().Key(), key)
		switch {
		case version == 0 || version > header.Revision || (length == 0) != (version <= header.Since):
			return fmt.Errorf("%w: an entry of revision %d", storage.ErrCorrupt, version)
		case length == 0 && !(there && have.Item().Version() == version):
			return fmt.Errorf("%w: the backup before has not the row that this one leaves out", storage.ErrCorrupt)
		case length > 0:
			value, err := b.bytes(length-1, maxBackupValue)
			if err != nil {
				return err
			}
			unchecked += len(key) + len(value)
			if err := batch.SetEntryAt(badger.NewEntry(key, value), version); err != nil {
				return err
			}
		}
		if there {
			have.Next()
		}
	}
	want := b.sum.Sum(nil)
	sum := make([]byte, len(want))
	if _, err := io.ReadFull(b.r, sum); err != nil {
		return cutOff(err)
	}
	if !bytes.Equal(sum, want) {
		return fmt.Errorf("%w: its checksum is another one", storage.ErrCorrupt)
	}
	if _, err := b.r.ReadByte(); err != io.EOF {
		return fmt.Errorf("%w: something follows its end", storage.ErrCorrupt)
	}
	return batch.Flush()
}
