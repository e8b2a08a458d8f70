package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/storage"
)

// Twice returns a store whose Update runs every closure twice, and keeps the second run: what
// a closure does outside its transaction shows.
func Twice(store storage.Store) storage.Store { return twice{store} }

type twice struct{ storage.Store }

var errFirstRun = errors.New("first run, rolled back")

// Limits implements storage.Limited.
func (s twice) Limits() storage.Limits { return storage.LimitsOf(s.Store) }

func (s twice) Update(ctx context.Context, fn func(storage.WriteTx) error) error {
	var first error
	err := s.Store.Update(ctx, func(tx storage.WriteTx) error {
		first = fn(tx)
		return errFirstRun
	})
	if !errors.Is(err, errFirstRun) {
		return err
	}
	if first != nil && errors.Is(first, context.Canceled) {
		return first
	}
	return s.Store.Update(ctx, fn)
}

func (s *suite) runTwice(t *testing.T) {
	store, ts := s.store(t)
	double := Twice(store)
	for i := range 10 {
		runs := 0
		require.NoError(t, double.Update(t.Context(), func(tx storage.WriteTx) error {
			runs++
			row, err := ts.counter.Find(tx, itemKey("n"))
			if err != nil {
				return err
			}
			next := &item{ID: "n", Size: 1}
			if row != nil {
				next.Size = row.Size + 1
			}
			return ts.counter.Put(tx, next)
		}))
		require.Equal(t, 2, runs)
		got := view(t, store, func(tx storage.ReadTx) (*item, error) { return ts.counter.Get(tx, itemKey("n")) })
		require.EqualValues(t, i+1, got.Size, "the first run left nothing behind")
	}
}

func (s *suite) carelessCaller(t *testing.T) {
	if s.sharesRows {
		t.Skip("storetest.SharesRows: the backend hands out the rows that it keeps")
	}
	store, ts := s.store(t)
	put(t, store, ts, &item{ID: "a", Tags: []string{"x"}, Text: "good"})
	view(t, store, func(tx storage.ReadTx) (any, error) {
		row, err := ts.items.Get(tx, itemKey("a"))
		require.NoError(t, err)
		row.Text, row.Tags[0] = "bad", "bad"
		return nil, nil
	})
	var got *item
	err := store.View(t.Context(), func(tx storage.ReadTx) (err error) {
		got, err = ts.items.Get(tx, itemKey("a"))
		return err
	})
	if s.detectsMutation {
		require.ErrorIs(t, err, storage.ErrMutated)
		require.ErrorContains(t, err, "items")
		_, err = func() ([]string, error) {
			var out []string
			err := store.View(t.Context(), func(tx storage.ReadTx) (err error) {
				out, err = ids(ts.items.Scan(tx, storage.Range{}))
				return err
			})
			return out, err
		}()
		require.ErrorIs(t, err, storage.ErrMutated)
		return
	}
	const ways = "a reader that modified its row changed what the store keeps. Decode a row for each reader, as badgerstore does; " +
		"or report it as storage.ErrMutated, as memstore does on demand, and say storetest.DetectsMutation(); or say storetest.SharesRows(), and leave it to your callers"
	require.NoError(t, err, ways)
	require.Equal(t, &item{ID: "a", Tags: []string{"x"}, Text: "good"}, got, ways)
}

func (s *suite) putKeepsNoReference(t *testing.T) {
	store, ts := s.store(t)
	row := &item{ID: "a", Tags: []string{"x"}, Text: "good"}
	put(t, store, ts, row)
	row.Text, row.Tags[0] = "bad", "bad"
	got := view(t, store, func(tx storage.ReadTx) (*item, error) { return ts.items.Get(tx, itemKey("a")) })
	require.Equal(t, &item{ID: "a", Tags: []string{"x"}, Text: "good"}, got)
	// Modify works on a copy.
	stop := errors.New("stop")
	err := store.Update(t.Context(), func(tx storage.WriteTx) error {
		return ts.items.Modify(tx, itemKey("a"), func(i *item) error { i.Tags[0] = "bad"; return stop })
	})
	require.ErrorIs(t, err, stop)
	got = view(t, store, func(tx storage.ReadTx) (*item, error) { return ts.items.Get(tx, itemKey("a")) })
	require.Equal(t, "x", got.Tags[0])
}

func (s *suite) tooLarge(t *testing.T) {
	store, ts := s.store(t)
	put(t, store, ts, &item{ID: "a"})
	before := revision(t, store)
	for name, row := range map[string]*item{
		"row":       {ID: "big", Text: strings.Repeat("x", storage.MaxRowSize)},
		"key":       {ID: strings.Repeat("k", storage.MaxKeySize)},
		"index key": {ID: "b", Tags: []string{strings.Repeat("k", storage.MaxKeySize)}},
	} {
		err := store.Update(t.Context(), func(tx storage.WriteTx) error { return ts.items.Put(tx, row) })
		require.ErrorIs(t, err, storage.ErrTooLarge, name)
		require.ErrorContains(t, err, "items")
	}
	require.Equal(t, before, revision(t, store), "nothing of it was kept")
	large := strings.Repeat("x", storage.MaxRowSize-1000)
	put(t, store, ts, &item{ID: "fits", Text: large})
	require.Greater(t, revision(t, store), before)
	before = revision(t, store)
	got := view(t, store, func(tx storage.ReadTx) (*item, error) { return ts.items.Get(tx, itemKey("fits")) })
	require.Equal(t, large, got.Text)
	err := store.Update(t.Context(), func(tx storage.WriteTx) error {
		for i := range storage.LimitsOf(store).MaxTxSize/len(large) + 1 {
			if err := ts.items.Put(tx, &item{ID: fmt.Sprint("part", i), Text: large}); err != nil {
				return err
			}
		}
		return nil
	})
	require.ErrorIs(t, err, storage.ErrTooLarge)
	err = store.Update(t.Context(), func(tx storage.WriteTx) error {
		for i := range storage.LimitsOf(store).MaxTxWrites {
			if err := ts.items.Put(tx, &item{ID: fmt.Sprint("many", i)}); err != nil {
				return err
			}
		}
		return nil
	})
	require.ErrorIs(t, err, storage.ErrTooLarge)
	require.Equal(t, before, revision(t, store), "nothing of it was kept")
	view(t, store, func(tx storage.ReadTx) (any, error) {
		_, err := ts.items.Get(tx, itemKey(strings.Repeat("k", storage.MaxKeySize)))
		require.ErrorIs(t, err, storage.ErrNotFound)
		return nil, nil
	})
	put(t, store, ts, &item{ID: "after"})
}

func (s *suite) invalidText(t *testing.T) {
	store, ts := s.store(t)
	for _, row := range []*item{{ID: "a\xff"}, {ID: "a", Tags: []string{"\xc3"}}, {ID: "a", Text: "\ufffd\xff"}} {
		err := store.Update(t.Context(), func(tx storage.WriteTx) error { return ts.items.Put(tx, row) })
		require.ErrorIs(t, err, storage.ErrEncoding)
	}
	put(t, store, ts, &item{ID: "a", Text: "\ufffd and \\ufffd"})
	got := view(t, store, func(tx storage.ReadTx) (*item, error) { return ts.items.Get(tx, itemKey("a")) })
	require.Equal(t, "\ufffd and \\ufffd", got.Text)
}

func (s *suite) closed(t *testing.T) {
	store, ts := s.store(t)
	put(t, store, ts, &item{ID: "a"})
	ended := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		for _, err := range store.Watch(context.Background(), 0) {
			if err == nil {
				close(started)
				continue
			}
			ended <- err
		}
	}()
	<-started
	require.NoError(t, store.Close())
	require.NoError(t, store.Close(), "closing again is no error")
	require.ErrorIs(t, <-ended, storage.ErrClosed)
	require.ErrorIs(t, store.View(t.Context(), func(storage.ReadTx) error { return nil }), storage.ErrClosed)
	require.ErrorIs(t, store.Update(t.Context(), func(storage.WriteTx) error { return nil }), storage.ErrClosed)
	require.ErrorIs(t, store.Attach(t.Context(), newTables().items.Schema()), storage.ErrClosed)
}

func (s *suite) sync(t *testing.T) {
	store, ts := s.store(t)
	synced, ok := store.(storage.Synced)
	if !ok {
		t.Log("the store does not implement storage.Synced, which is optional: there is nothing to hold it to")
		return
	}
	put(t, store, ts, &item{ID: "a"})
	require.NoError(t, synced.Sync(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, synced.Sync(ctx), context.Canceled)
	require.NoError(t, store.Close())
	require.ErrorIs(t, synced.Sync(t.Context()), storage.ErrClosed)
}

func (s *suite) transactionOver(t *testing.T) {
	store, ts := s.store(t)
	put(t, store, ts, &item{ID: "a"})
	var read storage.ReadTx
	var write storage.WriteTx
	require.NoError(t, store.View(t.Context(), func(tx storage.ReadTx) error { read = tx; return nil }))
	require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error { write = tx; return nil }))
	_, err := ts.items.Get(read, itemKey("a"))
	require.ErrorIs(t, err, storage.ErrReadOnly)
	_, err = ids(ts.items.Scan(read, storage.Range{}))
	require.ErrorIs(t, err, storage.ErrReadOnly)
	require.ErrorIs(t, ts.items.Put(write, &item{ID: "b"}), storage.ErrReadOnly)
	require.ErrorIs(t, ts.log.Append(write, &line{}), storage.ErrReadOnly)
	require.ErrorIs(t, ts.items.Delete(write, itemKey("a")), storage.ErrReadOnly)
}

func (s *suite) schema(t *testing.T) {
	store, ts := s.store(t)
	require.NoError(t, store.Attach(t.Context(), ts.schemas()...), "attaching again is no error")
	require.ErrorIs(t, store.Attach(t.Context(), newTables().items.Schema()), storage.ErrSchema)
	unknown := storage.NewTable("unknown", func(i *item) storage.Key { return itemKey(i.ID) })
	require.ErrorIs(t, store.View(t.Context(), func(tx storage.ReadTx) error {
		_, err := unknown.Get(tx, itemKey("a"))
		return err
	}), storage.ErrSchema)
	require.ErrorIs(t, store.Update(t.Context(), func(tx storage.WriteTx) error { return unknown.Put(tx, &item{ID: "a"}) }), storage.ErrSchema)
	put(t, store, ts, &item{ID: "a", Owner: "o"})
	before := revision(t, store)
	require.NoError(t, store.Attach(t.Context(), unknown.Schema()))
	require.GreaterOrEqual(t, revision(t, store), before)
	row := view(t, store, func(tx storage.ReadTx) (*item, error) { return ts.byOwner.Get(tx, storage.StringKey("o")) })
	require.Equal(t, "a", row.ID, "attaching a table leaves the others alone")
	require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error { return unknown.Put(tx, &item{ID: "a"}) }))
}

func (s *suite) cancelled(t *testing.T) {
	store, ts := s.store(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ran := false
	require.ErrorIs(t, store.Update(ctx, func(storage.WriteTx) error { ran = true; return nil }), context.Canceled)
	require.ErrorIs(t, store.View(ctx, func(storage.ReadTx) error { ran = true; return nil }), context.Canceled)
	require.False(t, ran)
	put(t, store, ts, &item{ID: "a"})
}

func (s *suite) panics(t *testing.T) {
	store, ts := s.store(t)
	require.Panics(t, func() {
		_ = store.Update(t.Context(), func(tx storage.WriteTx) error {
			_ = ts.items.Put(tx, &item{ID: "a"})
			panic("in the closure")
		})
	})
	require.Panics(t, func() {
		_ = store.View(t.Context(), func(storage.ReadTx) error { panic("in the closure") })
	})
	put(t, store, ts, &item{ID: "b"})
	require.Equal(t, []string{"b"}, view(t, store, func(tx storage.ReadTx) ([]string, error) { return ids(ts.items.Scan(tx, storage.Range{})) }))
}

func (s *suite) watchOrder(t *testing.T) {
	store, ts := s.store(t)
	next, stop := iter.Pull2(store.Watch(t.Context(), revision(t, store), "items"))
	defer stop()
	for _, id := range []string{"c", "a", "b"} {
		put(t, store, ts, &item{ID: id})
		batch, err, ok := next()
		require.True(t, ok)
		require.NoError(t, err)
		require.False(t, batch.Reset)
		require.Equal(t, []storage.Change{{Table: "items", Key: itemKey(id)}}, batch.Changes)
		require.Equal(t, revision(t, store), batch.Revision)
		name, ok := batch.Changes[0].Key.FirstString()
		require.True(t, ok)
		require.Equal(t, id, name)
	}
	// Other tables don't show; deletions do; several commits are merged, in order of the last change.
	require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error { return ts.counter.Put(tx, &item{ID: "n"}) }))
	require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error { return ts.items.Delete(tx, itemKey("c")) }))
	put(t, store, ts, &item{ID: "d"})
	put(t, store, ts, &item{ID: "a"}, &item{ID: "d"})
	put(t, store, ts, &item{ID: "c"})
	batch, err, _ := next()
	require.NoError(t, err)
	require.Equal(t, []storage.Change{{Table: "items", Key: itemKey("a")}, {Table: "items", Key: itemKey("d")}, {Table: "items", Key: itemKey("c")}}, batch.Changes)
}

func (s *suite) watchLag(t *testing.T) {
	store, ts := s.store(t)
	start := revision(t, store)
	// More than any feed keeps, by a reader that doesn't read: writers don't care.
	for i := range 40 {
		rows := make([]*item, 4000)
		for j := range rows {
			rows[j] = &item{ID: fmt.Sprintf("n%d", (i*4000+j)%5000)}
		}
		put(t, store, ts, rows...)
	}
	next, stop := iter.Pull2(store.Watch(t.Context(), start))
	defer stop()
	// It must read all again, or is told all keys, of a store that forgets none.
	seen := map[string]bool{}
	for {
		batch, err, ok := next()
		require.True(t, ok)
		require.NoError(t, err)
		for _, change := range batch.Changes {
			seen[change.Key.String()] = true
		}
		if batch.Reset || batch.Revision == revision(t, store) {
			require.True(t, batch.Reset || len(seen) == 5000, "a reader that is far behind is reset, or told all of 5000 keys, not %d", len(seen))
			require.Equal(t, revision(t, store), batch.Revision)
			break
		}
	}
	put(t, store, ts, &item{ID: "after"})
	batch, err, _ := next()
	require.NoError(t, err)
	require.False(t, batch.Reset)
	require.Equal(t, []storage.Change{{Table: "items", Key: itemKey("after")}}, batch.Changes)

	// A revision from another life of the store.
	next, stop2 := iter.Pull2(store.Watch(t.Context(), revision(t, store)+1000))
	defer stop2()
	batch, err, _ = next()
	require.NoError(t, err)
	require.True(t, batch.Reset)
}

func (s *suite) watchCancel(t *testing.T) {
	store, ts := s.store(t)
	put(t, store, ts, &item{ID: "a"})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		for _, err := range store.Watch(ctx, revision(t, store)) {
			if err != nil {
				ended <- err
			}
		}
		close(ended)
	}()
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	_, more := <-ended
	require.False(t, more, "the sequence ends after its error")
	for range store.Watch(t.Context(), 0) {
		break // leaving early is fine
	}
}

// watchEnded: a reader with a context that has ended catches up, however much of other tables lies between.
func (s *suite) watchEnded(t *testing.T) {
	store, ts := s.store(t)
	since := revision(t, store)
	put(t, store, ts, &item{ID: "a"})
	for step := range 10 {
		require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
			for i := range 500 {
				if err := ts.counter.Put(tx, &item{ID: fmt.Sprint(step, "-", i)}); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	put(t, store, ts, &item{ID: "b"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	seen := map[string]bool{}
	for told := true; told; {
		told = false
		var last error
		for batch, err := range store.Watch(ctx, since, ts.items.Name()) {
			if last = err; err != nil {
				continue
			}
			since, told = batch.Revision, true
			for _, change := range batch.Changes {
				id, _ := change.Key.FirstString()
				seen[id] = true
			}
			if batch.Reset {
				seen["a"], seen["b"] = true, true
			}
		}
		require.ErrorIs(t, last, context.Canceled)
	}
	require.Equal(t, map[string]bool{"a": true, "b": true}, seen)
}
