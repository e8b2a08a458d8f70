package updates_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage/memstore"
)

func release(n int) incusostest.Release {
	return incusostest.Release{Version: fmt.Sprintf("2026100%d0000", n)}
}

func TestMirror(t *testing.T) {
	p := newPlane(t)
	for n := range 5 {
		p.publish(t, release(n+1))
	}
	p.publish(t, incusostest.Release{Version: "202610090000", Channels: []string{"testing"}}) // the default filter rejects it
	p.refresh(t)
	require.Equal(t, []string{"202610050000", "202610040000", "202610030000"}, p.versions(updates.StatusReady))
	require.Empty(t, p.versions(updates.StatusPending))
	require.Zero(t, p.publisher.Requests("202610020000/x86_64/incus.raw.gz"), "an update that retention would drop is not fetched")
	for _, u := range p.feed.Snapshot().Updates() {
		require.Equal(t, []string{"stable"}, u.Channels)
		for _, f := range u.Files {
			_, _, file, err := p.feed.Open(t.Context(), u.UUID, f.Filename)
			require.NoError(t, err)
			content, err := io.ReadAll(file)
			require.NoError(t, err)
			require.NoError(t, file.Close())
			require.Len(t, content, int(f.Size))
		}
	}
	// Operations Center derives the same UUID, from origin and version.
	require.Equal(t, "d422c8d9-e61e-552f-a1ea-1418a2e8ff0e", p.update(t, "202610050000").UUID)
	channel, err := p.Channels().Get(t.Context(), "stable")
	require.NoError(t, err)
	require.Equal(t, "202610050000", channel.Versions["os"])
	require.Equal(t, "202610050000", channel.Offers("x86_64")["incus-lts-7.0"])
	require.Empty(t, channel.Offers("aarch64"))
	require.Empty(t, p.warnings(t))

	// A second refresh fetches nothing. A third fetches the new update, and removes the files of the dropped one.
	before := p.stored(t)
	p.refresh(t)
	require.Equal(t, before, p.stored(t))
	require.Equal(t, 1, p.publisher.Requests("202610050000/x86_64/incus.raw.gz"))
	p.publish(t, release(6))
	p.refresh(t)
	require.Equal(t, []string{"202610060000", "202610050000", "202610040000"}, p.versions(updates.StatusReady))
	require.Len(t, p.stored(t), len(before))
	progress := p.feed.Progress()
	require.False(t, progress.Running)
	require.Equal(t, progress.Files, progress.FilesDone)
	require.Equal(t, progress.Bytes, progress.BytesDone)

	p.restart(t)
	require.Equal(t, []string{"202610060000", "202610050000", "202610040000"}, p.versions(updates.StatusReady), "the updates are stored")
}

// TestSourceFaults: a broken file fails only its own update, and the error names the file. The next refresh after the fault
// fetches it.
func TestSourceFaults(t *testing.T) {
	for fault, want := range map[incusostest.PublisherFault]error{
		incusostest.PublishLie: updates.ErrMismatch, incusostest.PublishStall: updates.ErrStalled, incusostest.PublishBomb: updates.ErrMismatch, incusostest.PublishRedirect: updates.ErrRedirect,
		incusostest.PublishGone: updates.ErrGone, incusostest.PublishError: nil, incusostest.PublishEncoded: updates.ErrMismatch,
	} {
		t.Run(string(fault), func(t *testing.T) {
			t.Parallel()
			p := newPlane(t)
			p.publish(t, release(1), release(2), release(3))
			p.publisher.SetFault("202610020000/x86_64/incus.raw.gz", fault)
			err := p.feed.Refresh(t.Context(), updates.RefreshOptions{})
			require.ErrorContains(t, err, "202610020000")
			require.ErrorContains(t, err, "x86_64/incus.raw.gz")
			if want != nil {
				require.ErrorIs(t, err, want)
			}
			require.Equal(t, []string{"202610030000", "202610010000"}, p.versions(updates.StatusReady))
			require.Equal(t, []string{"202610020000"}, p.versions(updates.StatusPending))
			require.Contains(t, p.update(t, "202610020000").Problem, "x86_64/incus.raw.gz")
			require.Contains(t, p.warnings(t)[warning.Updates], "202610020000")
			p.publisher.SetFault("202610020000/x86_64/incus.raw.gz", "")
			p.refresh(t)
			require.Equal(t, []string{"202610030000", "202610020000", "202610010000"}, p.versions(updates.StatusReady))
			require.Empty(t, p.update(t, "202610020000").Problem)
			require.Empty(t, p.warnings(t))
		})
	}
}

// TestResume: a download that breaks off repeatedly resumes where it stopped.
func TestResume(t *testing.T) {
	p := newPlane(t)
	p.publish(t, incusostest.Release{Version: "202610010000", Size: 100 << 10})
	p.publisher.SetFault("incus.raw.gz", incusostest.PublishCut)
	p.refresh(t)
	require.Equal(t, []string{"202610010000"}, p.versions(updates.StatusReady))
	asked := p.publisher.Requests("202610010000/x86_64/incus.raw.gz")
	require.Greater(t, asked, 2)
	require.Less(t, asked, 30)
	// A source without support for ranges is read from the beginning.
	p = newPlane(t)
	p.publish(t, incusostest.Release{Version: "202610010000", Size: 100 << 10})
	p.publisher.SetFault("incus.raw.gz", incusostest.PublishStall)
	require.ErrorIs(t, p.feed.Refresh(t.Context(), updates.RefreshOptions{}), updates.ErrStalled)
	p.publisher.SetFault("incus.raw.gz", incusostest.PublishNoRange)
	p.refresh(t)
	require.Equal(t, []string{"202610010000"}, p.versions(updates.StatusReady))
}

func TestIndexFaults(t *testing.T) {
	p := newPlane(t)
	p.publish(t, release(1), release(2))
	p.refresh(t)
	before := p.stored(t)
	for _, fault := range []incusostest.PublisherFault{incusostest.PublishCut, incusostest.PublishLie, incusostest.PublishStall, incusostest.PublishBomb, incusostest.PublishRedirect, incusostest.PublishGone, incusostest.PublishError} {
		p.publisher.SetFault("index.sjson", fault)
		require.Error(t, p.feed.Refresh(t.Context(), updates.RefreshOptions{}), fault)
		require.Contains(t, p.warnings(t), warning.Updates)
		require.Equal(t, before, p.stored(t), "stored files stay")
	}
	p.publisher.SetFault("index.sjson", "")
	p.publisher.SetOpaque(true)
	p.publish(t, release(3))
	p.refresh(t)
	require.Len(t, p.versions(updates.StatusReady), 3)
	require.Empty(t, p.warnings(t))

	other := newPlane(t)
	other.publish(t, release(1))
	other.options.Trust.Root = p.publisher.Root()
	other.restart(t)
	require.ErrorIs(t, other.feed.Refresh(t.Context(), updates.RefreshOptions{}), updates.ErrSignature)
	require.Empty(t, other.feed.Snapshot().Updates())
}

// TestReplay: an index older than the one read before is rejected, until an operator accepts it.
func TestReplay(t *testing.T) {
	p := newPlane(t)
	p.publish(t, release(1), release(2))
	p.refresh(t)
	p.publisher.Withdraw("202610020000")
	err := p.feed.Refresh(t.Context(), updates.RefreshOptions{})
	require.ErrorIs(t, err, updates.ErrReplay)
	require.Contains(t, p.warnings(t)[warning.Updates], "older")
	p.restart(t)
	require.ErrorIs(t, p.feed.Refresh(t.Context(), updates.RefreshOptions{}), updates.ErrReplay, "the newest time is stored")
	require.NoError(t, p.feed.Refresh(t.Context(), updates.RefreshOptions{AcceptOlder: true}))
	p.refresh(t)
	require.Empty(t, p.warnings(t))
	require.Equal(t, []string{"202610020000", "202610010000"}, p.versions(updates.StatusReady), "stored updates stay")
}

// TestSigningCertificateEnds: a warning stands from 90 days before the certificate expires. The index stays accepted until
// 30 days after.
func TestSigningCertificateEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const day = 24 * time.Hour
		publisher, err := incusostest.NewPublisher()
		require.NoError(t, err)
		require.NoError(t, publisher.Renew(time.Now().Add(100*day)))
		require.NoError(t, publisher.Publish(incusostest.Release{Version: "199912310000"}))
		dir := t.TempDir()
		require.NoError(t, publisher.Write(dir))
		p := &plane{store: memstore.New()}
		defer p.store.Close()
		p.Registry, err = opscenter.NewRegistry(p.store, opscenter.Options{})
		require.NoError(t, err)
		p.files, err = updates.NewDir(t.TempDir())
		require.NoError(t, err)
		p.options = updates.Options{Source: updates.Directory{Path: dir, Trust: updates.Trust{Root: publisher.Root()}}}
		p.restart(t)
		p.refresh(t)
		require.Empty(t, p.warnings(t))
		time.Sleep(11 * day)
		p.refresh(t)
		require.Contains(t, p.warnings(t)[warning.Signer], "ends on 2000-04-10")
		time.Sleep(90 * day)
		p.refresh(t)
		require.Contains(t, p.warnings(t)[warning.Signer], "but ended on 2000-04-10")
		time.Sleep(30 * day)
		require.ErrorIs(t, p.feed.Refresh(t.Context(), updates.RefreshOptions{}), updates.ErrSignature)
		require.Equal(t, []string{"199912310000"}, p.versions(updates.StatusReady), "stored updates stay ready")
		require.NoError(t, publisher.Renew(time.Now().Add(365*day)))
		require.NoError(t, publisher.Write(dir))
		p.refresh(t)
		require.Empty(t, p.warnings(t))
	})
}

// TestRecovery: an update with lost files is offered again once the files are back. An unused file is removed.
func TestRecovery(t *testing.T) {
	p := newPlane(t)
	p.publish(t, release(1), release(2))
	p.refresh(t)
	u := p.update(t, "202610020000")
	require.NoError(t, p.Channels().Create(t.Context(), "production", ""))
	require.NoError(t, p.feed.SetChannels(t.Context(), u.UUID, []string{"production", "stable"}, updates.SetOptions{}))
	place := func(sum string) string { return filepath.Join(p.dir, "files", sum[:2], sum) }
	for name, spoil := range map[string]func(path string) error{
		"removed": os.Remove,
		"cut":     func(path string) error { return os.Truncate(path, 10) },
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, spoil(place(u.Files[2].SHA256)))
			orphan := strings.Repeat("ab", 32)
			require.NoError(t, os.MkdirAll(filepath.Dir(place(orphan)), 0o700))
			require.NoError(t, os.WriteFile(place(orphan), []byte("orphan"), 0o600))
			require.NoError(t, os.WriteFile(filepath.Join(p.dir, "partial", orphan), []byte("orphan"), 0o600))
			p.restart(t)
			require.Equal(t, []string{"202610010000"}, p.versions(updates.StatusReady))
			require.Contains(t, p.update(t, "202610020000").Problem, "missing")
			channel, err := p.Channels().Get(t.Context(), "production")
			require.NoError(t, err)
			require.Empty(t, channel.Versions)
			require.NoFileExists(t, place(orphan))
			require.NoFileExists(t, filepath.Join(p.dir, "partial", orphan))
			p.refresh(t)
			require.Equal(t, []string{"production", "stable"}, p.update(t, "202610020000").Channels, "the update is back in its channels")
			channel, err = p.Channels().Get(t.Context(), "production")
			require.NoError(t, err)
			require.Equal(t, "202610020000", channel.Versions["incus"])
		})
	}
}

// full is a Files on a disk with the given free and total bytes.
type full struct {
	updates.Files
	free, total int64
}

func (f full) Space(context.Context) (int64, int64, error) { return f.free, f.total, nil }

func TestDiskFull(t *testing.T) {
	p := newPlane(t)
	p.publish(t, release(1), release(2))
	p.options.Reserve = 0.5
	p.files = full{p.files, 60 << 10, 100 << 10}
	p.restart(t)
	err := p.feed.Refresh(t.Context(), updates.RefreshOptions{})
	require.ErrorIs(t, err, updates.ErrDiskFull)
	require.ErrorContains(t, err, "MiB")
	require.Empty(t, p.versions(updates.StatusReady))
	require.Empty(t, p.stored(t), "a file without enough space is not created")
	require.Contains(t, p.warnings(t), warning.Updates)
	p.options.Reserve = 0.001
	p.files = full{p.files.(full).Files, 1 << 30, 1 << 30}
	p.restart(t)
	p.refresh(t)
	require.Len(t, p.versions(updates.StatusReady), 2)
}

func TestDirectory(t *testing.T) {
	p := newPlane(t)
	p.publish(t, release(1), release(2))
	dir := t.TempDir()
	require.NoError(t, p.publisher.Write(dir))
	p.options.Source = updates.Directory{Path: dir, Trust: p.options.Trust}
	p.restart(t)
	p.refresh(t)
	require.Equal(t, []string{"202610020000", "202610010000"}, p.versions(updates.StatusReady))
	// A symbolic link that leads out of the directory is not followed.
	require.NoError(t, os.Remove(filepath.Join(dir, "202610020000", "x86_64", "debug.raw.gz")))
	require.NoError(t, os.Symlink("/etc/hostname", filepath.Join(dir, "202610020000", "x86_64", "debug.raw.gz")))
	require.NoError(t, p.feed.Remove(t.Context()))
	require.Empty(t, p.stored(t))
	require.Error(t, p.feed.Refresh(t.Context(), updates.RefreshOptions{}))
	require.Equal(t, []string{"202610010000"}, p.versions(updates.StatusReady))
}

func TestFilters(t *testing.T) {
	has := func(u *updates.Update, suffix string) bool {
		return slices.ContainsFunc(u.Files, func(f updates.File) bool { return strings.HasSuffix(f.Filename, suffix) })
	}
	p := newPlane(t)
	p.publish(t, incusostest.Release{Version: "202610010000", Architectures: []string{"x86_64", "aarch64"}, SecureBootKeys: []string{"db_1"}})
	set := func(filter string) *updates.Update {
		s := p.feed.Settings()
		s.FileFilter = filter
		require.NoError(t, p.feed.SetSettings(t.Context(), s, nil))
		p.refresh(t)
		return p.update(t, "202610010000")
	}
	u := set("")
	require.True(t, has(u, "x86_64/incus.raw.gz"))
	require.False(t, has(u, "aarch64/incus.raw.gz"))
	require.True(t, has(u, "SecureBootKeys_202610010000.tar.gz"), "files for all architectures pass")
	u = set(`architecture == "x86_64" and type != "image-raw"`)
	require.True(t, has(u, "SecureBootKeys_202610010000.tar.gz"), "a filter for an architecture keeps the Secure Boot keys")
	require.False(t, has(u, ".img.gz"))
	p.server(t, "arm", "", "202609010000", "aarch64", "incus")
	p.refresh(t)
	u = p.update(t, "202610010000")
	require.True(t, has(u, "aarch64/incus.raw.gz"), "a registered server needs the file")
	require.False(t, has(u, ".img.gz"))
	require.Equal(t, map[string]string{"os": "202610010000", "incus": "202610010000"}, p.needs(t, "arm"))
	u = set(`component == "os"`)
	require.False(t, has(u, "incus.raw.gz"))
	require.NotContains(t, p.needs(t, "arm"), "incus")
	u = set(updates.NoFilter)
	require.True(t, has(u, "aarch64/incus.raw.gz"))
	require.True(t, has(u, ".img.gz"))
	for _, bad := range []string{"architecture ==", "nothing == 1", "size"} {
		s := p.feed.Settings()
		s.FileFilter = bad
		require.ErrorContains(t, p.feed.SetSettings(t.Context(), s, nil), "file_filter_expression", bad)
	}
	s := p.feed.Settings()
	s.Filter = `severity == "high"`
	require.NoError(t, p.feed.SetSettings(t.Context(), s, nil))
	p.publish(t, incusostest.Release{Version: "202610020000", Severity: "high"}, incusostest.Release{Version: "202610030000"})
	p.refresh(t)
	require.Equal(t, []string{"202610020000", "202610010000"}, p.versions(updates.StatusReady))
}

func TestSettings(t *testing.T) {
	p := newPlane(t)
	good := p.feed.Settings()
	require.Equal(t, updates.Settings{Source: p.source, Filter: updates.DefaultFilter, FileFilter: updates.DefaultFileFilter, DefaultChannel: "stable", ServerDefaultChannel: "stable", Keep: 3}, good)
	for name, change := range map[string]func(*updates.Settings){
		"source":        func(s *updates.Settings) { s.Source = "ftp://example.org" },
		"source secret": func(s *updates.Settings) { s.Source = "https://user:hunter2@example.org/" },
		"unreachable":   func(s *updates.Settings) { s.Source = "http://127.0.0.1:1/" },
		"root":          func(s *updates.Settings) { s.Root = "no certificate" },
		"filter":        func(s *updates.Settings) { s.Filter = "version ==" },
		"channel":       func(s *updates.Settings) { s.DefaultChannel = "nowhere" },
		"server":        func(s *updates.Settings) { s.ServerDefaultChannel = "nowhere" },
		"keep":          func(s *updates.Settings) { s.Keep = -1 },
	} {
		changed := good
		change(&changed)
		err := p.feed.SetSettings(t.Context(), changed, nil)
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "hunter2")
		require.Equal(t, good, p.feed.Settings(), name)
	}
	require.NoError(t, p.Channels().Create(t.Context(), "testing", ""))
	changed := good
	changed.DefaultChannel, changed.ServerDefaultChannel, changed.Keep = "testing", "testing", 2
	sentinel := errors.New("changed meanwhile")
	require.ErrorIs(t, p.feed.SetSettings(t.Context(), changed, func(updates.Settings) error { return sentinel }), sentinel)
	require.NoError(t, p.feed.SetSettings(t.Context(), changed, nil))
	p.restart(t)
	require.Equal(t, changed, p.feed.Settings(), "the settings are stored")
	token, err := p.CreateToken(t.Context(), opscenter.TokenSpec{})
	require.NoError(t, err)
	require.Equal(t, "testing", token.Channel)
	p.publish(t, release(1), release(2), release(3))
	p.refresh(t)
	require.Equal(t, []string{"202610030000", "202610020000"}, p.versions(updates.StatusReady))
	require.Equal(t, []string{"testing"}, p.update(t, "202610030000").Channels)
	require.ErrorIs(t, p.feed.DeleteChannel(t.Context(), "testing"), opscenter.ErrInUse)
	again, err := opscenter.NewRegistry(p.store, opscenter.Options{})
	require.NoError(t, err)
	require.Equal(t, "testing", again.Channels().Default())

	// Without a source, updates can only be uploaded.
	changed.Source = ""
	require.NoError(t, p.feed.SetSettings(t.Context(), changed, nil))
	require.ErrorIs(t, p.feed.Refresh(t.Context(), updates.RefreshOptions{}), updates.ErrNoSource)
}

// TestWithdrawn: an update that an operator took out of all channels stays out. An update removed during its fetch stays
// removed.
func TestWithdrawn(t *testing.T) {
	p := newPlane(t)
	p.publish(t, release(1), release(2))
	p.refresh(t)
	u := p.update(t, "202610020000")
	require.NoError(t, p.feed.SetChannels(t.Context(), u.UUID, nil, updates.SetOptions{}))
	require.NoError(t, os.Remove(filepath.Join(p.dir, "files", u.Files[0].SHA256[:2], u.Files[0].SHA256)))
	p.restart(t)
	require.Equal(t, []string{"202610010000"}, p.versions(updates.StatusReady))
	p.refresh(t)
	require.Equal(t, updates.StatusReady, p.update(t, "202610020000").Status)
	require.Empty(t, p.update(t, "202610020000").Channels)

	p.publish(t, release(3))
	p.publisher.SetFault("202610030000/x86_64/incus.raw.gz", incusostest.PublishStall)
	ended := make(chan error, 1)
	go func() { ended <- p.feed.Refresh(t.Context(), updates.RefreshOptions{}) }()
	require.Eventually(t, func() bool { return p.publisher.Requests("202610030000/x86_64/incus.raw.gz") > 0 }, 10*time.Second, time.Millisecond)
	require.NoError(t, p.feed.Remove(t.Context(), p.update(t, "202610030000").UUID))
	require.Error(t, <-ended)
	require.Empty(t, p.versions(updates.StatusPending), "an update removed during its fetch is not created again")
}

// TestClaimedVersions: a version that a server claims to run is retained, but not fetched. A component that no update ever
// had holds nothing back.
func TestClaimedVersions(t *testing.T) {
	p := newPlane(t)
	for n := range 5 {
		p.publish(t, release(n+1))
	}
	p.server(t, "liar", "stable", "202610010000", "riscv64", "incus", "made-up")
	p.refresh(t)
	require.Equal(t, []string{"202610050000", "202610040000", "202610030000"}, p.versions(updates.StatusReady))
	require.Equal(t, []string{"stable"}, p.update(t, "202610050000").Channels)
	p.polled(t, "liar", "202610030000", "x86_64", "incus")
	for n := 6; n < 9; n++ {
		p.publish(t, release(n))
	}
	p.refresh(t)
	require.Equal(t, []string{"202610080000", "202610070000", "202610060000", "202610030000"}, p.versions(updates.StatusReady))
	// A server with many versions retains no more of them than a server can run.
	info, err := p.Server(t.Context(), "liar")
	require.NoError(t, err)
	many := lifecycle.Versions{OS: lifecycle.OSVersion{Name: lifecycle.OSName, Version: "202610030000", VersionNext: "202610030000"}}
	for n := range 6 {
		many.Applications = append(many.Applications, lifecycle.ApplicationVersion{Name: fmt.Sprint("app", n), Version: release(n + 3).Version})
	}
	require.NoError(t, p.Observer().Record(t.Context(), lifecycle.Observation{Server: "liar", ID: info.ID, At: time.Now().UTC(), Ready: true, Versions: &many, Presented: info.Fingerprint}))
	for n := range 6 {
		p.publish(t, incusostest.Release{Version: fmt.Sprintf("202611%02d0000", n+1)})
		p.refresh(t)
	}
	require.Equal(t, []string{"202611060000", "202611050000", "202611040000", "202610060000", "202610030000"}, p.versions(updates.StatusReady), "the newest, and the versions of the server that are still stored")
}

// TestSlowSourceIsStalled: a source that sends single bytes now and then counts as stalled.
func TestSlowSourceIsStalled(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			_, _ = w.Write([]byte("x"))
			_ = http.NewResponseController(w).Flush()
			select {
			case <-time.After(20 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
	}))
	defer server.Close()
	p := newPlane(t)
	p.options.Settings.Source = server.URL
	p.restart(t)
	require.ErrorIs(t, p.feed.Refresh(t.Context(), updates.RefreshOptions{}), updates.ErrStalled)
}

// TestTokenStaysWithSource: the token is sent to the source, and not to a host to which the source redirects.
func TestTokenStaysWithSource(t *testing.T) {
	for _, inQuery := range []bool{false, true} {
		p := newPlane(t)
		p.publish(t, release(1))
		elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for name, values := range r.Header {
				assert.NotContains(t, strings.Join(values, " "), "hunter2", name)
			}
			assert.NotContains(t, r.URL.String(), "hunter2")
			p.publisher.ServeHTTP(w, r)
		}))
		defer elsewhere.Close()
		seen := ""
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/index.sjson") {
				seen = r.URL.Query().Get("token") + r.Header.Get("X-IncusOS-Authentication")
			}
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusFound)
		}))
		defer front.Close()
		p.options.Settings = &updates.Settings{Source: front.URL, TokenInQuery: inQuery}
		p.options.HTTP.Token = func(context.Context) (string, error) { return "hunter2", nil }
		p.options.HTTP.Hosts = []string{strings.TrimPrefix(elsewhere.URL, "http://")}
		p.restart(t)
		p.refresh(t)
		require.Equal(t, "hunter2", seen)
		front.Close()
		err := p.feed.Refresh(t.Context(), updates.RefreshOptions{})
		require.Error(t, err)
		require.NotContains(t, err.Error(), "hunter2")
	}
}
