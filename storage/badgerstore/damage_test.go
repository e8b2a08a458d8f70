package badgerstore_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

type row struct {
	ID   string
	Text string
}

var rows = storage.NewTable("rows", func(r *row) storage.Key { return storage.StringKey(r.ID) })

func open(t testing.TB, dir string, options ...badgerstore.Options) *badgerstore.Store {
	t.Helper()
	store, err := badgerstore.Open(dir, options...)
	require.NoError(t, err)
	require.NoError(t, store.Attach(t.Context(), rows.Schema()))
	return store
}

func put(store storage.Store, r *row) error {
	return store.Update(context.Background(), func(tx storage.WriteTx) error { return rows.Put(tx, r) })
}

// readAll returns the rows of a store, or the first error of opening or reading it.
func readAll(dir string) (found map[string]string, err error) {
	store, err := badgerstore.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := store.Attach(context.Background(), rows.Schema()); err != nil {
		return nil, err
	}
	found = map[string]string{}
	return found, store.View(context.Background(), func(tx storage.ReadTx) error {
		for r, err := range rows.Scan(tx, storage.Range{}) {
			if err != nil {
				return err
			}
			found[r.ID] = r.Text
		}
		return nil
	})
}

func TestSecondProcessIsRefused(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	defer store.Close()
	_, err := badgerstore.Open(dir)
	require.ErrorIs(t, err, storage.ErrLocked)
	require.ErrorContains(t, err, dir)
	require.ErrorContains(t, err, fmt.Sprint("pid ", os.Getpid()))
	require.NoError(t, put(store, &row{ID: "a"}), "the first goes on unharmed")
}

// TestOlderFormatIsUpgraded: an older package must refuse the store from then on, since it does not know its rows.
func TestOlderFormatIsUpgraded(t *testing.T) {
	dir := earlierStore(t)
	format := func() uint32 {
		data, err := os.ReadFile(filepath.Join(dir, "OPSCENTER"))
		require.NoError(t, err)
		require.Equal(t, binary.BigEndian.Uint32(data[508:]), crc32.ChecksumIEEE(data[:508]))
		return binary.BigEndian.Uint32(data[len("opscenter store\n"):])
	}
	require.EqualValues(t, 1, format())
	for range 2 {
		store, err := badgerstore.Open(dir)
		require.NoError(t, err)
		require.NoError(t, store.Close())
		require.EqualValues(t, 3, format())
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	dir := t.TempDir()
	store := open(t, dir)
	require.NoError(t, put(store, &row{ID: "a", Text: "b"}))
	require.NoError(t, store.Close())

	path := filepath.Join(dir, "OPSCENTER")
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	newer := append([]byte(nil), data...)
	binary.BigEndian.PutUint32(newer[len("opscenter store\n"):], 99)
	binary.BigEndian.PutUint32(newer[508:], crc32.ChecksumIEEE(newer[:508]))
	require.NoError(t, os.WriteFile(path, newer, 0o600))
	_, err = badgerstore.Open(dir)
	require.ErrorIs(t, err, storage.ErrFormat)
	require.ErrorContains(t, err, "format version 99")

	require.NoError(t, os.WriteFile(path, data, 0o600))
	found, err := readAll(dir)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "b"}, found, "the refusal changed nothing")
}

func TestForeignDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "MANIFEST"), []byte("x"), 0o600))
	_, err := badgerstore.Open(dir)
	require.ErrorIs(t, err, storage.ErrCorrupt)
}

// damaged builds a store whose rows lie in tables, logs and the value log alike.
func damaged(t *testing.T) (string, map[string]string) {
	dir, want := t.TempDir(), map[string]string{}
	for session := range 3 {
		store := open(t, dir)
		for i := range 60 {
			r := &row{ID: fmt.Sprintf("%d-%02d", session, i), Text: strings.Repeat(fmt.Sprint(i%10), 50+i*300)}
			require.NoError(t, put(store, r))
			want[r.ID] = r.Text
			if session > 0 { // older versions below, to come back to life
				old := &row{ID: fmt.Sprintf("%d-%02d", session-1, i), Text: fmt.Sprint("rewritten in ", session)}
				require.NoError(t, put(store, old))
				want[old.ID] = old.Text
			}
		}
		if session == 2 {
			// Killed: the last session's writes are in the log only. A copy of the
			// directory, taken while it is open, is what a killed process leaves.
			crashed := t.TempDir()
			require.NoError(t, os.CopyFS(crashed, os.DirFS(dir)))
			require.NoError(t, store.Close())
			return crashed, want
		}
		require.NoError(t, store.Close())
	}
	panic("unreachable")
}

// TestDamageNeverLosesRowsSilently cuts, flips, empties and removes the files of a store, one
// at a time. Whatever opens then must have every row as it was acknowledged.
func TestDamageNeverLosesRowsSilently(t *testing.T) {
	original, want := damaged(t)
	found, err := readAll(copyOf(t, original))
	require.NoError(t, err)
	require.Equal(t, want, found)

	names, err := filepath.Glob(filepath.Join(original, "*"))
	require.NoError(t, err)
	require.Greater(t, len(names), 5)
	random := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for _, path := range names {
		name := filepath.Base(path)
		if name == "LOCK" {
			continue
		}
		info, err := os.Stat(path)
		require.NoError(t, err)
		used := usedBytes(t, path)
		damages := map[string]func(string) error{
			"removed": os.Remove,
			"emptied": func(p string) error { return os.Truncate(p, 0) },
			"halved":  func(p string) error { return os.Truncate(p, int64(used/2)) },
			"cut":     func(p string) error { return os.Truncate(p, int64(max(used-3, 0))) },
		}
		for i := range 6 {
			at := int64(random.IntN(max(used, 1)))
			damages[fmt.Sprintf("flipped%d", i)] = func(p string) error { return flip(p, at) }
		}
		for what, damage := range damages {
			t.Run(name+"/"+what, func(t *testing.T) {
				if info.Size() == 0 && what != "removed" {
					return
				}
				dir := copyOf(t, original)
				require.NoError(t, damage(filepath.Join(dir, name)))
				found, err := readAll(dir)
				if err != nil {
					refused++
					require.True(t, errors.Is(err, storage.ErrCorrupt) || errors.Is(err, storage.ErrFormat), "a clear error, not %v", err)
					// Trying again loses nothing either.
					if found, err = readAll(dir); err == nil {
						require.Equal(t, want, found, "opened the second time, with rows missing or changed")
					}
					return
				}
				require.Equal(t, want, found, "opened, with rows missing or changed")
			})
		}
	}
	require.Greater(t, refused, 20, "the damage did no damage: the test looks in the wrong place")
}

func copyOf(t *testing.T, dir string) string {
	out := t.TempDir()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		// By cp, which keeps the holes of sparse files.
		if runtime.GOOS == "linux" {
			require.NoError(t, exec.Command("cp", "--sparse=always", filepath.Join(dir, e.Name()), out).Run())
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(out, e.Name()), data, 0o600))
	}
	return out
}

// usedBytes returns the length of a file without the zeros at its end.
func usedBytes(t *testing.T, path string) int {
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return len(strings.TrimRight(string(data), "\x00"))
}

func flip(path string, at int64) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	b := make([]byte, 1)
	if _, err := file.ReadAt(b, at); err != nil {
		return err
	}
	b[0] ^= 0x5a
	_, err = file.WriteAt(b, at)
	return err
}

// TestUnfinishedFilesOpen: a file that Badger had just made when the power went is not damage.
func TestUnfinishedFilesOpen(t *testing.T) {
	original, want := damaged(t)
	newest := func(dir, ext string) int {
		paths, err := filepath.Glob(filepath.Join(dir, "*"+ext))
		require.NoError(t, err)
		require.NotEmpty(t, paths)
		var n int
		_, err = fmt.Sscanf(filepath.Base(paths[len(paths)-1]), "%d", &n)
		require.NoError(t, err)
		return n
	}
	mem, vlog, sst := fmt.Sprintf("%05d.mem", newest(original, ".mem")+1), fmt.Sprintf("%06d.vlog", newest(original, ".vlog")+1), fmt.Sprintf("%06d.sst", newest(original, ".sst")+1)
	for name, files := range map[string]map[string]int64{
		"a log": {mem: 0}, "a value log": {vlog: 0}, "a table": {sst: 0}, "all of them": {mem: 0, vlog: 0, sst: 0},
		"a log of zeros": {mem: 1 << 20}, "a value log of zeros": {vlog: 1 << 20}, "a table of zeros": {sst: 1 << 20}, "half a table": {sst: 37},
		"a manifest to be": {"MANIFEST-REWRITE": 0},
	} {
		for _, verify := range []bool{true, false} {
			t.Run(fmt.Sprint(name, " ", verify), func(t *testing.T) {
				dir := copyOf(t, original)
				for file, size := range files {
					path := filepath.Join(dir, file)
					require.NoError(t, os.WriteFile(path, nil, 0o600))
					require.NoError(t, os.Truncate(path, size))
				}
				store, err := badgerstore.Open(dir, badgerstore.Options{SkipVerify: !verify})
				require.NoError(t, err, "at the first try")
				require.NoError(t, store.Close())
				found, err := readAll(dir)
				require.NoError(t, err)
				require.Equal(t, want, found)
				left, err := filepath.Glob(filepath.Join(dir, "*.empty"))
				require.NoError(t, err)
				require.Empty(t, left)
			})
		}
	}
}

// TestTornTailOpens: what a crash in the middle of a write leaves behind the last whole
// commit is not damage.
func TestTornTailOpens(t *testing.T) {
	original, want := damaged(t)
	logs, err := filepath.Glob(filepath.Join(original, "*.mem"))
	require.NoError(t, err)
	require.NotEmpty(t, logs)
	path := logs[len(logs)-1]
	used := usedBytes(t, path)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = file.WriteAt([]byte{0x02, 0x10, 0x40, 0x07, 'h', 'a', 'l', 'f'}, int64(used))
	require.NoError(t, errors.Join(err, file.Close()))
	found, err := readAll(original)
	require.NoError(t, err)
	require.Equal(t, want, found)
}

// smallDisk mounts a file system of a size, to be filled.
func smallDisk(t *testing.T, size string) (dir string) {
	t.Helper()
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("a file system to fill is mounted, which takes root on Linux")
	}
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "none", dir).CombinedOutput(); err != nil {
		t.Skipf("a file system to fill can't be mounted: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", dir).Run() })
	return dir
}

// TestDiskFull fills a small file system of its own.
func TestDiskFull(t *testing.T) {
	dir := smallDisk(t, "160m")
	data := filepath.Join(dir, "data")
	options := badgerstore.Options{MinFree: 64 << 20}
	store := open(t, data, options)
	text := strings.Repeat("x", 500_000)
	var acknowledged []string
	var failed error
	for i := range 1000 {
		id := fmt.Sprintf("%04d", i)
		if failed = put(store, &row{ID: id, Text: text}); failed != nil {
			break
		}
		acknowledged = append(acknowledged, id)
	}
	require.ErrorIs(t, failed, storage.ErrDiskFull)
	require.ErrorContains(t, failed, data)
	require.NotEmpty(t, acknowledged)
	// Another program takes the rest.
	ballast := filepath.Join(dir, "ballast")
	_ = exec.Command("dd", "if=/dev/zero", "of="+ballast, "bs=1M").Run()
	require.ErrorIs(t, put(store, &row{ID: "more"}), storage.ErrDiskFull)
	require.NoError(t, store.View(t.Context(), func(tx storage.ReadTx) error {
		_, err := rows.Get(tx, storage.StringKey(acknowledged[0]))
		return err
	}), "reading goes on")
	// Room again: writing goes on, without reopening and after it.
	require.NoError(t, os.Remove(ballast))
	require.NoError(t, exec.Command("mount", "-o", "remount,size=400m", dir).Run())
	require.NoError(t, put(store, &row{ID: "after"}))
	require.NoError(t, store.Close())
	store = open(t, data, options)
	defer store.Close()
	require.NoError(t, store.View(t.Context(), func(tx storage.ReadTx) error {
		for _, id := range append(acknowledged, "after") {
			if _, err := rows.Get(tx, storage.StringKey(id)); err != nil {
				return err
			}
		}
		_, err := rows.Get(tx, storage.StringKey("more"))
		require.ErrorIs(t, err, storage.ErrNotFound, "a refused write left nothing")
		return nil
	}))
}

// TestGroupCommit: writers that wait share syncs, and each learns its own outcome.
func TestGroupCommit(t *testing.T) {
	store := open(t, t.TempDir())
	defer store.Close()
	stop := errors.New("stop")
	before := revisionOf(t, store)
	const writers, each = 32, 40
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				err := store.Update(context.Background(), func(tx storage.WriteTx) error {
					if err := rows.Put(tx, &row{ID: fmt.Sprintf("%d-%d", w, i)}); err != nil {
						return err
					}
					if i%4 == 0 {
						return stop
					}
					return nil
				})
				if (i%4 == 0) != errors.Is(err, stop) || (i%4 != 0 && err != nil) {
					t.Errorf("writer %d, row %d: %v", w, i, err)
				}
			}
		})
	}
	wg.Wait()
	commits := revisionOf(t, store) - before
	require.Less(t, commits, uint64(writers*each/2), "writers share commits")
	n := 0
	require.NoError(t, store.View(t.Context(), func(tx storage.ReadTx) error {
		for range rows.Scan(tx, storage.Range{}) {
			n++
		}
		return nil
	}))
	require.Equal(t, writers*each*3/4, n)
	t.Logf("%d writes in %d commits", n, commits)
}

func revisionOf(t *testing.T, store storage.Store) (revision uint64) {
	require.NoError(t, store.View(t.Context(), func(tx storage.ReadTx) error {
		revision = tx.Revision()
		return nil
	}))
	return revision
}
