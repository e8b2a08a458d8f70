package badgerstore

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"github.com/opscenter-go/sdk/storage"
)

// transaction implements storage.ReadTx and storage.WriteTx: what it wrote itself, over
// what the others of its group wrote, over the last commit.
type transaction struct {
	store    *Store
	base     *badger.Txn
	revision uint64
	// layers of pending writes, the newest last: the group's, then our own. Each scan in a
	// writing transaction seals the layers it reads. nil for readers.
	layers  []map[string]write
	over    bool
	changes []storage.Change
	// appended rows become pending writes when the transaction joins a group, see number.
	appended []appendedRow
	// appendedBefore is how many rows the group's other members append. crowded: with those, there are too many.
	appendedBefore int
	crowded        bool
	size           int // of rows and keys, as the contract counts
	writes         int
	stored         int // bytes that go into Badger
}

// appendedRow is a row of a log, with the number that it has if the open group can take the transaction.
type appendedRow struct {
	table   *storage.TableSchema
	primary storage.Key
	value   []byte
	decoded any // from value; nil: not so far
	moves   moves
}

func (tx *transaction) end() {
	tx.over = true
	tx.base.Discard()
}

func (tx *transaction) Revision() uint64 { return tx.revision }

func (tx *transaction) Get(ix *storage.IndexSchema, key storage.Key) (any, error) {
	if err := tx.check(ix.Table); err != nil {
		return nil, err
	}
	if !ix.Unique {
		return nil, ix.Wrap(key, fmt.Errorf("Get wants a unique index: %w", storage.ErrSchema))
	}
	if storage.CheckKey(key) != nil {
		return nil, ix.Wrap(key, storage.ErrNotFound)
	}
	primary, err := tx.primary(ix, key)
	if err != nil {
		return nil, ix.Wrap(key, err)
	}
	row, err := tx.row(ix.Table, primary, tx.layers, false)
	if err != nil {
		if ix.Name != "" && errors.Is(err, storage.ErrNotFound) {
			err = fmt.Errorf("%w: an index entry leads to no row", storage.ErrCorrupt)
		}
		return nil, ix.Wrap(key, err)
	}
	return row, nil
}

// check refuses tables that are not attached, and transactions that have ended.
func (tx *transaction) check(t *storage.TableSchema) error {
	if tx.over {
		return storage.ErrReadOnly
	}
	if (*tx.store.tables.Load())[t.Name] != t {
		return &storage.Error{Table: t.Name, Err: fmt.Errorf("not attached: %w", storage.ErrSchema)}
	}
	return nil
}

// row returns the row with a primary key, or ErrNotFound. scanned: for a scan.
func (tx *transaction) row(t *storage.TableSchema, primary storage.Key, layers []map[string]write, scanned bool) (any, error) {
	key := append(rowPrefix(t), primary...)
	if w, ok := pending(layers, key); ok {
		if w.deleted {
			return nil, storage.ErrNotFound
		}
		if w.decoded != nil {
			return w.decoded, nil
		}
		return t.Decode(w.value)
	}
	if t.IsHot() {
		if row, _ := tx.store.rows.get(key, tx.revision); row != nil {
			return row, nil
		}
	}
	item, err := tx.base.Get(key)
	if err != nil {
		return nil, readError(err)
	}
	return tx.decode(t, item, scanned)
}

// primary returns the primary key to which a key of a unique index leads.
func (tx *transaction) primary(ix *storage.IndexSchema, key storage.Key) (storage.Key, error) {
	if ix.Name == "" {
		return key, nil
	}
	entry := append(indexPrefix(ix), key...)
	if _, own := pending(tx.layers, entry); own || !ix.Table.IsHot() {
		return tx.read(entry)
	}
	if known, _ := tx.store.rows.get(entry, tx.revision); known != nil {
		return known.(storage.Key), nil
	}
	value, version, err := tx.committed(entry)
	if err == nil {
		tx.store.rows.put(entry, cacheEntry{version, storage.Key(value), len(value)}, tx.revision, false)
	}
	return value, err
}

// decode reads a row out of Badger, or takes it from the cache. scanned: for a scan. Badger logs a value it can't read, and
// returns an empty one.
func (tx *transaction) decode(t *storage.TableSchema, item *badger.Item, scanned bool) (row any, err error) {
	cached := t.IsHot() && !item.IsDeletedOrExpired()
	if cached {
		if row, version := tx.store.rows.get(item.Key(), tx.revision); row != nil && version == item.Version() {
			return row, nil
		}
	}
	size := 0
	failed := item.Value(func(data []byte) error {
		row, err = t.Decode(data)
		size = len(data)
		return nil
	})
	if failed != nil {
		return nil, fmt.Errorf("%w: %v", storage.ErrCorrupt, failed)
	}
	if cached && err == nil {
		tx.store.rows.put(item.Key(), cacheEntry{item.Version(), row, size}, tx.revision, scanned)
	}
	return row, err
}

// read returns the value of a Badger key, or ErrNotFound.
func (tx *transaction) read(key []byte) ([]byte, error) {
	if w, ok := pending(tx.layers, key); ok {
		if w.deleted {
			return nil, storage.ErrNotFound
		}
		return w.value, nil
	}
	value, _, err := tx.committed(key)
	return value, err
}

// committed returns the value of a Badger key and its version, or ErrNotFound, without the pending writes.
func (tx *transaction) committed(key []byte) (value []byte, version uint64, err error) {
	item, err := tx.base.Get(key)
	if err != nil {
		return nil, 0, readError(err)
	}
	if value, err = item.ValueCopy(nil); err != nil {
		return nil, 0, fmt.Errorf("%w: %v", storage.ErrCorrupt, err)
	}
	return value, item.Version(), nil
}

func readError(err error) error {
	if errors.Is(err, badger.ErrKeyNotFound) {
		return storage.ErrNotFound
	}
	if errors.Is(err, badger.ErrDBClosed) {
		return storage.ErrClosed
	}
	// Badger wraps its errors with the key, which may be a secret.
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	return fmt.Errorf("badgerstore: reading: %w", err)
}

func pending(layers []map[string]write, key []byte) (write, bool) {
	for i := len(layers) - 1; i >= 0; i-- {
		if w, ok := layers[i][string(key)]; ok {
			return w, true
		}
	}
	return write{}, false
}

// seal returns the pending writes as they are now; later ones go into a layer of their own.
func (tx *transaction) seal() []map[string]write {
	if len(tx.layers) == 0 {
		return nil
	}
	if len(tx.layers) > 8 {
		// The group's layer stays apart; ours become one.
		tx.layers = []map[string]write{tx.layers[0], tx.own()}
	}
	if top := len(tx.layers) - 1; len(tx.layers[top]) == 0 {
		return slices.Clone(tx.layers[:top])
	}
	sealed := slices.Clone(tx.layers)
	tx.layers = append(tx.layers, map[string]write{})
	return sealed
}

// own returns all that this transaction wrote.
func (tx *transaction) own() map[string]write {
	all := map[string]write{}
	for _, layer := range tx.layers[1:] {
		maps.Copy(all, layer)
	}
	return all
}

// set records a pending write.
func (tx *transaction) set(key []byte, w write) {
	tx.layers[len(tx.layers)-1][string(key)] = w
}

// keyed is a pending write with its key.
type keyed struct {
	key []byte
	write
}

// overlay returns the pending writes with low ≤ key < high, in the order of a scan.
func overlay(layers []map[string]write, low, high []byte, reverse bool) []keyed {
	var out []keyed
	for i := len(layers) - 1; i >= 0; i-- {
		for k, w := range layers[i] {
			key := []byte(k)
			if bytes.Compare(key, low) < 0 || bytes.Compare(key, high) >= 0 {
				continue
			}
			if _, newer := pending(layers[i+1:], key); !newer {
				out = append(out, keyed{key, w})
			}
		}
	}
	slices.SortFunc(out, func(a, b keyed) int {
		if reverse {
			a, b = b, a
		}
		return bytes.Compare(a.key, b.key)
	})
	return out
}

// Scan implements storage.ReadTx.
func (tx *transaction) Scan(ix *storage.IndexSchema, r storage.Range) iter.Seq2[any, error] {
	return scan(tx, ix, r, func(found entry, layers []map[string]write) (row any, err error) {
		if ix.Name == "" && found.item != nil {
			return tx.decode(ix.Table, found.item, true)
		}
		failed := found.read(func(value []byte) error {
			if ix.Name == "" {
				if row = found.pending.decoded; row == nil {
					row, err = ix.Table.Decode(value)
				}
			} else {
				row, err = tx.row(ix.Table, value, layers, true)
			}
			return nil
		})
		return row, errors.Join(failed, err)
	})
}

// Keys implements storage.ReadTx. It reads no rows.
func (tx *transaction) Keys(ix *storage.IndexSchema, r storage.Range) iter.Seq2[storage.Key, error] {
	prefix := len(rowPrefix(ix.Table))
	return scan(tx, ix, r, func(found entry, _ []map[string]write) (primary storage.Key, err error) {
		if ix.Name == "" {
			return storage.Key(found.key()[prefix:]).Clone(), nil
		}
		err = found.read(func(value []byte) error {
			primary = storage.Key(value).Clone()
			return nil
		})
		return primary, err
	})
}

// entry is an entry of an index, stored or pending.
type entry struct {
	item    *badger.Item // nil: the entry is a pending write
	pending keyed
}

// key returns the key in Badger. It is valid until the scan goes on.
func (e entry) key() []byte {
	if e.item != nil {
		return e.item.Key()
	}
	return e.pending.key
}

// read hands the value to fn, which must not keep it. Badger logs a value it can't read, and returns an empty one.
func (e entry) read(fn func(value []byte) error) error {
	if e.item == nil {
		return fn(e.pending.value)
	}
	if err := e.item.Value(fn); err != nil {
		return fmt.Errorf("%w: %v", storage.ErrCorrupt, err)
	}
	return nil
}

// scan yields the results of read for the entries in a range, stored and pending ones merged.
func scan[T any](tx *transaction, ix *storage.IndexSchema, r storage.Range, read func(entry, []map[string]write) (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		if err := tx.check(ix.Table); err != nil {
			yield(none, err)
			return
		}
		prefix := indexPrefix(ix)
		from, to := r.Bounds()
		low := append(slices.Clone(prefix), from...)
		high := append(slices.Clone(prefix), 0xff) // beyond every part of a key
		if to != nil {
			high = append(slices.Clone(prefix), to...)
		}
		if bytes.Compare(low, high) >= 0 {
			return
		}
		layers := tx.seal()
		waiting := overlay(layers, low, high, r.Reverse)

		options := badger.DefaultIteratorOptions
		options.PrefetchValues = false // it starts a goroutine for each value, and most values stand beside their keys
		options.Reverse = r.Reverse
		options.Prefix = prefix
		it := tx.base.NewIterator(options)
		defer it.Close()
		if r.Reverse {
			it.Seek(high)
			if it.Valid() && bytes.Equal(it.Item().Key(), high) {
				it.Next()
			}
		} else {
			it.Seek(low)
		}
		for {
			found, ok := next(it, low, high, &waiting, r.Reverse)
			if !ok {
				return
			}
			if found.item == nil && found.pending.deleted {
				continue
			}
			out, err := read(found, layers)
			if err != nil {
				yield(none, &storage.Error{Table: ix.Table.Name, Index: ix.Name, Err: err})
				return
			}
			if !yield(out, nil) {
				return
			}
			if tx.over {
				yield(none, storage.ErrReadOnly)
				return
			}
			if found.item != nil {
				it.Next()
			}
		}
	}
}

// next returns the next entry, and removes it from waiting if it is pending. ok: there is one. The caller advances it beyond a
// stored entry.
func next(it *badger.Iterator, low, high []byte, waiting *[]keyed, reverse bool) (found entry, ok bool) {
	if it.Valid() {
		if key := it.Item().Key(); bytes.Compare(key, low) >= 0 && bytes.Compare(key, high) < 0 {
			found.item = it.Item()
		}
	}
	if len(*waiting) == 0 {
		return found, found.item != nil
	}
	pending := (*waiting)[0]
	if found.item != nil {
		order := bytes.Compare(pending.key, found.item.Key())
		if reverse {
			order = -order
		}
		if order > 0 {
			return found, true
		}
		if order == 0 {
			it.Next() // the pending one replaces it
		}
	}
	*waiting = (*waiting)[1:]
	return entry{pending: pending}, true
}

func (tx *transaction) Put(t *storage.TableSchema, row any) error {
	if err := tx.check(t); err != nil {
		return err
	}
	if tx.layers == nil {
		return storage.ErrReadOnly
	}
	primary := t.Key(row)
	if t.IsLog() {
		// A row that another member of the open group appended has a number that no commit has given so far.
		_, appended := pending(tx.layers[:1], append(rowPrefix(t), primary...))
		if err := t.CheckPut(row, tx.revision); err != nil && !appended {
			return err
		}
	}
	data, kept, err := encode(t, row)
	if err != nil {
		return err
	}
	if err := storage.CheckKey(primary); err != nil {
		return &storage.Error{Table: t.Name, Err: err}
	}
	var old any
	if len(t.Indexes) > 0 {
		old, err = tx.row(t, primary, tx.layers, false)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return t.Primary.Wrap(primary, err)
		}
	}
	moves, entries, err := tx.moves(t, primary, old, kept)
	if err != nil {
		return err
	}
	if err := tx.grow(t, primary, len(primary)+len(data), max(entries, len(moves))+1, moves.size()+len(t.Name)+len(primary)+len(data)+16); err != nil {
		return err
	}
	moves.apply(tx)
	tx.set(append(rowPrefix(t), primary...), write{value: data, decoded: kept, hot: t.IsHot()})
	tx.changes = append(tx.changes, storage.Change{Table: t.Name, Key: primary})
	return nil
}

// encode returns the stored form of a row. It returns the row that is read from that, too, if the table has indexes or a place in
// the row cache: both are made of what is stored, not of what the caller holds.
func encode(t *storage.TableSchema, row any) (data []byte, kept any, err error) {
	if len(t.Indexes) > 0 || t.IsHot() {
		return t.Keep(row)
	}
	data, err = t.Encode(row)
	return data, nil, err
}

func (tx *transaction) Append(t *storage.TableSchema, row any) error {
	if err := tx.check(t); err != nil {
		return err
	}
	if tx.layers == nil {
		return storage.ErrReadOnly
	}
	index := tx.appendedBefore + len(tx.appended)
	out, entries, err := tx.numbered(t, row, tx.revision+1, index)
	if err != nil {
		tx.crowded = index >= storage.MaxTxAppends && tx.appendedBefore > 0
		return err
	}
	if err := tx.grow(t, out.primary, len(out.primary)+len(out.value), entries+1, out.moves.size()+len(t.Name)+len(out.primary)+len(out.value)+16); err != nil {
		return err
	}
	tx.appended = append(tx.appended, out)
	return nil
}

// numbered returns the stored form of a row that is appended by the commit of revision, and how many index entries it has.
func (tx *transaction) numbered(t *storage.TableSchema, row any, revision uint64, index int) (out appendedRow, entries int, err error) {
	if row, err = t.WithKey(row, revision, index); err != nil {
		return out, 0, err
	}
	out.table, out.primary = t, t.Key(row)
	if out.value, out.decoded, err = encode(t, row); err != nil {
		return out, 0, err
	}
	if len(t.Indexes) > 0 {
		out.moves, entries, err = tx.moves(t, out.primary, nil, out.decoded)
	}
	return out, entries, err
}

// number makes pending writes of the appended rows: the commit of revision has them, behind so many of others.
func (tx *transaction) number(revision uint64, before int) error {
	expected := revision == tx.revision+1 && before == tx.appendedBefore
	for i, row := range tx.appended {
		if !expected {
			var err error
			decoded := row.decoded
			if decoded == nil {
				decoded, err = row.table.Decode(row.value)
			}
			if err == nil {
				row, _, err = tx.numbered(row.table, decoded, revision, before+i)
			}
			if err != nil {
				return err
			}
		}
		for _, k := range row.moves {
			k.fresh = true
			tx.set(k.key, k.write)
		}
		tx.set(append(rowPrefix(row.table), row.primary...), write{value: row.value, fresh: true, decoded: row.decoded, hot: row.table.IsHot()})
		tx.changes = append(tx.changes, storage.Change{Table: row.table.Name, Key: row.primary})
	}
	return nil
}

func (tx *transaction) Delete(t *storage.TableSchema, primary storage.Key) error {
	if err := tx.check(t); err != nil {
		return err
	}
	if tx.layers == nil {
		return storage.ErrReadOnly
	}
	old, err := tx.row(t, primary, tx.layers, false)
	if err != nil {
		return t.Primary.Wrap(primary, err)
	}
	moves, _, err := tx.moves(t, primary, old, nil)
	if err != nil {
		return err
	}
	if err := tx.grow(t, primary, len(primary), len(moves)+1, moves.size()+len(t.Name)+len(primary)+16); err != nil {
		return err
	}
	moves.apply(tx)
	tx.set(append(rowPrefix(t), primary...), write{deleted: true, hot: t.IsHot()})
	tx.changes = append(tx.changes, storage.Change{Table: t.Name, Key: primary.Clone()})
	return nil
}

// moves is what happens to index entries when a row changes.
type moves []keyed

func (m moves) size() int {
	n := 0
	for _, k := range m {
		n += len(k.key) + len(k.value) + 16
	}
	return n
}

func (m moves) apply(tx *transaction) {
	for _, k := range m {
		tx.set(k.key, k.write)
	}
}

// moves compares the index entries of the old row and the new one, either of which may be
// nil, and counts those of the new one. ErrExists if a unique key is another row's.
func (tx *transaction) moves(t *storage.TableSchema, primary storage.Key, old, row any) (out moves, entries int, err error) {
	for _, ix := range t.Indexes {
		var had, has []storage.Key
		if old != nil {
			if had, err = ix.Positions(old); err != nil {
				return nil, 0, err
			}
		}
		if row != nil {
			if has, err = ix.Positions(row); err != nil {
				return nil, 0, err
			}
		}
		entries += len(has)
		prefix := indexPrefix(ix)
		at := func(p storage.Key) []byte { return append(slices.Clone(prefix), p...) }
		for _, p := range has {
			if slices.ContainsFunc(had, p.Equal) {
				continue
			}
			if ix.Unique {
				switch holder, err := tx.read(at(p)); {
				case err == nil && !primary.Equal(holder):
					return nil, 0, ix.Wrap(p, storage.ErrExists)
				case err != nil && !errors.Is(err, storage.ErrNotFound):
					return nil, 0, ix.Wrap(p, err)
				}
			}
			w := write{value: primary, hot: t.IsHot() && ix.Unique}
			if w.hot {
				w.decoded = primary
			}
			out = append(out, keyed{at(p), w})
		}
		for _, p := range had {
			if !slices.ContainsFunc(has, p.Equal) {
				out = append(out, keyed{at(p), write{deleted: true, hot: t.IsHot() && ix.Unique}})
			}
		}
	}
	return out, entries, nil
}

// reindex writes the index entries of a stored row, for a table whose indexes changed.
func (tx *transaction) reindex(t *storage.TableSchema, item *badger.Item) error {
	row, err := tx.decode(t, item, true)
	if err != nil {
		return err
	}
	primary := t.Key(row)
	out, _, err := tx.moves(t, primary, nil, row)
	if err != nil {
		return err
	}
	tx.stored += out.size()
	out.apply(tx)
	return nil
}

// grow accounts for what the transaction writes.
func (tx *transaction) grow(t *storage.TableSchema, key storage.Key, size, entries, stored int) error {
	if tx.size+size > storage.MaxTxSize || tx.writes+entries > storage.MaxTxWrites || tx.stored+stored > maxCommit {
		return t.Primary.Wrap(key, fmt.Errorf("transaction over %d bytes or %d entries: %w",
			storage.MaxTxSize, storage.MaxTxWrites, storage.ErrTooLarge))
	}
	tx.size += size
	tx.writes += entries
	tx.stored += stored
	return nil
}
