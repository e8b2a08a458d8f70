package memstore

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-memdb"

	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/feed"
)

// engine holds the rows of one or several stores.
type engine struct {
	options Options
	feed    *feed.Feed

	mu     sync.Mutex // held by the writer, and to change the schema
	db     atomic.Pointer[memdb.MemDB]
	tables map[string]*table // never modified: replaced
}

// table joins the definitions under which stores attached a table.
type table struct {
	schema *storage.TableSchema // the first
	// indexes are those of all definitions; unique counts the unique ones.
	indexes []*storage.IndexSchema
	unique  int
}

// metaTable holds one row, the revision, so that it is part of every snapshot.
const metaTable = "\x00meta"

type meta struct{ revision uint64 }

// stored wraps a row where mutation is to be detected.
type stored struct {
	row  any
	data []byte
}

func newEngine(options Options) *engine {
	e := &engine{options: options, feed: feed.New(0, options.FeedSize), tables: map[string]*table{}}
	db, err := memdb.NewMemDB(schemaOf(nil))
	if err != nil {
		panic(err) // the schema of no tables is a constant
	}
	e.db.Store(db)
	return e
}

func (e *engine) open() *Store {
	return &Store{engine: e, attached: map[string]*storage.TableSchema{}, closed: make(chan struct{})}
}

// schemaOf translates tables for go-memdb.
func schemaOf(tables map[string]*table) *memdb.DBSchema {
	schema := &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{
		metaTable: {Name: metaTable, Indexes: map[string]*memdb.IndexSchema{
			"id": {Name: "id", Unique: true, Indexer: constantIndexer{}},
		}},
	}}
	for name, t := range tables {
		indexes := map[string]*memdb.IndexSchema{
			"id": {Name: "id", Unique: true, Indexer: primaryIndexer{t.schema}},
		}
		for _, ix := range t.indexes {
			// Positions are unique by themselves: go-memdb has nothing to add to them.
			indexes[indexName(ix)] = &memdb.IndexSchema{Name: indexName(ix), Unique: true, AllowMissing: true, Indexer: positionIndexer{ix}}
		}
		schema.Tables[name] = &memdb.TableSchema{Name: name, Indexes: indexes}
	}
	return schema
}

// indexName keeps our names apart from go-memdb's "id".
func indexName(ix *storage.IndexSchema) string {
	if ix.Name == "" {
		return "id"
	}
	return "by " + ix.Name + "." // no name of ours ends in go-memdb's "_prefix"
}

// with returns t with a definition that a store attaches, which may be t itself. known is nil for a new table.
func (known *table) with(t *storage.TableSchema) (*table, error) {
	if known == nil {
		known = &table{schema: t}
	}
	if known.schema.RowType() != t.RowType() || known.schema.IsLog() != t.IsLog() {
		return nil, &storage.Error{Table: t.Name, Err: fmt.Errorf("another store has other rows in it: %w", storage.ErrSchema)}
	}
	out := &table{schema: known.schema, indexes: slices.Clone(known.indexes), unique: known.unique}
	for _, ix := range t.Indexes {
		at := slices.IndexFunc(out.indexes, func(other *storage.IndexSchema) bool { return other.Name == ix.Name })
		switch {
		case at < 0:
			out.indexes = append(out.indexes, ix)
			if ix.Unique {
				out.unique++
			}
		case out.indexes[at].Unique != ix.Unique:
			return nil, &storage.Error{Table: t.Name, Index: ix.Name, Err: fmt.Errorf("unique for one store, and not for another: %w", storage.ErrSchema)}
		}
	}
	return out, nil
}

// attach makes tables known. e.mu is held.
func (e *engine) attach(tables []*storage.TableSchema) error {
	wanted := maps.Clone(e.tables)
	changed := false
	for _, t := range tables {
		known := wanted[t.Name]
		merged, err := known.with(t)
		if err != nil {
			return err
		}
		if known == nil || len(merged.indexes) > len(known.indexes) {
			wanted[t.Name], changed = merged, true
		}
	}
	if !changed {
		return nil
	}
	db, err := memdb.NewMemDB(schemaOf(wanted))
	if err != nil {
		return fmt.Errorf("memstore: %w", err)
	}
	old := e.db.Load()
	from, to := old.Txn(false), db.Txn(true)
	defer to.Abort()
	for name := range old.DBSchema().Tables {
		var added []*storage.IndexSchema
		if known := e.tables[name]; known != nil {
			added = wanted[name].indexes[len(known.indexes):]
		}
		rows, err := from.Get(name, "id")
		if err != nil {
			return fmt.Errorf("memstore: %w", err)
		}
		for row := rows.Next(); row != nil; row = rows.Next() {
			if err := free(to, added, row); err != nil {
				return err
			}
			if err := to.Insert(name, row); err != nil {
				return fmt.Errorf("memstore: %w", err)
			}
		}
	}
	to.Commit()
	e.db.Store(db)
	e.tables = wanted
	return nil
}

// free returns ErrExists if a row that is already there has a unique key of this one.
func free(txn *memdb.Txn, indexes []*storage.IndexSchema, row any) error {
	for _, ix := range indexes {
		if !ix.Unique {
			continue
		}
		keys, err := ix.Keys(unwrap(row))
		if err != nil {
			return err
		}
		for _, key := range keys {
			switch other, err := txn.First(ix.Table.Name, indexName(ix), key); {
			case err != nil:
				return fmt.Errorf("memstore: %w", err)
			case other != nil:
				return ix.Wrap(key, storage.ErrExists)
			}
		}
	}
	return nil
}

// writable returns ErrSchema for a table that is not attached, and for a definition that lacks a unique index of another
// store: its writer could not keep that index unique. e.mu is held.
func (e *engine) writable(t *storage.TableSchema) error {
	known := e.tables[t.Name]
	if known == nil {
		return notAttached(t)
	}
	unique := 0
	for _, ix := range t.Indexes {
		if ix.Unique {
			unique++
		}
	}
	if unique < known.unique {
		return &storage.Error{Table: t.Name, Err: fmt.Errorf("another store has a unique index that this one does not know: %w", storage.ErrSchema)}
	}
	return nil
}

func notAttached(t *storage.TableSchema) error {
	return &storage.Error{Table: t.Name, Err: fmt.Errorf("not attached: %w", storage.ErrSchema)}
}
