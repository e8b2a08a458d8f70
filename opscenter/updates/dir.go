package updates

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/opscenter-go/sdk/internal/durable"
)

// Dir is a Files in a local directory. DIR/files/ab/abcd… holds complete files, DIR/partial incomplete ones, and DIR/spool
// the files of an archive that precede its description. DIR/owner names the store that owns the files. One process uses
// the directory at a time; DIR/lock enforces this where the system supports locks.
type Dir struct {
	path string
	lock *os.File
}

// ErrInUse: another process uses the directory of a Dir.
var ErrInUse = errors.New("another process uses the directory")

// NewDir opens the directory, and creates it if it does not exist. Errors: ErrInUse, and those of the file system.
func NewDir(path string) (*Dir, error) {
	d := &Dir{path: path}
	for _, part := range []string{"files", "partial", "spool"} {
		if err := os.MkdirAll(filepath.Join(path, part), 0o700); err != nil {
			return nil, err
		}
	}
	var err error
	if d.lock, err = os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if err := durable.Lock(d.lock); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, ErrInUse), d.lock.Close())
	}
	if err := d.clearSpool(); err != nil {
		return nil, errors.Join(err, d.lock.Close())
	}
	return d, nil
}

// Close lets another process use the directory. Files that are open can still be read.
func (d *Dir) Close() error { return d.lock.Close() }

// spoolPrefix is the prefix of the folders that uploads create in the spool.
const spoolPrefix = "upload-"

// clearSpool removes the folders of uploads that a previous process did not finish.
func (d *Dir) clearSpool() error {
	entries, err := os.ReadDir(d.Spool())
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), spoolPrefix) { // keep foreign files
			err = errors.Join(err, os.RemoveAll(filepath.Join(d.Spool(), entry.Name())))
		}
	}
	return err
}

// Claim implements Claimer.
func (d *Dir) Claim(_ context.Context, owner string) error {
	path := filepath.Join(d.path, "owner")
	data, err := os.ReadFile(path)
	switch {
	case err == nil && strings.TrimSpace(string(data)) == owner:
		return nil
	case err == nil:
		return fmt.Errorf("%s: %w; to take them over, remove %s", d.path, ErrNotOwner, path)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	partial := path + ".partial"
	file, err := os.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(owner + "\n")
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return errors.Join(os.Rename(partial, path), durable.SyncDir(d.path))
}

// place returns the paths of a complete and of an incomplete file. It returns ErrInvalid unless sum is a SHA-256, since
// other text could lead out of the directory.
func (d *Dir) place(sum string) (whole, partial string, err error) {
	if !isSum(sum) {
		return "", "", fmt.Errorf("%.80q is not a SHA-256: %w", sum, ErrInvalid)
	}
	return filepath.Join(d.path, "files", sum[:2], sum), filepath.Join(d.path, "partial", sum), nil
}

// Open implements Files.
func (d *Dir) Open(_ context.Context, sum string) (io.ReadSeekCloser, error) {
	whole, _, err := d.place(sum)
	if err != nil {
		return nil, err
	}
	return os.Open(whole)
}

// Create implements Files.
func (d *Dir) Create(_ context.Context, sum string) (Partial, error) {
	whole, partial, err := d.place(sum)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(partial, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return &dirPartial{File: file, whole: whole, partial: partial}, nil
}

// dirPartial is the Partial of a Dir.
type dirPartial struct {
	*os.File
	whole, partial string
}

// Existing implements Partial.
func (p *dirPartial) Existing(w io.Writer) (int64, error) { return io.Copy(w, p.File) }

// Reset implements Partial.
func (p *dirPartial) Reset() error {
	_, err := p.File.Seek(0, io.SeekStart)
	return errors.Join(err, p.File.Truncate(0))
}

// Commit implements Partial.
func (p *dirPartial) Commit() error {
	if err := p.File.Sync(); err != nil {
		return err
	}
	folder := filepath.Dir(p.whole)
	if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Rename(p.partial, p.whole); err != nil {
		return err
	}
	return errors.Join(durable.SyncDir(folder), durable.SyncDir(filepath.Dir(folder)))
}

// Remove implements Files.
func (d *Dir) Remove(_ context.Context, sum string) error {
	whole, partial, err := d.place(sum)
	if err != nil {
		return err
	}
	for _, path := range []string{whole, partial} {
		if failure := os.Remove(path); failure != nil && !errors.Is(failure, fs.ErrNotExist) {
			err = errors.Join(err, failure)
		}
	}
	return err
}

// List implements Files.
func (d *Dir) List(ctx context.Context) iter.Seq2[FileInfo, error] { return d.list(ctx, "files") }

// Unfinished implements Files.
func (d *Dir) Unfinished(ctx context.Context) iter.Seq2[FileInfo, error] {
	return d.list(ctx, "partial")
}

// list yields the files below a folder of the directory.
func (d *Dir) list(ctx context.Context, part string) iter.Seq2[FileInfo, error] {
	return func(yield func(FileInfo, error) bool) {
		err := filepath.WalkDir(filepath.Join(d.path, part), func(_ string, entry fs.DirEntry, err error) error {
			if err := errors.Join(err, ctx.Err()); err != nil {
				return err
			}
			if entry.IsDir() || !isSum(entry.Name()) {
				return nil // skip foreign files
			}
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil // removed since it was listed
			}
			if err != nil {
				return err
			}
			if !yield(FileInfo{SHA256: entry.Name(), Size: info.Size()}, nil) {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			yield(FileInfo{}, err)
		}
	}
}

// Space implements Space. It returns errors.ErrUnsupported where the system does not report the free space.
func (d *Dir) Space(context.Context) (free, total int64, err error) { return durable.Space(d.path) }

// Spool implements Spooler.
func (d *Dir) Spool() string { return filepath.Join(d.path, "spool") }
