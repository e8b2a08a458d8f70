package inventory

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/opscenter-go/sdk/storage"
)

// packAbove is the size, in bytes, from which an object is stored compressed. An instance with its snapshots repeats
// itself many times. Most objects are smaller, and are read more often than written.
const packAbove = 8 << 10

// maxPacking bounds the objects that are compressed at the same time, and those that are unpacked. Each needs memory.
const maxPacking = 1

var (
	packer, _   = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(maxPacking), zstd.WithWindowSize(128<<10), zstd.WithLowerEncoderMem(true))
	unpacker, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(maxPacking), zstd.WithDecoderMaxMemory(2*MaxObjectSize), zstd.WithDecoderLowmem(true))
)

// pack returns the row in its stored form, with memory of its own.
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
	if len(packed) > len(r.Object)/4*3 { // compression saves too little
		out.Object = bytes.Clone(r.Object)
		return &out
	}
	out.Sum, out.Packed, out.Object = r.sum(), packed, nil
	return &out
}

// unpack returns the row with its uncompressed object. Errors: storage.ErrCorrupt.
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
