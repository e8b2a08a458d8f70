package badgerstore

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Badger gives back the room of a value that was replaced only once a compaction has come across its key, and
// compactions come with many keys: a few large rows that are written again and again, as the facts of servers, grow on
// disk without end. So the store counts itself what was replaced, and when that is more than there is, it has the
// tables in memory written, all of them compacted, and then the value log collected.

// reclaimAfter is how many bytes must have been replaced or removed, beyond as many as there are, for the store to
// reclaim their room. With what Badger needs for itself, the directory stays below three times what is in it and 256 MiB.
var reclaimAfter int64 = 16 << 20

// reclaimGap is the least time between two times of reclaiming.
var reclaimGap = 5 * time.Second

// collectRatio is what share of a file of the value log must be garbage for the rest to be written anew.
const collectRatio = 0.5

// markerPrefix is that of a key which is there only to be dropped: Badger writes its tables in memory then.
var markerPrefix = []byte{metaSpace, 'z'}

// account is of the bytes in Badger.
type account struct {
	live, dead int64
}

func (a *account) replaced(old, written int64) {
	a.live += written - old
	a.dead += old
}

func (a *account) due() bool { return a.dead > max(0, a.live)+reclaimAfter }

// itemSize is what a row takes, its value in the value log included, as write.size counts it.
func itemSize(item *badger.Item) int64 { return item.KeySize() + item.ValueSize() }

// logSize is how many bytes the value log takes, but for the file that is written to, which is larger than what is in it.
func logSize(dir string) (n int64) {
	paths, _ := filepath.Glob(filepath.Join(dir, "*.vlog")) // sorted
	for i, path := range paths {
		if info, err := os.Stat(path); err == nil && i < len(paths)-1 {
			n += info.Size()
		}
	}
	return n
}

// collect reclaims the room of what was replaced, at open, when there is much of it, and from time to time.
func (s *Store) collect() {
	defer close(s.stopped)
	ticker := time.NewTicker(s.options.GCInterval)
	defer ticker.Stop()
	for {
		s.collectLog()
		select {
		case <-s.stop:
			return
		case <-ticker.C:
		case <-s.garbage:
			if !s.reclaim() {
				return
			}
		}
	}
}

// collectLog collects the value log as long as that gives back anything.
func (s *Store) collectLog() {
	for s.collectOne() == nil {
		select {
		case <-s.stop:
			return
		default:
		}
	}
}

func (s *Store) collectOne() error {
	if collectAlone {
		s.mu.Lock()
		defer s.mu.Unlock()
	}
	return s.db.RunValueLogGC(collectRatio)
}

// reclaim makes the garbage known to Badger, for its value log to be collected. It returns false when the store is
// being closed.
func (s *Store) reclaim() bool {
	begun := time.Now()
	s.mu.Lock()
	before := s.account
	err := s.flush()
	if err == nil {
		s.account.dead = 0
	}
	s.mu.Unlock()
	if err == nil {
		err = s.db.Flatten(1)
	}
	if err != nil {
		s.options.Logger.Warn("the room of replaced rows could not be reclaimed, which is tried again", "error", err)
	} else {
		s.collectLog()
		s.options.Logger.Info("the room of replaced rows is reclaimed", "live_bytes", before.live, "replaced_bytes", before.dead, "took", time.Since(begun))
	}
	select {
	case <-s.stop:
		return false
	case <-time.After(reclaimGap):
		return true
	}
}

// flush has the tables in memory written. s.mu is held, as Badger refuses all other writes meanwhile.
func (s *Store) flush() error {
	if s.failed != nil {
		return s.failed
	}
	if err := s.checkSpace(); err != nil {
		return err
	}
	txn := s.db.NewTransactionAt(s.state.Revision, true)
	defer txn.Discard()
	if err := txn.Set(markerPrefix, nil); err != nil {
		return err
	}
	if err := txn.CommitAt(max(1, s.state.Revision), nil); err != nil {
		return s.fail(err)
	}
	if err := s.db.DropPrefix(markerPrefix); err != nil && !errors.Is(err, badger.ErrBlockedWrites) {
		return s.fail(err)
	}
	return nil
}

// noteGarbage wakes the collector when there is enough to do. s.mu is held.
func (s *Store) noteGarbage() {
	if !s.account.due() {
		return
	}
	select {
	case s.garbage <- struct{}{}:
	default:
	}
}
