package badgerstore

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"

	"github.com/opscenter-go/sdk/storage"
)

// closeRoom is how much room the file system must have for Badger to be closed: it writes its tables in memory then,
// through memory maps, and the process would die of it where the disk is full.
const closeRoom = 4 * memTableSize

// present returns an error unless the files of the store are where they were: what is written to files that were
// removed is acknowledged into nothing.
func (s *Store) present() error {
	path := filepath.Join(s.dir, journalName)
	there, err := os.Stat(path)
	if err == nil && !os.SameFile(there, s.journal.info) {
		return fmt.Errorf("badgerstore: %s is another file than when the store was opened: %w", path, storage.ErrCorrupt)
	}
	if err == nil {
		_, err = os.Stat(filepath.Join(s.dir, badger.ManifestFilename))
	}
	if err != nil {
		return fmt.Errorf("badgerstore: the store was removed while it was open: %w", err)
	}
	return nil
}

// closeable says why Badger can't be closed; nil: it can. All that was acknowledged is in its logs either way.
func (s *Store) closeable() error {
	if err := s.present(); err != nil {
		return err
	}
	if s.options.MinFree < 0 {
		return nil
	}
	return s.wantSpace(min(closeRoom, s.options.MinFree/2))
}
