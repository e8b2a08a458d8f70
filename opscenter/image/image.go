package image

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
)

// Base is an unpacked image. All methods may be called concurrently.
type Base struct {
	Layout
	from io.ReaderAt
	size int64
}

// Open reads the layout of an unpacked image of size bytes. The Base reads from the reader later. Errors: ErrNoImage,
// ErrShort, those of the reader.
func Open(from io.ReaderAt, size int64) (*Base, error) {
	layout, err := ReadLayout(io.NewSectionReader(from, 0, size))
	if err != nil {
		return nil, err
	}
	if size < layout.Size {
		return nil, fmt.Errorf("%w: it has %d bytes, and its last partition ends at %d", ErrShort, size, layout.Size)
	}
	return &Base{Layout: *layout, from: from, size: size}, nil
}

// Bytes returns the size of the image, in bytes.
func (b *Base) Bytes() int64 { return b.size }

// With returns the image with an archive at the beginning of the seed partition. All other bytes are those of the base. The
// caller must not modify archive afterwards. Errors: ErrSeedTooLarge.
func (b *Base) With(archive []byte) (*Image, error) {
	if int64(len(archive)) > b.SeedSize {
		return nil, fmt.Errorf("%d bytes, the partition has %d: %w", len(archive), b.SeedSize, ErrSeedTooLarge)
	}
	return &Image{base: b, archive: archive}, nil
}

// Image is a base with a seed. All methods may be called concurrently.
type Image struct {
	base    *Base
	archive []byte
}

// Size returns the size of the image in bytes, which is that of the base.
func (i *Image) Size() int64 { return i.base.size }

// ReadAt implements io.ReaderAt.
func (i *Image) ReadAt(p []byte, offset int64) (int, error) {
	begins, ends := i.base.SeedOffset, i.base.SeedOffset+int64(len(i.archive))
	read := 0
	for read < len(p) {
		at := offset + int64(read)
		rest := p[read:]
		if at >= begins && at < ends {
			read += copy(rest, i.archive[at-begins:])
			continue
		}
		if at < begins {
			rest = rest[:min(int64(len(rest)), begins-at)]
		}
		if at+int64(len(rest)) > i.base.size {
			rest = rest[:max(0, i.base.size-at)]
		}
		if len(rest) == 0 {
			return read, io.EOF
		}
		n, err := i.base.from.ReadAt(rest, at)
		read += n
		if n < len(rest) {
			if err == nil || err == io.EOF {
				err = fmt.Errorf("%w: it ends at %d", ErrShort, at+int64(n))
			}
			return read, err
		}
	}
	return read, nil
}

// Reader returns a new reader of the whole image.
func (i *Image) Reader() *io.SectionReader { return io.NewSectionReader(i, 0, i.base.size) }

// head is the number of bytes of a stream that contain the whole partition table.
const head = 2 << 20

// Inject copies an unpacked image, and writes an archive to the beginning of its seed partition. It reads the partition table
// before it writes any byte, and holds 2 MiB of the image in memory. Errors: ErrNoImage and ErrSeedTooLarge before the first
// write; ErrShort, possibly after it has written a part; those of the reader and the writer.
func Inject(to io.Writer, from io.Reader, archive []byte) error {
	beginning := make([]byte, head)
	n, err := io.ReadFull(from, beginning)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return err
	}
	beginning = beginning[:n]
	layout, err := ReadLayout(bytes.NewReader(beginning))
	if err != nil {
		return err
	}
	if int64(len(archive)) > layout.SeedSize {
		return fmt.Errorf("%d bytes, the partition has %d: %w", len(archive), layout.SeedSize, ErrSeedTooLarge)
	}
	whole := io.MultiReader(bytes.NewReader(beginning), from)
	if _, err := io.CopyN(to, whole, layout.SeedOffset); err != nil {
		return short(err)
	}
	if _, err := to.Write(archive); err != nil {
		return err
	}
	// Skip the replaced bytes.
	if _, err := io.CopyN(io.Discard, whole, int64(len(archive))); err != nil {
		return short(err)
	}
	copied, err := io.Copy(to, whole)
	if err != nil {
		return short(err)
	}
	if size := layout.SeedOffset + int64(len(archive)) + copied; size < layout.Size {
		return fmt.Errorf("%w: it has %d bytes, and its last partition ends at %d", ErrShort, size, layout.Size)
	}
	return nil
}

// short turns the end of the input into ErrShort.
func short(err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrShort
	}
	return err
}

// Decompress returns the unpacked content if the name ends in .gz, and from itself otherwise. Errors: ErrNoImage for data that
// is not gzip, ErrShort.
func Decompress(name string, from io.Reader) (io.Reader, error) {
	if len(name) < 3 || name[len(name)-3:] != ".gz" {
		return from, nil
	}
	out, err := gzip.NewReader(from)
	switch {
	case errors.Is(err, gzip.ErrHeader):
		return nil, fmt.Errorf("%w: it is not in gzip format", ErrNoImage)
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return nil, ErrShort
	case err != nil:
		return nil, err
	}
	return out, nil
}
