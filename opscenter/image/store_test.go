package image_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/imagetest"
	"github.com/opscenter-go/sdk/opscenter/image"
)

// source returns a Source of an image, which is packed if the name ends in .gz. It also returns the unpacked image, and the number
// of calls of Open.
func source(t testing.TB, name string, o imagetest.Options) (image.Source, []byte, *atomic.Int32) {
	plain := whole(t, imagetest.New(o).Reader())
	data := plain
	if filepath.Ext(name) == ".gz" {
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		_, err := w.Write(plain)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		data = packed.Bytes()
	}
	sum := sha256.Sum256(data)
	opened := &atomic.Int32{}
	return image.Source{Name: name, SHA256: hex.EncodeToString(sum[:]), Open: func() (io.ReadCloser, error) {
		opened.Add(1)
		return io.NopCloser(bytes.NewReader(data)), nil
	}}, plain, opened
}

// filledWith returns options for an image whose last partition contains the text.
func filledWith(text string) imagetest.Options {
	p := append([]imagetest.Partition{}, imagetest.Small...)
	p[4].Fill = []byte(text)
	return imagetest.Options{Partitions: p}
}

// TestStore: twenty concurrent callers unpack an image once, and it is still stored after a restart.
func TestStore(t *testing.T) {
	for _, name := range []string{"x86_64/IncusOS_1.img.gz", "aarch64/IncusOS_1.iso"} {
		dir := t.TempDir()
		store, err := image.NewStore(dir, image.StoreOptions{})
		require.NoError(t, err)
		from, plain, opened := source(t, name, imagetest.Options{})
		var wait sync.WaitGroup
		for range 20 {
			wait.Go(func() {
				kept, err := store.Base(t.Context(), from)
				if err != nil {
					t.Error(err)
					return
				}
				defer kept.Close()
				seeded, err := kept.With([]byte("seed"))
				if err != nil {
					t.Error(err)
					return
				}
				data, err := io.ReadAll(seeded.Reader())
				want := bytes.Clone(plain)
				copy(want[kept.SeedOffset:], "seed")
				if err != nil || !bytes.Equal(want, data) {
					t.Error("wrong image", err)
				}
			})
		}
		wait.Wait()
		require.EqualValues(t, 1, opened.Load())
		if runtime.GOOS != "windows" { // durable.Lock does nothing on Windows
			_, err = image.NewStore(dir, image.StoreOptions{})
			require.ErrorIs(t, err, image.ErrInUse)
		}
		require.NoError(t, store.Close())
		require.NoError(t, os.WriteFile(filepath.Join(dir, from.SHA256+".partial"), []byte("x"), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "other.partial"), []byte("x"), 0o600))
		far := time.Now().Add(1000 * time.Hour) // as written while the clock was ahead
		require.NoError(t, os.Chtimes(filepath.Join(dir, from.SHA256), far, far))
		store, err = image.NewStore(dir, image.StoreOptions{})
		require.NoError(t, err)
		kept, err := store.Base(t.Context(), from)
		require.NoError(t, err)
		require.NoError(t, kept.Close())
		require.EqualValues(t, 1, opened.Load())
		// A damaged image is unpacked again.
		require.NoError(t, os.Truncate(filepath.Join(dir, from.SHA256), 100))
		kept, err = store.Base(t.Context(), from)
		require.NoError(t, err)
		require.NoError(t, kept.Close())
		require.EqualValues(t, 2, opened.Load())
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 3, "the image, the lock and the foreign file")
	}
}

// TestStoreIsBounded: the store removes the least recently read image, and an open image can still be read.
func TestStoreIsBounded(t *testing.T) {
	dir := t.TempDir()
	store, err := image.NewStore(dir, image.StoreOptions{MaxImages: 1})
	require.NoError(t, err)
	one, plain, opened := source(t, "1.img.gz", filledWith("one"))
	two, _, _ := source(t, "2.img.gz", filledWith("two"))
	three, _, _ := source(t, "3.img.gz", filledWith("three"))
	kept, err := store.Base(t.Context(), one)
	require.NoError(t, err)
	for _, s := range []image.Source{two, three} {
		other, err := store.Base(t.Context(), s)
		require.NoError(t, err)
		require.NoError(t, other.Close())
	}
	require.NoFileExists(t, filepath.Join(dir, one.SHA256))
	seeded, err := kept.With(nil)
	require.NoError(t, err)
	require.True(t, bytes.Equal(plain, whole(t, seeded.Reader())))
	require.NoError(t, kept.Close())
	kept, err = store.Base(t.Context(), one)
	require.NoError(t, err)
	require.NoError(t, kept.Close())
	require.EqualValues(t, 2, opened.Load())
	require.NoFileExists(t, filepath.Join(dir, two.SHA256))
	require.FileExists(t, filepath.Join(dir, three.SHA256))
}

// TestStoreRefuses: an image that differs from its description leaves no files.
func TestStoreRefuses(t *testing.T) {
	dir := t.TempDir()
	store, err := image.NewStore(dir, image.StoreOptions{MaxSize: 8 << 20})
	require.NoError(t, err)
	good, plain, _ := source(t, "1.img.gz", imagetest.Options{})
	packed := func() []byte {
		r, err := good.Open()
		require.NoError(t, err)
		return whole(t, r)
	}()
	failing := errors.New("the disk fails")
	described := func(name string, data []byte) image.Source {
		sum := sha256.Sum256(data)
		return image.Source{Name: name, SHA256: hex.EncodeToString(sum[:]), Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }}
	}
	var bomb bytes.Buffer
	w := gzip.NewWriter(&bomb)
	_, err = io.Copy(w, io.LimitReader(zeros{}, 64<<20))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	for name, c := range map[string]struct {
		source image.Source
		want   error
	}{
		"wrong sum":           {image.Source{Name: "1.img.gz", SHA256: described("", nil).SHA256, Open: good.Open}, image.ErrMismatch},
		"not a sum":           {image.Source{Name: "1.img.gz", SHA256: "../x", Open: good.Open}, image.ErrMismatch},
		"cut":                 {described("1.img.gz", packed[:len(packed)/2]), image.ErrShort},
		"cut at the end":      {described("1.img.gz", packed[:len(packed)-4]), image.ErrShort},
		"cut, not packed":     {described("1.img", plain[:len(plain)/2]), image.ErrShort},
		"damaged":             {described("1.img.gz", append(bytes.Clone(packed[:len(packed)-8]), make([]byte, 8)...)), gzip.ErrChecksum},
		"not packed":          {described("1.img.gz", plain), image.ErrNoImage},
		"packed without .gz":  {described("1.img", packed), image.ErrShort},
		"not an image":        {described("1.img", make([]byte, 1<<20)), image.ErrNoImage},
		"unpacks to too much": {described("1.img.gz", bomb.Bytes()), image.ErrNoImage},
		"empty":               {described("1.img", nil), image.ErrShort},
		"read fails":          {image.Source{Name: "1.img.gz", SHA256: good.SHA256, Open: func() (io.ReadCloser, error) { return io.NopCloser(iotest.ErrReader(failing)), nil }}, failing},
		"read fails later": {image.Source{Name: "1.img", SHA256: good.SHA256, Open: func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(plain[:1<<20]), iotest.ErrReader(failing))), nil
		}}, failing},
		"open fails": {image.Source{Name: "1.img.gz", SHA256: good.SHA256, Open: func() (io.ReadCloser, error) { return nil, failing }}, failing},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := store.Base(t.Context(), c.source)
			require.ErrorIs(t, err, c.want)
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Len(t, entries, 1, "the lock")
		})
	}
	// A caller that gives up does not stop unpacking.
	ctx, stop := context.WithCancel(t.Context())
	begun, goOn := make(chan struct{}), make(chan struct{})
	slow := good
	slow.Open = func() (io.ReadCloser, error) {
		close(begun)
		<-goOn
		return good.Open()
	}
	ended := make(chan error, 1)
	go func() {
		_, err := store.Base(ctx, slow)
		ended <- err
	}()
	<-begun
	stop()
	require.ErrorIs(t, <-ended, context.Canceled)
	close(goOn)
	require.Eventually(t, func() bool { _, err := os.Stat(filepath.Join(dir, good.SHA256)); return err == nil }, 20*time.Second, time.Millisecond)
	require.NoError(t, store.Close())
	full, err := image.NewStore(t.TempDir(), image.StoreOptions{Reserve: 0.999999})
	require.NoError(t, err)
	_, err = full.Base(t.Context(), good)
	require.ErrorIs(t, err, image.ErrDiskFull)
	for _, o := range []image.StoreOptions{{MaxImages: -1}, {MaxSize: -1}, {Reserve: 1}} {
		_, err := image.NewStore(t.TempDir(), o)
		require.ErrorIs(t, err, image.ErrInvalidOptions)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// BenchmarkSeeded compares reading a seeded image with io.Copy of the same file.
func BenchmarkSeeded(b *testing.B) {
	made := imagetest.New(imagetest.Options{Partitions: []imagetest.Partition{{Label: "esp", Size: 16 << 20, Fill: []byte("esp")}, {Label: "seed-data", Size: 100 << 20}, {Label: "usr", Size: 128 << 20, Fill: []byte("usr!")}}})
	path := filepath.Join(b.TempDir(), "base")
	file, err := os.Create(path)
	require.NoError(b, err)
	defer file.Close()
	_, err = io.Copy(file, made.Reader())
	require.NoError(b, err)
	base, err := image.Open(file, made.Size())
	require.NoError(b, err)
	seeded, err := base.With(bytes.Repeat([]byte("s"), 40<<10))
	require.NoError(b, err)
	sink := struct{ io.Writer }{io.Discard}
	for name, read := range map[string]func() (int64, error){
		"bare": func() (int64, error) {
			return io.Copy(sink, struct{ io.Reader }{io.NewSectionReader(file, 0, made.Size())})
		},
		"seeded": func() (int64, error) { return io.Copy(sink, struct{ io.Reader }{seeded.Reader()}) },
		"stream": func() (int64, error) {
			return made.Size(), image.Inject(sink, io.NewSectionReader(file, 0, made.Size()), bytes.Repeat([]byte("s"), 40<<10))
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(made.Size())
			for b.Loop() {
				if n, err := read(); err != nil || n != made.Size() {
					b.Fatal(n, err)
				}
			}
		})
	}
}
