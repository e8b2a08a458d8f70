package updates_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"sync"
	"testing"

	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/opscenter/updates/filestest"
)

func TestDir(t *testing.T) {
	filestest.Run(t, func(t *testing.T) filestest.Open {
		path := t.TempDir()
		return func() (updates.Files, error) { return updates.NewDir(path) }
	})
}

// bucket is an object store, of which an object is there at once or not at all, as most are: an embedder's Files over one
// is not longer than this.
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

func TestBucket(t *testing.T) {
	filestest.Run(t, func(*testing.T) filestest.Open {
		b := &bucket{objects: map[string][]byte{}}
		return func() (updates.Files, error) { return b, nil }
	})
}
