package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// SeedLabel is the label of the seed partition.
const SeedLabel = "seed-data"

// Errors of images.
var (
	// ErrNoImage: the data is not an installation image of IncusOS.
	ErrNoImage = errors.New("not an installation image")
	// ErrShort: the image ends before the end of its last partition.
	ErrShort = errors.New("the image is cut short")
	// ErrSeedTooLarge: the archive does not fit into the seed partition.
	ErrSeedTooLarge = errors.New("the seed is larger than its partition")
)

// Layout describes the partitions of an image.
type Layout struct {
	// SectorSize is 512 for a raw image, and 2048 for an ISO.
	SectorSize int64
	// SeedOffset is the first byte of the seed partition, and SeedSize its number of bytes.
	SeedOffset, SeedSize int64
	// Size is the minimum size of the image in bytes: the end of its last partition.
	Size int64
}

// ISO reports whether the image is for CD-ROM drives and virtual media.
func (l *Layout) ISO() bool { return l.SectorSize == isoSector }

const (
	rawSector = 512
	isoSector = 2048
	// maxTable is the maximum size of a partition table in bytes; the usual size is 16 KiB.
	maxTable = 1 << 20
	// minHeader is the minimum size of the header, and minEntry that of an entry, in bytes.
	minHeader, minEntry = 92, 128
	// maxSectors is the maximum number of a sector. It prevents overflows.
	maxSectors = 1 << 40
)

// signature begins the header of a GPT.
var signature = []byte("EFI PART")

// ReadLayout reads the partition table of an image: a GPT with sectors of 512 or 2048 bytes. It verifies the checksums. Errors:
// ErrNoImage, ErrShort, those of the reader.
func ReadLayout(image io.ReaderAt) (*Layout, error) {
	for _, sector := range []int64{rawSector, isoSector} {
		header := make([]byte, sector)
		if err := readAt(image, header, sector); err != nil {
			return nil, err
		}
		if bytes.HasPrefix(header, signature) {
			return readTable(image, header, sector)
		}
	}
	return nil, fmt.Errorf("%w: it has no GUID partition table", ErrNoImage)
}

// readAt fills a buffer from offset on. It returns ErrShort if the image ends before.
func readAt(image io.ReaderAt, buffer []byte, offset int64) error {
	n, err := image.ReadAt(buffer, offset)
	switch {
	case n == len(buffer):
		return nil
	case err == io.EOF || err == nil:
		return fmt.Errorf("%w: the image ends at byte %d", ErrShort, offset+int64(n))
	}
	return err
}

// readTable reads the partition table that the header of the GPT describes.
func readTable(image io.ReaderAt, header []byte, sector int64) (*Layout, error) {
	le := binary.LittleEndian
	size := le.Uint32(header[12:])
	if size < minHeader || int64(size) > sector {
		return nil, fmt.Errorf("%w: its header has %d bytes", ErrNoImage, size)
	}
	sum := le.Uint32(header[16:])
	checked := bytes.Clone(header[:size])
	clear(checked[16:20])
	if crc32.ChecksumIEEE(checked) != sum || le.Uint64(header[24:]) != 1 {
		return nil, fmt.Errorf("%w: the header of its partition table is damaged", ErrNoImage)
	}
	at, entries, entry := le.Uint64(header[72:]), uint64(le.Uint32(header[80:])), uint64(le.Uint32(header[84:]))
	if at < 2 || at > maxSectors || entry < minEntry || entry > maxTable || entry%minEntry != 0 || entries == 0 || entries > maxTable/entry {
		return nil, fmt.Errorf("%w: its partition table has an impossible size: %d entries of %d bytes", ErrNoImage, entries, entry)
	}
	table := make([]byte, entries*entry)
	if err := readAt(image, table, int64(at)*sector); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(table) != le.Uint32(header[88:]) {
		return nil, fmt.Errorf("%w: its partition table is damaged", ErrNoImage)
	}
	type span struct{ first, last uint64 }
	var all []span
	var seed *span
	for i := range entries {
		p := table[i*entry : (i+1)*entry]
		if bytes.Equal(p[:16], make([]byte, 16)) {
			continue // unused
		}
		s := span{le.Uint64(p[32:]), le.Uint64(p[40:])}
		if s.first < 2 || s.last < s.first || s.last > maxSectors {
			return nil, fmt.Errorf("%w: partition %d has an impossible position", ErrNoImage, i+1)
		}
		for _, other := range all {
			if s.first <= other.last && other.first <= s.last {
				return nil, fmt.Errorf("%w: partition %d overlaps another one", ErrNoImage, i+1)
			}
		}
		all = append(all, s)
		if label(p[56:128]) != SeedLabel {
			continue
		}
		if seed != nil {
			return nil, fmt.Errorf("%w: it has two partitions with label %s", ErrNoImage, SeedLabel)
		}
		seed = &s
	}
	if seed == nil {
		return nil, fmt.Errorf("%w: it has no partition with label %s", ErrNoImage, SeedLabel)
	}
	if begins := int64(seed.first) * sector; begins < int64(at)*sector+int64(len(table)) {
		return nil, fmt.Errorf("%w: its partition table is in partition %s", ErrNoImage, SeedLabel)
	}
	out := &Layout{SectorSize: sector, SeedOffset: int64(seed.first) * sector, SeedSize: int64(seed.last-seed.first+1) * sector}
	for _, s := range all {
		out.Size = max(out.Size, int64(s.last+1)*sector)
	}
	return out, nil
}

// label returns the name of a partition, which is in UTF-16.
func label(data []byte) string {
	units := make([]uint16, 0, len(data)/2)
	for i := 0; i+1 < len(data); i += 2 {
		unit := binary.LittleEndian.Uint16(data[i:])
		if unit == 0 {
			break
		}
		units = append(units, unit)
	}
	return string(utf16.Decode(units))
}
