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

var (
	// ErrMismatch: an image is not the one that was described.
	ErrMismatch = errors.New("is not the image that was described")
	// ErrDiskFull: there is too little room to unpack an image.
	ErrDiskFull = errors.New("too little disk space for an image")
	// ErrInUse: another process uses the directory of a store.
	ErrInUse = errors.New("another process uses the directory")
	// ErrInvalidOptions: an option of NewStore can't be.
	ErrInvalidOptions = errors.New("invalid options")
)

// Defaults of StoreOptions.
const (
	DefaultMaxImages = 8
	DefaultMaxSize   = 16 << 30
	DefaultReserve   = 0.1
)

// StoreOptions of NewStore. The zero value is usable.
type StoreOptions struct {
	// MaxImages is how many images are kept unpacked; the one that was not read for longest goes. An image of IncusOS takes about
	// 1.2 GiB. Twice as many stay while they are read, within ten minutes. Default 8.
	MaxImages int
	// MaxSize bounds an unpacked image, in bytes, with its holes. Default 16 GiB.
	MaxSize int64
	// Reserve is the share of the disk that is left free. Default 0.1; below 0: none.
	Reserve float64
}

// Store keeps images unpacked, each once, in a directory of its own: DIR/SHA256. What is zero in an image takes no room there. All methods
// may be called concurrently; one process uses the directory at a time.
type Store struct {
	dir     string
	lock    *os.File
	options StoreOptions
	flight  singleflight.Group
	turn    chan struct{} // held while an image is unpacked

	mu   sync.Mutex
	used map[string]time.Time // when an image was read last
}

// NewStore returns the store in a directory, which is made if it is not there. Images that were not unpacked to the end are removed. Errors:
// ErrInvalidOptions, those of the directory.
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
	s := &Store{dir: dir, lock: lock, options: options, turn: make(chan struct{}, 1), used: map[string]time.Time{}}
	if err := s.load(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

// Close lets another process use the directory. Images that are read can be read on.
func (s *Store) Close() error { return s.lock.Close() }

// load finds the images that are there.
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
			if s.used[name].After(time.Now()) { // the clock was another
				s.used[name] = time.Now()
			}
		}
	}
	s.tidy("", s.options.MaxImages)
	return err
}

// partial is what the name of an image ends with that is not whole.
const partial = ".partial"

// isSum reports whether a text is a SHA-256 in lower-case hexadecimal digits.
func isSum(text string) bool {
	data, err := hex.DecodeString(text)
	return err == nil && len(data) == sha256.Size && text == strings.ToLower(text)
}

// Kept is an image that is read. Close it; meanwhile it stays, whatever the store does.
type Kept struct {
	*Base
	file *os.File
}

// Close ends reading.
func (k *Kept) Close() error { return k.file.Close() }

// Source is an image as it is published.
type Source struct {
	// Name, as x86_64/IncusOS_202610150000.img.gz: what ends in .gz is packed.
	Name string
	// SHA256 of its bytes, packed as they are.
	SHA256 string
	// Open reads it.
	Open func() (io.ReadCloser, error)
}

// Base returns an unpacked image. It is unpacked if it is not here, or is damaged, which the next caller finds. A caller that gives up does not stop
// the unpacking. Errors: ErrMismatch, ErrNoImage, ErrShort, ErrDiskFull, those of the source, of the directory and of the
// context.
func (s *Store) Base(ctx context.Context, source Source) (*Kept, error) {
	if !isSum(source.SHA256) {
		return nil, fmt.Errorf("%.80q is no SHA-256: %w", source.SHA256, ErrMismatch)
	}
	const most = 3 // others may push it out in between
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

// open opens an image that is here.
func (s *Store) open(sum string) (*Kept, error) {
	file, err := os.Open(filepath.Join(s.dir, sum))
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil {
		var base *Base
		if base, err = Open(file, info.Size()); err == nil {
			s.read(sum)
			return &Kept{base, file}, nil
		}
	}
	return nil, errors.Join(err, file.Close())
}

// read notes that an image is read, also for the next process.
func (s *Store) read(sum string) {
	at := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used[sum] = at
	_ = os.Chtimes(filepath.Join(s.dir, sum), at, at)
}

// unpack makes an image part of the store, and removes those that are too many.
func (s *Store) unpack(source Source) (err error) {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	if kept, err := s.open(source.SHA256); err == nil { // another flight was before
		return kept.Close()
	}
	err = s.unpackOnce(source)
	if errors.Is(err, ErrDiskFull) && s.tidy("", 0) > 0 {
		err = s.unpackOnce(source)
	}
	return err
}

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
	if _, err := io.Copy(io.Discard, packed); err != nil { // what the sum counts beyond what was unpacked
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
	whole = true // what is renamed is closed before
	if err := errors.Join(file.Close(), os.Rename(path+partial, path)); err != nil {
		return errors.Join(err, os.Remove(path+partial))
	}
	s.read(source.SHA256)
	s.tidy(source.SHA256, s.options.MaxImages)
	return durable.SyncDir(s.dir)
}

// chunk is how much is written at a time; what is zero of it is left out. The disk is looked at each spaceStep.
const (
	chunk     = 64 << 10
	spaceStep = 64 << 20
)

// write writes an image with holes where it is zero.
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
			return 0, ErrShort // in the middle of what is packed
		case errors.Is(err, gzip.ErrChecksum) || errors.As(err, new(flate.CorruptInputError)):
			return 0, fmt.Errorf("it can't be unpacked: %w: %w", ErrMismatch, err)
		case err != nil:
			return 0, fmt.Errorf("it can't be read: %w", err)
		}
	}
}

// atEnd tells the end of an image from that of a packed one that was cut, which are the same error of io.ReadFull.
func atEnd(from io.Reader) bool {
	n, err := from.Read(make([]byte, 1))
	return n == 0 && err == io.EOF
}

func (s *Store) checkSpace() error {
	free, total, err := durable.Space(s.dir)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	if reserve := int64(float64(total) * s.options.Reserve); free-reserve < spaceStep {
		return fmt.Errorf("%d MiB are free, of which %d MiB are to stay so: %w", free>>20, reserve>>20, ErrDiskFull)
	}
	return nil
}

// recently is for how long an image stays that was read: a client that fetches parts comes back for the next one.
const recently = 10 * time.Minute

// tidy removes images beyond so many, but for one: those that were not read for longest, and not recently. It returns how many it has removed. A
// reader of one reads on.
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
		if err := os.Remove(filepath.Join(s.dir, sum)); err == nil || errors.Is(err, fs.ErrNotExist) { // else it is tried again
			delete(s.used, sum)
			removed++
		}
	}
	return removed
}
