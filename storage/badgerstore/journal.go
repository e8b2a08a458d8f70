package badgerstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/opscenter-go/sdk/internal/durable"
	"github.com/opscenter-go/sdk/storage"
)

// formatVersion is the format that this package writes. An older package refuses a store of a newer format. Raise it when
// an older package would spoil the rows of this one; then upgrade raises it in a store that is opened.
//
//	1  the first one
//	2  logs: an older package would number its events, entries and changes from 1 again
//	3  rows in CBOR: an older package would call them corrupt
const formatVersion = 3

const (
	journalName  = "OPSCENTER"
	journalMagic = "opscenter store\n"
	sector       = 512
)

// journal is a small file beside Badger's own that tells which format the store has, and
// up to which revision commits were acknowledged. Badger forgets the tail of a log that it
// can't read; with the journal that does not go unnoticed.
//
// Three sectors: magic, format version and checksum; then two slots, written in turn, of
// revision and checksum. A torn write leaves the other slot.
type journal struct {
	file *os.File
	info os.FileInfo // of the file, when it was opened
	slot int64       // the one that is synced
	// version is the format of the store.
	version uint32
	// acknowledged is the highest revision in the slots.
	acknowledged uint64

	syncing sync.Mutex  // held during a sync
	mu      sync.Mutex  // of the fields below, of slot and acknowledged
	syncer  *time.Timer // syncs the file; nil: it is synced, or being synced
	writes  uint64
	failed  error // of the last sync
}

// journalDelay is how long the journal may wait for a sync after a commit. The commit itself is synced by Badger. So a loss
// of power costs no row; damage to the last second before it may go unnoticed.
const journalDelay = time.Second

// openJournal opens or creates the journal of a store, and refuses one it doesn't know.
func openJournal(dir string) (*journal, error) {
	path := filepath.Join(dir, journalName)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return createJournal(dir, path)
	}
	if err != nil {
		return nil, fmt.Errorf("badgerstore: %w", err)
	}
	if durable.Lock(file) != nil { // elsewhere Badger's own lock keeps other processes out
		file.Close()
		return nil, lockedError(dir)
	}
	j := &journal{file: file}
	if j.info, err = file.Stat(); err == nil {
		err = j.read()
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("badgerstore: %s: %w", path, err)
	}
	return j, nil
}

// lockedError names the process that Badger noted down, if it did.
func lockedError(dir string) error {
	pid, _ := os.ReadFile(filepath.Join(dir, "LOCK"))
	return fmt.Errorf("badgerstore: %s: %w (pid %s)", dir, storage.ErrLocked, strings.TrimSpace(string(pid)))
}

func createJournal(dir, path string) (*journal, error) {
	if _, err := os.Stat(filepath.Join(dir, badger.ManifestFilename)); err == nil {
		return nil, fmt.Errorf("badgerstore: %s: %w: the directory holds a Badger database without the file %s", dir, storage.ErrCorrupt, journalName)
	}
	// Written aside and renamed, so that it is there whole or not at all.
	temporary, err := os.CreateTemp(dir, journalName+".*")
	if err != nil {
		return nil, fmt.Errorf("badgerstore: %w", err)
	}
	defer os.Remove(temporary.Name())
	data := append(head(), make([]byte, 2*sector)...)
	seal(data[sector : 2*sector])
	seal(data[2*sector:])
	_, err = temporary.Write(data)
	err = errors.Join(err, temporary.Sync())
	if err == nil {
		// Link fails where another process was faster; then its file is as good.
		if err = os.Link(temporary.Name(), path); errors.Is(err, os.ErrExist) {
			err = nil
		}
	}
	if err = errors.Join(err, temporary.Close(), durable.SyncDir(dir)); err != nil {
		return nil, fmt.Errorf("badgerstore: creating %s: %w", path, err)
	}
	return openJournal(dir)
}

// seal puts the checksum of a sector at its end.
func seal(data []byte) {
	binary.BigEndian.PutUint32(data[sector-4:], crc32.ChecksumIEEE(data[:sector-4]))
}

func sealed(data []byte) bool {
	return binary.BigEndian.Uint32(data[sector-4:]) == crc32.ChecksumIEEE(data[:sector-4])
}

func (j *journal) read() error {
	data := make([]byte, 3*sector)
	if _, err := io.ReadFull(j.file, data); err != nil {
		return fmt.Errorf("%w: %v", storage.ErrCorrupt, err)
	}
	first := data[:sector]
	if string(first[:len(journalMagic)]) != journalMagic || !sealed(first) {
		return fmt.Errorf("%w: its head is damaged", storage.ErrCorrupt)
	}
	if j.version = binary.BigEndian.Uint32(first[len(journalMagic):]); j.version > formatVersion {
		return fmt.Errorf("%w: the store has format version %d, this program reads up to %d: use a newer release", storage.ErrFormat, j.version, formatVersion)
	}
	valid := false
	for slot := int64(0); slot < 2; slot++ {
		part := data[(1+slot)*sector:][:sector]
		if !sealed(part) {
			continue
		}
		if revision := binary.BigEndian.Uint64(part); !valid || revision >= j.acknowledged {
			j.acknowledged, j.slot = revision, slot
		}
		valid = true
	}
	if !valid {
		return fmt.Errorf("%w: both revisions in it are damaged", storage.ErrCorrupt)
	}
	return nil
}

// head is the first sector of a journal.
func head() []byte {
	data := make([]byte, sector)
	n := copy(data, journalMagic)
	binary.BigEndian.PutUint32(data[n:], formatVersion)
	seal(data)
	return data
}

// upgrade raises the format of a store that an older package wrote, once the store has opened. Disks write a sector whole.
func (j *journal) upgrade() error {
	if j.version == formatVersion {
		return nil
	}
	if _, err := j.file.WriteAt(head(), 0); err != nil {
		return err
	}
	if err := j.file.Sync(); err != nil {
		return err
	}
	j.version = formatVersion
	return nil
}

// acknowledge records that revision is on disk. The record itself is within journalDelay. It is in the same slot until then: the
// other slot is synced, and outlasts a torn write.
func (j *journal) acknowledge(revision uint64) error {
	data := make([]byte, sector)
	binary.BigEndian.PutUint64(data, revision)
	seal(data)
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := j.file.WriteAt(data, (2-j.slot)*sector); err != nil {
		return err
	}
	j.acknowledged = revision
	j.writes++
	if j.syncer == nil {
		j.syncer = time.AfterFunc(journalDelay, func() { _ = j.sync() })
	}
	return j.failed
}

// sync puts the journal on disk. Commits do not wait for it.
func (j *journal) sync() error {
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.syncer == nil {
		return j.failed
	}
	j.syncer.Stop()
	j.syncer = nil
	before := j.writes
	j.mu.Unlock()
	err := syncData(j.file)
	j.mu.Lock()
	j.failed = err // the next commit fails with it
	if err == nil && j.writes == before {
		j.slot = 1 - j.slot // otherwise a later record in the slot waits for the next sync
	}
	return err
}

// close closes the journal, on disk.
func (j *journal) close() error { return errors.Join(j.sync(), j.file.Close()) }
