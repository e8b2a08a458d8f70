// Package memstore keeps a storage.Store in memory, in go-memdb.
//
// Readers never wait, and see one immutable snapshot each. Writers take turns. Rows pass
// through their stored form when they are written, so that memory behaves like disk: what
// the form leaves out is not kept, and the caller's row stays the caller's.
//
// # Performance
//
// The machine has 2 shared cores. The limit is bare go-memdb. It holds the same two rows per server, and is filled in the same way: one
// transaction for each server, in no order. Figures are medians of 3 to 5 runs, the heap of one.
//
//	go test -run '^$' -bench 'Memory|Heap' -count 3 -timeout 30m ./opscenter
//
//	                                                       limit    Registry  ratio
//	get one of 100,000 servers                             4.1 µs   7.7 µs    1.9
//	list 100,000 servers                                   190 ms   270 ms    1.4
//	heap per server, 20,000 servers with 30 KiB of facts            10.8 KiB
package memstore

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-memdb"

	"github.com/opscenter-go/sdk/storage"
)

// Options of New. The zero value is what most programs want.
type Options struct {
	// DetectMutation makes every read compare the row with what was written, and return
	// storage.ErrMutated for one that a reader modified in place. For tests: it encodes
	// each row at each read.
	DetectMutation bool
	// FeedSize is how many changes a watcher may be behind before it is reset. Default 65,536.
	FeedSize int
}

// Store implements storage.Store, storage.Synced and storage.Measured. Several stores may share the same rows: see [Store.Open].
type Store struct {
	engine   *engine
	attached map[string]*storage.TableSchema // under engine.mu
	closed   chan struct{}
	closing  sync.Once
	commits  atomic.Uint64
	written  atomic.Uint64 // bytes
}

// New returns an empty store.
func New(options ...Options) *Store {
	var o Options
	if len(options) > 0 {
		o = options[0]
	}
	return newEngine(o).open()
}

// Open returns another store over the same rows, as another process opens a store of several controllers. Each
// has its own Close, which leaves the rows to the others and to a later Open, and its own tables: each must be attached to
// the store that uses it.
//
// Two stores may attach different definitions of a table whose rows have the same Go type. The rows then have the
// indexes of both. A store that does not know one of the unique indexes can read the table. Its writes return
// storage.ErrSchema.
func (s *Store) Open() *Store { return s.engine.open() }

// ended reports whether the store is closed.
func (s *Store) ended() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// Attach implements storage.Store.
func (s *Store) Attach(ctx context.Context, tables ...*storage.TableSchema) error {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	if s.ended() {
		return storage.ErrClosed
	}
	attached := maps.Clone(s.attached)
	for _, t := range tables {
		if known, ok := attached[t.Name]; ok && known != t {
			return &storage.Error{Table: t.Name, Err: storage.ErrSchema}
		}
		attached[t.Name] = t
	}
	if err := s.engine.attach(tables); err != nil {
		return err
	}
	s.attached = attached
	return nil
}

// View implements storage.Store.
func (s *Store) View(ctx context.Context, fn func(storage.ReadTx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.ended() {
		return storage.ErrClosed
	}
	tx := s.begin(false)
	defer func() { tx.over = true }()
	return fn(tx)
}

// Update implements storage.Store.
func (s *Store) Update(ctx context.Context, fn func(storage.WriteTx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.ended() {
		return storage.ErrClosed
	}
	tx := s.begin(true)
	defer func() {
		tx.over = true
		tx.txn.Abort() // does nothing after a commit
	}()
	if err := fn(tx); err != nil {
		return err
	}
	if tx.broken != nil {
		return tx.broken
	}
	if err := tx.insertAppended(); err != nil {
		return err
	}
	if len(tx.changes) == 0 {
		return nil
	}
	revision := tx.Revision() + 1
	if err := tx.txn.Insert(metaTable, &meta{revision}); err != nil {
		return fmt.Errorf("memstore: %w", err)
	}
	s.engine.feed.Publish(revision, tx.changes, tx.txn.Commit)
	s.commits.Add(1)
	s.written.Add(uint64(tx.size))
	return nil
}

// Sync implements storage.Synced. A View shows every commit at once, of each store over the same rows.
func (s *Store) Sync(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.ended() {
		return storage.ErrClosed
	}
	return nil
}

// Stats implements storage.Measured. Watchers are those of all stores over the same rows.
func (s *Store) Stats() storage.Stats {
	out := storage.Stats{Commits: s.commits.Load(), Written: s.written.Load()}
	out.Watchers, out.WatchLag = s.engine.feed.Readers()
	return out
}

// Watch implements storage.Store.
func (s *Store) Watch(ctx context.Context, since uint64, tables ...string) iter.Seq2[storage.Batch, error] {
	return s.engine.feed.WatchUntil(ctx, s.closed, since, tables...)
}

// Close implements storage.Store.
func (s *Store) Close() error {
	s.engine.mu.Lock()
	defer s.engine.mu.Unlock()
	s.closing.Do(func() { close(s.closed) })
	return nil
}

func (s *Store) begin(write bool) *transaction {
	db := s.engine.db.Load()
	return &transaction{engine: s.engine, schema: db.DBSchema(), txn: db.Txn(write), write: write}
}

// transaction implements storage.ReadTx and storage.WriteTx.
type transaction struct {
	engine  *engine
	schema  *memdb.DBSchema
	txn     *memdb.Txn
	write   bool
	over    bool
	changes []storage.Change
	// appended rows get into the tables at the end: the transaction does not read them.
	appended []admitted
	size     int
	writes   int
	broken   error // go-memdb failed half-way: nothing of this may be committed
}

// admitted is a row that may be stored.
type admitted struct {
	table *storage.TableSchema
	key   storage.Key
	row   any // as go-memdb holds it
}

func (tx *transaction) Revision() uint64 {
	if row, _ := tx.txn.First(metaTable, "id"); row != nil {
		return row.(*meta).revision
	}
	return 0
}

func (tx *transaction) Get(ix *storage.IndexSchema, key storage.Key) (any, error) {
	if tx.over {
		return nil, storage.ErrReadOnly
	}
	if !ix.Unique {
		return nil, ix.Wrap(key, fmt.Errorf("Get wants a unique index: %w", storage.ErrSchema))
	}
	found, err := tx.txn.First(ix.Table.Name, indexName(ix), key)
	if err != nil {
		return nil, tx.schemaError(ix.Table, err)
	}
	if found == nil {
		return nil, ix.Wrap(key, storage.ErrNotFound)
	}
	return tx.open(ix.Table, found)
}

func (tx *transaction) Scan(ix *storage.IndexSchema, r storage.Range) iter.Seq2[any, error] {
	return func(yield func(any, error) bool) {
		if tx.over {
			yield(nil, storage.ErrReadOnly)
			return
		}
		txn := tx.txn
		if tx.write {
			txn = txn.Snapshot() // go-memdb's iterators don't survive writes beside them
		}
		rows, err := scan(txn, ix, r)
		if err != nil {
			yield(nil, tx.schemaError(ix.Table, err))
			return
		}
		inRange := bounded(ix, r)
		for found := rows.Next(); found != nil; found = rows.Next() {
			row, err := tx.open(ix.Table, found)
			if err == nil && inRange != nil {
				var ok bool
				if ok, err = inRange(row); err == nil && !ok {
					return
				}
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(row, nil) {
				return
			}
			if tx.over {
				yield(nil, storage.ErrReadOnly)
				return
			}
		}
	}
}

// Keys implements storage.ReadTx. The rows are in memory, and decoded.
func (tx *transaction) Keys(ix *storage.IndexSchema, r storage.Range) iter.Seq2[storage.Key, error] {
	return func(yield func(storage.Key, error) bool) {
		for row, err := range tx.Scan(ix, r) {
			var key storage.Key
			if err == nil {
				key = ix.Table.Key(row)
			}
			if !yield(key, err) {
				return
			}
		}
	}
}

// scan places an iterator at the beginning of r; where it ends is for bounded to say.
func scan(txn *memdb.Txn, ix *storage.IndexSchema, r storage.Range) (memdb.ResultIterator, error) {
	table, index := ix.Table.Name, indexName(ix)
	from, to := r.Bounds()
	switch {
	case !r.Reverse && len(from) == 0:
		return txn.Get(table, index)
	case !r.Reverse:
		return txn.LowerBound(table, index, from)
	case to == nil:
		return txn.GetReverse(table, index)
	}
	rows, err := txn.ReverseLowerBound(table, index, to)
	if err != nil {
		return nil, err
	}
	return &skipping{rows: rows, skip: func(row any) bool {
		positions, err := ix.Positions(unwrap(row))
		return err == nil && slices.ContainsFunc(positions, to.Equal)
	}}, nil
}

// skipping leaves out the first row of an iterator, if it stands at the exclusive end.
type skipping struct {
	rows memdb.ResultIterator
	skip func(any) bool
	on   bool
}

func (s *skipping) WatchCh() <-chan struct{} { return s.rows.WatchCh() }

func (s *skipping) Next() any {
	row := s.rows.Next()
	if !s.on && row != nil && s.skip(row) {
		row = s.rows.Next()
	}
	s.on = true
	return row
}

// bounded returns a function that tells whether the next row of a scan is still in the
// range, or nil if all are. go-memdb doesn't tell at which of its keys it found a row; but
// entries come in order, so it is the first of the row's positions beyond the last one.
func bounded(ix *storage.IndexSchema, r storage.Range) func(row any) (bool, error) {
	from, to := r.Bounds()
	if !r.Reverse && to == nil || r.Reverse && len(from) == 0 {
		return nil
	}
	var last storage.Key
	return func(row any) (bool, error) {
		positions, err := ix.Positions(row)
		if err != nil {
			return false, err
		}
		if r.Reverse {
			for i := len(positions) - 1; i >= 0; i-- {
				p := positions[i]
				if (last == nil && (to == nil || p.Compare(to) < 0)) || (last != nil && p.Compare(last) < 0) {
					last = p
					return r.Contains(p), nil
				}
			}
			return false, nil
		}
		for _, p := range positions {
			if (last == nil && p.Compare(from) >= 0) || (last != nil && p.Compare(last) > 0) {
				last = p
				return r.Contains(p), nil
			}
		}
		return false, nil
	}
}

func (tx *transaction) Put(t *storage.TableSchema, row any) error {
	if tx.over || !tx.write {
		return storage.ErrReadOnly
	}
	if err := tx.engine.writable(t); err != nil {
		return err
	}
	if t.IsLog() {
		if err := t.CheckPut(row, tx.Revision()); err != nil {
			return err
		}
	}
	kept, err := tx.admit(t, row)
	if err != nil {
		return err
	}
	return tx.insert(kept)
}

func (tx *transaction) Append(t *storage.TableSchema, row any) error {
	if tx.over || !tx.write {
		return storage.ErrReadOnly
	}
	if err := tx.engine.writable(t); err != nil {
		return err
	}
	row, err := t.WithKey(row, tx.Revision()+1, len(tx.appended))
	if err != nil {
		return err
	}
	kept, err := tx.admit(t, row)
	if err != nil {
		return err
	}
	tx.appended = append(tx.appended, kept)
	return nil
}

// insertAppended inserts the appended rows, behind all other writes.
func (tx *transaction) insertAppended() error {
	for _, kept := range tx.appended {
		if err := tx.insert(kept); err != nil {
			return err
		}
	}
	return nil
}

// admit accounts for a row that is to be stored, and returns its stored form. ErrExists if another row has a
// key of a unique index.
func (tx *transaction) admit(t *storage.TableSchema, row any) (out admitted, err error) {
	data, kept, err := t.Keep(row)
	if err != nil {
		return out, err
	}
	key := t.Key(row)
	if err := storage.CheckKey(key); err != nil {
		return out, &storage.Error{Table: t.Name, Err: err}
	}
	entries := 1
	for _, ix := range t.Indexes {
		keys, err := ix.Keys(kept)
		if err != nil {
			return out, err
		}
		entries += len(keys)
		for _, k := range keys {
			if !ix.Unique {
				break
			}
			other, err := tx.txn.First(t.Name, indexName(ix), k)
			if err != nil {
				return out, tx.schemaError(t, err)
			}
			if other != nil && !t.Key(unwrap(other)).Equal(key) {
				return out, ix.Wrap(k, storage.ErrExists)
			}
		}
	}
	if err := tx.grow(t, key, len(key)+len(data), entries); err != nil {
		return out, err
	}
	if tx.engine.options.DetectMutation {
		kept = &stored{row: kept, data: data}
	}
	return admitted{table: t, key: key, row: kept}, nil
}

func (tx *transaction) insert(kept admitted) error {
	if err := tx.txn.Insert(kept.table.Name, kept.row); err != nil {
		return tx.fail(kept.table, err)
	}
	tx.changes = append(tx.changes, storage.Change{Table: kept.table.Name, Key: kept.key})
	return nil
}

func (tx *transaction) Delete(t *storage.TableSchema, key storage.Key) error {
	if tx.over || !tx.write {
		return storage.ErrReadOnly
	}
	if err := tx.engine.writable(t); err != nil {
		return err
	}
	found, err := tx.txn.First(t.Name, "id", key)
	if err != nil {
		return tx.schemaError(t, err)
	}
	if found == nil {
		return t.Primary.Wrap(key, storage.ErrNotFound)
	}
	if err := tx.grow(t, key, len(key), 1); err != nil {
		return err
	}
	if err := tx.txn.Delete(t.Name, found); err != nil {
		return tx.fail(t, err)
	}
	tx.changes = append(tx.changes, storage.Change{Table: t.Name, Key: key.Clone()})
	return nil
}

// grow accounts for what the transaction writes.
func (tx *transaction) grow(t *storage.TableSchema, key storage.Key, size, entries int) error {
	if tx.size+size > storage.MaxTxSize || tx.writes+entries > storage.MaxTxWrites {
		return t.Primary.Wrap(key, fmt.Errorf("transaction over %d bytes or %d entries: %w",
			storage.MaxTxSize, storage.MaxTxWrites, storage.ErrTooLarge))
	}
	tx.size += size
	tx.writes += entries
	return nil
}

// fail keeps a half-done write from ever being committed.
func (tx *transaction) fail(t *storage.TableSchema, err error) error {
	tx.broken = &storage.Error{Table: t.Name, Err: err}
	return tx.schemaError(t, tx.broken)
}

func (tx *transaction) schemaError(t *storage.TableSchema, err error) error {
	if _, ok := tx.schema.Tables[t.Name]; !ok {
		return notAttached(t)
	}
	return err
}

// open returns the row of what go-memdb holds, ErrMutated if a reader modified it.
func (tx *transaction) open(t *storage.TableSchema, found any) (any, error) {
	kept, ok := found.(*stored)
	if !ok {
		return found, nil
	}
	if !t.Matches(kept.row, kept.data) {
		return nil, t.Primary.Wrap(t.Key(kept.row), storage.ErrMutated)
	}
	return kept.row, nil
}

func unwrap(found any) any {
	if kept, ok := found.(*stored); ok {
		return kept.row
	}
	return found
}
