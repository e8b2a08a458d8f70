package badgerstore

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/storage"
)

func (c *rowCache) held() (n, size int) {
	for i := range c.shards {
		n += c.shards[i].entries.Len()
		size += c.shards[i].size
	}
	return n, size
}

func TestRowCache(t *testing.T) {
	var none *rowCache
	require.Nil(t, newRowCache(0))
	none.put([]byte("a"), cacheEntry{1, "row", 1}, 1, false)
	none.committed(map[string]write{"a": {decoded: "row", hot: true}}, 1)
	value, _ := none.get([]byte("a"), 1)
	require.Nil(t, value, "there is no cache")

	const size = 512 << 10
	c := newRowCache(size)
	key := func(i int) []byte { return fmt.Appendf(nil, "key%05d", i) }
	known := func(i int, revision uint64) any {
		value, version := c.get(key(i), revision)
		require.LessOrEqual(t, version, revision)
		return value
	}
	c.put(key(0), cacheEntry{5, "five", 10}, 6, false)
	require.Equal(t, "five", known(0, 5))
	require.Equal(t, "five", known(0, 9), "no commit has replaced it")
	require.Nil(t, known(0, 4), "an older snapshot")
	c.committed(map[string]write{string(key(0)): {value: make([]byte, 20), decoded: "seven", hot: true}, string(key(1)): {decoded: "not hot"}}, 7)
	require.Equal(t, "seven", known(0, 7))
	require.Nil(t, known(0, 6))
	require.Nil(t, known(1, 7))
	n, held := c.held()
	require.Equal(t, 1, n)
	require.Equal(t, len(key(0))+20, held, "the replaced row does not count")
	c.put(key(0), cacheEntry{5, "five", 10}, 6, false)
	require.Equal(t, "seven", known(0, 7), "a reader of an old snapshot replaces no newer row")
	c.committed(map[string]write{string(key(0)): {deleted: true, hot: true}}, 8)
	require.Nil(t, known(0, 8))
	c.put(key(0), cacheEntry{7, "seven", 10}, 7, false)
	require.Nil(t, known(0, 8), "a reader of an old snapshot brings no row back")
	c.put(key(0), cacheEntry{7, "seven", 10}, 8, false)
	require.Equal(t, "seven", known(0, 8))

	c.put(key(1), cacheEntry{1, "large", size / 128 / 2}, 8, false)
	require.Nil(t, known(1, 8), "a row that takes most of a shard is not kept")
	for i := range 20_000 {
		c.put(key(i), cacheEntry{8, i, 92}, 8, true)
	}
	n, held = c.held()
	require.InDelta(t, size/100, n, 150)
	require.LessOrEqual(t, held, size)
	hits := 0
	for i := range 20_000 {
		if known(i, 8) != nil {
			hits++
		}
	}
	require.Equal(t, n, hits, "a scan keeps the rows that it found room for")
	require.NotNil(t, known(1, 8))
	for i := 20_000; i < 40_000; i++ {
		c.put(key(i), cacheEntry{8, i, 92}, 8, false)
	}
	require.Nil(t, known(1, 8), "rows that are read one by one replace the oldest")
	_, held = c.held()
	require.LessOrEqual(t, held, size)
}

// TestCachedSnapshots: whatever the cache holds, a View shows one commit. Two rows, and the index entries of both, always change
// together; writers change, move and delete them while readers read, list and find them. The cache is so small that rows fall out
// of it, and are read again.
func TestCachedSnapshots(t *testing.T) {
	type row struct {
		Name, Tag string
		N         int
		Ballast   []byte
	}
	table := storage.NewTable("rows", func(r *row) storage.Key { return storage.StringKey(r.Name) }).Compact().Hot()
	byTag := table.Unique("tag", func(r *row) []storage.Key { return []storage.Key{storage.StringKey(r.Tag)} })
	store, err := Open(t.TempDir(), Options{RowCache: 128 * 1500})
	require.NoError(t, err)
	defer store.Close()
	require.NoError(t, store.Attach(t.Context(), table.Schema()))
	const pairs, writers, readers = 60, 2, 3
	name := func(pair int, side string) string { return fmt.Sprintf("%s%02d", side, pair) }
	key := func(pair int, side string) storage.Key { return storage.StringKey(name(pair, side)) }
	var writing, reading errgroup.Group
	for w := range writers {
		writing.Go(func() error {
			random := rand.New(rand.NewPCG(uint64(w), 1))
			for n := range 400 {
				pair := random.IntN(pairs)
				err := store.Update(t.Context(), func(tx storage.WriteTx) error {
					for _, side := range []string{"a", "b"} {
						if found, err := table.Find(tx, key(pair, side)); err != nil {
							return err
						} else if found != nil && n%5 == 0 {
							if err := table.Delete(tx, key(pair, side)); err != nil {
								return err
							}
							continue
						}
						next := &row{Name: name(pair, side), Tag: fmt.Sprintf("%d of %s", n%3, name(pair, side)), N: w*10_000 + n, Ballast: make([]byte, 100)}
						if err := table.Put(tx, next); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	ended := make(chan struct{})
	for r := range readers {
		reading.Go(func() error {
			random := rand.New(rand.NewPCG(uint64(r), 2))
			for {
				select {
				case <-ended:
					return nil
				default:
				}
				err := store.View(t.Context(), func(tx storage.ReadTx) error {
					listed := map[string]*row{}
					list := func() error {
						for found, err := range table.Scan(tx, storage.Range{}) {
							if err != nil {
								return err
							}
							listed[found.Name] = found
						}
						return nil
					}
					if r == 0 {
						if err := list(); err != nil {
							return err
						}
					}
					for range 10 {
						pair := random.IntN(pairs)
						a, err := table.Find(tx, key(pair, "a"))
						if err != nil {
							return err
						}
						runtime.Gosched() // other commits come between
						b, err := table.Find(tx, key(pair, "b"))
						if err != nil {
							return err
						}
						if (a == nil) != (b == nil) || a != nil && (a.N != b.N) {
							return fmt.Errorf("pair %d is of two commits: %+v, %+v", pair, a, b)
						}
						if found := listed[name(pair, "a")]; r == 0 && ((found == nil) != (a == nil) || a != nil && found.N != a.N) {
							return fmt.Errorf("pair %d is listed as %+v, and read as %+v", pair, found, a)
						}
						for i := range 3 {
							tag := fmt.Sprintf("%d of %s", i, name(pair, "a"))
							tagged, err := byTag.Find(tx, storage.StringKey(tag))
							if err != nil {
								return err
							}
							if wanted := a != nil && a.Tag == tag; (tagged != nil) != wanted || wanted && tagged.N != a.N {
								return fmt.Errorf("index entry %s leads to %+v, and the row is %+v", tag, tagged, a)
							}
						}
					}
					return nil
				})
				if err != nil {
					return err
				}
			}
		})
	}
	require.NoError(t, writing.Wait())
	close(ended)
	require.NoError(t, reading.Wait())
}

// TestCommittedRowsAreCached: the cache has what an Update committed, in the form in which it was stored. It has nothing of an
// Update that failed.
func TestCommittedRowsAreCached(t *testing.T) {
	type row struct {
		Name  string
		Texts []string
		Left  string `json:"-"`
	}
	table := storage.NewTable("rows", func(r *row) storage.Key { return storage.StringKey(r.Name) }).Compact().Hot()
	store, err := Open(t.TempDir())
	require.NoError(t, err)
	defer store.Close()
	require.NoError(t, store.Attach(t.Context(), table.Schema()))
	cached := func(name string) any {
		value, _ := store.rows.get(append(rowPrefix(table.Schema()), storage.StringKey(name)...), math.MaxUint64)
		return value
	}
	mine := &row{Name: "a", Texts: []string{"stored"}, Left: "out"}
	require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
		if err := table.Put(tx, mine); err != nil {
			return err
		}
		mine.Texts[0] = "changed"
		found, err := table.Get(tx, storage.StringKey("a"))
		require.Equal(t, &row{Name: "a", Texts: []string{"stored"}}, found)
		return err
	}))
	require.Equal(t, &row{Name: "a", Texts: []string{"stored"}}, cached("a"))

	failure := errors.New("failed")
	require.ErrorIs(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
		require.NoError(t, table.Put(tx, &row{Name: "b"}))
		return failure
	}), failure)
	require.Nil(t, cached("b"))
	n, _ := store.rows.held()
	require.Equal(t, 1, n)
}

// TestCacheOfAnEarlierDefinition: an Attach that fails leaves nothing in the cache, and another definition of the table is attached.
func TestCacheOfAnEarlierDefinition(t *testing.T) {
	type first struct{ Name, Tag string }
	type second struct{ Name, Tag, Other string }
	dir := t.TempDir()
	store, err := Open(dir)
	require.NoError(t, err)
	defer store.Close()
	plain := storage.NewTable("rows", func(r *first) storage.Key { return storage.StringKey(r.Name) }).Hot()
	require.NoError(t, store.Attach(t.Context(), plain.Schema()))
	for from := 0; from < 3000; from += 500 {
		require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
			for i := from; i < from+500; i++ {
				if err := plain.Put(tx, &first{fmt.Sprintf("%05d", i), fmt.Sprint("tag ", min(i, 2800))}); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	require.NoError(t, store.Close())
	store, err = Open(dir)
	require.NoError(t, err)
	defer store.Close()
	indexed := storage.NewTable("rows", func(r *first) storage.Key { return storage.StringKey(r.Name) }).Hot()
	indexed.Unique("tag", func(r *first) []storage.Key { return []storage.Key{storage.StringKey(r.Tag)} })
	require.ErrorIs(t, store.Attach(t.Context(), indexed.Schema()), storage.ErrExists, "the last rows share a tag")
	other := storage.NewTable("rows", func(r *second) storage.Key { return storage.StringKey(r.Name) }).Hot()
	byTag := other.Unique("tag", func(r *second) []storage.Key { return []storage.Key{storage.StringKey(r.Name + r.Tag)} })
	require.NoError(t, store.Attach(t.Context(), other.Schema()))
	require.NoError(t, store.View(t.Context(), func(tx storage.ReadTx) error {
		row, err := other.Get(tx, storage.StringKey("00001"))
		require.NoError(t, err)
		require.Equal(t, &second{Name: "00001", Tag: "tag 1"}, row)
		_, err = byTag.Get(tx, storage.StringKey("tag 1"))
		require.ErrorIs(t, err, storage.ErrNotFound)
		row, err = byTag.Get(tx, storage.StringKey("00001tag 1"))
		require.NoError(t, err)
		require.Equal(t, "00001", row.Name)
		return nil
	}))
}
