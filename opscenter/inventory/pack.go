package inventory

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/opscenter-go/sdk/storage"
)

// packAbove is the size, in bytes, from which on an object is kept compressed: an instance with its snapshots says
// the same many times over. Most objects are smaller, and are read more often than they are written.
const packAbove = 8 << 10

// maxPacking bounds how many objects are compressed at once, and how many unpacked: each takes a window of memory.
const maxPacking = 1

var (
	packer, _   = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(maxPacking), zstd.WithWindowSize(128<<10), zstd.WithLowerEncoderMem(true))
	unpacker, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(maxPacking), zstd.WithDecoderMaxMemory(2*MaxObjectSize), zstd.WithDecoderLowmem(true))
)

// pack returns the row as it is stored, with memory of its own.
func (r *row) pack() *row {
	out := *r
	if r.Packed != nil {
		return &out
	}
	out.Sum = 0
	if len(r.Object) < packAbove {
		out.Object = bytes.Clone(r.Object)
		return &out
	}
	packed := packer.EncodeAll(r.Object, nil)
	if len(packed) > len(r.Object)/4*3 { // it is not worth it
		out.Object = bytes.Clone(r.Object)
		return &out
	}
	out.Sum, out.Packed, out.Object = r.sum(), packed, nil
	return &out
}

// unpack returns the row with its object as Incus tells it. Errors: storage.ErrCorrupt.
func (r *row) unpack() (*row, error) {
	if r.Packed == nil {
		return r, nil
	}
	object, err := unpacker.DecodeAll(r.Packed, nil)
	if err != nil || !json.Valid(object) {
		return nil, fmt.Errorf("object %s: %w: %v", r.UUID, storage.ErrCorrupt, err)
	}
	out := *r
	out.Sum, out.Packed, out.Object = 0, nil, object
	return &out, nil
}
