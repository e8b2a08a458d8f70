package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/storage"
)

// line is the row of the suite's log.
type line struct {
	Number uint64
	Writer string // index
	N      uint64
	Text   string
}

func newLog() (*storage.Table[line], *storage.Index[line]) {
	log := storage.NewLog("log", func(l *line) *uint64 { return &l.Number })
	return log, log.Index("writer", func(l *line) []storage.Key { return optional(l.Writer) })
}

// appendLines appends rows in one transaction.
func appendLines(t testing.TB, store storage.Store, ts *tables, rows ...*line) {
	t.Helper()
	require.NoError(t, store.Update(context.Background(), func(tx storage.WriteTx) error {
		for _, row := range rows {
			if err := ts.log.Append(tx, row); err != nil {
				return err
			}
		}
		return nil
	}))
}

// linesOf returns the rows of a scan, which must have growing numbers.
func linesOf(rows iter.Seq2[*line, error]) (out []line, err error) {
	last := uint64(0)
	for row, err := range rows {
		if err != nil {
			return out, err
		}
		if row.Number <= last {
			return out, fmt.Errorf("number %d after %d", row.Number, last)
		}
		last = row.Number
		out = append(out, *row)
	}
	return out, nil
}

func allLines(t testing.TB, store storage.Store, ts *tables) []line {
	t.Helper()
	return view(t, store, func(tx storage.ReadTx) ([]line, error) { return linesOf(ts.log.Scan(tx, storage.Range{})) })
}

func (s *suite) appends(t *testing.T) {
	store, ts := s.store(t)
	row := &line{Writer: "a", N: 1, Number: 7}
	require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
		require.NoError(t, ts.log.Append(tx, row))
		require.EqualValues(t, 7, row.Number, "the caller's row stays as it is")
		row.N, row.Writer = 2, "b"
		require.NoError(t, ts.log.Append(tx, row), "and is its own: no reference is kept")
		for _, scan := range []func() ([]line, error){
			func() ([]line, error) { return linesOf(ts.log.Scan(tx, storage.Range{})) },
			func() ([]line, error) { return linesOf(ts.byWriter.Scan(tx, storage.Range{})) },
		} {
			got, err := scan()
			require.NoError(t, err)
			require.Empty(t, got, "the transaction does not see the rows that it appends")
		}
		_, err := ts.log.Get(tx, storage.UintKey(7))
		require.ErrorIs(t, err, storage.ErrNotFound)
		return ts.items.Put(tx, &item{ID: "beside"})
	}))
	row.N, row.Writer = 3, "c"
	at := revision(t, store)
	want := []line{{Number: storage.LogNumber(at, 0), Writer: "a", N: 1}, {Number: storage.LogNumber(at, 1), Writer: "b", N: 2}}
	require.Equal(t, want, allLines(t, store, ts))
	view(t, store, func(tx storage.ReadTx) (any, error) {
		found, err := ts.log.Get(tx, storage.UintKey(want[1].Number))
		require.NoError(t, err)
		require.Equal(t, want[1], *found)
		return nil, nil
	})

	// A rolled-back transaction appends nothing, a closure that is run twice appends once, and neither does the
	// number of a later row tell of it.
	stop := errors.New("stop")
	require.ErrorIs(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
		require.NoError(t, ts.log.Append(tx, &line{N: 4}))
		return stop
	}), stop)
	require.Equal(t, want, allLines(t, store, ts))
	require.Equal(t, at, revision(t, store))
	appendLines(t, Twice(store), ts, &line{Writer: "a", N: 5})
	at = revision(t, store)
	want = append(want, line{Number: storage.LogNumber(at, 0), Writer: "a", N: 5})
	require.Equal(t, want, allLines(t, store, ts))

	// A row that is there can be edited and deleted; its index entries go along.
	require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
		if err := ts.log.Delete(tx, storage.UintKey(want[1].Number)); err != nil {
			return err
		}
		return ts.log.Modify(tx, storage.UintKey(want[0].Number), func(l *line) error { l.Writer = "z"; return nil })
	}))
	want[0].Writer = "z"
	require.Equal(t, []line{want[0], want[2]}, allLines(t, store, ts))
	for writer, expect := range map[string][]line{"a": {want[2]}, "b": nil, "z": {want[0]}} {
		got := view(t, store, func(tx storage.ReadTx) ([]line, error) {
			return linesOf(ts.byWriter.Scan(tx, storage.Range{Prefix: storage.StringKey(writer)}))
		})
		require.Equal(t, expect, got, writer)
	}

	// Numbers are the store's to give. Those that a counter gave before are lower, and order before.
	for _, number := range []uint64{0, storage.LogNumber(revision(t, store)+1, 0), math.MaxUint64} {
		err := store.Update(t.Context(), func(tx storage.WriteTx) error { return ts.log.Put(tx, &line{Number: number}) })
		require.ErrorIs(t, err, storage.ErrNotFound, "%d was not given", number)
		require.ErrorContains(t, err, "log")
	}
	require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error { return ts.log.Put(tx, &line{Number: 1, N: 6}) }))
	appendLines(t, store, ts, &line{N: 7})
	got := allLines(t, store, ts)
	require.Len(t, got, 4)
	require.Equal(t, []uint64{6, 1, 5, 7}, []uint64{got[0].N, got[1].N, got[2].N, got[3].N})
}

func (s *suite) appendRefusals(t *testing.T) {
	store, ts := s.store(t)
	before := revision(t, store)
	var over storage.WriteTx
	require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
		over = tx
		require.ErrorIs(t, ts.items.Append(tx, &item{ID: "a"}), storage.ErrSchema, "the table is no log")
		unknown := storage.NewLog("unknown", func(l *line) *uint64 { return &l.Number })
		require.ErrorIs(t, unknown.Append(tx, &line{}), storage.ErrSchema)
		require.ErrorIs(t, ts.log.Append(tx, &line{Text: "\xff"}), storage.ErrEncoding)
		require.ErrorIs(t, ts.log.Append(tx, &line{Text: strings.Repeat("x", storage.MaxRowSize)}), storage.ErrTooLarge)
		require.ErrorIs(t, ts.log.Append(tx, &line{Writer: strings.Repeat("k", storage.MaxKeySize)}), storage.ErrTooLarge)
		return nil
	}))
	require.ErrorIs(t, ts.log.Append(over, &line{}), storage.ErrReadOnly)
	err := store.Update(t.Context(), func(tx storage.WriteTx) error {
		for i := range storage.LimitsOf(store).MaxTxWrites + 1 {
			if err := ts.log.Append(tx, &line{N: uint64(i)}); err != nil {
				return err
			}
		}
		return nil
	})
	require.ErrorIs(t, err, storage.ErrTooLarge, "too many")
	large := strings.Repeat("x", storage.MaxRowSize-1000)
	err = store.Update(t.Context(), func(tx storage.WriteTx) error {
		for range storage.LimitsOf(store).MaxTxSize/len(large) + 1 {
			if err := ts.log.Append(tx, &line{Text: large}); err != nil {
				return err
			}
		}
		return nil
	})
	require.ErrorIs(t, err, storage.ErrTooLarge, "too much")
	require.Equal(t, before, revision(t, store), "nothing of it was kept")
	require.Empty(t, allLines(t, store, ts))
	appendLines(t, store, ts, &line{Text: large})
	require.Len(t, allLines(t, store, ts), 1)
}

// appendOrder lets writers append beside a counter, which tells the order of their commits. Some of their rows are
// so large that the waiting Updates do not all fit into one commit.
func (s *suite) appendOrder(t *testing.T) {
	store, ts := s.store(t)
	appendsInOrder(t, []controller{{store, ts}})
}

// appendsInOrder has writers at several stores over one engine.
func appendsInOrder(t *testing.T, all []controller) {
	start := uint64(0)
	for _, c := range all {
		start = max(start, revision(t, c))
	}
	last := all[len(all)-1]
	caughtUp(t, last, start)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const writers, each = 8, 22
	large := strings.Repeat("x", 500_000)
	total := 0
	for n := range each {
		total += writers * (n%3 + 1)
	}
	watched := make(chan []uint64, 1)
	go func() {
		var numbers []uint64
		since := start
		for batch, err := range last.Watch(ctx, start, last.log.Name()) {
			if err != nil || batch.Reset {
				t.Errorf("the watch has %d of %d rows, reset %v: %v", len(numbers), total, batch.Reset, err)
				break
			}
			for _, change := range batch.Changes {
				number, ok := change.Key.FirstUint()
				if !ok || number < storage.LogNumber(since+1, 0) || number >= storage.LogNumber(batch.Revision+1, 0) {
					t.Errorf("number %s is of no revision after %d up to %d", change.Key, since, batch.Revision)
				}
				numbers = append(numbers, number)
			}
			if since = batch.Revision; len(numbers) >= total {
				break
			}
		}
		watched <- numbers
	}()
	var wg sync.WaitGroup
	for writer := range writers {
		name := fmt.Sprint("w", writer)
		c := all[writer%len(all)]
		wg.Go(func() {
			for n := range each {
				err := c.Update(context.Background(), func(tx storage.WriteTx) error {
					count, err := c.counter.Find(tx, itemKey("n"))
					if err != nil {
						return err
					}
					next := item{ID: "n"}
					if count != nil {
						next.Size = count.Size
					}
					for range n%3 + 1 {
						next.Size++
						row := &line{Writer: name, N: next.Size}
						if n == each/2 {
							row.Text = large
						}
						if err := c.log.Append(tx, row); err != nil {
							return err
						}
					}
					return c.counter.Put(tx, &next)
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	var numbers []uint64
	reached := uint64(0)
	for _, c := range all {
		reached = max(reached, revision(t, c))
	}
	caughtUp(t, last, reached)
	got := allLines(t, last, last.tables)
	for i, row := range got {
		require.EqualValues(t, i+1, row.N, "rows order as they were committed")
		numbers = append(numbers, row.Number)
	}
	require.Len(t, numbers, total)
	require.Equal(t, numbers, <-watched, "Watch tells of each, in order")
	for writer := range writers {
		name := fmt.Sprint("w", writer)
		want := slices.DeleteFunc(slices.Clone(got), func(l line) bool { return l.Writer != name })
		view(t, last, func(tx storage.ReadTx) (any, error) {
			rows, err := linesOf(last.byWriter.Scan(tx, storage.Range{Prefix: storage.StringKey(name)}))
			require.NoError(t, err)
			require.Equal(t, want, rows, "the index leads to the rows of %s", name)
			return nil, nil
		})
	}
}

// appendReopen goes on with greater numbers when the store is opened again.
func (s *suite) appendReopen(t *testing.T) {
	s.needsDurable(t)
	dir := t.TempDir()
	var want []line
	for round := range uint64(3) {
		ts := newTables()
		store := s.openIn(t, dir, ts)
		appendLines(t, store, ts, &line{Writer: "a", N: 2 * round}, &line{Writer: "a", N: 2*round + 1})
		got := allLines(t, store, ts)
		require.Len(t, got, len(want)+2)
		require.Equal(t, want, append([]line(nil), got[:len(want)]...))
		for i, row := range got {
			require.EqualValues(t, i, row.N)
		}
		want = got
		require.NoError(t, store.Close())
	}
}
