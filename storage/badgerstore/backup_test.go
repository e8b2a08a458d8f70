package badgerstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

// contents returns the rows of a store.
func contents(t *testing.T, store storage.Store) map[string]string {
	t.Helper()
	found := map[string]string{}
	require.NoError(t, store.View(t.Context(), func(tx storage.ReadTx) error {
		clear(found)
		for r, err := range rows.Scan(tx, storage.Range{}) {
			if err != nil {
				return err
			}
			found[r.ID] = r.Text
		}
		return nil
	}))
	return found
}

// change writes and deletes rows, small and large ones.
func change(t *testing.T, store storage.Store, round int) {
	t.Helper()
	for i := range 50 {
		text := fmt.Sprint("round ", round)
		if i%10 == 0 {
			text += strings.Repeat("x", 20_000) // in the value log
		}
		if (i+round)%3 == 0 {
			continue
		}
		require.NoError(t, put(store, &row{fmt.Sprintf("r%02d", i), text}))
	}
	require.NoError(t, store.Update(t.Context(), func(tx storage.WriteTx) error {
		for i := range 50 {
			if (i+round)%7 != 0 {
				continue
			}
			if err := rows.Delete(tx, storage.StringKey(fmt.Sprintf("r%02d", i))); err != nil && !errors.Is(err, storage.ErrNotFound) {
				return err
			}
		}
		return nil
	}))
}

// TestBackup: what is restored is what was there at each backup, also from one whole one and those since.
func TestBackup(t *testing.T) {
	store := open(t, t.TempDir())
	defer store.Close()
	var chain [][]byte
	var want []map[string]string
	since := uint64(0)
	for round := range 5 {
		change(t, store, round)
		var out bytes.Buffer
		revision, err := store.Backup(t.Context(), &out, since)
		require.NoError(t, err)
		require.Greater(t, revision, since)
		since = revision
		chain, want = append(chain, out.Bytes()), append(want, contents(t, store))
	}
	readers := func(list ...[]byte) (out []io.Reader) {
		for _, data := range list {
			out = append(out, bytes.NewReader(data))
		}
		return out
	}
	for n := 1; n <= len(chain); n++ {
		dir := filepath.Join(t.TempDir(), "below", "restored")
		require.NoError(t, badgerstore.Restore(t.Context(), dir, readers(chain[:n]...)...))
		restored := open(t, dir)
		require.Equal(t, want[n-1], contents(t, restored))
		change(t, restored, 9) // it is a store as any other
		require.NoError(t, restored.Close())
		found, err := readAll(dir)
		require.NoError(t, err)
		require.Contains(t, found, "r01")
	}
	// Again nothing has changed: a backup of next to nothing, which restores as well.
	var out bytes.Buffer
	revision, err := store.Backup(t.Context(), &out, since)
	require.NoError(t, err)
	require.Equal(t, since, revision)
	require.Less(t, out.Len(), len(chain[4])/20, "what is as it was is not repeated")
	require.NoError(t, badgerstore.Restore(t.Context(), filepath.Join(t.TempDir(), "x"), readers(append(append([][]byte{}, chain...), out.Bytes())...)...))

	dir := t.TempDir()
	for name, list := range map[string][][]byte{"none": nil, "not whole": {chain[1]}, "one is missing": {chain[0], chain[2]}, "twice": {chain[0], chain[0]}, "nothing": {nil}, "something else": {[]byte("PK\x03\x04, and more than a header takes")}} {
		require.ErrorIs(t, badgerstore.Restore(t.Context(), dir, readers(list...)...), badgerstore.ErrNoBackup, name)
	}
	newer := bytes.Replace(chain[0], []byte("backup 3"), []byte("backup 99"), 1)
	require.ErrorIs(t, badgerstore.Restore(t.Context(), dir, bytes.NewReader(newer)), storage.ErrFormat)
	stopped, stop := context.WithCancel(t.Context())
	stop()
	_, err = store.Backup(stopped, io.Discard, 0)
	require.ErrorIs(t, err, context.Canceled)
	_, err = store.Backup(t.Context(), io.Discard, since+1)
	require.ErrorIs(t, err, badgerstore.ErrNoBackup)
	full := errors.New("no space left")
	_, err = store.Backup(t.Context(), writer(func([]byte) (int, error) { return 0, full }), 0)
	require.ErrorIs(t, err, full)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left, "what was refused left nothing")
	left, err = os.ReadDir(filepath.Dir(dir))
	require.NoError(t, err)
	for _, one := range left {
		require.NotContains(t, one.Name(), "restore")
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600))
	require.ErrorIs(t, badgerstore.Restore(t.Context(), dir, bytes.NewReader(chain[0])), fs.ErrExist)
	require.FileExists(t, filepath.Join(dir, "mine"))
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// TestDamagedBackup: no bit of a backup can change, and none of it be missing, unnoticed.
func TestDamagedBackup(t *testing.T) {
	store := open(t, t.TempDir())
	defer store.Close()
	for i := range 5 {
		require.NoError(t, put(store, &row{fmt.Sprint(i), "text"}))
	}
	var out bytes.Buffer
	_, err := store.Backup(t.Context(), &out, 0)
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "restored")
	for i := 0; i < out.Len(); i += 11 {
		damaged := bytes.Clone(out.Bytes())
		damaged[i] ^= 1 << (i % 8)
		require.Error(t, badgerstore.Restore(t.Context(), dir, bytes.NewReader(damaged)), "byte %d", i)
		require.Error(t, badgerstore.Restore(t.Context(), dir, bytes.NewReader(out.Bytes()[:i])), "cut at %d", i)
		require.NoDirExists(t, dir)
	}
	require.ErrorIs(t, badgerstore.Restore(t.Context(), dir, bytes.NewReader(append(out.Bytes(), 0))), storage.ErrCorrupt)
}

// TestBackupWhileWriting: each backup is one revision, whatever is written meanwhile.
func TestBackupWhileWriting(t *testing.T) {
	store := open(t, t.TempDir())
	defer store.Close()
	both := func(n int) error { // two rows that are always the same
		return store.Update(context.Background(), func(tx storage.WriteTx) error {
			text := fmt.Sprint(n, strings.Repeat("y", 9000))
			return errors.Join(rows.Put(tx, &row{"a", text}), rows.Put(tx, &row{"z", text}))
		})
	}
	require.NoError(t, both(0))
	var stop atomic.Bool
	var wait sync.WaitGroup
	wait.Go(func() {
		for n := 1; !stop.Load(); n++ {
			if err := both(n); err != nil {
				t.Error(err)
				return
			}
		}
	})
	defer wait.Wait()
	defer stop.Store(true)
	since := uint64(0)
	var chain []io.Reader
	for range 5 {
		var out bytes.Buffer
		revision, err := store.Backup(t.Context(), &out, since)
		require.NoError(t, err)
		since, chain = revision, append(chain, &out)
		whole := bytes.Clone(out.Bytes())
		if len(chain) == 1 {
			dir := filepath.Join(t.TempDir(), "restored")
			require.NoError(t, badgerstore.Restore(t.Context(), dir, bytes.NewReader(whole)))
			found, err := readAll(dir)
			require.NoError(t, err)
			require.Equal(t, found["a"], found["z"])
		}
	}
	dir := filepath.Join(t.TempDir(), "restored")
	require.NoError(t, badgerstore.Restore(t.Context(), dir, chain...))
	found, err := readAll(dir)
	require.NoError(t, err)
	require.Equal(t, found["a"], found["z"])
}
