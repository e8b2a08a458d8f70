package updates

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/opscenter-go/sdk/opscenter"
)

// Open opens a file of a ready update for reading. The caller closes it, and must not modify the Update or the File.
// Errors: opscenter.ErrNotFound.
func (m *Manager) Open(ctx context.Context, uuid, filename string) (*Update, *File, io.ReadSeekCloser, error) {
	u, err := m.Snapshot().Update(uuid)
	if err != nil {
		return nil, nil, nil, err
	}
	f := u.file(filename)
	if f == nil || u.Status != StatusReady {
		return nil, nil, nil, fmt.Errorf("file %.80q of update %s: %w", filename, u.Version, opscenter.ErrNotFound)
	}
	content, err := m.files.Open(ctx, f.SHA256)
	if errors.Is(err, fs.ErrNotExist) { // removed since the snapshot
		err = opscenter.ErrNotFound
	}
	if err != nil {
		return nil, nil, nil, fmt.Errorf("file %s of update %s: %w", f.Filename, u.Version, err)
	}
	return u, f, content, nil
}
