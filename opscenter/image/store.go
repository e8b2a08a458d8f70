package image

import (
	"bytes"
	"cmp"
	"compress/flate"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/opscenter-go/sdk/internal/defaults"
	"github.com/opscenter-go/sdk/internal/durable"
)

// Errors of a Store.
var (
	// ErrMismatch: the SHA-256 of an image differs from its description, or the image is damaged.
	ErrMismatch = errors.New("is not the image that was described")
	// ErrDiskFull: an image needs more free space than there is beyond StoreOptions.Reserve.
	ErrDiskFull = errors.New("too little disk space for an image")
	// ErrInUse: another process uses the directory of a store.
	ErrInUse = errors.New("another process uses the directory")
	// ErrInvalidOptions: an option of NewStore is out of range.
	ErrInvalidOptions = errors.New("invalid options")
)

// Defaults of the StoreOptions of the same names.
const (
	// DefaultMaxImages is the default of StoreOptions.MaxImages.
	DefaultMaxImages = 8
	DefaultMaxSize   = 16 << 30
	DefaultReserve   = 0.1
)

// StoreOptions are the options of NewStore. The zero value is usable.
type StoreOptions struct {
	// MaxImages is the number of images to keep; the least recently read ones are removed. Images that were read within ten
	// minutes may double the number. An image of IncusOS takes about 1.2 GiB. Default 8.
	MaxImages int
	// MaxSize is the maximum size of an unpacked image in bytes, including its holes. Default 16 GiB.
	MaxSize int64
	// Reserve is the share of the disk that stays free. Default 0.1; below 0: none. It must be less than 1.
	Reserve float64
}

// Store keeps unpacked images in a directory of its own, as sparse files DIR/SHA256. All methods may be called concurrently.
// One process uses the directory at a time.
type Store struct {
	dir       string
	lock      *os.File
	options   StoreOptions
	flight    singleflight.Group
	unpacking chan struct{} // holds a value while an image is unpacked

	mu   sync.Mutex
	used map[string]time.Time // last read of each image, by SHA-256
}

// NewStore opens the store in a directory, and creates the directory if it does not exist. It removes images that were not
// completely unpacked. Errors: ErrInUse, ErrInvalidOptions, those of the directory.
func NewStore(dir string, options StoreOptions) (*Store, error) {
	err := defaults.Fill(ErrInvalidOptions, defaults.Of("MaxImages", &options.MaxImages, DefaultMaxImages), defaults.Of("MaxSize", &options.MaxSize, int64(DefaultMaxSize)))
	if err != nil {
		return nil, err
	}
	switch {
	case options.Reserve == 0:
		options.Reserve = DefaultReserve
	case options.Reserve < 0:
		options.Reserve = 0
	case !(options.Reserve < 1):
		return nil, fmt.Errorf("option Reserve is %v, it must be less than 1: %w", options.Reserve, ErrInvalidOptions)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if durable.Lock(lock) != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, ErrInUse), lock.Close())
	}
	s := &Store{dir: dir, lock: lock, options: options, unpacking: make(chan struct{}, 1), used: map[string]time.Time{}}
	if err := s.load(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

// Close lets another process use the directory. Open images can still be read.
func (s *Store) Close() error { return s.lock.Close() }

// load finds the images in the directory, and removes incomplete and surplus ones.
func (s *Store) load() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		switch name := entry.Name(); {
		case strings.HasSuffix(name, partial) && isSum(strings.TrimSuffix(name, partial)):
			err = errors.Join(err, os.Remove(filepath.Join(s.dir, name)))
		case isSum(name):
			info, failure := entry.Info()
			if failure != nil {
				err = errors.Join(err, failure)
				continue
			}
			s.used[name] = info.ModTime()
			if s.used[name].After(time.Now()) { // the clock was ahead
				s.used[name] = time.Now()
			}
		}
	}
	s.tidy("", s.options.MaxImages)
	return err
}

// partial is the suffix of images that are being unpacked.
const partial = ".partial"

// isSum reports whether the text is a SHA-256 in 64 lower-case hexadecimal digits.
func isSum(text string) bool {
	data, err := hex.DecodeString(text)
	return err == nil && len(data) == sha256.Size && text == strings.ToLower(text)
}

// Kept is an open image of a Store. It stays readable until Close, even if the store removes the image.
type Kept struct {
	*Base
	file *os.File
}

// Close closes the image.
func (k *Kept) Close() error { return k.file.Close() }

// Source is an image as its publisher offers it.
type Source struct {
	// Name is the file name, such as x86_64/IncusOS_202610150000.img.gz. A name ending in .gz means that the image is packed.
	Name string
	// SHA256 of the bytes that Open returns, as 64 lower-case hexadecimal digits.
	SHA256 string
	// Open opens the image. The store closes the result.
	Open func() (io.ReadCloser, error)
}

// Base returns an unpacked image, which the caller closes. It unpacks a missing or damaged image, once for all concurrent
// callers. If ctx ends, Base returns, but unpacking continues. Errors: ErrMismatch, ErrNoImage, ErrShort, ErrDiskFull, those of
// the source, of the directory and of ctx.
func (s *Store) Base(ctx context.Context, source Source) (*Kept, error) {
	if !isSum(source.SHA256) {
		return nil, fmt.Errorf("%.80q is not a SHA-256: %w", source.SHA256, ErrMismatch)
	}
	const most = 3 // other images may displace it between unpacking and opening
	for i := 0; ; i++ {
		kept, err := s.open(source.SHA256)
		if err == nil {
			return kept, nil
		}
		if missing := errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrShort) || errors.Is(err, ErrNoImage); !missing || i == most {
			return nil, err
		}
		unpacked := s.flight.DoChan(source.SHA256, func() (any, error) { return nil, s.unpack(source) })
		select {
		case result := <-unpacked:
			if result.Err != nil {
				return nil, result.Err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// open opens an unpacked image. It returns an fs.ErrNotExist, ErrShort or ErrNoImage if the image must be unpacked.
func (s *Store) open(sum string) (*Kept, error) {
	file, err := os.Open(filepath.Join(s.dir, sum))
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil {
		var base *Base
		if base, err = Open(file, info.Size()); err == nil {
			s.touch(sum)
			return &Kept{base, file}, nil
		}
	}
	return nil, errors.Join(err, file.Close())
}

// touch records that an image was read. The modification time of the file records it for the next process.
func (s *Store) touch(sum string) {
	at := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[sum] = at
	_ = os.Chtimes(filepath.Join(s.dir, sum), at, at)
}

// unpack adds an image to the store. On a full disk, it removes other images and tries again.
func (s *Store) unpack(source Source) (err error) {
	s.unpacking <- struct{}{}
	defer func() { <-s.unpacking }()
	if kept, err := s.open(source.SHA256); err == nil { // an earlier call has unpacked it
		return kept.Close()
	}
	err = s.unpackOnce(source)
	if errors.Is(err, ErrDiskFull) && s.tidy("", 0) > 0 {
		err = s.unpackOnce(source)
	}
	return err
}

// unpackOnce adds an image to the store, and removes surplus images.
func (s *Store) unpackOnce(source Source) (err error) {
	from, err := source.Open()
	if err != nil {
		return err
	}
	defer from.Close()
	path := filepath.Join(s.dir, source.SHA256)
	file, err := os.OpenFile(path+partial, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	whole := false
	defer func() {
		if !whole {
			err = errors.Join(err, file.Close(), os.Remove(path+partial))
		}
	}()
	sum := sha256.New()
	packed := io.TeeReader(from, sum)
	data, err := Decompress(source.Name, packed)
	if err != nil {
		return err
	}
	size, err := s.write(file, data)
	if err != nil {
		return fmt.Errorf("%s: %w", source.Name, err)
	}
	if _, err := io.Copy(io.Discard, packed); err != nil { // the sum includes bytes after the end of the packed data
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != source.SHA256 {
		return fmt.Errorf("%s: its sha256 is %s: %w", source.Name, got, ErrMismatch)
	}
	if _, err := Open(file, size); err != nil {
		return fmt.Errorf("%s: %w", source.Name, err)
	}
	if err := file.Sync(); err != nil {
		return err
	}
	whole = true // closed before the rename, as Windows requires
	if err := errors.Join(file.Close(), os.Rename(path+partial, path)); err != nil {
		return errors.Join(err, os.Remove(path+partial))
	}
	s.touch(source.SHA256)
	s.tidy(source.SHA256, s.options.MaxImages)
	return durable.SyncDir(s.dir)
}

const (
	// chunk is the number of bytes that are written at a time. A chunk of zeros becomes a hole.
	chunk = 64 << 10
	// spaceStep is the number of bytes that are written between two checks of the free space.
	spaceStep = 64 << 20
)

// write writes an image as a sparse file, and returns its size.
func (s *Store) write(file *os.File, from io.Reader) (size int64, err error) {
	buffer, zero := make([]byte, chunk), make([]byte, chunk)
	for written := int64(0); ; {
		n, err := io.ReadFull(from, buffer)
		if n > 0 && !bytes.Equal(buffer[:n], zero[:n]) {
			if written%spaceStep < chunk {
				if err := s.checkSpace(); err != nil {
					return 0, err
				}
			}
			if _, err := file.WriteAt(buffer[:n], size); err != nil {
				return 0, err
			}
			written += int64(n)
		}
		size += int64(n)
		switch {
		case size > s.options.MaxSize:
			return 0, fmt.Errorf("%w: it has more than %d bytes", ErrNoImage, s.options.MaxSize)
		case err == io.EOF || err == io.ErrUnexpectedEOF && n > 0 && n < chunk && atEnd(from):
			return size, file.Truncate(size)
		case err == io.ErrUnexpectedEOF:
			return 0, ErrShort // the packed data is cut short
		case errors.Is(err, gzip.ErrChecksum) || errors.As(err, new(flate.CorruptInputError)):
			return 0, fmt.Errorf("unpacking failed: %w: %w", ErrMismatch, err)
		case err != nil:
			return 0, fmt.Errorf("reading failed: %w", err)
		}
	}
}

// atEnd reports whether from has ended. For io.ReadFull, the end of an image and a cut packed image are the same error.
func atEnd(from io.Reader) bool {
	n, err := from.Read(make([]byte, 1))
	return n == 0 && err == io.EOF
}

// checkSpace returns ErrDiskFull unless spaceStep bytes can be written beyond the reserve.
func (s *Store) checkSpace() error {
	free, total, err := durable.Space(s.dir)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	if reserve := int64(float64(total) * s.options.Reserve); free-reserve < spaceStep {
		return fmt.Errorf("%d MiB are free, %d MiB of these are reserved: %w", free>>20, reserve>>20, ErrDiskFull)
	}
	return nil
}

// recently is how long an image stays after a read, since a client that fetches it in parts will return.
const recently = 10 * time.Minute

// tidy removes the least recently read images, except but, until keep images remain. Images that were read recently stay, up
// to twice keep. It returns the number of removed images. Open images can still be read.
func (s *Store) tidy(but string, keep int) (removed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sums []string
	for sum := range s.used {
		sums = append(sums, sum)
	}
	slices.SortFunc(sums, func(a, b string) int { return cmp.Or(s.used[b].Compare(s.used[a]), strings.Compare(a, b)) })
	for i, sum := range sums {
		if i < keep || sum == but || i < 2*keep && time.Since(s.used[sum]) < recently {
			continue
		}
		if err := os.Remove(filepath.Join(s.dir, sum)); err == nil || errors.Is(err, fs.ErrNotExist) { // otherwise the next call tries again
			delete(s.used, sum)
			removed++
		}
	}
	return removed
}
