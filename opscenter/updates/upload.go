package updates

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/internal/smime"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// descriptionName is what describes the update in an archive.
const descriptionName = "update.sjson"

// maxEntries is how many entries an archive may have.
const maxEntries = 3 * MaxFiles

// ErrExists: the update is here already.
var ErrExists = errors.New("the update is here already")

// Spooler is a Files that tells a local directory for what can't be named yet. Dir does; it is optional. Default: that of
// the system for temporary files.
type Spooler interface {
	Spool() string
}

// Upload takes in an update as an uncompressed tar: update.sjson at its root, signed as an index is, and the files at the
// paths that it names, in any order; files that it does not name are left out, and some that it names may be missing. It is
// ready then, in the default channel. One that is here already, and lacks files that come now, gets those. What is refused changes
// nothing. Errors: ErrInvalid, ErrSignature, ErrMismatch, ErrDiskFull; ErrExists if all that it has is here; ErrTooLarge beyond
// Options.MaxUpload.
func (m *Manager) Upload(ctx context.Context, archive io.Reader) (*Update, error) {
	up := &upload{m: m, ctx: ctx, spooled: map[string]string{}, here: map[string]bool{}}
	defer up.end()
	limited := &io.LimitedReader{R: archive, N: m.options.MaxUpload + 1}
	err := up.read(tar.NewReader(limited))
	if err == nil {
		_, err = io.Copy(io.Discard, limited) // an archive is filled up behind its end
	}
	if limited.N <= 0 {
		err = fmt.Errorf("the archive is larger than %d bytes: %w", m.options.MaxUpload, ErrTooLarge)
	}
	if err == nil {
		err = up.finish()
	}
	if err != nil {
		up.end()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sweepTimeout) // who sends it may be gone
		defer cancel()
		return nil, errors.Join(err, m.sweep(ctx))
	}
	if err := m.uploaded(ctx); err != nil {
		return nil, err
	}
	kept, err := m.Snapshot().Update(up.update.UUID)
	if err != nil {
		return nil, fmt.Errorf("update %s is older than those that are kept: %w", up.update.Version, ErrInvalid)
	}
	return kept, nil
}

// sweepTimeout bounds the removal of what a refused upload has left.
const sweepTimeout = time.Minute

// uploaded tidies up. Without a source nothing else ends the warning of files that are missing.
func (m *Manager) uploaded(ctx context.Context) error {
	s := m.settings.Load()
	if err := m.tidy(ctx, s, nil); err != nil {
		return err
	}
	pending := func(u *Update) bool { return u.Status == StatusPending }
	if s.source != nil || slices.ContainsFunc(m.Snapshot().Updates(), pending) {
		return nil
	}
	return m.registry.ClearWarning(ctx, "", warning.Updates)
}

// ErrTooLarge: an archive is larger than Options.MaxUpload.
var ErrTooLarge = errors.New("too large")

// upload is an archive on its way in.
type upload struct {
	m   *Manager
	ctx context.Context

	update  *Update           // nil until its description was read
	spooled map[string]string // files that came before that, and where they lie
	folder  string            // of those
	here    map[string]bool   // names of the files that came
	unpin   []func()
}

// end removes what is only of use meanwhile. It may be called again.
func (up *upload) end() {
	for _, unpin := range up.unpin {
		unpin()
	}
	up.unpin = nil
	if up.folder != "" {
		_ = os.RemoveAll(up.folder)
	}
}

func (up *upload) read(archive *tar.Reader) error {
	var size int64 // of what is in the archive, which is more than its own if that has holes
	for n := 0; ; n++ {
		header, err := archive.Next()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("the archive, which is to be an uncompressed tar: %w: %v", ErrInvalid, err)
		case n == maxEntries:
			return fmt.Errorf("the archive has more than %d entries: %w", maxEntries, ErrInvalid)
		}
		name := strings.TrimPrefix(header.Name, "./")
		if header.Typeflag == tar.TypeDir {
			if name = strings.TrimSuffix(name, "/"); name != "" && name != "." {
				if err := checkFilename(name); err != nil {
					return err
				}
			}
			continue
		}
		if err := checkFilename(name); err != nil {
			return err
		}
		switch {
		case header.Typeflag != tar.TypeReg:
			return fmt.Errorf("%s is neither a file nor a directory: %w", name, ErrInvalid)
		case up.here[name]:
			return fmt.Errorf("%s is there twice: %w", name, ErrInvalid)
		}
		if size += header.Size; size > up.m.options.MaxUpload || header.Size < 0 {
			return fmt.Errorf("the archive has more than %d bytes in it: %w", up.m.options.MaxUpload, ErrTooLarge)
		}
		up.here[name] = true
		if err := up.entry(name, header.Size, archive); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

func (up *upload) entry(name string, size int64, content io.Reader) error {
	switch {
	case name == descriptionName:
		return up.describe(content)
	case up.update == nil:
		return up.spool(name, size, content)
	}
	f := up.update.file(name)
	if f == nil {
		return nil
	}
	return up.keep(f, size, content)
}

// describe verifies the description.
func (up *upload) describe(content io.Reader) error {
	message, err := readBounded(content, smime.MaxMessage)
	if err != nil {
		return err
	}
	s := up.m.settings.Load()
	text, signature, err := s.trust.verify(message)
	if err == nil && s.source == nil { // else the source's index tells
		err = up.m.checkSignature(up.ctx, signature)
	}
	if err != nil {
		return err
	}
	u, err := ParseUpdate(text)
	if err != nil {
		return err
	}
	u.Local = true
	u.identify()
	u.Described = len(u.Files)
	if known, _ := up.m.Snapshot().Update(u.UUID); known != nil {
		if err := sameUpdate(known, u); err != nil {
			return err
		}
		if known.Status == StatusReady && len(known.Files) == len(u.Files) {
			return fmt.Errorf("update %s of %s: %w", u.Version, u.Origin, ErrExists)
		}
	}
	up.update = u
	return nil
}

// sameUpdate refuses a description of an update that is here which does not name all files that are here, with their sums: parts of two
// builds would be mixed.
func sameUpdate(known, described *Update) error {
	for i := range known.Files {
		f := &known.Files[i]
		if d := described.file(f.Filename); d == nil || d.SHA256 != f.SHA256 {
			return fmt.Errorf("update %s of %s is here with another %s: %w", described.Version, described.Origin, f.Filename, ErrInvalid)
		}
	}
	return nil
}

// spool keeps a file that comes before its description.
func (up *upload) spool(name string, size int64, content io.Reader) error {
	if size > MaxFileSize {
		return fmt.Errorf("%d bytes, at most %d are taken: %w", size, int64(MaxFileSize), ErrInvalid)
	}
	if err := up.m.checkSpace(up.ctx, 2*size); err != nil {
		return err
	}
	if up.folder == "" {
		in := os.TempDir()
		if spooler, ok := up.m.files.(Spooler); ok {
			in = spooler.Spool()
		}
		var err error
		if up.folder, err = os.MkdirTemp(in, spooled); err != nil {
			return err
		}
	}
	place := filepath.Join(up.folder, fmt.Sprint(len(up.spooled)))
	file, err := os.OpenFile(place, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = up.m.copy(up.ctx, file, sha256.New(), content, size)
	if err = errors.Join(err, file.Close()); err != nil {
		return cutArchive(err)
	}
	up.spooled[name] = place
	return nil
}

// cutArchive says what the end of an archive in the middle of a file is.
func cutArchive(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the archive ends in the middle of it: %w", ErrInvalid)
	}
	return err
}

// keep writes a file of the update, and checks its sum.
func (up *upload) keep(f *File, size int64, content io.Reader) error {
	if size != f.Size {
		return fmt.Errorf("it has %d bytes, %d were described: %w", size, f.Size, ErrMismatch)
	}
	up.unpin = append(up.unpin, up.m.pin(f.SHA256))
	defer up.m.hold(f.SHA256)()
	// A file that is here already is read all the same: the archive is to be what it says.
	var to Partial
	if !up.m.has(up.ctx, f) {
		err := up.m.checkSpace(up.ctx, size)
		if err != nil {
			return err
		}
		if to, err = up.m.files.Create(up.ctx, f.SHA256); err != nil {
			return err
		}
		defer to.Close()
		if err := to.Reset(); err != nil {
			return err
		}
	}
	sum := sha256.New()
	var w io.Writer = io.Discard
	if to != nil {
		w = to
	}
	if _, err := up.m.copy(up.ctx, w, sum, content, size); err != nil {
		return cutArchive(err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != f.SHA256 {
		err := fmt.Errorf("its sha256 is %s, %s was described: %w", got, f.SHA256, ErrMismatch)
		if to != nil {
			err = errors.Join(err, to.Reset())
		}
		return err
	}
	if to == nil {
		return nil
	}
	return to.Commit()
}

// finish makes the update ready, once the archive was read to its end.
func (up *upload) finish() error {
	if up.update == nil {
		return fmt.Errorf("the archive has no %s at its root: %w", descriptionName, ErrInvalid)
	}
	for _, name := range slices.Sorted(maps.Keys(up.spooled)) {
		f := up.update.file(name)
		if f == nil {
			continue
		}
		if err := up.keepSpooled(f, up.spooled[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	came := slices.DeleteFunc(slices.Clone(up.update.Files), func(f File) bool { return !up.here[f.Filename] })
	if len(came) == 0 {
		return fmt.Errorf("the archive has none of the files that %s names: %w", descriptionName, ErrInvalid)
	}
	known, _ := up.m.Snapshot().Update(up.update.UUID)
	if known != nil {
		if err := sameUpdate(known, up.update); err != nil {
			return err
		}
	}
	if known != nil && known.Status == StatusReady {
		return up.complete(known, came)
	}
	ready := *up.update
	ready.CreatedAt, ready.URL = now(), ""
	ready.Files = came
	if known != nil { // it lost files: those that it has still count
		for i := range known.Files {
			f := &known.Files[i]
			if up.here[f.Filename] {
				continue
			}
			up.unpin = append(up.unpin, up.m.pin(f.SHA256))
			if !up.m.has(up.ctx, f) {
				return fmt.Errorf("update %s of %s lacks %s, too, which the archive has not: %w", ready.Version, ready.Origin, f.Filename, ErrInvalid)
			}
			ready.Files = append(ready.Files, *f)
		}
	}
	if len(ready.Files) < len(up.update.Files) {
		up.m.log.InfoContext(up.ctx, "an update was uploaded in part", "version", ready.Version, "files", len(ready.Files), "described", len(up.update.Files))
	}
	return up.m.makeReady(up.ctx, up.m.settings.Load(), ready, "uploaded")
}

func (up *upload) keepSpooled(f *File, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	return up.keep(f, info.Size(), file)
}

// complete adds files to an update that was uploaded in part.
func (up *upload) complete(known *Update, files []File) error {
	more := slices.DeleteFunc(files, func(f File) bool { return known.file(f.Filename) != nil })
	if len(more) == 0 {
		return fmt.Errorf("update %s of %s has %d of %d files, and the archive brings no other: %w", known.Version, known.Origin, len(known.Files), len(up.update.Files), ErrExists)
	}
	return up.m.add(up.ctx, known, more)
}
