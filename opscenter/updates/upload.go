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

// descriptionName is the name of the signed description in an archive.
const descriptionName = "update.sjson"

// maxEntries is the maximum number of entries in an archive.
const maxEntries = 3 * MaxFiles

// ErrExists: all files of the uploaded update are stored already.
var ErrExists = errors.New("the update is here already")

// Spooler is an optional interface of a Files with a local directory for temporary files. Dir implements it. Default:
// os.TempDir.
type Spooler interface {
	// Spool returns the directory in which Upload stores files that precede the description of an archive.
	Spool() string
}

// Upload stores an update from an uncompressed tar. The tar has update.sjson at its root, signed like an index, and files
// at the paths that update.sjson names, in any order. Upload ignores files that update.sjson does not name, and some named
// files may be missing. The update is then ready, and in the default channel unless it is held back. An upload for a known
// update adds its missing files. A rejected upload changes nothing. Errors: ErrInvalid, ErrSignature, ErrMismatch,
// ErrDiskFull; ErrExists if the archive has no new file; ErrTooLarge beyond Options.MaxUpload.
func (m *Manager) Upload(ctx context.Context, archive io.Reader) (*Update, error) {
	up := &upload{m: m, ctx: ctx, spooled: map[string]string{}, here: map[string]bool{}}
	defer up.end()
	limited := &io.LimitedReader{R: archive, N: m.options.MaxUpload + 1}
	err := up.read(tar.NewReader(limited))
	if err == nil {
		_, err = io.Copy(io.Discard, limited) // skip the padding after the end of the archive
	}
	if limited.N <= 0 {
		err = fmt.Errorf("the archive is larger than %d bytes: %w", m.options.MaxUpload, ErrTooLarge)
	}
	if err == nil {
		err = up.finish()
	}
	if err != nil {
		up.end()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sweepTimeout) // the client may be gone
		defer cancel()
		return nil, errors.Join(err, m.sweep(ctx))
	}
	if err := m.tidyAfterUpload(ctx); err != nil {
		return nil, err
	}
	kept, err := m.Snapshot().Update(up.update.UUID)
	if err != nil {
		return nil, fmt.Errorf("update %s is older than the updates that are retained: %w", up.update.Version, ErrInvalid)
	}
	return kept, nil
}

// sweepTimeout bounds the removal of the files of a rejected upload.
const sweepTimeout = time.Minute

// tidyAfterUpload applies retention. Without a source, it also clears WarningUpdates once no update is pending.
func (m *Manager) tidyAfterUpload(ctx context.Context) error {
	s := m.settings.Load()
	if err := m.tidy(ctx, s, nil); err != nil {
		return err
	}
	pending := func(u *Update) bool { return u.Status == StatusPending }
	if s.source != nil || slices.ContainsFunc(m.Snapshot().Updates(), pending) {
		return nil
	}
	return m.registry.Warnings().Clear(ctx, "", warning.Updates)
}

// ErrTooLarge: an archive or its unpacked files are larger than Options.MaxUpload.
var ErrTooLarge = errors.New("too large")

// upload is the state of one Upload.
type upload struct {
	m   *Manager
	ctx context.Context

	update  *Update           // nil until the description was read
	spooled map[string]string // paths of the files that preceded the description, by name
	folder  string            // of the spooled files; empty: none
	here    map[string]bool   // names of the files in the archive so far
	unpin   []func()
}

// end releases temporary files and pins. It may be called again.
func (up *upload) end() {
	for _, unpin := range up.unpin {
		unpin()
	}
	up.unpin = nil
	if up.folder != "" {
		_ = os.RemoveAll(up.folder)
	}
}

// read reads all entries of the archive.
func (up *upload) read(archive *tar.Reader) error {
	var size int64 // of the unpacked files; sparse files unpack to more than their size in the archive
	for n := 0; ; n++ {
		header, err := archive.Next()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("reading the archive as an uncompressed tar: %w: %v", ErrInvalid, err)
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
			return fmt.Errorf("the archive has %s twice: %w", name, ErrInvalid)
		}
		if size += header.Size; size > up.m.options.MaxUpload || header.Size < 0 {
			return fmt.Errorf("the files in the archive are larger than %d bytes: %w", up.m.options.MaxUpload, ErrTooLarge)
		}
		up.here[name] = true
		if err := up.readEntry(name, header.Size, archive); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

// readEntry reads one file of the archive.
func (up *upload) readEntry(name string, size int64, content io.Reader) error {
	switch {
	case name == descriptionName:
		return up.readDescription(content)
	case up.update == nil:
		return up.spool(name, size, content)
	}
	f := up.update.file(name)
	if f == nil {
		return nil
	}
	return up.storeFile(f, size, content)
}

// readDescription verifies and reads the description.
func (up *upload) readDescription(content io.Reader) error {
	message, err := readBounded(content, smime.MaxMessage)
	if err != nil {
		return err
	}
	s := up.m.settings.Load()
	text, signature, err := s.trust.verify(message)
	if err == nil && s.source == nil { // with a source, its index is checked instead
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
	u.setUUID()
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

// sameUpdate returns ErrInvalid unless the description names all stored files of the known update, with the same sums. It
// prevents a mix of two builds.
func sameUpdate(known, described *Update) error {
	for i := range known.Files {
		f := &known.Files[i]
		if d := described.file(f.Filename); d == nil || d.SHA256 != f.SHA256 {
			return fmt.Errorf("update %s of %s is stored with a different %s: %w", described.Version, described.Origin, f.Filename, ErrInvalid)
		}
	}
	return nil
}

// spool stores a file that precedes the description in a temporary folder.
func (up *upload) spool(name string, size int64, content io.Reader) error {
	if size > MaxFileSize {
		return fmt.Errorf("%d bytes, at most %d are allowed: %w", size, int64(MaxFileSize), ErrInvalid)
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
		if up.folder, err = os.MkdirTemp(in, spoolPrefix); err != nil {
			return err
		}
	}
	place := filepath.Join(up.folder, fmt.Sprint(len(up.spooled)))
	file, err := os.OpenFile(place, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = up.m.copyHashed(up.ctx, file, sha256.New(), content, size)
	if err = errors.Join(err, file.Close()); err != nil {
		return archiveError(err)
	}
	up.spooled[name] = place
	return nil
}

// archiveError turns the end of an archive in the middle of a file into an ErrInvalid.
func archiveError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the archive ends in the middle of the file: %w", ErrInvalid)
	}
	return err
}

// storeFile stores a file of the update and checks its size and sum.
func (up *upload) storeFile(f *File, size int64, content io.Reader) error {
	if size != f.Size {
		return fmt.Errorf("the file has %d bytes, the description says %d: %w", size, f.Size, ErrMismatch)
	}
	up.unpin = append(up.unpin, up.m.pin(f.SHA256))
	defer up.m.lockFile(f.SHA256)()
	// The sum is checked even if the file is stored already, so that a wrong archive is rejected.
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
	if _, err := up.m.copyHashed(up.ctx, w, sum, content, size); err != nil {
		return archiveError(err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != f.SHA256 {
		err := fmt.Errorf("its sha256 is %s, the description says %s: %w", got, f.SHA256, ErrMismatch)
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

// finish makes the update ready after the whole archive was read.
func (up *upload) finish() error {
	if up.update == nil {
		return fmt.Errorf("the archive has no %s at its root: %w", descriptionName, ErrInvalid)
	}
	for _, name := range slices.Sorted(maps.Keys(up.spooled)) {
		f := up.update.file(name)
		if f == nil {
			continue
		}
		if err := up.storeSpooled(f, up.spooled[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	came := slices.DeleteFunc(slices.Clone(up.update.Files), func(f File) bool { return !up.here[f.Filename] })
	if len(came) == 0 {
		return fmt.Errorf("the archive has no file that %s names: %w", descriptionName, ErrInvalid)
	}
	known, _ := up.m.Snapshot().Update(up.update.UUID)
	if known != nil {
		if err := sameUpdate(known, up.update); err != nil {
			return err
		}
	}
	if known != nil && known.Status == StatusReady {
		return up.addMissing(known, came)
	}
	ready := *up.update
	ready.CreatedAt, ready.URL = up.m.now(), ""
	ready.Files = came
	if known != nil { // the pending update keeps its files that are still stored
		for i := range known.Files {
			f := &known.Files[i]
			if up.here[f.Filename] {
				continue
			}
			up.unpin = append(up.unpin, up.m.pin(f.SHA256))
			if !up.m.has(up.ctx, f) {
				return fmt.Errorf("update %s of %s also lacks %s, which is not in the archive: %w", ready.Version, ready.Origin, f.Filename, ErrInvalid)
			}
			ready.Files = append(ready.Files, *f)
		}
	}
	if len(ready.Files) < len(up.update.Files) {
		up.m.log.InfoContext(up.ctx, "an update was uploaded in part", "version", ready.Version, "files", len(ready.Files), "described", len(up.update.Files))
	}
	return up.m.makeReady(up.ctx, up.m.settings.Load(), ready, "uploaded")
}

// storeSpooled stores a file from the temporary folder.
func (up *upload) storeSpooled(f *File, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	return up.storeFile(f, info.Size(), file)
}

// addMissing adds files to a ready update that was uploaded in part.
func (up *upload) addMissing(known *Update, files []File) error {
	more := slices.DeleteFunc(files, func(f File) bool { return known.file(f.Filename) != nil })
	if len(more) == 0 {
		return fmt.Errorf("update %s of %s has %d of %d files, and the archive has no further file: %w", known.Version, known.Origin, len(known.Files), len(up.update.Files), ErrExists)
	}
	return up.m.addFiles(up.ctx, known, more)
}
