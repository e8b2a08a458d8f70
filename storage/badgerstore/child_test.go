package badgerstore_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

// blob is a large row, as the facts of a server are.
type blob struct {
	Name string
	Data []byte
}

var background = context.Background()

var blobs = storage.NewTable("blobs", func(b *blob) storage.Key { return storage.StringKey(b.Name) })

// The tests here are of what happens to a process: it is this test binary, started once more.

const (
	childEnv = "OPSCENTER_BADGERSTORE_CHILD" // its directory
	killsEnv = "OPSCENTER_KILLS"
	// enoughEnv is after how many writes the child waits for the end of its input; reclaimEnv has it reclaim all the time.
	enoughEnv  = "OPSCENTER_ENOUGH"
	reclaimEnv = "OPSCENTER_RECLAIM"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := child(dir, os.Stdin, os.Stdout); err != nil {
			fmt.Println("error:", err)
		}
		return
	}
	os.Exit(m.Run())
}

// child writes rows, large and small, each with the number of its write, and says each that was acknowledged, until
// its input ends, or it has written enough. Then it closes the store.
func child(dir string, in io.Reader, out io.Writer) error {
	if os.Getenv(reclaimEnv) != "" {
		badgerstore.ReclaimAfter(1 << 20)
	}
	enough, _ := strconv.Atoi(os.Getenv(enoughEnv))
	store, err := badgerstore.Open(dir, badgerstore.Options{MinFree: minFree()})
	if err != nil {
		return err
	}
	if err := store.Attach(background, blobs.Schema()); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, in)
		close(ended)
	}()
	begin, _ := strconv.Atoi(os.Getenv("OPSCENTER_FROM"))
	large := make([]byte, 100_000)
	_, _ = rand.Read(large)
	for i := begin; ; i++ {
		if enough > 0 && i == begin+enough {
			fmt.Fprintln(out, "enough")
			<-ended
		}
		select {
		case <-ended:
			fmt.Fprintln(out, "closed:", store.Close())
			return nil
		default:
		}
		b := &blob{Name: fmt.Sprint(i % 20), Data: []byte(fmt.Sprintf("%012d", i))}
		if i%3 == 0 {
			b.Data = append(b.Data, large...)
		}
		if err := store.Update(background, func(tx storage.WriteTx) error { return blobs.Put(tx, b) }); err != nil {
			fmt.Fprintln(out, "refused:", err)
			<-ended
			fmt.Fprintln(out, "closed:", store.Close())
			return nil
		}
		fmt.Fprintln(out, i)
	}
}

func minFree() int64 {
	n, _ := strconv.ParseInt(os.Getenv("OPSCENTER_MIN_FREE"), 10, 64)
	return n
}

// writing is a child at work.
type writing struct {
	process *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Scanner
	last    int // acknowledged
}

func write(t *testing.T, dir string, from int, environment ...string) *writing {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	w := &writing{process: exec.Command(program), last: from - 1}
	w.process.Env = append(append(os.Environ(), childEnv+"="+dir, fmt.Sprint("OPSCENTER_FROM=", from)), environment...)
	w.in, err = w.process.StdinPipe()
	require.NoError(t, err)
	out, err := w.process.StdoutPipe()
	require.NoError(t, err)
	w.process.Stderr = w.process.Stdout
	require.NoError(t, w.process.Start())
	t.Cleanup(func() { _ = w.process.Process.Kill() })
	w.out = bufio.NewScanner(out)
	return w
}

// until reads what the child says until it is something else than an acknowledgement, or enough is acknowledged. A
// report of several lines is returned whole.
func (w *writing) until(enough int) (said string) {
	for (enough == 0 || w.last < enough) && w.out.Scan() {
		n, err := strconv.Atoi(w.out.Text())
		if err != nil {
			said = w.out.Text()
			for lines := 0; lines < 200 && strings.HasPrefix(said, "=====") && w.out.Scan(); lines++ {
				said += "\n" + w.out.Text()
			}
			return said
		}
		w.last = n
	}
	return ""
}

// holds requires that the store opens, and that each row is one of the last two that were written of it.
func holds(t *testing.T, dir string, last int, options badgerstore.Options) {
	t.Helper()
	store, err := badgerstore.Open(dir, options)
	require.NoError(t, err, "after write %d", last)
	defer func() { require.NoError(t, store.Close()) }()
	require.NoError(t, store.Attach(t.Context(), blobs.Schema()))
	require.NoError(t, store.View(t.Context(), func(tx storage.ReadTx) error {
		for i := max(0, last-19); i <= last; i++ {
			b, err := blobs.Get(tx, storage.StringKey(fmt.Sprint(i%20)))
			if err != nil {
				return fmt.Errorf("write %d: %w", i, err)
			}
			n, err := strconv.Atoi(string(b.Data[:12]))
			require.NoError(t, err)
			require.True(t, n == i || n == i+20 && n == last+1, "write %d was acknowledged, and its row has write %d", i, n)
			require.Equal(t, n%3 == 0, len(b.Data) > 12)
		}
		return nil
	}))
}

// TestKills kills a process that writes, and reclaims what was replaced, at any moment, and requires the store to open
// with all that was acknowledged. Set OPSCENTER_KILLS to kill more often.
func TestKills(t *testing.T) {
	kills := 15
	if n, err := strconv.Atoi(os.Getenv(killsEnv)); err == nil {
		kills = n
	}
	dir := t.TempDir()
	next := 0
	for range kills {
		w := write(t, dir, next, reclaimEnv+"=1")
		require.Empty(t, w.until(max(1, next)), "it has opened the store, and writes")
		time.AfterFunc(time.Duration(mrand.IntN(250))*time.Millisecond, func() { _ = w.process.Process.Kill() })
		require.Empty(t, w.until(0))
		_ = w.process.Wait()
		holds(t, dir, w.last, badgerstore.Options{})
		next = w.last + 1 // which may have been written, and not told
	}
	t.Logf("%d writes, %d kills", next, kills)
	require.GreaterOrEqual(t, next, kills)
}

// TestClosedOnAFullDisk has another program fill the disk before the store is closed. The process lives, and all that was
// acknowledged is there once there is room.
func TestClosedOnAFullDisk(t *testing.T) {
	for _, left := range []int{0, 1, 20, 60, 100} { // MiB
		t.Run(fmt.Sprint(left, " MiB left"), func(t *testing.T) {
			dir := smallDisk(t, "400m")
			data, ballast := filepath.Join(dir, "data"), filepath.Join(dir, "ballast")
			w := write(t, data, 0, fmt.Sprint("OPSCENTER_MIN_FREE=", 128<<20), enoughEnv+"=300")
			require.Equal(t, "enough", w.until(0))
			require.NoError(t, fill(ballast))
			info, err := os.Stat(ballast)
			require.NoError(t, err)
			require.NoError(t, os.Truncate(ballast, max(0, info.Size()-int64(left)<<20)))
			w.in.Close()
			said := w.until(0)
			require.True(t, strings.HasPrefix(said, "closed:"), said)
			require.NoError(t, w.process.Wait(), "the process lives")
			require.NoError(t, os.Remove(ballast))
			holds(t, data, w.last, badgerstore.Options{MinFree: 32 << 20})
		})
	}
}

// TestDiskFillsUp has another program fill the disk at a random moment, while the store is written to and closed. If the
// process dies of it, as Badger writes through memory maps, the store still opens with all that was acknowledged.
func TestDiskFillsUp(t *testing.T) {
	died := 0
	const rounds = 8
	for round := range rounds {
		dir := smallDisk(t, "400m")
		data, ballast := filepath.Join(dir, "data"), filepath.Join(dir, "ballast")
		w := write(t, data, 0, fmt.Sprint("OPSCENTER_MIN_FREE=", 32<<20), reclaimEnv+"=1")
		require.Empty(t, w.until(100+mrand.IntN(200)))
		filled := make(chan error, 1)
		go func() {
			time.Sleep(time.Duration(mrand.IntN(30)) * time.Millisecond) // the moment is what varies
			filled <- fill(ballast)
		}()
		if round%2 == 0 {
			w.in.Close()
		}
		for said := "-"; said != "" && !strings.HasPrefix(said, "refused:"); {
			said = w.until(0)
		}
		w.in.Close()
		for w.until(0) != "" {
		}
		if w.process.Wait() != nil {
			died++
		}
		require.NoError(t, <-filled)
		require.NoError(t, os.Remove(ballast))
		holds(t, data, w.last, badgerstore.Options{MinFree: 32 << 20})
	}
	t.Logf("the process died in %d of %d rounds", died, rounds)
}

// fill writes a file until the disk is full.
func fill(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	chunk := make([]byte, 1<<20)
	for err == nil {
		_, err = file.Write(chunk)
	}
	return file.Close()
}

// TestValueLogIsChecked: a file of the value log that is gone, or cut, is found when the store is opened, before
// a row in it is read.
func TestValueLogIsChecked(t *testing.T) {
	original := t.TempDir()
	store := open(t, original)
	for i := range 900 { // more than one file
		data := make([]byte, 100_000)
		_, _ = rand.Read(data)
		require.NoError(t, put(store, &row{ID: fmt.Sprintf("%04d", i), Text: fmt.Sprintf("%x", data)[:100_000]}))
	}
	require.NoError(t, store.Close())
	logs, err := filepath.Glob(filepath.Join(original, "*.vlog"))
	require.NoError(t, err)
	require.Greater(t, len(logs), 1)
	for _, log := range logs {
		used := int64(usedBytes(t, log))
		for what, damage := range map[string]func(string) error{"removed": os.Remove,
			"halved": func(p string) error { return os.Truncate(p, used/2) }, "cut": func(p string) error { return os.Truncate(p, used-50_000) }} {
			dir := copyOf(t, original)
			require.NoError(t, damage(filepath.Join(dir, filepath.Base(log))))
			_, err := badgerstore.Open(dir)
			require.ErrorIs(t, err, storage.ErrCorrupt, "%s %s", filepath.Base(log), what)
		}
	}
}
