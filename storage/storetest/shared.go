package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/storage"
)

// Engine holds rows that several stores share, as those of several controllers do. It is empty at first.
type Engine struct {
	// Open opens another store over the engine. RunShared closes it.
	Open func() (storage.Store, error)
	// Cut cuts a store off from the engine until mend is called: for engines that stores reach over a network. nil:
	// the cases that need it are skipped. A store that is cut off must give up an Update within the suite's deadline.
	Cut func(storage.Store) (mend func())
	// Compact makes the engine forget all revisions before the last one. nil: it is not done.
	Compact func() error
}

// RunShared runs the part of the suite that is about several stores over one engine. It calls engine
// for each test. Run covers the promises of a single store:
//
//	func TestShared(t *testing.T) {
//		storetest.RunShared(t, func(t *testing.T) storetest.Engine {
//			cluster := start(t)
//			return storetest.Engine{Open: func() (storage.Store, error) { return mystore.Open(cluster.Address) }}
//		})
//	}
func RunShared(t *testing.T, engine func(t *testing.T) Engine, options ...Option) {
	base := suite{deadline: DefaultDeadline}
	for _, option := range options {
		option(&base)
	}
	type test struct {
		name string
		run  func(*shared, *testing.T)
	}
	tests := []test{
		{"LostUpdates", (*shared).lostUpdates},
		{"UniqueRace", (*shared).uniqueRace},
		{"Phantom", (*shared).phantom},
		{"WriteSkewByDeletion", (*shared).writeSkew},
		{"WanderingKey", (*shared).wanderingKey},
		{"UpdateIsCurrent", (*shared).updateIsCurrent},
		{"Sync", (*shared).sync},
		{"Watch", (*shared).watch},
		{"Append", (*shared).append},
		{"AppendsDoNotConflict", (*shared).appendsDoNotConflict},
		{"OlderSchema", (*shared).olderSchema},
		{"SchemaThatDoesNotHold", (*shared).clashingSchema},
		{"CloseOne", (*shared).closeOne},
	}
	// An engine without a network has no store to cut off.
	probe := engine(t)
	if probe.Cut != nil {
		tests = append(tests, test{"CutOff", (*shared).cutOff})
	}
	if probe.Cut != nil && probe.Compact != nil {
		tests = append(tests, test{"CompactedWhileCutOff", (*shared).compacted})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := &shared{suite: base, engine: engine(t), fresh: engine}
			s.within(t, rules[test.name], func(t *testing.T) { test.run(s, t) })
		})
	}
}

// shared is a test of stores over one engine.
type shared struct {
	suite
	engine Engine
	fresh  func(*testing.T) Engine
}

// storeCount is how many stores a test opens.
const storeCount = 3

// controller is a store with table definitions of its own, as each process has them.
type controller struct {
	storage.Store
	*tables
}

func (s *shared) bare(t *testing.T) storage.Store {
	t.Helper()
	store, err := s.engine.Open()
	require.NoError(t, err)
	t.Cleanup(func() { s.closeInTime(t, store) })
	return store
}

func (s *shared) controller(t *testing.T) controller {
	t.Helper()
	c := controller{s.bare(t), newTables()}
	require.NoError(t, c.Attach(t.Context(), c.schemas()...))
	return c
}

func (s *shared) controllers(t *testing.T) (out []controller) {
	t.Helper()
	for range storeCount {
		out = append(out, s.controller(t))
	}
	return out
}

// caughtUp waits until a store shows a revision that another store has committed.
func caughtUp(t testing.TB, store storage.Store, revision uint64) {
	t.Helper()
	if synced, ok := store.(storage.Synced); ok {
		require.NoError(t, synced.Sync(context.Background()))
	}
	require.Eventually(t, func() bool {
		reached := false
		err := store.View(context.Background(), func(tx storage.ReadTx) error { reached = tx.Revision() >= revision; return nil })
		return err == nil && reached
	}, 30*time.Second, time.Millisecond)
}

// agree lets all stores catch up and requires that they show the same.
func agree(t testing.TB, all []controller) {
	t.Helper()
	last := uint64(0)
	for _, c := range all {
		last = max(last, revision(t, c))
	}
	var want []string
	for i, c := range all {
		caughtUp(t, c, last)
		got := view(t, c, func(tx storage.ReadTx) (out []string, err error) {
			for _, scan := range []iter.Seq2[*item, error]{c.items.Scan(tx, storage.Range{}), c.counter.Scan(tx, storage.Range{}),
				c.byOwner.Scan(tx, storage.Range{}), c.byTag.Scan(tx, storage.Range{}), c.bySize.Scan(tx, storage.Range{})} {
				for row, err := range scan {
					if err != nil {
						return nil, err
					}
					out = append(out, canonical(*row))
				}
				out = append(out, "")
			}
			return out, nil
		})
		if i == 0 {
			want = got
		}
		require.Equal(t, want, got, "store %d shows something else than the first", i)
	}
}

func (c controller) increment(ctx context.Context, id string) (n uint64, err error) {
	err = c.Update(ctx, func(tx storage.WriteTx) error {
		row, err := c.counter.Find(tx, itemKey(id))
		if err != nil {
			return err
		}
		n = 1
		if row != nil {
			n = row.Size + 1
		}
		return c.counter.Put(tx, &item{ID: id, Size: n})
	})
	return n, err
}

// watchful calls check in Views of a store until stop, and requires that its revision never goes back.
func (c controller) watchful(t *testing.T, stop <-chan struct{}, check func(tx storage.ReadTx) error) {
	last := uint64(0)
	for {
		select {
		case <-stop:
			return
		default:
		}
		err := c.View(context.Background(), func(tx storage.ReadTx) error {
			if tx.Revision() < last {
				return fmt.Errorf("revision %d after %d", tx.Revision(), last)
			}
			last = tx.Revision()
			return check(tx)
		})
		if err != nil {
			t.Error(err)
			return
		}
	}
}

func (s *shared) lostUpdates(t *testing.T) {
	all := s.controllers(t)
	const writers, each = 4, 50 // 600 in all
	stop := make(chan struct{})
	var readers, wg sync.WaitGroup
	for _, c := range all {
		seen := uint64(0)
		readers.Go(func() {
			c.watchful(t, stop, func(tx storage.ReadTx) error {
				row, err := c.counter.Find(tx, itemKey("n"))
				if err != nil || row == nil {
					return err
				}
				if row.Size < seen {
					return fmt.Errorf("%d after %d", row.Size, seen)
				}
				seen = row.Size
				return nil
			})
		})
		for range writers {
			wg.Go(func() {
				for range each {
					n, err := c.increment(context.Background(), "n")
					if err != nil {
						t.Error(err)
						continue
					}
					err = c.View(context.Background(), func(tx storage.ReadTx) error {
						row, err := c.counter.Get(tx, itemKey("n"))
						if err == nil && row.Size < n {
							err = fmt.Errorf("the Update that made it %d has returned, and a View of the same store shows %d", n, row.Size)
						}
						return err
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	close(stop)
	readers.Wait()
	agree(t, all)
	row := view(t, all[0], func(tx storage.ReadTx) (*item, error) { return all[0].counter.Get(tx, itemKey("n")) })
	require.EqualValues(t, storeCount*writers*each, row.Size)
}

// race has each store run an Update that only one of them can win, at the same time, for several rounds.
func (s *shared) race(t *testing.T, all []controller, rounds int, lost error, update func(c controller, tx storage.WriteTx, round, racer int) error) {
	t.Helper()
	const each = 4
	for round := range rounds {
		var won atomic.Int32
		var wg sync.WaitGroup
		for i := range each * len(all) {
			c := all[i%len(all)]
			wg.Go(func() {
				err := c.Update(context.Background(), func(tx storage.WriteTx) error { return update(c, tx, round, i) })
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, lost) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, won.Load(), "round %d", round)
	}
	agree(t, all)
	require.Len(t, view(t, all[0], func(tx storage.ReadTx) ([]string, error) { return ids(all[0].items.Scan(tx, storage.Range{})) }), rounds)
}

func (s *shared) uniqueRace(t *testing.T) {
	s.race(t, s.controllers(t), 20, storage.ErrExists, func(c controller, tx storage.WriteTx, round, racer int) error {
		return c.items.Put(tx, &item{ID: fmt.Sprint(round, " ", racer), Owner: fmt.Sprint(round)})
	})
}

func (s *shared) phantom(t *testing.T) {
	taken := errors.New("taken")
	s.race(t, s.controllers(t), 20, taken, func(c controller, tx storage.WriteTx, round, racer int) error {
		tag := fmt.Sprint("leader", round)
		for _, err := range c.byTag.Scan(tx, storage.Range{Prefix: storage.StringKey(tag)}) {
			if err != nil {
				return err
			}
			return taken
		}
		return c.items.Put(tx, &item{ID: fmt.Sprint(round, " ", racer), Tags: []string{tag}})
	})
}

// writeSkew has each store delete its own row as long as another store's is there: the last must stay.
func (s *shared) writeSkew(t *testing.T) {
	all := s.controllers(t)
	id := func(i int) string { return fmt.Sprint("n", i) }
	for round := range 30 {
		for i := range all {
			put(t, all[0], all[0].tables, &item{ID: id(i), Tags: []string{"on duty"}})
		}
		var wg sync.WaitGroup
		for i, c := range all {
			wg.Go(func() {
				err := c.Update(context.Background(), func(tx storage.WriteTx) error {
					others := 0
					if round%2 == 0 { // by scanning, and by key
						for row, err := range c.byTag.Scan(tx, storage.Range{Prefix: storage.StringKey("on duty")}) {
							if err != nil {
								return err
							}
							if row.ID != id(i) {
								others++
							}
						}
					} else {
						for j := range all {
							row, err := c.items.Find(tx, itemKey(id(j)))
							if err != nil {
								return err
							}
							if row != nil && j != i {
								others++
							}
						}
					}
					if others == 0 {
						return nil
					}
					return c.items.Delete(tx, itemKey(id(i)))
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		agree(t, all)
		require.Len(t, view(t, all[0], func(tx storage.ReadTx) ([]string, error) { return ids(all[0].items.Scan(tx, storage.Range{})) }), 1, "round %d", round)
	}
}

// wanderingKey passes a unique key on from row to row, with a unit of a constant sum. Readers of each store require
// exactly one holder, and the sum, in every snapshot.
func (s *shared) wanderingKey(t *testing.T) {
	all := s.controllers(t)
	const rows, each, units = 5, 40, 1000
	crown := storage.StringKey("crown")
	id := func(i int) string { return fmt.Sprint("n", i) }
	put(t, all[0], all[0].tables, &item{ID: id(0), Owner: "crown", Size: units})
	for i := 1; i < rows; i++ {
		put(t, all[0], all[0].tables, &item{ID: id(i), Size: units})
	}
	for _, c := range all {
		caughtUp(t, c, revision(t, all[0]))
	}
	stop := make(chan struct{})
	var readers, wg sync.WaitGroup
	for i, c := range all {
		readers.Go(func() {
			c.watchful(t, stop, func(tx storage.ReadTx) error {
				holder, err := c.byOwner.Get(tx, crown)
				if err != nil {
					return err
				}
				n, sum, holders := 0, uint64(0), 0
				for row, err := range c.items.Scan(tx, storage.Range{}) {
					if err != nil {
						return err
					}
					n++
					sum += row.Size
					if row.Owner == "crown" {
						holders++
					}
				}
				if holder.Owner != "crown" || n != rows || sum != rows*units || holders != 1 {
					return fmt.Errorf("holder %q, %d holders, %d rows, sum %d", holder.Owner, holders, n, sum)
				}
				return nil
			})
		})
		wg.Go(func() {
			for n := range each {
				err := c.Update(context.Background(), func(tx storage.WriteTx) error {
					holder, err := c.byOwner.Get(tx, crown)
					if err != nil {
						return err
					}
					next := id((i + n) % rows)
					if next == holder.ID {
						return nil
					}
					if err := c.items.Modify(tx, itemKey(holder.ID), func(row *item) error { row.Owner = ""; row.Size--; return nil }); err != nil {
						return err
					}
					return c.items.Modify(tx, itemKey(next), func(row *item) error { row.Owner = "crown"; row.Size++; return nil })
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	readers.Wait()
	agree(t, all)
}

// updateIsCurrent requires that an Update sees all that any store has acknowledged before it began, also one that writes
// nothing, or fails.
func (s *shared) updateIsCurrent(t *testing.T) {
	all := s.controllers(t)
	for round := range 50 {
		writer, reader := all[round%storeCount], all[(round+1)%storeCount]
		id := fmt.Sprint("n", round)
		put(t, writer, writer.tables, &item{ID: id, Owner: id})
		require.NoError(t, reader.Update(t.Context(), func(tx storage.WriteTx) error {
			_, err := reader.items.Get(tx, itemKey(id))
			return err
		}), "round %d", round)
		require.ErrorIs(t, reader.Update(t.Context(), func(tx storage.WriteTx) error {
			return reader.items.Insert(tx, &item{ID: id})
		}), storage.ErrExists)
		require.NoError(t, writer.Update(t.Context(), func(tx storage.WriteTx) error { return writer.items.Delete(tx, itemKey(id)) }))
		require.ErrorIs(t, reader.Update(t.Context(), func(tx storage.WriteTx) error {
			_, err := reader.byOwner.Get(tx, storage.StringKey(id))
			return err
		}), storage.ErrNotFound)
	}
}

func (s *shared) sync(t *testing.T) {
	all := s.controllers(t)
	for round := range 50 {
		writer, reader := all[round%storeCount], all[(round+1)%storeCount]
		synced, ok := reader.Store.(storage.Synced)
		if !ok {
			t.Log("the store does not implement storage.Synced, which is optional: there is nothing to hold it to")
			return
		}
		id := fmt.Sprint("n", round)
		put(t, writer, writer.tables, &item{ID: id})
		at := revision(t, writer)
		require.NoError(t, synced.Sync(t.Context()))
		view(t, reader, func(tx storage.ReadTx) (any, error) {
			require.GreaterOrEqual(t, tx.Revision(), at)
			_, err := reader.items.Get(tx, itemKey(id))
			return nil, err
		})
	}
}

// watch follows, at each store, the writes of all stores.
func (s *shared) watch(t *testing.T) {
	all := s.controllers(t)
	start := uint64(0)
	for _, c := range all {
		start = max(start, revision(t, c))
	}
	const each = 50
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var readers, wg sync.WaitGroup
	for at, c := range all {
		caughtUp(t, c, start)
		readers.Go(func() {
			latest := map[string]uint64{}
			last := start
			for batch, err := range c.Watch(ctx, start, c.items.Name()) {
				if err != nil {
					t.Errorf("the watch of store %d ended at %v: %v", at, latest, err)
					return
				}
				if batch.Reset || batch.Revision <= last {
					t.Errorf("store %d: revision %d after %d, reset %v", at, batch.Revision, last, batch.Reset)
				}
				last = batch.Revision
				err := c.View(ctx, func(tx storage.ReadTx) error {
					if tx.Revision() < batch.Revision {
						return fmt.Errorf("told of revision %d before it could be read (%d)", batch.Revision, tx.Revision())
					}
					for _, change := range batch.Changes {
						row, err := c.items.Get(tx, change.Key)
						if err != nil {
							return err
						}
						if row.Size < latest[row.ID] {
							return fmt.Errorf("%s went back", row.ID)
						}
						latest[row.ID] = row.Size
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				done := 0
				for _, n := range latest {
					if n == each {
						done++
					}
				}
				if done == storeCount {
					return
				}
			}
		})
	}
	for i, c := range all {
		wg.Go(func() {
			for n := range each {
				put(t, c, c.tables, &item{ID: fmt.Sprint("w", i), Size: uint64(n + 1)})
			}
		})
	}
	wg.Wait()
	readers.Wait()
}

func (s *shared) append(t *testing.T) { appendsInOrder(t, s.controllers(t)) }

func (s *shared) appendsDoNotConflict(t *testing.T) {
	all := s.controllers(t)
	const writers, each = 4, 25
	var runs atomic.Int64
	var wg sync.WaitGroup
	for i, c := range all {
		for range writers {
			wg.Go(func() {
				for range each {
					err := c.Update(context.Background(), func(tx storage.WriteTx) error {
						runs.Add(1)
						return c.log.Append(tx, &line{Writer: fmt.Sprint(i)})
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	const updates = storeCount * writers * each
	caughtUp(t, all[0], max(revision(t, all[1]), revision(t, all[2])))
	require.Len(t, allLines(t, all[0], all[0].tables), updates)
	// Other reasons to run again, such as a change of the leader, are rare.
	require.Less(t, runs.Load(), int64(updates*5/4), "closures of %d Updates that only append conflict", updates)
}

// olderItems is the table of a release that did not have the unique index yet.
func olderItems() *storage.Table[item] {
	older := storage.NewTable("items", func(i *item) storage.Key { return itemKey(i.ID) })
	older.Index("size", func(i *item) []storage.Key { return []storage.Key{storage.UintKey(i.Size)} })
	return older
}

// olderSchema has a store that does not know a unique index beside one that does.
func (s *shared) olderSchema(t *testing.T) {
	for _, olderFirst := range []bool{true, false} {
		var items *storage.Table[item]
		var older storage.Store
		var counter *storage.Table[item]
		begin := func() {
			older, items, counter = s.bare(t), olderItems(), newTables().counter
			require.NoError(t, older.Attach(t.Context(), items.Schema(), counter.Schema()))
		}
		if olderFirst {
			begin()
			require.NoError(t, older.Update(t.Context(), func(tx storage.WriteTx) error { return items.Put(tx, &item{ID: "a", Owner: "o", Tags: []string{"x"}}) }))
		}
		newer := s.controller(t)
		if !olderFirst {
			put(t, newer, newer.tables, &item{ID: "a", Owner: "o"})
			begin()
		}
		for name, write := range map[string]func(tx storage.WriteTx) error{
			"put": func(tx storage.WriteTx) error { return items.Put(tx, &item{ID: "b", Owner: "o"}) },
			// A deletion moves entries of the index, too.
			"delete": func(tx storage.WriteTx) error { return items.Delete(tx, itemKey("a")) },
		} {
			require.ErrorIs(t, older.Update(t.Context(), write), storage.ErrSchema, "%s by a store that does not know the unique index, older first: %v", name, olderFirst)
		}
		require.NoError(t, older.Update(t.Context(), func(tx storage.WriteTx) error { return counter.Put(tx, &item{ID: "n"}) }), "other tables are free")
		row := view(t, newer, func(tx storage.ReadTx) (*item, error) { return newer.byOwner.Get(tx, storage.StringKey("o")) })
		require.Equal(t, "a", row.ID, "the new index has the rows that were there")
		require.ErrorIs(t, newer.Update(t.Context(), func(tx storage.WriteTx) error { return newer.items.Put(tx, &item{ID: "b", Owner: "o"}) }), storage.ErrExists)
		put(t, newer, newer.tables, &item{ID: "c", Owner: "p"})
		caughtUp(t, older, revision(t, newer))
		got := view(t, older, func(tx storage.ReadTx) ([]string, error) { return ids(items.Scan(tx, storage.Range{})) })
		require.Equal(t, []string{"a", "c"}, got, "it can read")
		require.NoError(t, newer.Update(t.Context(), func(tx storage.WriteTx) error {
			return errors.Join(newer.items.Delete(tx, itemKey("a")), newer.items.Delete(tx, itemKey("c")))
		}))
		if olderFirst {
			s.engine = s.fresh(t)
		}
	}
}

// clashingSchema attaches a unique index over rows that are not: the store that attaches is told, and the other goes on.
func (s *shared) clashingSchema(t *testing.T) {
	older, items := s.bare(t), olderItems()
	require.NoError(t, older.Attach(t.Context(), items.Schema()))
	write := func(id, owner string) error {
		return older.Update(t.Context(), func(tx storage.WriteTx) error { return items.Put(tx, &item{ID: id, Owner: owner}) })
	}
	require.NoError(t, write("a", "o"))
	require.NoError(t, write("b", "o"))
	newer := controller{s.bare(t), newTables()}
	require.ErrorIs(t, newer.Attach(t.Context(), newer.schemas()...), storage.ErrExists)
	require.NoError(t, write("b", "p"), "the older store goes on")
	require.NoError(t, newer.Attach(t.Context(), newer.schemas()...), "now it holds")
	row := view(t, newer, func(tx storage.ReadTx) (*item, error) { return newer.byOwner.Get(tx, storage.StringKey("p")) })
	require.Equal(t, "b", row.ID)
}

// closeOne closes one store. The others go on, with their watches.
func (s *shared) closeOne(t *testing.T) {
	all := s.controllers(t)
	since := revision(t, all[0])
	next, stop := iter.Pull2(all[1].Watch(t.Context(), since))
	defer stop()
	ended := make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		for _, err := range all[0].Watch(context.Background(), since) {
			if err != nil {
				ended <- err
				return
			}
			close(begun)
		}
	}()
	put(t, all[2], all[2].tables, &item{ID: "a"})
	<-begun
	require.NoError(t, all[0].Close())
	require.ErrorIs(t, <-ended, storage.ErrClosed)
	require.ErrorIs(t, all[0].View(t.Context(), func(storage.ReadTx) error { return nil }), storage.ErrClosed)
	require.ErrorIs(t, all[0].Update(t.Context(), func(storage.WriteTx) error { return nil }), storage.ErrClosed)
	put(t, all[2], all[2].tables, &item{ID: "b"})
	seen := map[string]bool{}
	for len(seen) < 2 {
		batch, err, ok := next()
		require.True(t, ok)
		require.NoError(t, err)
		require.False(t, batch.Reset)
		for _, change := range batch.Changes {
			seen[change.Key.String()] = true
		}
	}
	agree(t, all[1:])
	late := s.controller(t)
	agree(t, append(all[1:], late))
}

// cutOff cuts one store off. It reads on, and writes nothing that it does not own up to.
func (s *shared) cutOff(t *testing.T) {
	cut, other := s.controller(t), s.controller(t)
	put(t, cut, cut.tables, &item{ID: "before"})
	caughtUp(t, other, revision(t, cut))
	since := revision(t, cut)
	mend := s.engine.Cut(cut.Store)
	var refused, unknown []string
	for i := range 3 {
		id := fmt.Sprint("cut", i)
		err := cut.Update(t.Context(), func(tx storage.WriteTx) error {
			return errors.Join(cut.items.Put(tx, &item{ID: id}), cut.counter.Put(tx, &item{ID: id}))
		})
		switch {
		case errors.Is(err, storage.ErrUnknown):
			unknown = append(unknown, id)
		case errors.Is(err, storage.ErrUnavailable):
			refused = append(refused, id)
		default:
			t.Fatalf("an Update of a store that is cut off returned %v, and not ErrUnavailable or ErrUnknown", err)
		}
		view(t, cut, func(tx storage.ReadTx) (*item, error) { return cut.items.Get(tx, itemKey("before")) })
		put(t, other, other.tables, &item{ID: fmt.Sprint("other", i)})
	}
	mend()
	require.Eventually(t, func() bool {
		err := cut.Update(context.Background(), func(tx storage.WriteTx) error { return cut.items.Put(tx, &item{ID: "after"}) })
		return err == nil
	}, s.deadline/2, 10*time.Millisecond, "the store writes again")
	agree(t, []controller{cut, other})
	view(t, cut, func(tx storage.ReadTx) (any, error) {
		for _, id := range refused {
			row, err := cut.items.Find(tx, itemKey(id))
			require.NoError(t, err)
			require.Nil(t, row, "an Update that was ErrUnavailable was committed")
		}
		for _, id := range unknown {
			row, err := cut.items.Find(tx, itemKey(id))
			require.NoError(t, err)
			pair, err := cut.counter.Find(tx, itemKey(id))
			require.NoError(t, err)
			require.Equal(t, row == nil, pair == nil, "half a transaction")
		}
		return nil, nil
	})
	s.missesNothing(t, cut, since, "other0", "other1", "other2", "after")
}

// missesNothing follows a store from a revision until it has told of rows, or is reset.
func (s *shared) missesNothing(t *testing.T, c controller, since uint64, want ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), s.deadline/2)
	defer cancel()
	missing := map[string]bool{}
	for _, id := range want {
		missing[itemKey(id).String()] = true
	}
	for batch, err := range c.Watch(ctx, since, c.items.Name()) {
		require.NoError(t, err, "the watch has not told of %v", missing)
		for _, change := range batch.Changes {
			delete(missing, change.Key.String())
		}
		if batch.Reset || len(missing) == 0 {
			return
		}
	}
}

// compacted has the engine forget the changes that a store has missed while cut off, deletions among them.
func (s *shared) compacted(t *testing.T) {
	cut, other := s.controller(t), s.controller(t)
	put(t, other, other.tables, &item{ID: "gone", Owner: "o"}, &item{ID: "kept", Owner: "k"})
	caughtUp(t, cut, revision(t, other))
	since := revision(t, cut)
	mend := s.engine.Cut(cut.Store)
	require.NoError(t, other.Update(t.Context(), func(tx storage.WriteTx) error { return other.items.Delete(tx, itemKey("gone")) }))
	put(t, other, other.tables, &item{ID: "heir", Owner: "o"})
	for i := range 50 {
		put(t, other, other.tables, &item{ID: fmt.Sprint("n", i)})
	}
	require.NoError(t, s.engine.Compact())
	mend()
	caughtUp(t, cut, revision(t, other))
	agree(t, []controller{other, cut})
	s.missesNothing(t, cut, since, "gone", "heir", "n0", "n49")
	put(t, cut, cut.tables, &item{ID: "after"})
	agree(t, []controller{other, cut})
}
