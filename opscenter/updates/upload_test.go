package updates_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// noSource makes a plane without a source.
func noSource(p *plane) { p.options.Settings = &updates.Settings{} }

// archive returns an archive of an update with the named files, or with all files.
func archive(t testing.TB, p *incusostest.Publisher, version string, names ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, p.Archive(&out, version, names...))
	return out.Bytes()
}

// edited returns a copy of an archive with changed entries.
func edited(t testing.TB, data []byte, edit func(entries []entry) []entry) []byte {
	t.Helper()
	var list []entry
	for in := tar.NewReader(bytes.NewReader(data)); ; {
		header, err := in.Next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		content, err := io.ReadAll(in)
		require.NoError(t, err)
		list = append(list, entry{*header, content})
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range edit(list) {
		e.header.Size = int64(len(e.content))
		require.NoError(t, w.WriteHeader(&e.header))
		_, err := w.Write(e.content)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return out.Bytes()
}

type entry struct {
	header  tar.Header
	content []byte
}

func TestUpload(t *testing.T) {
	p := newPlane(t, noSource)
	p.publish(t, release(1), release(2), release(3))
	u, err := p.feed.Upload(t.Context(), bytes.NewReader(archive(t, p.publisher, "202610010000")))
	require.NoError(t, err)
	require.Equal(t, updates.StatusReady, u.Status)
	require.Equal(t, []string{"stable"}, u.Channels)
	require.Equal(t, "simulated.example (local)", u.Origin)
	require.Len(t, u.Files, len(p.publisher.Files("202610010000")))
	require.Len(t, p.stored(t), len(u.Files))
	_, err = p.feed.Upload(t.Context(), bytes.NewReader(archive(t, p.publisher, "202610010000")))
	require.ErrorIs(t, err, updates.ErrExists)
	require.Len(t, p.feed.Snapshot().Updates(), 1)

	// The description comes last, the archive has directories and unknown files, and names begin with "./".
	reversed := edited(t, archive(t, p.publisher, "202610020000"), func(list []entry) []entry {
		for i := range list {
			list[i].header.Name = "./" + list[i].header.Name
		}
		slices.Reverse(list)
		folder := entry{header: tar.Header{Name: "./x86_64/", Typeflag: tar.TypeDir, Mode: 0o755}}
		other := entry{header: tar.Header{Name: "./README.txt", Typeflag: tar.TypeReg, Mode: 0o644}, content: []byte("hello")}
		return slices.Concat([]entry{folder, other}, list)
	})
	u, err = p.feed.Upload(t.Context(), bytes.NewReader(reversed))
	require.NoError(t, err)
	require.Len(t, u.Files, len(p.publisher.Files("202610020000")))
	left, err := os.ReadDir(filepath.Join(p.dir, "spool"))
	require.NoError(t, err)
	require.Empty(t, left)

	// The archive has a part of the update. Its description has an opaque signature instead of a detached one.
	p.publisher.SetOpaque(true)
	u, err = p.feed.Upload(t.Context(), bytes.NewReader(archive(t, p.publisher, "202610030000", "x86_64/incus.raw.gz")))
	require.NoError(t, err)
	require.Len(t, u.Files, 1)
	channel, err := p.Channels().Get(t.Context(), "stable")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"incus": "202610030000"}, channel.Versions, "servers take all components from the newest update")
}

// TestRefusedUploads: each upload is rejected with the expected error, and changes nothing.
func TestRefusedUploads(t *testing.T) {
	p := newPlane(t, noSource)
	stranger, err := incusostest.NewPublisher()
	require.NoError(t, err)
	require.NoError(t, stranger.Publish(release(2)))
	p.publish(t, release(1), release(2))
	_, err = p.feed.Upload(t.Context(), bytes.NewReader(archive(t, p.publisher, "202610010000")))
	require.NoError(t, err)
	before := p.stored(t)
	good := archive(t, p.publisher, "202610020000")
	add := func(e entry) []byte {
		return edited(t, good, func(list []entry) []entry { return append(list, e) })
	}
	file := func(name string) entry {
		return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, []byte("x")}
	}
	description := func(change func(map[string]any)) []byte {
		return edited(t, good, func(list []entry) []entry {
			doc := map[string]any{"format": "1.0", "channels": []string{"stable"}, "origin": "o", "published_at": "2026-10-02T00:00:00Z", "version": "202610020000",
				"files": []any{map[string]any{"filename": "x86_64/incus.raw.gz", "size": 1, "sha256": string(bytes.Repeat([]byte("a"), 64)), "type": "application", "component": "incus", "architecture": "x86_64"}}}
			change(doc)
			text, err := json.Marshal(doc)
			require.NoError(t, err)
			list[0].content, err = p.publisher.Sign(text, false)
			require.NoError(t, err)
			return list
		})
	}
	describedFile := func(key string, value any) []byte {
		return description(func(doc map[string]any) { doc["files"].([]any)[0].(map[string]any)[key] = value })
	}
	for name, c := range map[string]struct {
		data []byte
		err  error
	}{
		"empty":                         {nil, updates.ErrInvalid},
		"not a tar":                     {bytes.Repeat([]byte("no tar"), 1000), updates.ErrInvalid},
		"cut":                           {good[:len(good)/2], updates.ErrInvalid},
		"traversal":                     {add(file("../../etc/passwd")), updates.ErrInvalid},
		"absolute":                      {add(file("/etc/passwd")), updates.ErrInvalid},
		"hidden traversal":              {add(file("x86_64/../../passwd")), updates.ErrInvalid},
		"link":                          {add(entry{header: tar.Header{Name: "x86_64/link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}}), updates.ErrInvalid},
		"hard link":                     {add(entry{header: tar.Header{Name: "x86_64/link", Typeflag: tar.TypeLink, Linkname: "update.sjson"}}), updates.ErrInvalid},
		"device":                        {add(entry{header: tar.Header{Name: "x86_64/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}}), updates.ErrInvalid},
		"pipe":                          {add(entry{header: tar.Header{Name: "x86_64/pipe", Typeflag: tar.TypeFifo}}), updates.ErrInvalid},
		"directory outside the archive": {add(entry{header: tar.Header{Name: "../out/", Typeflag: tar.TypeDir}}), updates.ErrInvalid},
		"twice":                         {add(file("update.sjson")), updates.ErrInvalid},
		"no description":                {edited(t, good, func(list []entry) []entry { return list[1:] }), updates.ErrInvalid},
		"description elsewhere":         {edited(t, good, func(list []entry) []entry { list[0].header.Name = "x86_64/update.sjson"; return list }), updates.ErrInvalid},
		"description alone":             {edited(t, good, func(list []entry) []entry { return list[:1] }), updates.ErrInvalid},
		"another publisher":             {archive(t, stranger, "202610020000"), updates.ErrSignature},
		"unsigned description":          {edited(t, good, func(list []entry) []entry { list[0].content = []byte(`{"format":"1.0"}`); return list }), nil},
		"different content":             {edited(t, good, func(list []entry) []entry { list[3].content[5] ^= 1; return list }), updates.ErrMismatch},
		"longer":                        {edited(t, good, func(list []entry) []entry { list[3].content = append(list[3].content, 0); return list }), updates.ErrMismatch},
		"shorter":                       {edited(t, good, func(list []entry) []entry { list[3].content = list[3].content[1:]; return list }), updates.ErrMismatch},
		"different content, spooled": {edited(t, good, func(list []entry) []entry {
			list[3].content[5] ^= 1
			slices.Reverse(list)
			return list
		}), updates.ErrMismatch},
		"unknown format": {description(func(doc map[string]any) { doc["format"] = "2.0" }), updates.ErrInvalid},
		"no version":     {description(func(doc map[string]any) { delete(doc, "version") }), updates.ErrInvalid},
		"odd version":    {description(func(doc map[string]any) { doc["version"] = "0x12" }), updates.ErrInvalid},
		"name":           {describedFile("filename", "../x.raw.gz"), updates.ErrInvalid},
		"name with NUL":  {describedFile("filename", "a\x00b"), updates.ErrInvalid},
		"size":           {describedFile("size", -1), updates.ErrInvalid},
		"huge":           {describedFile("size", int64(1)<<60), updates.ErrInvalid},
		"sum":            {describedFile("sha256", "../../../x"), updates.ErrInvalid},
	} {
		_, err := p.feed.Upload(t.Context(), bytes.NewReader(c.data))
		require.Error(t, err, name)
		if c.err != nil {
			require.ErrorIs(t, err, c.err, name)
		}
		require.Equal(t, before, p.stored(t), name)
		require.Len(t, p.feed.Snapshot().Updates(), 1, name)
		left, err := os.ReadDir(filepath.Join(p.dir, "spool"))
		require.NoError(t, err)
		require.Empty(t, left, name)
		left, err = os.ReadDir(filepath.Join(p.dir, "partial"))
		require.NoError(t, err)
		require.Empty(t, left, name)
	}
	t.Run("too large", func(t *testing.T) {
		p.options.MaxUpload = int64(len(good) / 2)
		p.restart(t)
		_, err := p.feed.Upload(t.Context(), bytes.NewReader(good))
		require.ErrorIs(t, err, updates.ErrTooLarge)
		require.Equal(t, before, p.stored(t))
		p.options.MaxUpload = 0
	})
	t.Run("full disk", func(t *testing.T) {
		p.files = full{p.files, 100, 1 << 30}
		p.restart(t)
		_, err := p.feed.Upload(t.Context(), bytes.NewReader(good))
		require.ErrorIs(t, err, updates.ErrDiskFull)
		p.files = p.files.(full).Files
		require.Equal(t, before, p.stored(t))
	})
	t.Run("the client disconnects", func(t *testing.T) {
		p.restart(t)
		reader, writer := io.Pipe()
		go func() {
			_, _ = writer.Write(good[:len(good)/2])
			writer.CloseWithError(errors.New("the client disconnected"))
		}()
		_, err := p.feed.Upload(t.Context(), reader)
		require.Error(t, err)
		require.Equal(t, before, p.stored(t))
	})
}

func FuzzUpload(f *testing.F) {
	p := newPlane(f, noSource)
	p.publish(f, release(1))
	good := archive(f, p.publisher, "202610010000", "x86_64/incus.raw.gz")
	f.Add(good)
	f.Add(edited(f, good, func(list []entry) []entry { slices.Reverse(list); return list }))
	f.Fuzz(func(t *testing.T, data []byte) {
		u, err := p.feed.Upload(context.Background(), bytes.NewReader(data))
		if err != nil {
			return
		}
		if u.Version != "202610010000" {
			t.Fatalf("accepted update %q, which was never signed", u.Version)
		}
		if err := p.feed.Remove(context.Background(), u.UUID); err != nil {
			t.Fatal(err)
		}
	})
}

// TestAirGap: without a source, uploads follow the usual rules. Newer updates displace older ones, held updates are checked
// again, and lost files that come back are offered again.
func TestAirGap(t *testing.T) {
	p := newPlane(t, noSource)
	upload := func(version string, names ...string) (*updates.Update, error) {
		return p.feed.Upload(t.Context(), bytes.NewReader(archive(t, p.publisher, version, names...)))
	}
	for n := range 5 {
		p.publish(t, release(n+1))
		_, err := upload(release(n + 1).Version)
		require.NoError(t, err)
	}
	require.Equal(t, []string{"202610050000", "202610040000", "202610030000"}, p.versions(updates.StatusReady))
	_, err := upload("202610010000")
	require.ErrorContains(t, err, "older than the updates that are retained")
	require.Len(t, p.versions(updates.StatusReady), 3)

	p.server(t, "worker", "stable", "202610050000", "x86_64", "incus", "debug")
	p.publish(t, incusostest.Release{Version: "202610060000", Applications: []string{"incus"}})
	u, err := upload("202610060000")
	require.NoError(t, err)
	require.Equal(t, "stable", u.Held)
	p.polled(t, "worker", "202610050000", "x86_64", "incus")
	require.ErrorIs(t, p.feed.Refresh(t.Context(), updates.RefreshOptions{}), updates.ErrNoSource)
	require.Equal(t, []string{"stable"}, p.update(t, "202610060000").Channels)
	require.Empty(t, p.warnings(t))

	// The disk is missing at one start and back at the next.
	files := filepath.Join(p.dir, "files")
	require.NoError(t, os.Rename(files, files+".away"))
	require.NoError(t, os.Mkdir(files, 0o700))
	p.restart(t)
	require.Empty(t, p.versions(updates.StatusReady))
	require.NoError(t, os.Remove(files))
	require.NoError(t, os.Rename(files+".away", files))
	p.restart(t)
	require.Len(t, p.versions(updates.StatusReady), 4)
	require.Equal(t, []string{"stable"}, p.update(t, "202610060000").Channels)
}

// TestConcurrentUploads: two concurrent uploads of parts of one update each add their files.
func TestConcurrentUploads(t *testing.T) {
	p := newPlane(t, noSource)
	p.publish(t, release(1))
	whole, part := archive(t, p.publisher, "202610010000"), archive(t, p.publisher, "202610010000", "x86_64/incus.raw.gz")
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := p.feed.Upload(t.Context(), reader)
		ended <- err
	}()
	_, err := writer.Write(part[:len(part)/2]) // enough to read the description
	require.NoError(t, err)
	u, err := p.feed.Upload(t.Context(), bytes.NewReader(edited(t, whole, func(list []entry) []entry {
		return slices.DeleteFunc(list, func(e entry) bool { return e.header.Name == "x86_64/incus.raw.gz" }) // the other upload writes it
	})))
	require.NoError(t, err)
	_, err = writer.Write(part[len(part)/2:])
	require.NoError(t, err)
	require.NoError(t, writer.Close())
	require.NoError(t, <-ended)
	require.Len(t, p.update(t, "202610010000").Files, len(u.Files)+1)
	require.Len(t, p.stored(t), len(u.Files)+1)
}

// TestUploadCompletes: a second upload adds the rest to an update that was uploaded in part.
func TestUploadCompletes(t *testing.T) {
	p := newPlane(t, noSource)
	p.publish(t, release(1))
	whole := archive(t, p.publisher, "202610010000")
	u, err := p.feed.Upload(t.Context(), bytes.NewReader(archive(t, p.publisher, "202610010000", "x86_64/incus.raw.gz")))
	require.NoError(t, err)
	require.Len(t, u.Files, 1)
	require.Equal(t, len(p.publisher.Files("202610010000")), u.Described)
	_, err = p.feed.Upload(t.Context(), bytes.NewReader(archive(t, p.publisher, "202610010000", "x86_64/incus.raw.gz")))
	require.ErrorIs(t, err, updates.ErrExists)
	require.ErrorContains(t, err, "has 1 of 11 files")
	require.NoError(t, p.Channels().Create(t.Context(), "lab", ""))
	require.NoError(t, p.feed.SetChannels(t.Context(), u.UUID, []string{"lab"}, updates.SetOptions{}))
	u, err = p.feed.Upload(t.Context(), bytes.NewReader(whole))
	require.NoError(t, err)
	require.Len(t, u.Files, u.Described)
	require.Equal(t, []string{"lab"}, u.Channels, "the operator's channels stay")
	channel, err := p.Channels().Get(t.Context(), "lab")
	require.NoError(t, err)
	require.Equal(t, "202610010000", channel.Versions["os"])
	require.NoError(t, p.feed.Verify(t.Context()))
	_, err = p.feed.Upload(t.Context(), bytes.NewReader(whole))
	require.ErrorIs(t, err, updates.ErrExists)
	require.Len(t, p.stored(t), len(u.Files))
}

// TestAbortedUploadLeavesNothing: an upload whose client disconnects leaves no files.
func TestAbortedUploadLeavesNothing(t *testing.T) {
	p := newPlane(t, noSource)
	p.publish(t, incusostest.Release{Version: "202610010000", Size: 100 << 10})
	ctx, stop := context.WithCancel(t.Context())
	data := archive(t, p.publisher, "202610010000")
	_, err := p.feed.Upload(ctx, io.MultiReader(bytes.NewReader(data[:len(data)/2]), goneReader{stop}))
	require.Error(t, err)
	require.Empty(t, p.stored(t))
	for range p.files.Unfinished(t.Context()) {
		t.Fatal("an unfinished file remains")
	}
}

// goneReader is a client that disconnects.
type goneReader struct{ stop func() }

func (g goneReader) Read([]byte) (int, error) {
	g.stop()
	return 0, context.Canceled
}

// TestDamagedUpload: without a source, a warning about damage stands until the update is uploaded again.
func TestDamagedUpload(t *testing.T) {
	p := newPlane(t, noSource)
	p.publish(t, release(1))
	data := archive(t, p.publisher, "202610010000")
	u, err := p.feed.Upload(t.Context(), bytes.NewReader(data))
	require.NoError(t, err)
	place := filepath.Join(p.dir, "files", u.Files[2].SHA256[:2], u.Files[2].SHA256)
	content, err := os.ReadFile(place)
	require.NoError(t, err)
	content[10]++
	require.NoError(t, os.WriteFile(place, content, 0o600))
	require.ErrorIs(t, p.feed.Verify(t.Context()), updates.ErrMismatch)
	require.Contains(t, p.warnings(t)[warning.Updates], u.Files[2].Filename)
	require.Empty(t, p.versions(updates.StatusReady))
	_, err = p.feed.Upload(t.Context(), bytes.NewReader(data))
	require.NoError(t, err)
	require.Empty(t, p.warnings(t))
	require.NoError(t, p.feed.Verify(t.Context()))
	// New finds a missing file as well.
	require.NoError(t, os.Remove(place))
	p.restart(t)
	require.Contains(t, p.warnings(t)[warning.Updates], u.Files[2].Filename+" is missing")
	_, err = p.feed.Upload(t.Context(), bytes.NewReader(data))
	require.NoError(t, err)
	require.Empty(t, p.warnings(t))
}

// TestRepairByUpload: an upload of only the lost file restores the whole update. A different build with the same version is
// rejected.
func TestRepairByUpload(t *testing.T) {
	p := newPlane(t, noSource)
	p.publish(t, release(1))
	u, err := p.feed.Upload(t.Context(), bytes.NewReader(archive(t, p.publisher, "202610010000")))
	require.NoError(t, err)
	whole := p.stored(t)
	lost := u.Files[2]
	require.NoError(t, os.Remove(filepath.Join(p.dir, "files", lost.SHA256[:2], lost.SHA256)))
	p.restart(t)
	require.Empty(t, p.versions(updates.StatusReady))
	other := u.Files[3]
	_, err = p.feed.Upload(t.Context(), bytes.NewReader(archive(t, p.publisher, "202610010000", other.Filename)))
	require.ErrorIs(t, err, updates.ErrInvalid)
	require.ErrorContains(t, err, lost.Filename)
	back, err := p.feed.Upload(t.Context(), bytes.NewReader(archive(t, p.publisher, "202610010000", lost.Filename)))
	require.NoError(t, err)
	require.Len(t, back.Files, len(u.Files))
	require.Equal(t, []string{"stable"}, back.Channels)
	require.Equal(t, whole, p.stored(t))
	require.NoError(t, p.feed.Verify(t.Context()))
	// Upload a different build.
	p.publish(t, incusostest.Release{Version: "202610010000", Size: 5 << 10})
	_, err = p.feed.Upload(t.Context(), bytes.NewReader(archive(t, p.publisher, "202610010000")))
	require.ErrorIs(t, err, updates.ErrInvalid)
	require.ErrorContains(t, err, "is stored with a different")
	require.Equal(t, whole, p.stored(t))
}

// failing is a Files that can't open files, on a disk without free space.
type failing struct {
	updates.Files
	err error
}

func (f failing) Open(ctx context.Context, sum string) (io.ReadSeekCloser, error) {
	if f.err != nil {
		return nil, f.err
	}
	return f.Files.Open(ctx, sum)
}

func (f failing) Space(context.Context) (int64, int64, error) { return 0, 1 << 40, nil }

// TestVerifyRemovesOnlyDamagedFiles: a full disk or too many open files remove no file.
func TestVerifyRemovesOnlyDamagedFiles(t *testing.T) {
	p := newPlane(t)
	p.publish(t, incusostest.Release{Version: "202610010000", Size: 70 << 20, Applications: []string{"incus"}, NoOS: true})
	p.refresh(t)
	before := p.stored(t)
	for _, err := range []error{nil, errors.New("too many open files")} {
		files := p.files
		p.files = failing{Files: files, err: nil}
		p.restart(t)
		p.files = failing{Files: files, err: err}
		feed, makeErr := updates.New(t.Context(), p.Registry, p.files, p.options)
		require.NoError(t, makeErr)
		if got := feed.Verify(t.Context()); err == nil {
			require.NoError(t, got)
		} else {
			require.ErrorIs(t, got, err)
			require.NotErrorIs(t, got, updates.ErrMismatch)
		}
		p.files = files
		require.Equal(t, before, p.stored(t))
		require.Equal(t, updates.StatusReady, feed.Snapshot().Updates()[0].Status)
	}
}

// TestArchiveOfLargeFiles: the limit also applies to the unpacked size of sparse files.
func TestArchiveOfLargeFiles(t *testing.T) {
	p := newPlane(t, noSource, func(p *plane) { p.options.MaxUpload = 1 << 20 })
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "x86_64/hole.raw.gz", Size: 2 << 20, Mode: 0o600}))
	_, err := p.feed.Upload(t.Context(), bytes.NewReader(out.Bytes()))
	require.ErrorIs(t, err, updates.ErrTooLarge)
	require.Empty(t, p.stored(t))
}
