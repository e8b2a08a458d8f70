package badgerstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/storage"
)

type member struct{ ID string }

var members = storage.NewTable("members", func(m *member) storage.Key { return storage.StringKey(m.ID) })

// openQuiet opens a store whose collector has ended, because that has open groups committed.
func openQuiet(t *testing.T, dir string) *Store {
	t.Helper()
	store, err := Open(dir)
	require.NoError(t, err)
	close(store.stop)
	<-store.stopped
	store.stop = make(chan struct{}) // for Close
	return store
}

// Those who joined a group, or only read what it holds, wait for its commit; and Close
// commits it, where the one who was to do so comes too late.
func TestTheOpenGroupIsWaitedForAndCommittedByClose(t *testing.T) {
	dir := t.TempDir()
	store := openQuiet(t, dir)
	require.NoError(t, store.Attach(t.Context(), members.Schema()))
	store.waiting.Add(1) // an Update waits for a turn, and never gets it

	wrote, read := make(chan error, 1), make(chan error, 1)
	go func() {
		wrote <- store.Update(context.Background(), func(tx storage.WriteTx) error { return members.Put(tx, &member{ID: "a"}) })
	}()
	require.Eventually(t, func() bool {
		store.mu.Lock()
		defer store.mu.Unlock()
		return store.group != nil
	}, 10*time.Second, time.Millisecond)
	ran := make(chan struct{})
	go func() {
		read <- store.Update(context.Background(), func(tx storage.WriteTx) error {
			defer close(ran)
			_, err := members.Get(tx, storage.StringKey("a"))
			return err
		})
	}()
	<-ran
	select {
	case err := <-wrote:
		t.Fatalf("acknowledged without a commit: %v", err)
	case err := <-read:
		t.Fatalf("answered from what is not committed: %v", err)
	case <-time.After(50 * time.Millisecond): // long enough for a wrong answer to show
	}
	require.NoError(t, store.Close())
	require.NoError(t, <-wrote)
	require.NoError(t, <-read)

	store, err := Open(dir)
	require.NoError(t, err)
	require.NoError(t, store.Attach(t.Context(), members.Schema()))
	require.NoError(t, store.View(t.Context(), func(tx storage.ReadTx) error {
		_, err := members.Get(tx, storage.StringKey("a"))
		return err
	}))
	require.NoError(t, store.Close())
}

// After a commit that failed half-way only a reopened store knows its outcome: until then
// nothing is written, by Attach neither.
func TestNothingIsWrittenAfterAFailedCommit(t *testing.T) {
	dir := t.TempDir()
	store, err := Open(dir)
	require.NoError(t, err)
	require.NoError(t, store.Attach(t.Context(), members.Schema()))
	other := storage.NewTable("others", func(m *member) storage.Key { return storage.StringKey(m.ID) })
	put := func(id string) error {
		return store.Update(t.Context(), func(tx storage.WriteTx) error { return members.Put(tx, &member{ID: id}) })
	}
	require.NoError(t, put("a"))
	require.NoError(t, store.journal.file.Close()) // the acknowledgement of the next commit fails
	err = put("b")
	require.ErrorIs(t, err, storage.ErrUnknown)
	require.ErrorIs(t, err, os.ErrClosed, "the cause")
	for _, err := range []error{put("c"), store.Attach(t.Context(), other.Schema())} {
		require.ErrorIs(t, err, storage.ErrUnavailable)
		require.NotErrorIs(t, err, storage.ErrUnknown, "it was not tried")
		require.ErrorIs(t, err, os.ErrClosed)
	}
	require.NoError(t, store.Close())
	store, err = Open(dir)
	require.NoError(t, err, "the store itself is whole")
	require.NoError(t, store.Attach(t.Context(), members.Schema(), other.Schema()))
	require.NoError(t, store.View(t.Context(), func(tx storage.ReadTx) error {
		_, err := members.Get(tx, storage.StringKey("a"))
		require.NoError(t, err)
		_, err = members.Get(tx, storage.StringKey("c"))
		require.ErrorIs(t, err, storage.ErrNotFound)
		return nil
	}))
	require.NoError(t, store.Close())
}

// TestFailedCommitUnderLoad: a commit fails while many Updates run, and others build on it. What was acknowledged is there after
// that, and what was refused is not.
func TestFailedCommitUnderLoad(t *testing.T) {
	dir := t.TempDir()
	store, err := Open(dir)
	require.NoError(t, err)
	require.NoError(t, store.Attach(t.Context(), members.Schema()))
	const writers = 32
	outcomes := make([]map[string]error, writers)
	var group sync.WaitGroup
	acknowledged := make(chan struct{}, 1)
	for w := range writers {
		outcomes[w] = map[string]error{}
		group.Go(func() {
			for n := 0; ; n++ {
				id := fmt.Sprintf("%02d-%05d", w, n)
				err := store.Update(context.Background(), func(tx storage.WriteTx) error {
					if n > 0 { // it builds on the one before
						if _, err := members.Get(tx, storage.StringKey(fmt.Sprintf("%02d-%05d", w, n-1))); err != nil {
							return err
						}
					}
					return members.Put(tx, &member{ID: id})
				})
				outcomes[w][id] = err
				if err != nil {
					return
				}
				if n == 20 {
					select {
					case acknowledged <- struct{}{}:
					default:
					}
				}
			}
		})
	}
	<-acknowledged
	require.NoError(t, store.journal.file.Close()) // the acknowledgement of the next commit fails
	group.Wait()
	require.NoError(t, store.Close())
	store, err = Open(dir)
	require.NoError(t, err)
	defer store.Close()
	require.NoError(t, store.Attach(t.Context(), members.Schema()))
	unknown := 0
	require.NoError(t, store.View(t.Context(), func(tx storage.ReadTx) error {
		for _, outcome := range outcomes {
			for id, failed := range outcome {
				found, err := members.Find(tx, storage.StringKey(id))
				require.NoError(t, err)
				switch {
				case failed == nil:
					require.NotNil(t, found, id)
				case errors.Is(failed, storage.ErrUnknown):
					unknown++
				default:
					require.ErrorIs(t, failed, storage.ErrUnavailable)
					require.Nil(t, found, "%s: %v", id, failed)
				}
			}
		}
		return nil
	}))
	require.Positive(t, unknown)
}

// inOpenGroup runs an Update that stays in the open group, because another one seems to wait for its turn until release is called.
func inOpenGroup(t *testing.T, store *Store, fn func(storage.WriteTx) error) (ended chan error, release func()) {
	t.Helper()
	store.waiting.Add(1)
	ended = make(chan error, 1)
	go func() { ended <- store.Update(context.Background(), fn) }()
	require.Eventually(t, func() bool {
		store.mu.Lock()
		defer store.mu.Unlock()
		return store.group != nil
	}, 10*time.Second, time.Millisecond)
	return ended, func() {
		store.mu.Lock()
		defer store.mu.Unlock()
		store.waiting.Add(-1)
		if store.group != nil {
			store.commitGroup()
		}
	}
}

// TestAppendedInTheOpenGroup: an Update changes a row that another member of its group appended.
func TestAppendedInTheOpenGroup(t *testing.T) {
	type entry struct {
		Number uint64
		Text   string
	}
	log := storage.NewLog("log", func(e *entry) *uint64 { return &e.Number })
	store := openQuiet(t, t.TempDir())
	defer store.Close()
	require.NoError(t, store.Attach(t.Context(), log.Schema()))
	ended, release := inOpenGroup(t, store, func(tx storage.WriteTx) error { return log.Append(tx, &entry{Text: "appended"}) })
	changed := make(chan error, 1)
	ran := make(chan struct{})
	go func() {
		changed <- store.Update(context.Background(), func(tx storage.WriteTx) error {
			defer close(ran)
			for row, err := range log.Scan(tx, storage.Range{}) {
				if err != nil {
					return err
				}
				return log.Put(tx, &entry{row.Number, "changed"})
			}
			return errors.New("the row was not found")
		})
	}()
	<-ran
	release()
	require.NoError(t, <-ended)
	require.NoError(t, <-changed)
	var texts []string
	require.NoError(t, store.View(t.Context(), func(tx storage.ReadTx) error {
		for row, err := range log.Scan(tx, storage.Range{}) {
			require.NoError(t, err)
			texts = append(texts, row.Text)
		}
		return nil
	}))
	require.Equal(t, []string{"changed"}, texts)
}

// TestCrowdedGroup: two Updates append more rows together than one commit may. Each has a commit of its own.
func TestCrowdedGroup(t *testing.T) {
	type entry struct{ Number uint64 }
	log := storage.NewLog("log", func(e *entry) *uint64 { return &e.Number })
	store := openQuiet(t, t.TempDir())
	defer store.Close()
	require.NoError(t, store.Attach(t.Context(), log.Schema()))
	const each = storage.MaxTxAppends*3/5 - 100 // within MaxTxWrites
	appendAll := func(tx storage.WriteTx) error {
		for range each {
			if err := log.Append(tx, &entry{}); err != nil {
				return err
			}
		}
		return nil
	}
	ended, release := inOpenGroup(t, store, appendAll)
	second := make(chan error, 1)
	go func() { second <- store.Update(context.Background(), appendAll) }()
	require.NoError(t, <-ended)
	require.Eventually(t, func() bool {
		store.mu.Lock()
		defer store.mu.Unlock()
		return store.group != nil
	}, 10*time.Second, time.Millisecond)
	release()
	require.NoError(t, <-second)
	n := 0
	require.NoError(t, store.View(t.Context(), func(tx storage.ReadTx) error {
		for _, err := range log.Keys(tx, storage.Range{}) {
			require.NoError(t, err)
			n++
		}
		return nil
	}))
	require.Equal(t, 2*each, n)
}
