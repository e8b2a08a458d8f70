package badgerstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"

	"github.com/cespare/xxhash/v2"
	"github.com/dgraph-io/badger/v4"

	"github.com/opscenter-go/sdk/storage"
)

// group is a number of Updates that are committed together, with one sync.
type group struct {
	writes  map[string]write // what they wrote, on top of the last commit
	size    int
	entries int
	members int
	changes []storage.Change
	done    chan struct{}
	err     error // valid once done is closed

	// appended counts the rows that are appended. It stays within storage.MaxTxAppends, as entries does.
	appended int
}

// write is a pending value of a Badger key.
type write struct {
	value   []byte
	deleted bool
	fresh   bool // the key is that of an appended row: no commit has written it before
	// decoded is what the value says: a row, or the primary key to which an index leads. nil: it is not decoded so far.
	decoded any
	hot     bool // the row cache may have the key: it is one of a hot table, and of no index that several rows share
}

// size is what the write takes on disk.
func (w write) size(key []byte) int64 {
	if w.deleted {
		return 0
	}
	return int64(len(key) + len(w.value))
}

// Update implements storage.Store.
func (s *Store) Update(ctx context.Context, fn func(storage.WriteTx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	joined, err := s.join(ctx, fn)
	if joined == nil {
		return err
	}
	<-joined.done
	if joined.err != nil {
		return joined.err
	}
	return err
}

// join runs fn and adds what it wrote to the open group, which it returns. Where fn wrote
// nothing, or failed, it is the group whose pending writes fn could read: what it found holds
// only if they are committed. The group is committed by the last of those who wait for their turn.
func (s *Store) join(ctx context.Context, fn func(storage.WriteTx) error) (_ *group, err error) {
	s.waiting.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.waiting.Add(-1) == 0
	defer func() {
		if g := s.group; g != nil && (last || g.members >= maxGroup) {
			s.commitGroup()
		}
	}()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	joined, crowded, err := s.run(fn)
	if crowded {
		g := s.group
		if s.commitGroup(); g.err != nil {
			return nil, g.err // fn read what was not committed
		}
		joined, _, err = s.run(fn)
	}
	return joined, err
}

// run runs fn, and adds what it wrote to the open group. crowded: the group has appended so many rows that those of fn have no
// place in its commit. s.mu is held.
func (s *Store) run(fn func(storage.WriteTx) error) (joined *group, crowded bool, err error) {
	if s.failed != nil {
		return nil, false, s.failed
	}
	revision, err := s.beginRead()
	if err != nil {
		return nil, false, err
	}
	defer s.endRead(revision)

	tx := &transaction{store: s, base: s.db.NewTransactionAt(revision, false), revision: revision, layers: []map[string]write{nil, {}}}
	if s.group != nil {
		tx.layers[0], tx.appendedBefore = s.group.writes, s.group.appended
	}
	defer tx.end()
	err = fn(tx)
	if tx.crowded {
		return nil, true, nil
	}
	if err != nil || len(tx.changes)+len(tx.appended) == 0 {
		return s.group, false, err
	}
	if s.group != nil && (s.group.size+tx.stored > maxCommit || s.group.entries+tx.writes > storage.MaxTxWrites) {
		g := s.group
		s.commitGroup()
		if g.err != nil {
			return nil, false, g.err // fn read what was not committed
		}
	}
	g := s.group
	if g == nil {
		g = &group{writes: map[string]write{}, done: make(chan struct{})}
	}
	if err := tx.number(s.state.Revision+1, g.appended); err != nil {
		return nil, false, err
	}
	s.group = g
	g.appended += len(tx.appended)
	maps.Copy(g.writes, tx.own())
	g.changes = append(g.changes, tx.changes...)
	g.size += tx.stored
	g.entries += tx.writes
	g.members++
	return g, false, nil
}

// commitGroup commits the open group and tells its members. s.mu is held.
func (s *Store) commitGroup() {
	g := s.group
	s.group = nil
	g.err = s.commit(g.writes, g.changes)
	if g.err != nil {
		s.refused.Add(1)
	} else {
		s.commits.Add(1)
		s.written.Add(uint64(g.size))
	}
	close(g.done)
}

// Stats implements storage.Measured.
func (s *Store) Stats() storage.Stats {
	out := storage.Stats{Commits: s.commits.Load(), Failed: s.refused.Load(), Written: s.written.Load()}
	out.Watchers, out.WatchLag = s.feed.Readers()
	return out
}

// commit writes one revision. s.mu is held.
func (s *Store) commit(writes map[string]write, changes []storage.Change) error {
	if s.failed != nil {
		return s.failed
	}
	if err := s.checkSpace(); err != nil {
		return err
	}
	next := s.state
	next.Revision++
	bytes := s.account
	txn := s.db.NewTransactionAt(s.state.Revision, true)
	defer txn.Discard()
	for key, w := range writes {
		k := []byte(key)
		old, err := next.replace(txn, k, w)
		if err != nil {
			return readError(err)
		}
		bytes.replaced(old, w.size(k))
		if w.deleted {
			err = txn.Delete(k)
		} else {
			err = txn.SetEntry(badger.NewEntry(k, w.value))
		}
		if err != nil {
			return commitError(err)
		}
	}
	return s.land(txn, next, bytes, writes, changes)
}

// land commits txn, which has writes and leads to next: on disk, in the journal, and then for all to see. s.mu is held.
func (s *Store) land(txn *badger.Txn, next state, bytes account, writes map[string]write, changes []storage.Change) error {
	if err := txn.SetEntry(badger.NewEntry(stateKey, next.encode())); err != nil {
		return commitError(err)
	}
	switch err := txn.CommitAt(next.Revision, nil); {
	case errors.Is(err, badger.ErrBlockedWrites), errors.Is(err, badger.ErrTxnTooBig): // refused before it was written
		return commitError(err)
	case err != nil:
		return s.fail(err)
	}
	if err := s.present(); err != nil {
		return s.fail(err)
	}
	if err := s.journal.acknowledge(next.Revision); err != nil {
		return s.fail(err)
	}
	s.state, s.account = next, bytes
	s.noteGarbage()
	s.rows.committed(writes, next.Revision) // no snapshot shows them so far
	s.feed.Publish(next.Revision, changes, func() { s.revision.Store(next.Revision) })
	s.discard()
	return nil
}

// fail ends writing: what Badger made of a failed commit shows when the store is opened again. Until then
// that commit's outcome is unknown, and later ones are not tried.
func (s *Store) fail(err error) error {
	s.failed = fmt.Errorf("badgerstore: %s: an earlier commit failed, and the store takes no more before it is opened again: %w: %w", s.dir, storage.ErrUnavailable, err)
	return fmt.Errorf("badgerstore: %s: a commit failed, its outcome shows after reopening: %w: %w", s.dir, storage.ErrUnknown, err)
}

func commitError(err error) error {
	switch {
	case errors.Is(err, badger.ErrTxnTooBig):
		err = storage.ErrTooLarge
	case errors.Is(err, badger.ErrBlockedWrites):
		err = fmt.Errorf("%w: %w", storage.ErrUnavailable, err)
	}
	return fmt.Errorf("badgerstore: %w", err)
}

// checkSpace returns ErrDiskFull before a write could run into the end of the disk: Badger
// writes through memory maps, which can't report it.
func (s *Store) checkSpace() error { return s.wantSpace(s.options.MinFree) }

func (s *Store) wantSpace(wanted int64) error {
	if wanted < 0 {
		return nil
	}
	if free := freeSpace(s.dir); free >= 0 && free < wanted {
		return fmt.Errorf("badgerstore: %s has %d bytes left, %d are wanted: %w", s.dir, free, wanted, storage.ErrDiskFull)
	}
	return nil
}

// state is stored with every commit: what must be found when the store is opened again.
type state struct {
	Revision uint64
	// Keys counts the rows and index entries.
	Keys uint64
	// Sum adds up a hash of each key with the revision it was written at: missing
	// entries, and older versions come back to life, change it.
	Sum uint64
}

// replace accounts for a key that is written, or deleted, at s.Revision, and returns what size the row had.
func (s *state) replace(txn *badger.Txn, key []byte, w write) (old int64, err error) {
	if !w.fresh {
		switch item, err := txn.Get(key); {
		case err == nil:
			s.Keys--
			s.Sum -= entrySum(key, item.Version())
			old = itemSize(item)
		case !errors.Is(err, badger.ErrKeyNotFound):
			return 0, err
		}
	}
	if !w.deleted {
		s.Keys++
		s.Sum += entrySum(key, s.Revision)
	}
	return old, nil
}

func entrySum(key []byte, version uint64) uint64 {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.Write(key)
	_, _ = d.Write(binary.BigEndian.AppendUint64(nil, version))
	return d.Sum64()
}

func (s state) encode() []byte {
	out := binary.BigEndian.AppendUint64(nil, s.Revision)
	out = binary.BigEndian.AppendUint64(out, s.Keys)
	return binary.BigEndian.AppendUint64(out, s.Sum)
}

func (s *state) decode(data []byte) error {
	if len(data) != 24 {
		return fmt.Errorf("%w: the state row has %d bytes", storage.ErrCorrupt, len(data))
	}
	s.Revision, s.Keys, s.Sum = binary.BigEndian.Uint64(data), binary.BigEndian.Uint64(data[8:]), binary.BigEndian.Uint64(data[16:])
	return nil
}
