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

	"github.com/opscenter-go/sdk/internal/durable"
)

// Dir keeps files in a local directory: DIR/files/ab/abcd… holds those that are whole, DIR/partial those that are not,
// and DIR/spool what comes in an archive before it can be named. One process uses it at a time.
type Dir struct{ path string }

// NewDir returns the Files in a directory, which is made if it is not there.
func NewDir(path string) (*Dir, error) {
	d := &Dir{path}
	if err := os.RemoveAll(d.Spool()); err != nil { // of a process that ended in the middle of an upload
		return nil, err
	}
	for _, part := range []string{"files", "partial", "spool"} {
		if err := os.MkdirAll(filepath.Join(path, part), 0o700); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// place returns where a file lies; an error for what is no sum, and could lead elsewhere.
func (d *Dir) place(sum string) (whole, partial string, err error) {
	if !isSum(sum) {
		return "", "", fmt.Errorf("%.80q is no SHA-256: %w", sum, ErrInvalid)
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

func (d *Dir) list(ctx context.Context, part string) iter.Seq2[FileInfo, error] {
	return func(yield func(FileInfo, error) bool) {
		err := filepath.WalkDir(filepath.Join(d.path, part), func(_ string, entry fs.DirEntry, err error) error {
			if err := errors.Join(err, ctx.Err()); err != nil {
				return err
			}
			if entry.IsDir() || !isSum(entry.Name()) {
				return nil // what is not ours is left alone
			}
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil // removed meanwhile
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

// Space implements Space; errors.ErrUnsupported where the system does not tell.
func (d *Dir) Space(context.Context) (free, total int64, err error) { return durable.Space(d.path) }

// Spool implements Spooler.
func (d *Dir) Spool() string { return filepath.Join(d.path, "spool") }
