// Package storetest holds a storage backend to the contract of package storage. Backends of
// your own run it too:
//
//	func TestConformance(t *testing.T) {
//		storetest.Run(t, func(dir string) (storage.Store, error) { return mystore.Open(dir) }, storetest.Durable())
//	}
package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/storage"
)

// Opener opens a store in a directory that is empty at first, and the same one when the
// store is opened again. A backend that keeps nothing on disk may ignore it. For a durable backend, Kill
// calls it in another process, too: see [Run].
type Opener func(dir string) (storage.Store, error)

// Option tells what a backend promises beyond the contract.
type Option func(*suite)

// Durable: what was acknowledged is there after reopening, and after kill -9.
func Durable() Option { return func(s *suite) { s.durable = true } }

// DetectsMutation: a row modified in place by a reader is reported as storage.ErrMutated.
// Backends without it must hand out rows of which a modification has no effect, or say SharesRows.
func DetectsMutation() Option { return func(s *suite) { s.detectsMutation = true } }

// SharesRows: readers get the rows that the store keeps, and one that modifies them damages it,
// as the contract allows. CarelessCaller is skipped then.
func SharesRows() Option { return func(s *suite) { s.sharesRows = true } }

type suite struct {
	open            Opener
	durable         bool
	detectsMutation bool
	sharesRows      bool
	deadline        time.Duration
}

// Run runs the whole suite against the backend. For a durable one it also runs the test
// binary again, to kill it: call Run directly from a top-level test. In that child process the
// Opener gets the parent's directory. Where a directory is not enough to reach the engine
// that the parent started, put the rest into the environment with t.Setenv before Run, and read it
// there in the Opener.
func Run(t *testing.T, open Opener, options ...Option) {
	s := &suite{open: open, deadline: DefaultDeadline}
	for _, option := range options {
		option(s)
	}
	if s.durable && inChild() {
		s.child(t)
		return
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"Model", s.model},
		{"UniqueRace", s.uniqueRace},
		{"UniqueKeyIsRefusedAndFreed", s.uniqueKey},
		{"LostUpdates", s.lostUpdates},
		{"Rollback", s.rollback},
		{"IndexMoves", s.indexMoves},
		{"NULAndPrefixKeys", s.oddKeys},
		{"OrderReverseCursors", s.order},
		{"SnapshotIsStable", s.snapshot},
		{"UpdateInsideView", s.updateInsideView},
		{"ReadYourWrites", s.readYourWrites},
		{"IterationWhileWriting", s.iterationWhileWriting},
		{"RunTwice", s.runTwice},
		{"CarelessCaller", s.carelessCaller},
		{"PutKeepsNoReference", s.putKeepsNoReference},
		{"Append", s.appends},
		{"AppendOrder", s.appendOrder},
		{"AppendRefusals", s.appendRefusals},
		{"TooLarge", s.tooLarge},
		{"InvalidText", s.invalidText},
		{"Closed", s.closed},
		{"TransactionIsOver", s.transactionOver},
		{"Schema", s.schema},
		{"CancelledContext", s.cancelled},
		{"PanicInUpdate", s.panics},
		{"WatchOrder", s.watchOrder},
		{"WatchLagAndReset", s.watchLag},
		{"WatchCancel", s.watchCancel},
		{"WatchEnded", s.watchEnded},
		{"WatchMissesNothing", s.watchComplete},
		{"Sync", s.sync},
		{"Reopen", s.reopen},
		{"AppendReopen", s.appendReopen},
		{"ChangedIndexes", s.changedIndexes},
		{"Kill", s.kill},
	} {
		t.Run(test.name, func(t *testing.T) { s.within(t, rules[test.name], test.run) })
	}
}

// item is the row of the suite.
type item struct {
	ID    string
	Owner string   // unique unless empty
	Tags  []string // index, several
	Size  uint64   // index
	Text  string
}

func itemKey(id string) storage.Key { return storage.StringKey(id) }

type tables struct {
	items    *storage.Table[item]
	byOwner  *storage.Index[item]
	byTag    *storage.Index[item]
	bySize   *storage.Index[item]
	counter  *storage.Table[item]
	log      *storage.Table[line]
	byWriter *storage.Index[line]
}

func newTables() *tables {
	ts := &tables{items: storage.NewTable("items", func(i *item) storage.Key { return itemKey(i.ID) })}
	ts.byOwner = ts.items.Unique("owner", func(i *item) []storage.Key {
		if i.Owner == "" {
			return nil
		}
		return []storage.Key{storage.StringKey(i.Owner)}
	})
	ts.byTag = ts.items.Index("tag", func(i *item) []storage.Key {
		var keys []storage.Key
		for _, tag := range i.Tags {
			keys = append(keys, storage.StringKey(tag))
		}
		return keys
	})
	ts.bySize = ts.items.Index("size", func(i *item) []storage.Key { return []storage.Key{storage.UintKey(i.Size)} })
	ts.counter = storage.NewTable("counter", func(i *item) storage.Key { return itemKey(i.ID) })
	ts.log, ts.byWriter = newLog()
	return ts
}

func (ts *tables) schemas() []*storage.TableSchema {
	return []*storage.TableSchema{ts.items.Schema(), ts.counter.Schema(), ts.log.Schema()}
}

// store opens an empty store with the suite's tables, and closes it at the end of the test.
func (s *suite) store(t testing.TB) (storage.Store, *tables) {
	ts := newTables()
	return s.openIn(t, t.TempDir(), ts), ts
}

func (s *suite) openIn(t testing.TB, dir string, ts *tables) storage.Store {
	t.Helper()
	store, err := s.open(dir)
	require.NoError(t, err)
	require.NotNil(t, store, "the Opener returned neither a store nor an error")
	t.Cleanup(func() { s.closeInTime(t, store) })
	require.NoError(t, store.Attach(t.Context(), ts.schemas()...))
	return store
}

// put writes rows in one transaction.
func put(t testing.TB, store storage.Store, ts *tables, rows ...*item) {
	t.Helper()
	require.NoError(t, store.Update(context.Background(), func(tx storage.WriteTx) error {
		for _, row := range rows {
			if err := ts.items.Put(tx, row); err != nil {
				return err
			}
		}
		return nil
	}))
}

func ids(rows iter.Seq2[*item, error]) ([]string, error) {
	out := []string{}
	for row, err := range rows {
		if err != nil {
			return out, err
		}
		out = append(out, row.ID)
	}
	return out, nil
}

func view[T any](t testing.TB, store storage.Store, fn func(storage.ReadTx) (T, error)) T {
	t.Helper()
	var out T
	require.NoError(t, store.View(context.Background(), func(tx storage.ReadTx) (err error) {
		out, err = fn(tx)
		return err
	}))
	return out
}

func revision(t testing.TB, store storage.Store) uint64 {
	return view(t, store, func(tx storage.ReadTx) (uint64, error) { return tx.Revision(), nil })
}

func (s *suite) rollback(t *testing.T) {
	store, ts := s.store(t)
	put(t, store, ts, &item{ID: "a", Owner: "o", Tags: []string{"x"}})
	before := revision(t, store)
	stop := errors.New("stop")
	err := store.Update(t.Context(), func(tx storage.WriteTx) error {
		if err := ts.items.Put(tx, &item{ID: "a", Owner: "p", Tags: []string{"y"}}); err != nil {
			return err
		}
		if err := ts.items.Put(tx, &item{ID: "b", Owner: "o"}); err != nil {
			return err
		}
		return stop
	})
	require.ErrorIs(t, err, stop)
	require.Equal(t, before, revision(t, store), "a rolled-back transaction changes no revision")
	view(t, store, func(tx storage.ReadTx) (any, error) {
		row, err := ts.byOwner.Get(tx, storage.StringKey("o"))
		require.NoError(t, err)
		require.Equal(t, "a", row.ID)
		_, err = ts.byOwner.Get(tx, storage.StringKey("p"))
		require.ErrorIs(t, err, storage.ErrNotFound)
		for tag, want := range map[string][]string{"x": {"a"}, "y": {}} {
			got, err := ids(ts.byTag.Scan(tx, storage.Range{Prefix: storage.StringKey(tag)}))
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
		_, err = ts.items.Get(tx, itemKey("b"))
		require.ErrorIs(t, err, storage.ErrNotFound)
		return nil, nil
	})
}

func (s *suite) indexMoves(t *testing.T) {
	store, ts := s.store(t)
	put(t, store, ts, &item{ID: "a", Owner: "one", Tags: []string{"x", "y", "x"}, Size: 1})
	put(t, store, ts, &item{ID: "a", Owner: "two", Tags: []string{"y", "z"}, Size: 2})
	check := func(tags map[string][]string, sizes []string) {
		view(t, store, func(tx storage.ReadTx) (any, error) {
			for tag, want := range tags {
				got, err := ids(ts.byTag.Scan(tx, storage.Range{Prefix: storage.StringKey(tag)}))
				require.NoError(t, err)
				require.Equal(t, want, got, tag)
			}
			got, err := ids(ts.bySize.Scan(tx, storage.Range{}))
			require.NoError(t, err)
			require.Equal(t, sizes, got)
			return nil, nil
		})
	}
	check(map[string][]string{"x": {}, "y": {"a"}, "z": {"a"}}, []string{"a"})
	// A row that moves to another primary key takes its index entries along.
	require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
		return ts.items.Modify(tx, itemKey("a"), func(i *item) error { i.ID = "b"; return nil })
	}))
	check(map[string][]string{"y": {"b"}, "z": {"b"}}, []string{"b"})
	require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error { return ts.items.Delete(tx, itemKey("b")) }))
	check(map[string][]string{"y": {}, "z": {}}, []string{})
	err := store.Update(t.Context(), func(tx storage.WriteTx) error { return ts.items.Delete(tx, itemKey("b")) })
	require.ErrorIs(t, err, storage.ErrNotFound)
	require.ErrorContains(t, err, "items", "an error names the table")
	require.ErrorContains(t, err, "b", "and the key")
}

func (s *suite) oddKeys(t *testing.T) {
	store, ts := s.store(t)
	odd := []string{"", "\x00", "\x00\x00", "\x00\x01", "\x00ÿ", "\x01", "a", "a\x00", "a\x00b", "a\x00\x01", "ab", "c1", "c1\x00y", "c10", "ü", "\ufffd", `\ufffd`, "\U0010ffff"}
	for _, id := range odd {
		put(t, store, ts, &item{ID: id, Owner: "o" + id, Tags: []string{id}})
	}
	slices.Sort(odd)
	view(t, store, func(tx storage.ReadTx) (any, error) {
		got, err := ids(ts.items.Scan(tx, storage.Range{}))
		require.NoError(t, err)
		require.Equal(t, odd, got, "strings order as their bytes do")
		for _, id := range odd {
			row, err := ts.items.Get(tx, itemKey(id))
			require.NoError(t, err)
			require.Equal(t, id, row.ID)
			row, err = ts.byOwner.Get(tx, storage.StringKey("o"+id))
			require.NoError(t, err)
			require.Equal(t, id, row.ID)
			got, err := ids(ts.byTag.Scan(tx, storage.Range{Prefix: storage.StringKey(id)}))
			require.NoError(t, err)
			require.Equal(t, []string{id}, got, "no key is a prefix of another: %q", id)
		}
		_, err = ts.items.Get(tx, itemKey("c"))
		require.ErrorIs(t, err, storage.ErrNotFound)
		got, err = ids(ts.items.Scan(tx, storage.Range{Prefix: storage.Key(nil).StrPrefix("c1")}))
		require.NoError(t, err)
		require.Equal(t, []string{"c1", "c1\x00y", "c10"}, got, "prefixes of strings are asked for by StrPrefix")
		return nil, nil
	})
}

func (s *suite) order(t *testing.T) {
	store, ts := s.store(t)
	var want []string
	for i := range 100 {
		id := fmt.Sprintf("n%03d", (i*37)%100)
		put(t, store, ts, &item{ID: id, Size: uint64(i % 7), Tags: []string{"all", fmt.Sprint("t", i%3)}})
		want = append(want, id)
	}
	slices.Sort(want)
	reversed := slices.Clone(want)
	slices.Reverse(reversed)
	all := storage.StringKey("all")
	view(t, store, func(tx storage.ReadTx) (any, error) {
		for _, reverse := range []bool{false, true} {
			expect := want
			if reverse {
				expect = reversed
			}
			got, err := ids(ts.items.Scan(tx, storage.Range{Reverse: reverse}))
			require.NoError(t, err)
			require.Equal(t, expect, got)
			// Pages, over the primary key and over one tag, which has other entries on either side.
			for _, size := range []int{1, 7, 100, 1000} {
				var primary, tagged []string
				r, tr := storage.Range{Reverse: reverse}, storage.Range{Prefix: all, Reverse: reverse}
				for {
					n := 0
					for row, err := range ts.items.Scan(tx, r) {
						require.NoError(t, err)
						primary = append(primary, row.ID)
						r.After = itemKey(row.ID)
						if n++; n == size {
							break
						}
					}
					if n < size {
						break
					}
				}
				require.Equal(t, expect, primary)
				for {
					n := 0
					for row, err := range ts.byTag.Scan(tx, tr) {
						require.NoError(t, err)
						tagged = append(tagged, row.ID)
						tr.After = all.Join(itemKey(row.ID))
						if n++; n == size {
							break
						}
					}
					if n < size {
						break
					}
				}
				require.Equal(t, expect, tagged)
			}
		}
		// Rows with the same index key come by primary key; numbers order by value.
		last := ""
		for row, err := range ts.bySize.Scan(tx, storage.Range{}) {
			require.NoError(t, err)
			place := fmt.Sprintf("%d %s", row.Size, row.ID)
			require.Less(t, last, place)
			last = place
		}
		got, err := ids(ts.items.Scan(tx, storage.Range{After: itemKey("n0505")}))
		require.NoError(t, err)
		require.Equal(t, "n051", got[0], "a cursor need not exist any more")
		return nil, nil
	})
}

func (s *suite) snapshot(t *testing.T) {
	store, ts := s.store(t)
	put(t, store, ts, &item{ID: "a", Text: "old"}, &item{ID: "b"})
	require.NoError(t, store.View(t.Context(), func(tx storage.ReadTx) error {
		before := tx.Revision()
		written := make(chan struct{})
		go func() { // another writer, which no View keeps waiting
			defer close(written)
			put(t, store, ts, &item{ID: "a", Text: "new"}, &item{ID: "c"})
			require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error { return ts.items.Delete(tx, itemKey("b")) }))
		}()
		<-written
		row, err := ts.items.Get(tx, itemKey("a"))
		require.NoError(t, err)
		require.Equal(t, "old", row.Text)
		got, err := ids(ts.items.Scan(tx, storage.Range{}))
		require.NoError(t, err)
		require.Equal(t, []string{"a", "b"}, got)
		require.Equal(t, before, tx.Revision())
		return nil
	}))
	require.Equal(t, []string{"a", "c"}, view(t, store, func(tx storage.ReadTx) ([]string, error) { return ids(ts.items.Scan(tx, storage.Range{})) }))
}

// The contract of View allows its function to call Update.
func (s *suite) updateInsideView(t *testing.T) {
	store, ts := s.store(t)
	put(t, store, ts, &item{ID: "a", Text: "old"})
	require.NoError(t, store.View(t.Context(), func(tx storage.ReadTx) error {
		put(t, store, ts, &item{ID: "a", Text: "new"})
		row, err := ts.items.Get(tx, itemKey("a"))
		require.NoError(t, err)
		require.Equal(t, "old", row.Text, "the View goes on with its snapshot")
		return nil
	}))
}

func (s *suite) readYourWrites(t *testing.T) {
	store, ts := s.store(t)
	put(t, store, ts, &item{ID: "a", Owner: "o"}, &item{ID: "c", Tags: []string{"x"}})
	require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
		require.NoError(t, ts.items.Put(tx, &item{ID: "b", Owner: "p", Tags: []string{"x"}}))
		require.NoError(t, ts.items.Delete(tx, itemKey("a")))
		row, err := ts.byOwner.Get(tx, storage.StringKey("p"))
		require.NoError(t, err)
		require.Equal(t, "b", row.ID)
		_, err = ts.byOwner.Get(tx, storage.StringKey("o"))
		require.ErrorIs(t, err, storage.ErrNotFound)
		for _, reverse := range []bool{false, true} {
			want := []string{"b", "c"}
			if reverse {
				slices.Reverse(want)
			}
			got, err := ids(ts.items.Scan(tx, storage.Range{Reverse: reverse}))
			require.NoError(t, err)
			require.Equal(t, want, got)
			got, err = ids(ts.byTag.Scan(tx, storage.Range{Prefix: storage.StringKey("x"), Reverse: reverse}))
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
		require.NoError(t, ts.items.Put(tx, &item{ID: "d", Owner: "o"}), "a freed unique key can be taken at once")
		return nil
	}))
}

func (s *suite) iterationWhileWriting(t *testing.T) {
	store, ts := s.store(t)
	for i := range 50 {
		put(t, store, ts, &item{ID: fmt.Sprintf("n%02d", i), Tags: []string{"x"}})
	}
	require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
		n := 0
		for row, err := range ts.byTag.Scan(tx, storage.Range{Prefix: storage.StringKey("x")}) {
			require.NoError(t, err)
			require.Empty(t, row.Text, "a scan sees what was there when it began")
			n++
			require.NoError(t, ts.items.Put(tx, &item{ID: row.ID, Tags: []string{"y"}, Text: "seen"}))
			require.NoError(t, ts.items.Put(tx, &item{ID: row.ID + "+", Tags: []string{"x"}}))
			// A scan inside the scan sees the writes so far.
			if n == 10 {
				got, err := ids(ts.byTag.Scan(tx, storage.Range{Prefix: storage.StringKey("y")}))
				require.NoError(t, err)
				require.Len(t, got, 10)
			}
			if next := fmt.Sprintf("n%02d", n); n < 50 {
				if _, err := ts.items.Get(tx, itemKey(next)); err == nil {
					require.NoError(t, ts.items.Modify(tx, itemKey(next), func(i *item) error { i.Size = 9; return nil }))
				}
			}
		}
		require.Equal(t, 50, n)
		return nil
	}))
	require.Len(t, view(t, store, func(tx storage.ReadTx) ([]string, error) { return ids(ts.items.Scan(tx, storage.Range{})) }), 100)
}

// Smoke writes, reads and closes: a quick look at a store opened in an unusual way.
func Smoke(t *testing.T, store storage.Store) {
	t.Helper()
	ts := newTables()
	require.NoError(t, store.Attach(t.Context(), ts.schemas()...))
	put(t, store, ts, &item{ID: "a", Owner: "o", Tags: []string{"x"}}, &item{ID: "b", Tags: []string{"x"}})
	require.Equal(t, []string{"b", "a"}, view(t, store, func(tx storage.ReadTx) ([]string, error) {
		return ids(ts.byTag.Scan(tx, storage.Range{Prefix: storage.StringKey("x"), Reverse: true}))
	}))
	require.NoError(t, store.Close())
}
