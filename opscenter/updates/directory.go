package updates

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opscenter-go/sdk/internal/smime"
)

// Directory is a Source in a local directory with the publisher's layout: index.sjson, and VERSION/FILENAME.
type Directory struct {
	// Path of the directory.
	Path string
	// Trust verifies the signature of the index. Default: IncusOS.
	Trust Trust
}

// indexName is the name of the signed index of a source.
const indexName = "index.sjson"

// Index implements Source.
func (d Directory) Index(context.Context) (*Index, error) {
	file, err := os.Open(filepath.Join(d.Path, indexName))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	message, err := readBounded(file, smime.MaxMessage)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", indexName, err)
	}
	index, err := d.Trust.Index(message)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", indexName, err)
	}
	return index, nil
}

// Open implements Source. It rejects names and links that lead out of the directory.
func (d Directory) Open(_ context.Context, u *Update, f *File, offset int64) (io.ReadCloser, int64, error) {
	root, err := os.OpenRoot(d.Path)
	if err != nil {
		return nil, 0, err
	}
	defer root.Close()
	path := filepath.Join(".", filepath.FromSlash(u.URL), filepath.FromSlash(f.Filename))
	info, err := root.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file: %w", path, ErrGone)
	}
	var file *os.File
	if err == nil {
		file, err = root.Open(path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, 0, fmt.Errorf("%s: %w", path, ErrGone)
	case err != nil:
		return nil, 0, err
	}
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, offset, nil
}
