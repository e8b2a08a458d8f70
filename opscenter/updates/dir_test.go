package updates_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/opscenter/updates/filestest"
	"github.com/opscenter-go/sdk/storage/memstore"
)

func TestDir(t *testing.T) {
	filestest.Run(t, func(t *testing.T) filestest.Open {
		path := t.TempDir()
		var last *updates.Dir
		return func() (_ updates.Files, err error) {
			if last != nil {
				if err := last.Close(); err != nil {
					return nil, err
				}
			}
			last, err = updates.NewDir(path)
			return last, err
		}
	})
}

// TestDirHasOneProcessAndOneOwner: one process uses a directory, its files belong to one store, and foreign files stay.
func TestDirHasOneProcessAndOneOwner(t *testing.T) {
	p := newPlane(t, noSource)
	p.publish(t, release(1))
	_, err := p.feed.Upload(t.Context(), bytes.NewReader(archive(t, p.publisher, "202610010000")))
	require.NoError(t, err)
	if runtime.GOOS != "windows" { // durable.Lock does nothing on Windows
		_, err = updates.NewDir(p.dir)
		require.ErrorIs(t, err, updates.ErrInUse)
	}
	before := p.stored(t)
	require.NoError(t, p.files.(*updates.Dir).Close())
	mail := filepath.Join(p.dir, "spool", "mail")
	require.NoError(t, os.MkdirAll(mail, 0o700))
	require.NoError(t, os.MkdirAll(filepath.Join(p.dir, "spool", "upload-123"), 0o700))
	files, err := updates.NewDir(p.dir)
	require.NoError(t, err)
	require.DirExists(t, mail)
	require.NoDirExists(t, filepath.Join(p.dir, "spool", "upload-123"))
	p.restart(t) // the same store
	// Another store would list none of the updates, and remove all files.
	other, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
	require.NoError(t, err)
	_, err = updates.New(t.Context(), other, files, p.options)
	require.ErrorIs(t, err, updates.ErrNotOwner)
	require.ErrorContains(t, err, filepath.Join(p.dir, "owner"), "the error names the file to remove")
	require.Equal(t, before, p.stored(t))
	require.NoError(t, os.Remove(filepath.Join(p.dir, "owner")))
	_, err = updates.New(t.Context(), other, files, p.options)
	require.NoError(t, err)
	require.NoError(t, files.Close())
}

// bucket is a Files over an object store in which an object appears as a whole. It shows how short such a Files can be.
type bucket struct {
	mu      sync.Mutex
	objects map[string][]byte
}

type bucketReader struct{ *bytes.Reader }

func (bucketReader) Close() error { return nil }

func (b *bucket) Open(_ context.Context, sum string) (io.ReadSeekCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	content, ok := b.objects[sum]
	if !ok {
		return nil, fmt.Errorf("object %s: %w", sum, fs.ErrNotExist)
	}
	return bucketReader{bytes.NewReader(content)}, nil
}

func (b *bucket) Create(_ context.Context, sum string) (updates.Partial, error) {
	if len(sum) != 64 || bytes.ContainsAny([]byte(sum), "/.z") {
		return nil, fmt.Errorf("object %q: %w", sum, fs.ErrInvalid)
	}
	return &bucketWriter{b: b, sum: sum}, nil
}

type bucketWriter struct {
	bytes.Buffer
	b   *bucket
	sum string
}

func (w *bucketWriter) Existing(io.Writer) (int64, error) { return 0, nil }
func (w *bucketWriter) Reset() error                      { w.Buffer.Reset(); return nil }
func (w *bucketWriter) Close() error                      { return nil }
func (w *bucketWriter) Commit() error {
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	w.b.objects[w.sum] = bytes.Clone(w.Bytes())
	return nil
}

func (b *bucket) Remove(_ context.Context, sum string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.objects, sum)
	return nil
}

func (b *bucket) List(ctx context.Context) iter.Seq2[updates.FileInfo, error] {
	return func(yield func(updates.FileInfo, error) bool) {
		b.mu.Lock()
		objects := maps.Clone(b.objects)
		b.mu.Unlock()
		for sum, content := range objects {
			if !yield(updates.FileInfo{SHA256: sum, Size: int64(len(content))}, ctx.Err()) {
				return
			}
		}
	}
}

func (b *bucket) Unfinished(context.Context) iter.Seq2[updates.FileInfo, error] {
	return func(func(updates.FileInfo, error) bool) {}
}

func TestFilesOverBucket(t *testing.T) {
	filestest.Run(t, func(*testing.T) filestest.Open {
		b := &bucket{objects: map[string][]byte{}}
		return func() (updates.Files, error) { return b, nil }
	})
}
