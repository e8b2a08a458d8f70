package storetest

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/storage"
)

// childVariable tells a child process in which directory to write until it is killed. The child calls the Opener of its
// own process with that directory; an Opener that needs more to reach the engine that the parent started,
// such as an address, must find it in the environment, which the child inherits (testing.T.Setenv).
const childVariable = "OPSCENTER_STORETEST_DIR"

func inChild() bool { return os.Getenv(childVariable) != "" }

func (s *suite) needsDurable(t *testing.T) {
	if !s.durable {
		t.Skip("this backend keeps nothing on disk")
	}
}

func (s *suite) reopen(t *testing.T) {
	s.needsDurable(t)
	dir, ts := t.TempDir(), newTables()
	store, err := s.open(dir)
	require.NoError(t, err)
	require.NoError(t, store.Attach(t.Context(), ts.schemas()...))
	var want []string
	for i := range 200 {
		id := fmt.Sprintf("n%03d", i)
		put(t, store, ts, &item{ID: id, Owner: "o" + id, Tags: []string{"x"}, Text: strings.Repeat("t", i*200)})
		want = append(want, id)
	}
	require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error { return ts.items.Delete(tx, itemKey("n000")) }))
	want = want[1:]
	last, deleted := revision(t, store), "n000"
	require.NoError(t, store.Close())

	for range 3 {
		ts := newTables()
		store, err := s.open(dir)
		require.NoError(t, err)
		require.NoError(t, store.Attach(t.Context(), ts.schemas()...))
		require.Equal(t, last, revision(t, store), "the revision goes on")
		view(t, store, func(tx storage.ReadTx) (any, error) {
			for _, r := range []storage.Range{{}, {Prefix: storage.StringKey("x")}} {
				scan := ts.items.Scan
				if r.Prefix != nil {
					scan = ts.byTag.Scan
				}
				got, err := ids(scan(tx, r))
				require.NoError(t, err)
				require.Equal(t, want, got)
			}
			row, err := ts.byOwner.Get(tx, storage.StringKey("on199"))
			require.NoError(t, err)
			require.Len(t, row.Text, 199*200)
			return nil, nil
		})
		// A watcher that saw all before goes on. One that didn't reads all again, or is told all that it missed:
		// the last transaction deleted a row, or in a later round the row "again".
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		for batch, err := range store.Watch(ctx, last-1) {
			require.NoError(t, err)
			require.True(t, batch.Reset || slices.ContainsFunc(batch.Changes, func(c storage.Change) bool { return c.Key.Equal(itemKey(deleted)) }),
				"neither a reset nor the deletion of %s", deleted)
			break
		}
		put(t, store, ts, &item{ID: "again"})
		for batch, err := range store.Watch(ctx, last) {
			require.NoError(t, err)
			require.False(t, batch.Reset)
			require.Len(t, batch.Changes, 1)
			break
		}
		cancel()
		require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error { return ts.items.Delete(tx, itemKey("again")) }))
		last, deleted = revision(t, store), "again"
		require.NoError(t, store.Close())
	}
}

// changedIndexes opens rows that were written when the table had other indexes.
func (s *suite) changedIndexes(t *testing.T) {
	s.needsDurable(t)
	dir := t.TempDir()
	old := storage.NewTable("items", func(i *item) storage.Key { return itemKey(i.ID) })
	old.Index("text", func(i *item) []storage.Key { return optional(i.Text) })
	store, err := s.open(dir)
	require.NoError(t, err)
	require.NoError(t, store.Attach(t.Context(), old.Schema()))
	const rows = 5000
	for from := 0; from < rows; from += 500 {
		require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
			for i := from; i < from+500; i++ {
				if err := old.Put(tx, &item{ID: fmt.Sprintf("n%04d", i), Tags: []string{"x"}, Text: "t", Owner: fmt.Sprint("o", i)}); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	require.NoError(t, store.Close())
	for range 2 {
		ts := newTables()
		store := s.openIn(t, dir, ts)
		got := view(t, store, func(tx storage.ReadTx) ([]string, error) {
			return ids(ts.byTag.Scan(tx, storage.Range{Prefix: storage.StringKey("x")}))
		})
		require.Len(t, got, rows)
		row := view(t, store, func(tx storage.ReadTx) (*item, error) { return ts.byOwner.Get(tx, storage.StringKey("o4711")) })
		require.Equal(t, "n4711", row.ID)
		require.NoError(t, store.Close())
	}
	// A unique index over rows that are not: said, not guessed.
	clash := storage.NewTable("items", func(i *item) storage.Key { return itemKey(i.ID) })
	clash.Unique("text", func(i *item) []storage.Key { return optional(i.Text) })
	store, err = s.open(dir)
	require.NoError(t, err)
	require.ErrorIs(t, store.Attach(t.Context(), clash.Schema()), storage.ErrExists)
	require.NoError(t, store.Close())
	ts := newTables()
	store = s.openIn(t, dir, ts)
	require.Len(t, view(t, store, func(tx storage.ReadTx) ([]string, error) { return ids(ts.byTag.Scan(tx, storage.Range{})) }), rows)
}

// killRounds is how often the writing process is killed.
const killRounds = 15

// kill kills a process that writes, in mid-load, again and again, and checks every write it
// was told of: what was acknowledged is there, whole, and nothing else but what was under way.
func (s *suite) kill(t *testing.T) {
	s.needsDurable(t)
	dir := t.TempDir()
	acknowledged := map[string]uint64{} // row → last acknowledged size
	appended := map[string]uint64{}     // writer → its last acknowledged line
	rounds := killRounds
	if testing.Short() {
		rounds = 3
	}
	for round := range rounds {
		// The name of the top-level test, which calls Run.
		top, _, _ := strings.Cut(t.Name(), "/")
		child := exec.Command(os.Args[0], "-test.run=^"+top+"$", "-test.count=1")
		child.Env = append(os.Environ(), childVariable+"="+dir, "OPSCENTER_STORETEST_ROUND="+strconv.Itoa(round))
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, child.Start())
		until := 50 + rand.IntN(250)
		lines := 0
		scanner := bufio.NewScanner(out)
		for scanner.Scan() {
			id, size, ok := strings.Cut(scanner.Text(), " ")
			n, err := strconv.ParseUint(size, 10, 64)
			if !ok || err != nil {
				t.Fatalf("the child says: %s", scanner.Text())
			}
			acknowledged[id] = n
			writer := id[:strings.LastIndex(id, "-")]
			appended[writer] = max(appended[writer], n)
			if lines++; lines == until {
				require.NoError(t, child.Process.Kill())
			}
		}
		_ = child.Wait()
		require.GreaterOrEqual(t, lines, until, "the child ended by itself")

		ts := newTables()
		store := s.openIn(t, dir, ts)
		view(t, store, func(tx storage.ReadTx) (any, error) {
			for id, size := range acknowledged {
				row, err := ts.items.Get(tx, itemKey(id))
				require.NoError(t, err, "acknowledged, then lost")
				require.GreaterOrEqual(t, row.Size, size, "acknowledged, then lost")
				require.Equal(t, textOf(row), row.Text)
				// The pair is written in the same transaction: both or none.
				pair, err := ts.counter.Get(tx, itemKey(id))
				require.NoError(t, err)
				require.Equal(t, row.Size, pair.Size, "half a transaction")
				if !strings.Contains(id, fmt.Sprintf("-%d-", round)) {
					continue // its index entries were looked at in its own round
				}
				found, err := ids(ts.bySize.Scan(tx, storage.Range{Prefix: storage.UintKey(row.Size)}))
				require.NoError(t, err)
				require.Contains(t, found, id)
			}
			// Each line of a writer is there once, in the order in which they were written, up to the last
			// acknowledged one and at most one more. Scan checks that numbers grow.
			all, err := linesOf(ts.log.Scan(tx, storage.Range{}))
			require.NoError(t, err)
			written := map[string]uint64{}
			for _, l := range all {
				written[l.Writer]++
				require.Equal(t, written[l.Writer], l.N, "a line of %s is lost, or there twice", l.Writer)
			}
			for writer, n := range appended {
				require.GreaterOrEqual(t, written[writer], n, "acknowledged, then lost")
				require.LessOrEqual(t, written[writer], n+1, "more than was written")
			}
			return nil, nil
		})
		require.NoError(t, store.Close())
	}
}

// textOf makes texts of all sizes, some of them for the value log.
func textOf(row *item) string {
	size := row.Size % 2000
	if row.Size%20 == 0 {
		size = 20_000
	}
	return strings.Repeat(row.ID[:1], int(size))
}

// child writes rows from several goroutines, and prints each acknowledged one.
func (s *suite) child(t *testing.T) {
	ts := newTables()
	store, err := s.open(os.Getenv(childVariable))
	require.NoError(t, err)
	require.NoError(t, store.Attach(t.Context(), ts.schemas()...))
	round := os.Getenv("OPSCENTER_STORETEST_ROUND")
	var print sync.Mutex
	for writer := range 8 {
		go func() {
			for n := uint64(1); ; n++ {
				row := &item{ID: fmt.Sprintf("w%d-%s-%d", writer, round, n%50), Size: n}
				row.Text = textOf(row)
				err := store.Update(context.Background(), func(tx storage.WriteTx) error {
					if err := ts.items.Put(tx, row); err != nil {
						return err
					}
					if err := ts.log.Append(tx, &line{Writer: fmt.Sprintf("w%d-%s", writer, round), N: n}); err != nil {
						return err
					}
					return ts.counter.Put(tx, &item{ID: row.ID, Size: row.Size})
				})
				print.Lock()
				if err != nil {
					fmt.Println("error", err)
				} else {
					fmt.Println(row.ID, row.Size)
				}
				print.Unlock()
			}
		}()
	}
	time.Sleep(time.Minute) // the parent kills us long before
}
