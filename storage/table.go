package storage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
)

// TableSchema is what a backend knows of a table.
type TableSchema struct {
	Name    string
	Primary *IndexSchema
	Indexes []*IndexSchema // the secondary ones
	// secret: keys of this table must not show in errors.
	secret bool
	encode func(row any) ([]byte, error)
	decode func(data []byte) (any, error)
	// row is the type of a pointer to a row.
	row reflect.Type
	// log is set for tables whose rows are appended.
	log *logSchema
	// hot: see Table.Hot. compact: see Table.Compact.
	hot, compact bool
}

// IndexSchema is what a backend knows of an index.
type IndexSchema struct {
	Table  *TableSchema
	Name   string // empty: the primary index
	Unique bool
	keys   func(row any) []Key
}

// Encode returns the stored form of a row. ErrTooLarge beyond MaxRowSize, ErrEncoding for a
// string that is not valid UTF-8, and for values that JSON or CBOR can't represent.
func (t *TableSchema) Encode(row any) ([]byte, error) {
	data, err := t.encode(row)
	// Only decoding tells what the encoder of CBOR took wrongly, and whether encoding/json replaced bytes.
	if err == nil && (t.compact || hasReplaced(data)) {
		_, err = t.reread(data)
	}
	return data, t.refused(row, data, err)
}

// Keep returns the stored form of a row, and the row as it is read from that. The latter shares nothing with row. Errors: those
// of Encode.
func (t *TableSchema) Keep(row any) (data []byte, kept any, err error) {
	if data, err = t.encode(row); err == nil {
		kept, err = t.reread(data)
	}
	return data, kept, t.refused(row, data, err)
}

// Matches reports whether data is the stored form of a row.
func (t *TableSchema) Matches(row any, data []byte) bool {
	now, err := t.encode(row)
	return err == nil && bytes.Equal(now, data)
}

// refused returns the error with which a row can't be stored, if its encoding ended with err, or is too large.
func (t *TableSchema) refused(row any, data []byte, err error) error {
	switch {
	case err != nil:
		return t.Primary.Wrap(t.Key(row), fmt.Errorf("%w: %v", ErrEncoding, err))
	case len(data) > MaxRowSize:
		return t.Primary.Wrap(t.Key(row), fmt.Errorf("row of %d bytes, at most %d are allowed: %w", len(data), MaxRowSize, ErrTooLarge))
	}
	return nil
}

// reread decodes a row that was just encoded. It returns an error for text that was not UTF-8.
func (t *TableSchema) reread(data []byte) (any, error) {
	row, err := t.decode(data)
	if err != nil || t.compact || !hasReplaced(data) {
		return row, err
	}
	again, err := t.encode(row)
	if err == nil && !bytes.Equal(data, again) {
		err = errors.New("text that is not UTF-8")
	}
	return row, err
}

// hasReplaced reports whether encoding/json may have replaced bytes that are not UTF-8. It writes an escape for those. It writes
// the replacement character itself as it is.
func hasReplaced(data []byte) bool { return bytes.Contains(data, []byte(`\ufffd`)) }

// Decode returns the row that was encoded as data, ErrCorrupt if it can't be one.
func (t *TableSchema) Decode(data []byte) (any, error) {
	row, err := t.decode(data)
	if err != nil {
		return nil, &Error{Table: t.Name, Err: fmt.Errorf("%w: %v", ErrCorrupt, err)}
	}
	return row, nil
}

// IsHot reports whether Table.Hot was called.
func (t *TableSchema) IsHot() bool { return t.hot }

// RowType returns the type of the rows that Decode returns, which is a pointer.
func (t *TableSchema) RowType() reflect.Type { return t.row }

// Key returns the row's primary key.
func (t *TableSchema) Key(row any) Key { return t.Primary.keys(row)[0] }

// Keys returns the index keys of a row, sorted, each once, and ErrTooLarge for one beyond MaxKeySize.
func (ix *IndexSchema) Keys(row any) ([]Key, error) {
	keys := ix.keys(row)
	for _, key := range keys {
		if err := CheckKey(key); err != nil {
			return nil, &Error{Table: ix.Table.Name, Index: ix.Name, Err: err}
		}
	}
	if len(keys) > 1 {
		keys = slices.Clone(keys)
		slices.SortFunc(keys, Key.Compare)
		keys = slices.CompactFunc(keys, Key.Equal)
	}
	return keys, nil
}

// Positions returns the places of a row's entries in the index: its keys, each with the
// primary key behind it where the index is not unique.
func (ix *IndexSchema) Positions(row any) ([]Key, error) {
	keys, err := ix.Keys(row)
	if err != nil || ix.Unique {
		return keys, err
	}
	pk := ix.Table.Key(row)
	out := make([]Key, len(keys))
	for i, key := range keys {
		out[i] = key.Join(pk)
	}
	return out, nil
}

// Wrap returns err with the table, the index and the key it is about; without the key, where
// keys are secrets.
func (ix *IndexSchema) Wrap(key Key, err error) error {
	if ix.Table.secret {
		key = nil
	}
	return &Error{Table: ix.Table.Name, Index: ix.Name, Key: key, Err: err}
}

// Table is a typed table. Declare it once, as a package variable; it holds no rows.
// T is a struct that encoding/json can carry in both directions: fields that it leaves
// out are not stored, on no backend.
type Table[T any] struct {
	schema *TableSchema
}

// Index is a typed secondary index.
type Index[T any] struct {
	schema *IndexSchema
}

// NewTable declares a table. primary returns the key a row is stored under; it must
// depend on the row alone.
func NewTable[T any](name string, primary func(*T) Key) *Table[T] {
	t := &TableSchema{Name: name, row: reflect.TypeFor[*T]()}
	t.Primary = &IndexSchema{Table: t, Unique: true, keys: func(row any) []Key { return []Key{primary(row.(*T))} }}
	t.encode = func(row any) ([]byte, error) { return json.Marshal(row) }
	t.decode = func(data []byte) (any, error) {
		row := new(T)
		if err := json.Unmarshal(data, row); err != nil {
			return nil, err
		}
		return row, nil
	}
	return &Table[T]{schema: t}
}

// Unique adds an index in which each key belongs to one row at the most. A row for which
// keys returns none is not in the index. Add indexes before the table is attached. Unique panics for
// a log: a store could only refuse a row after its transaction.
func (t *Table[T]) Unique(name string, keys func(*T) []Key) *Index[T] {
	return t.index(name, true, keys)
}

// Index adds an index in which rows may share keys; they order by primary key then.
func (t *Table[T]) Index(name string, keys func(*T) []Key) *Index[T] {
	return t.index(name, false, keys)
}

func (t *Table[T]) index(name string, unique bool, keys func(*T) []Key) *Index[T] {
	if unique && t.schema.log != nil {
		panic(fmt.Sprintf("storage: log %s can't have the unique index %s", t.schema.Name, name))
	}
	ix := &IndexSchema{Table: t.schema, Name: name, Unique: unique, keys: func(row any) []Key { return keys(row.(*T)) }}
	t.schema.Indexes = append(t.schema.Indexes, ix)
	return &Index[T]{schema: ix}
}

// Secret keeps the keys of this table out of errors: they are secrets.
func (t *Table[T]) Secret() *Table[T] {
	t.schema.secret = true
	return t
}

// Hot tells stores that the rows are small and read often. A store may keep them decoded. Call it before the table is attached.
func (t *Table[T]) Hot() *Table[T] {
	t.schema.hot = true
	return t
}

// Schema returns the untyped definition, to attach and to read from generic code.
func (t *Table[T]) Schema() *TableSchema { return t.schema }

// Name returns the table's name, as it stands in a [Change].
func (t *Table[T]) Name() string { return t.schema.Name }

// Get returns the row with that primary key, to read and not to modify, or ErrNotFound.
func (t *Table[T]) Get(tx ReadTx, key Key) (*T, error) { return get[T](tx, t.schema.Primary, key) }

// Find is Get, with nil for a row that isn't there.
func (t *Table[T]) Find(tx ReadTx, key Key) (*T, error) { return find[T](tx, t.schema.Primary, key) }

// Scan yields rows in the order of their primary keys.
func (t *Table[T]) Scan(tx ReadTx, r Range) iter.Seq2[*T, error] {
	return scan[T](tx, t.schema.Primary, r)
}

// Keys yields the primary keys of the rows that Scan yields. It decodes no row.
func (t *Table[T]) Keys(tx ReadTx, r Range) iter.Seq2[Key, error] {
	return tx.Keys(t.schema.Primary, r)
}

// Put stores a row, new or not.
func (t *Table[T]) Put(tx WriteTx, row *T) error { return tx.Put(t.schema, row) }

// Append stores a row in a log under a number that the store gives, see [NewLog] and [WriteTx].
func (t *Table[T]) Append(tx WriteTx, row *T) error { return tx.Append(t.schema, row) }

// Insert stores a row that must be new: ErrExists if its primary key is taken.
func (t *Table[T]) Insert(tx WriteTx, row *T) error {
	key := t.schema.Key(row)
	switch _, err := tx.Get(t.schema.Primary, key); {
	case err == nil:
		return t.schema.Primary.Wrap(key, ErrExists)
	case !errors.Is(err, ErrNotFound):
		return err
	}
	return tx.Put(t.schema, row)
}

// Delete removes the row with that primary key, or returns ErrNotFound.
func (t *Table[T]) Delete(tx WriteTx, key Key) error { return tx.Delete(t.schema, key) }

// Modify hands fn a copy of the row with that primary key and stores what fn made of it.
// An error of fn is returned, and nothing is stored. A changed primary key moves the row.
func (t *Table[T]) Modify(tx WriteTx, key Key, fn func(*T) error) error {
	old, err := t.Get(tx, key)
	if err != nil {
		return err
	}
	row, err := t.Clone(old)
	if err != nil {
		return err
	}
	if err := fn(row); err != nil {
		return err
	}
	if newKey := t.schema.Key(row); !newKey.Equal(key) {
		if err := t.Delete(tx, key); err != nil {
			return err
		}
		return t.Insert(tx, row)
	}
	return t.Put(tx, row)
}

// Clone returns a deep copy of a row: what the store would return after storing it.
func (t *Table[T]) Clone(row *T) (*T, error) {
	_, out, err := t.schema.Keep(row)
	if err != nil {
		return nil, err
	}
	return out.(*T), nil
}

// Get returns the row a unique index leads to, or ErrNotFound.
func (ix *Index[T]) Get(tx ReadTx, key Key) (*T, error) { return get[T](tx, ix.schema, key) }

// Find is Get, with nil for a row that isn't there.
func (ix *Index[T]) Find(tx ReadTx, key Key) (*T, error) { return find[T](tx, ix.schema, key) }

// Scan yields rows in the order of the index. A row with several keys comes once for each of them in the range.
func (ix *Index[T]) Scan(tx ReadTx, r Range) iter.Seq2[*T, error] { return scan[T](tx, ix.schema, r) }

// Keys yields the primary keys of the rows that Scan yields. It decodes no row.
func (ix *Index[T]) Keys(tx ReadTx, r Range) iter.Seq2[Key, error] { return tx.Keys(ix.schema, r) }

// Schema returns the untyped definition.
func (ix *Index[T]) Schema() *IndexSchema { return ix.schema }

func get[T any](tx ReadTx, ix *IndexSchema, key Key) (*T, error) {
	row, err := tx.Get(ix, key)
	if err != nil {
		return nil, err
	}
	return row.(*T), nil
}

func find[T any](tx ReadTx, ix *IndexSchema, key Key) (*T, error) {
	row, err := get[T](tx, ix, key)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return row, err
}

func scan[T any](tx ReadTx, ix *IndexSchema, r Range) iter.Seq2[*T, error] {
	return func(yield func(*T, error) bool) {
		for row, err := range tx.Scan(ix, r) {
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(row.(*T), nil) {
				return
			}
		}
	}
}
