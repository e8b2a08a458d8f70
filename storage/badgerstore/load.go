package badgerstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime/debug"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"github.com/opscenter-go/sdk/storage"
)

// Keys in Badger begin with what they are for.
const (
	metaSpace  = 'm' // m state, m schema <table>
	rowSpace   = 'r' // r <table> <primary key> → row
	indexSpace = 'x' // x <table> <index> <position> → primary key
)

var stateKey = []byte{metaSpace, 's'}

func schemaKey(t *storage.TableSchema) []byte {
	return append([]byte{metaSpace, 't'}, storage.StringKey(t.Name)...)
}

func rowPrefix(t *storage.TableSchema) []byte {
	return append([]byte{rowSpace}, storage.StringKey(t.Name)...)
}

func indexPrefix(ix *storage.IndexSchema) []byte {
	if ix.Name == "" {
		return rowPrefix(ix.Table)
	}
	return append([]byte{indexSpace}, storage.StringKey(ix.Table.Name).Str(ix.Name)...)
}

// load reads the state of the last commit and, unless told not to, verifies that all it
// speaks of is there.
func (s *Store) load() (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", storage.ErrCorrupt, r)
		}
	}()
	txn := s.db.NewTransactionAt(math.MaxUint64, false)
	defer txn.Discard()
	switch item, err := txn.Get(stateKey); {
	case err == nil:
		value, err := item.ValueCopy(nil)
		if err != nil {
			return fmt.Errorf("%w: %v", storage.ErrCorrupt, err)
		}
		if err := s.state.decode(value); err != nil {
			return err
		}
	case !errors.Is(err, badger.ErrKeyNotFound):
		return fmt.Errorf("%w: %v", storage.ErrCorrupt, err)
	}
	if s.state.Revision < s.journal.acknowledged {
		return fmt.Errorf("%w: revision %d was acknowledged, but only %d is there: a file was truncated, damaged or replaced",
			storage.ErrCorrupt, s.journal.acknowledged, s.state.Revision)
	}
	if s.options.SkipVerify && len(s.unfinished) == 0 {
		return nil
	}
	found := state{Revision: s.state.Revision}
	options := badger.DefaultIteratorOptions
	options.PrefetchValues = false
	logs := logFiles{}
	it := txn.NewIterator(options)
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		item := it.Item()
		if key := item.Key(); key[0] != metaSpace {
			logs.note(item)
			found.Keys++
			s.account.live += itemSize(item)
			found.Sum += entrySum(key, item.Version())
			// What was in an emptied value log has its key still: its value must be there, too.
			if len(s.unfinished) > 0 && item.ValueSize() >= valueThreshold/2 {
				if err := readable(item); err != nil {
					return fmt.Errorf("%w: %v", storage.ErrCorrupt, err)
				}
			}
		}
	}
	if found != s.state {
		return fmt.Errorf("%w: of %d rows and index entries at revision %d, %d are there, and not all as they were written",
			storage.ErrCorrupt, s.state.Keys, s.state.Revision, found.Keys)
	}
	return logs.check(s.dir, txn)
}

// tableSchema is what is stored of a table's definition.
type tableSchema struct {
	Indexes []string
	// Building is set while indexes are being rebuilt.
	Building bool
}

func schemaOf(t *storage.TableSchema) tableSchema {
	out := tableSchema{Indexes: []string{}}
	for _, ix := range t.Indexes {
		name := ix.Name
		if ix.Unique {
			name += " unique"
		}
		out.Indexes = append(out.Indexes, name)
	}
	slices.Sort(out.Indexes)
	return out
}

// Attach implements storage.Store.
func (s *Store) Attach(ctx context.Context, tables ...*storage.TableSchema) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Others may have left a group for us to commit; what follows must come after it.
	if s.group != nil {
		s.commitGroup()
	}
	if s.failed != nil {
		return s.failed
	}
	revision, err := s.beginRead()
	if err != nil {
		return err
	}
	defer s.endRead(revision)
	attached := maps.Clone(*s.tables.Load())
	for _, t := range tables {
		switch known, ok := attached[t.Name]; {
		case ok && known == t:
			continue
		case ok:
			return &storage.Error{Table: t.Name, Err: storage.ErrSchema}
		}
		if err := s.attach(ctx, t); err != nil {
			return err
		}
		attached[t.Name] = t
		s.tables.Store(&attached)
		attached = maps.Clone(attached)
	}
	return nil
}

// attach brings the indexes of a stored table in line with its definition. s.mu is held.
func (s *Store) attach(ctx context.Context, t *storage.TableSchema) error {
	want := schemaOf(t)
	have, err := s.storedSchema(t)
	if err != nil {
		return err
	}
	if have != nil && !have.Building && slices.Equal(have.Indexes, want.Indexes) {
		return nil
	}
	if have != nil {
		building := want
		building.Building = true
		if err := s.putSchema(t, building); err != nil {
			return err
		}
		s.rows.purge() // it has rows of an earlier definition
		if err := s.rebuild(ctx, t); err != nil {
			s.rows.purge()
			return fmt.Errorf("badgerstore: rebuilding the indexes of table %s: %w", t.Name, err)
		}
	}
	return s.putSchema(t, want)
}

func (s *Store) storedSchema(t *storage.TableSchema) (*tableSchema, error) {
	txn := s.db.NewTransactionAt(s.state.Revision, false)
	defer txn.Discard()
	item, err := txn.Get(schemaKey(t))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("badgerstore: %w", err)
	}
	var out tableSchema
	err = item.Value(func(data []byte) error { return json.Unmarshal(data, &out) })
	if err != nil {
		return nil, fmt.Errorf("badgerstore: schema of table %s: %w: %v", t.Name, storage.ErrCorrupt, err)
	}
	return &out, nil
}

func (s *Store) putSchema(t *storage.TableSchema, schema tableSchema) error {
	if err := s.checkSpace(); err != nil {
		return err
	}
	data, err := json.Marshal(schema)
	if err != nil {
		return err
	}
	txn := s.db.NewTransactionAt(s.state.Revision, true)
	defer txn.Discard()
	next := s.state
	next.Revision++
	if err := txn.SetEntry(badger.NewEntry(schemaKey(t), data)); err != nil {
		return commitError(err)
	}
	return s.land(txn, next, s.account, nil, nil)
}

// rebuild writes the index entries of a table anew, in commits of a bounded size.
func (s *Store) rebuild(ctx context.Context, t *storage.TableSchema) error {
	const step = 2000
	all := append([]byte{indexSpace}, storage.StringKey(t.Name)...)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		writes := map[string]write{}
		s.eachKey(all, nil, func(item *badger.Item) bool {
			writes[string(item.KeyCopy(nil))] = write{deleted: true}
			return len(writes) < step
		})
		if len(writes) == 0 {
			break
		}
		if err := s.commit(writes, nil); err != nil {
			return err
		}
	}
	prefix := rowPrefix(t)
	from := prefix
	for from != nil {
		if err := ctx.Err(); err != nil {
			return err
		}
		var next []byte
		var failed error
		rows := 0
		tx := &transaction{store: s, base: s.db.NewTransactionAt(s.state.Revision, false), revision: s.state.Revision, layers: []map[string]write{nil, {}}}
		s.eachKey(prefix, from, func(item *badger.Item) bool {
			if rows++; rows > step || tx.stored > maxCommit/2 {
				next = item.KeyCopy(nil)
				return false
			}
			failed = tx.reindex(t, item)
			return failed == nil
		})
		tx.end()
		if failed != nil {
			return failed
		}
		if own := tx.own(); len(own) > 0 {
			if err := s.commit(own, nil); err != nil {
				return err
			}
		}
		from = next
	}
	return nil
}

// eachKey calls fn for the keys of the last commit with prefix, from key from, until it returns false.
func (s *Store) eachKey(prefix, from []byte, fn func(*badger.Item) bool) {
	txn := s.db.NewTransactionAt(s.state.Revision, false)
	defer txn.Discard()
	options := badger.DefaultIteratorOptions
	options.PrefetchValues = false
	options.Prefix = prefix
	it := txn.NewIterator(options)
	defer it.Close()
	if from == nil {
		from = prefix
	}
	for it.Seek(from); it.Valid(); it.Next() {
		if !fn(it.Item()) {
			return
		}
	}
}
