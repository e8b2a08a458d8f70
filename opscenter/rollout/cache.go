package rollout

import (
	"context"
	"errors"

	"github.com/opscenter-go/sdk/storage"
)

// rowCache keeps rows that decisions read, in their decoded form. Most rows stay the same between two decisions on a unit:
// a step changes one server of a cluster, and a decision reads all of them. The store's Watch tells which rows changed.
//
// One goroutine owns a rowCache. The rows are shared: read them only.
type rowCache struct {
	store storage.Store
	// revision is that of the last snapshot. A row of the cache did not change up to it.
	revision uint64
	tables   map[string]*cachedTable // by name
	rows     int
}

// cachedTable is the cached rows of a table.
type cachedTable struct {
	rows map[string]*cachedRow // by primary key
	// primary has the primary keys of rows that were found by other unique indexes.
	primary map[*storage.IndexSchema]map[string]string
}

type cachedRow struct {
	row any
	via []indexed
}

// indexed is a key of an index other than the primary one.
type indexed struct {
	index *storage.IndexSchema
	key   string
}

// maxCachedRows bounds the rows of a rowCache. A row has about 2 KB.
const maxCachedRows = 20_000

// newRowCache returns a cache of rows of the named tables. Rows of other tables are read from the store.
func newRowCache(store storage.Store, tables ...string) *rowCache {
	c := &rowCache{store: store, tables: map[string]*cachedTable{}}
	for _, name := range tables {
		c.tables[name] = newCachedTable()
	}
	return c
}

func newCachedTable() *cachedTable {
	return &cachedTable{rows: map[string]*cachedRow{}, primary: map[*storage.IndexSchema]map[string]string{}}
}

// clear drops all rows.
func (c *rowCache) clear() {
	for name := range c.tables {
		c.tables[name] = newCachedTable()
	}
	c.rows = 0
}

// ended is a context for a Watch that does not wait: it yields the changes that exist, and ends.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// over returns a transaction that reads a snapshot through the cache. Snapshots must come in the order of their revisions. It
// drops the rows that changed since the last one. Errors: those of the store's Watch.
func (c *rowCache) over(tx storage.ReadTx) (storage.ReadTx, error) {
	names := make([]string, 0, len(c.tables))
	for name := range c.tables {
		names = append(names, name)
	}
	// Rows that changed after the snapshot are dropped, too, and read of the snapshot. The next call drops them again: its
	// changes begin at the revision of this snapshot.
	head := tx.Revision()
	for reached, more := c.revision, c.rows > 0; more && reached < head; {
		more = false
		for batch, err := range c.store.Watch(ended, reached, names...) {
			if errors.Is(err, context.Canceled) {
				break
			}
			if err != nil {
				return nil, err
			}
			reached, more = batch.Revision, !batch.Reset
			if batch.Reset {
				c.clear()
			}
			for _, change := range batch.Changes {
				c.drop(change)
			}
		}
	}
	c.revision = head
	return &cachedTx{ReadTx: tx, cache: c}, nil
}

// drop drops a row that changed.
func (c *rowCache) drop(change storage.Change) {
	table := c.tables[change.Table]
	known := table.rows[string(change.Key)]
	if known == nil {
		return
	}
	for _, via := range known.via {
		delete(table.primary[via.index], via.key)
	}
	delete(table.rows, string(change.Key))
	c.rows--
}

// cachedTx reads a snapshot through a rowCache.
type cachedTx struct {
	storage.ReadTx
	cache *rowCache
}

// Get implements storage.ReadTx.
func (t *cachedTx) Get(ix *storage.IndexSchema, key storage.Key) (any, error) {
	table := t.cache.tables[ix.Table.Name]
	if table == nil || !ix.Unique {
		return t.ReadTx.Get(ix, key)
	}
	secondary := ix != ix.Table.Primary
	primary := string(key)
	if secondary {
		primary = table.primary[ix][string(key)]
	}
	if known := table.rows[primary]; known != nil {
		return known.row, nil
	}
	row, err := t.ReadTx.Get(ix, key)
	if err != nil {
		return nil, err
	}
	if t.cache.rows >= maxCachedRows {
		t.cache.clear()
		table = t.cache.tables[ix.Table.Name]
	}
	primary = string(ix.Table.Key(row))
	known := table.rows[primary]
	if known == nil {
		known = &cachedRow{row: row}
		table.rows[primary] = known
		t.cache.rows++
	}
	if secondary {
		if table.primary[ix] == nil {
			table.primary[ix] = map[string]string{}
		}
		table.primary[ix][string(key)] = primary
		known.via = append(known.via, indexed{ix, string(key)})
	}
	return known.row, nil
}
