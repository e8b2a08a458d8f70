package updates_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/opscenter-go/sdk/internal/mortal"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

const childEnv = "OPSCENTER_UPDATES_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		var kill mortal.Point
		_, _ = fmt.Sscanf(os.Getenv(childEnv+"_KILL"), "%t %d %t", &kill.Call, &kill.Number, &kill.After)
		if err := mirrorIn(dir, os.Getenv(childEnv+"_SOURCE"), kill); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

// mirrorIn runs a control plane that fetches updates into a directory, until it ends or is killed at the given point. At its
// end it prints the numbers of writes and calls.
func mirrorIn(dir, source string, kill mortal.Point) error {
	ctx := context.Background()
	fate := mortal.New()
	fate.Set(kill)
	go func() {
		<-fate.Dead()
		if self, err := os.FindProcess(os.Getpid()); err == nil {
			_ = self.Kill()
		}
	}()
	store, err := badgerstore.Open(filepath.Join(dir, "store"))
	if err != nil {
		return err
	}
	defer store.Close()
	registry, err := opscenter.NewRegistry(mortal.Store{Store: store, Fate: fate}, opscenter.Options{})
	if err != nil {
		return err
	}
	place, err := updates.NewDir(filepath.Join(dir, "updates"))
	if err != nil {
		return err
	}
	files := claimedFiles{mortalFiles{place, fate}, place}
	root, err := os.ReadFile(filepath.Join(dir, "root.pem"))
	if err != nil {
		return err
	}
	feed, err := updates.New(ctx, registry, files, updates.Options{Settings: &updates.Settings{Source: source, Root: string(root), Keep: 2}})
	if err != nil {
		if fate.IsDead() {
			select {}
		}
		return err
	}
	if err := feed.Refresh(ctx, updates.RefreshOptions{}); err != nil {
		if fate.IsDead() {
			select {} // wait for the kill
		}
		return err
	}
	writes, calls := fate.Counts()
	fmt.Println(writes, calls)
	return registry.Close()
}

// claimedFiles are mortalFiles with an owner.
type claimedFiles struct {
	mortalFiles
	updates.Claimer
}

// child starts mirrorIn in a process of its own.
func child(t *testing.T, dir, source string, kill mortal.Point) (*exec.Cmd, *bytes.Buffer) {
	program, err := os.Executable()
	require.NoError(t, err)
	out := &bytes.Buffer{}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), childEnv+"="+dir, childEnv+"_SOURCE="+source, fmt.Sprintf("%s_KILL=%t %d %t", childEnv, kill.Call, kill.Number, kill.After))
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	require.NoError(t, cmd.Start())
	return cmd, out
}

// tree returns the sizes of the files below a directory, by path.
func tree(t *testing.T, dir string) map[string]int64 {
	out := map[string]int64{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		out[strings.TrimPrefix(path, dir)] = info.Size()
		return err
	}))
	return out
}

// TestKilledAtEveryWrite kills a fetching process with SIGKILL at each of its writes. The next process completes the fetch.
func TestKilledAtEveryWrite(t *testing.T) {
	p := newPlane(t)
	p.publish(t, incusostest.Release{Version: "202610010000", Applications: []string{"incus"}, NoOS: true})
	base := t.TempDir()
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.publisher.Root().Raw})
	require.NoError(t, os.WriteFile(filepath.Join(base, "root.pem"), root, 0o600))
	first, _ := child(t, base, p.source, mortal.Point{})
	require.NoError(t, first.Wait())
	p.publish(t, incusostest.Release{Version: "202610020000", Applications: []string{"incus", "debug"}, NoOS: true}, incusostest.Release{Version: "202610030000", Applications: []string{"incus"}, NoOS: true})
	copied := func() string {
		dir := t.TempDir()
		require.NoError(t, os.CopyFS(dir, os.DirFS(base)))
		return dir
	}
	whole := copied()
	second, out := child(t, whole, p.source, mortal.Point{})
	require.NoError(t, second.Wait())
	var writes, calls int
	_, err := fmt.Sscan(out.String(), &writes, &calls)
	require.NoError(t, err)
	want := tree(t, filepath.Join(whole, "updates"))
	points := mortal.Points(writes, calls)
	killed := 0
	for i, point := range points {
		dir := copied()
		dying, _ := child(t, dir, p.source, point)
		if dying.Wait() != nil && dying.ProcessState.ExitCode() < 0 {
			killed++
		}
		next, _ := child(t, dir, p.source, mortal.Point{})
		require.NoError(t, next.Wait(), "after %s", point)
		got := tree(t, filepath.Join(dir, "updates"))
		for name := range got { // compare names only: the content of owner is random
			require.Contains(t, want, name, "after %s", point)
		}
		require.Len(t, got, len(want), "after %s", point)
		if i%10 == 0 { // check the store as well
			store, err := badgerstore.Open(filepath.Join(dir, "store"))
			require.NoError(t, err)
			registry, err := opscenter.NewRegistry(store, opscenter.Options{})
			require.NoError(t, err)
			channel, err := registry.Channels().Get(t.Context(), "stable")
			require.NoError(t, err)
			require.Equal(t, map[string]string{"incus": "202610030000"}, channel.Versions, "after %s", point)
			require.NoError(t, store.Close())
		}
		require.NoError(t, os.RemoveAll(dir))
	}
	t.Logf("killed at %d of %d points", killed, len(points))
	require.GreaterOrEqual(t, killed, len(points)*9/10, "a run that fetches in another order may end before its kill point")
}

// mortalFiles are Files whose process can die at each call.
type mortalFiles struct {
	updates.Files
	fate *mortal.Fate
}

func (m mortalFiles) call(do func() error) error {
	return m.fate.Call(context.Background(), func(context.Context) error { return do() })
}

func (m mortalFiles) Create(ctx context.Context, sum string) (p updates.Partial, err error) {
	err = m.call(func() error { p, err = m.Files.Create(ctx, sum); return err })
	if p != nil {
		p = mortalPartial{p, m}
		if err != nil {
			_ = p.(mortalPartial).Partial.Close()
		}
	}
	return p, err
}

func (m mortalFiles) Remove(ctx context.Context, sum string) error {
	return m.call(func() error { return m.Files.Remove(ctx, sum) })
}

func (m mortalFiles) List(ctx context.Context) iter.Seq2[updates.FileInfo, error] {
	return m.Files.List(ctx)
}

type mortalPartial struct {
	updates.Partial
	files mortalFiles
}

func (p mortalPartial) Write(data []byte) (n int, err error) {
	// A dying process leaves half of the data.
	half := len(data) / 2
	if err = p.files.call(func() error { n, err = p.Partial.Write(data[:half]); return err }); err != nil {
		return n, err
	}
	more := 0
	err = p.files.call(func() error { more, err = p.Partial.Write(data[half:]); return err })
	return n + more, err
}

func (p mortalPartial) Existing(w io.Writer) (int64, error) { return p.Partial.Existing(w) }
func (p mortalPartial) Commit() error                       { return p.files.call(p.Partial.Commit) }
func (p mortalPartial) Reset() error                        { return p.files.call(p.Partial.Reset) }
func (p mortalPartial) Close() error                        { return p.Partial.Close() }

// TestCrashAtEveryWrite ends a refresh at every write. After each, every offered update has all its files, and the next
// refresh completes the fetch.
func TestCrashAtEveryWrite(t *testing.T) {
	mirror := func(t *testing.T, kill mortal.Point) (p *plane, fate *mortal.Fate) {
		p = newPlane(t, func(p *plane) { p.options.MaxFetches, p.options.Settings.Keep = 1, 1 })
		p.publish(t, incusostest.Release{Version: "202610010000", Applications: []string{"incus"}})
		p.refresh(t)
		p.publish(t, incusostest.Release{Version: "202610020000", Applications: []string{"incus"}})
		fate = mortal.New()
		registry, err := opscenter.NewRegistry(mortal.Store{Store: p.store, Fate: fate}, opscenter.Options{})
		require.NoError(t, err)
		feed, err := updates.New(t.Context(), registry, mortalFiles{p.files, fate}, p.options)
		require.NoError(t, err)
		fate.Set(kill)
		err = feed.Refresh(t.Context(), updates.RefreshOptions{})
		if kill.Number == 0 {
			require.NoError(t, err)
		} else {
			require.Error(t, err)
		}
		return p, fate
	}
	whole, fate := mirror(t, mortal.Point{})
	writes, calls := fate.Counts()
	require.Greater(t, writes, 3)
	require.Greater(t, calls, 30)
	whole.restart(t)
	for _, point := range mortal.Points(writes, calls) {
		p, _ := mirror(t, point)
		p.restart(t)
		for _, u := range p.feed.Snapshot().Updates() {
			if u.Status != updates.StatusReady {
				continue
			}
			for _, f := range u.Files {
				_, _, file, err := p.feed.Open(t.Context(), u.UUID, f.Filename)
				require.NoError(t, err, "%s: update %s is offered without %s", point, u.Version, f.Filename)
				require.NoError(t, file.Close())
			}
		}
		require.NoError(t, p.feed.Verify(t.Context()), point)
		channel, err := p.Channels().Get(t.Context(), "stable")
		require.NoError(t, err)
		require.NotEmpty(t, channel.Versions["os"], point)
		p.refresh(t)
		require.Equal(t, whole.stored(t), p.stored(t), point)
		require.Equal(t, []string{"202610020000"}, p.versions(updates.StatusReady), point)
		for range p.files.Unfinished(t.Context()) {
			t.Fatalf("%s: an unfinished file remains", point)
		}
	}
	t.Logf("%d crash points", 2*(writes+calls))
}
