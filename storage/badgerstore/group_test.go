package badgerstore

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/storage"
)

type member struct{ ID string }

var members = storage.NewTable("members", func(m *member) storage.Key { return storage.StringKey(m.ID) })

// Those who joined a group, or only read what it holds, wait for its commit; and Close
// commits it, where the one who was to do so comes too late.
func TestTheOpenGroupIsWaitedForAndCommittedByClose(t *testing.T) {
	dir := t.TempDir()
	store, err := Open(dir)
	require.NoError(t, err)
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

	store, err = Open(dir)
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
