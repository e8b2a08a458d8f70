// Package imagetest makes images with the partition table of IncusOS installation images, and with filler as content.
package imagetest

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// Partition is a partition of an image.
type Partition struct {
	Label string
	Size  int64 // in bytes; New rounds it up to whole sectors
	// Fill is repeated to fill the partition; empty: zeros.
	Fill []byte
}

// Options are the options of New. The zero value makes a small raw image.
type Options struct {
	// Sector is 512 or 2048. Default 512.
	Sector int64
	// Partitions of the image, in their order on disk. Default: Small.
	Partitions []Partition
}

// Published are the partitions of a published IncusOS image, 3.2 GiB together.
var Published = []Partition{{"esp", 2 << 30, nil}, {"seed-data", 100 << 20, nil}, {"usr-verity-sig", 16 << 10, nil}, {"usr-verity", 100 << 20, nil}, {"usr", 1 << 30, []byte("usr")}}

// Small are the same partitions with small sizes, 688 KiB together.
var Small = []Partition{{"esp", 256 << 10, []byte("esp")}, {"seed-data", 128 << 10, nil}, {"usr-verity-sig", 16 << 10, nil}, {"usr-verity", 32 << 10, []byte("verity")}, {"usr", 256 << 10, []byte("usr!")}}

// Image is an image that keeps only its partition table in memory. All methods may be called concurrently.
type Image struct {
	head, tail []byte
	size       int64
	spans      []span
}

// span is a partition at a position, in bytes.
type span struct {
	Partition
	begins int64
}

const (
	entries   = 128 // of the partition table
	entrySize = 128 // bytes
	piece     = 64 << 10
	// First is the position of the first partition, in bytes.
	First = 1 << 20
)

// New makes an image with valid checksums.
func New(o Options) *Image {
	if o.Sector == 0 {
		o.Sector = 512
	}
	if o.Partitions == nil {
		o.Partitions = Small
	}
	le := binary.LittleEndian
	out := &Image{}
	table := make([]byte, entries*entrySize)
	at := int64(First)
	for i, p := range o.Partitions {
		size := (p.Size + o.Sector - 1) / o.Sector * o.Sector
		e := table[i*entrySize:]
		copy(e, []byte{0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4}) // linux-generic
		e[16] = byte(i + 1)
		le.PutUint64(e[32:], uint64(at/o.Sector))
		le.PutUint64(e[40:], uint64((at+size)/o.Sector-1))
		for k, unit := range utf16.Encode([]rune(p.Label)) {
			le.PutUint16(e[56+2*k:], unit)
		}
		fill := p.Fill
		if len(fill) > 0 { // repeat it, so that ReadAt copies larger pieces
			fill = bytes.Repeat(fill, piece/len(fill)+1)
		}
		out.spans = append(out.spans, span{Partition{p.Label, size, fill}, at})
		at += size
	}
	tableSectors := (int64(len(table)) + o.Sector - 1) / o.Sector
	sectors := at/o.Sector + tableSectors + 1
	out.size = sectors * o.Sector
	header := func(own, other, first int64) []byte {
		h := make([]byte, o.Sector)
		copy(h, "EFI PART")
		le.PutUint32(h[8:], 0x10000)
		le.PutUint32(h[12:], 92)
		le.PutUint64(h[24:], uint64(own))
		le.PutUint64(h[32:], uint64(other))
		le.PutUint64(h[40:], uint64(2+tableSectors))
		le.PutUint64(h[48:], uint64(at/o.Sector-1))
		h[56] = 1
		le.PutUint64(h[72:], uint64(first))
		le.PutUint32(h[80:], entries)
		le.PutUint32(h[84:], entrySize)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(table))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		return h
	}
	out.head = make([]byte, First)
	copy(out.head[o.Sector:], header(1, sectors-1, 2))
	copy(out.head[2*o.Sector:], table)
	out.tail = make([]byte, out.size-at)
	copy(out.tail, table)
	copy(out.tail[tableSectors*o.Sector:], header(sectors-1, 1, at/o.Sector))
	return out
}

// Size returns the size of the image, in bytes.
func (i *Image) Size() int64 { return i.size }

// Offset returns the position of the partition with the label, in bytes, or -1.
func (i *Image) Offset(label string) int64 {
	for _, s := range i.spans {
		if s.Label == label {
			return s.begins
		}
	}
	return -1
}

// Reader returns a new reader of the whole image.
func (i *Image) Reader() *io.SectionReader { return io.NewSectionReader(i, 0, i.size) }

// ReadAt implements io.ReaderAt.
func (i *Image) ReadAt(p []byte, offset int64) (int, error) {
	read := 0
	for read < len(p) && offset+int64(read) < i.size {
		at := offset + int64(read)
		rest := p[read:]
		if at < First {
			read += copy(rest, i.head[at:])
			continue
		}
		if begins := i.size - int64(len(i.tail)); at >= begins {
			read += copy(rest, i.tail[at-begins:])
			continue
		}
		for _, s := range i.spans {
			if at < s.begins || at >= s.begins+s.Size {
				continue
			}
			rest = rest[:min(int64(len(rest)), s.begins+s.Size-at)]
			if len(s.Fill) == 0 {
				clear(rest)
			}
			for done := 0; len(s.Fill) > 0 && done < len(rest); {
				done += copy(rest[done:], s.Fill[(at-s.begins+int64(done))%int64(len(s.Fill)):])
			}
			read += len(rest)
			break
		}
	}
	if read < len(p) {
		return read, io.EOF
	}
	return read, nil
}
