package image_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/opscenter-go/sdk/internal/imagetest"
	"github.com/opscenter-go/sdk/opscenter/image"
)

// whole returns all bytes of a reader.
func whole(t require.TestingT, r io.Reader) []byte {
	data, err := io.ReadAll(r)
	require.NoError(t, err)
	return data
}

// TestPublishedLayout: ReadLayout finds the seed partition at its known place in published raw and ISO images.
func TestPublishedLayout(t *testing.T) {
	for _, sector := range []int64{512, 2048} {
		made := imagetest.New(imagetest.Options{Sector: sector, Partitions: imagetest.Published})
		base, err := image.Open(made, made.Size())
		require.NoError(t, err)
		require.Equal(t, int64(2_148_532_224), base.SeedOffset)
		require.EqualValues(t, 104_857_600, base.SeedSize)
		require.Equal(t, sector, base.SectorSize)
		require.Equal(t, sector == 2048, base.ISO())
		archive := bytes.Repeat([]byte("s"), 100<<20)
		seeded, err := base.With(archive)
		require.NoError(t, err)
		around := make([]byte, 2000)
		_, err = seeded.ReadAt(around, base.SeedOffset-1000)
		require.NoError(t, err)
		require.Equal(t, append(make([]byte, 1000), bytes.Repeat([]byte("s"), 1000)...), around)
		_, err = seeded.ReadAt(around, base.SeedOffset+base.SeedSize-1000)
		require.NoError(t, err)
		require.Equal(t, append(bytes.Repeat([]byte("s"), 1000), make([]byte, 1000)...), around)
		_, err = base.With(append(archive, 0))
		require.ErrorIs(t, err, image.ErrSeedTooLarge)
	}
}

// TestInjectAndWith: Inject and With change exactly the bytes of the archive, for all sizes of reads.
func TestInjectAndWith(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		made := imagetest.New(imagetest.Options{Sector: rapid.SampledFrom([]int64{512, 2048}).Draw(t, "sector")})
		archive := bytes.Repeat([]byte("0123456789abcde"), 9000)[:rapid.OneOf(rapid.Just(0), rapid.Just(128<<10), rapid.IntRange(0, 128<<10)).Draw(t, "size")]
		want := whole(t, made.Reader())
		copy(want[made.Offset(image.SeedLabel):], archive)
		var from io.Reader = made.Reader()
		switch rapid.IntRange(0, 3).Draw(t, "chunks") {
		case 0:
			from = iotest.HalfReader(from)
		case 1:
			from = iotest.DataErrReader(from)
		case 2:
			from = &raggedReader{from, rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))}
		}
		var out bytes.Buffer
		require.NoError(t, image.Inject(&out, from, archive))
		require.True(t, bytes.Equal(want, out.Bytes()))
		base, err := image.Open(made, made.Size())
		require.NoError(t, err)
		seeded, err := base.With(archive)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, whole(t, seeded.Reader())))
		at := rapid.Int64Range(0, made.Size()).Draw(t, "at")
		part := make([]byte, rapid.IntRange(0, 300<<10).Draw(t, "length"))
		n, err := seeded.ReadAt(part, at)
		require.True(t, bytes.Equal(want[at:min(at+int64(len(part)), made.Size())], part[:n]))
		require.True(t, err == nil || n < len(part) && err == io.EOF, "%v", err)
	})
	made := imagetest.New(imagetest.Options{})
	var out bytes.Buffer
	require.NoError(t, image.Inject(&out, iotest.OneByteReader(made.Reader()), []byte("seed")))
	require.Equal(t, int(made.Size()), out.Len())
}

// raggedReader returns data in chunks of random sizes.
type raggedReader struct {
	io.Reader
	random *rand.Rand
}

func (r *raggedReader) Read(p []byte) (int, error) {
	return r.Reader.Read(p[:min(len(p), 1+r.random.IntN(40<<10))])
}

// countingWriter counts the written bytes.
type countingWriter struct{ n int }

func (c *countingWriter) Write(p []byte) (int, error) { c.n += len(p); return len(p), nil }

// TestDamaged: Open and Inject reject damaged images, and Inject writes nothing of data that is no image.
func TestDamaged(t *testing.T) {
	made := imagetest.New(imagetest.Options{})
	good := whole(t, made.Reader())
	resum := func(data []byte) { // make the checksums match the changed table
		le := binary.LittleEndian
		table := data[1024 : 1024+128*128]
		le.PutUint32(data[512+88:], crc32.ChecksumIEEE(table))
		clear(data[512+16 : 512+20])
		le.PutUint32(data[512+16:], crc32.ChecksumIEEE(data[512:512+92]))
	}
	for name, c := range map[string]struct {
		change func(data []byte) []byte
		want   error
	}{
		"nothing":                   {func([]byte) []byte { return nil }, image.ErrShort},
		"one page":                  {func(d []byte) []byte { return d[:600] }, image.ErrShort},
		"only the head":             {func(d []byte) []byte { return d[:1<<20] }, image.ErrShort},
		"half":                      {func(d []byte) []byte { return d[:len(d)/2] }, image.ErrShort},
		"cut in the last partition": {func(d []byte) []byte { return d[:len(d)-40<<10] }, image.ErrShort},
		"no table":                  {func(d []byte) []byte { clear(d[512:1024]); return d }, image.ErrNoImage},
		"changed table":             {func(d []byte) []byte { d[1024+60]++; return d }, image.ErrNoImage},
		"changed header":            {func(d []byte) []byte { d[512+80]++; return d }, image.ErrNoImage},
		"no seed partition":         {func(d []byte) []byte { d[1024+128+56] = 'x'; resum(d); return d }, image.ErrNoImage},
		"two seed partitions": {func(d []byte) []byte {
			copy(d[1024+2*128+56:1024+3*128], d[1024+128+56:1024+2*128])
			resum(d)
			return d
		}, image.ErrNoImage},
		"partitions overlap":              {func(d []byte) []byte { copy(d[1024+2*128+32:], d[1024+128+32:1024+128+48]); resum(d); return d }, image.ErrNoImage},
		"partition ends before it begins": {func(d []byte) []byte { binary.LittleEndian.PutUint64(d[1024+128+40:], 3); resum(d); return d }, image.ErrNoImage},
		"partition beyond all disks":      {func(d []byte) []byte { binary.LittleEndian.PutUint64(d[1024+4*128+40:], 1<<62); resum(d); return d }, image.ErrNoImage},
		"endless table":                   {func(d []byte) []byte { binary.LittleEndian.PutUint32(d[512+80:], 1<<31); resum(d); return d }, image.ErrNoImage},
		"entries of size 0":               {func(d []byte) []byte { binary.LittleEndian.PutUint32(d[512+84:], 0); resum(d); return d }, image.ErrNoImage},
		"huge header":                     {func(d []byte) []byte { binary.LittleEndian.PutUint32(d[512+12:], 1<<20); return d }, image.ErrNoImage},
		"table beyond the image":          {func(d []byte) []byte { binary.LittleEndian.PutUint64(d[512+72:], 1<<39); resum(d); return d }, image.ErrShort},
		"seed partition overlaps the table": {func(d []byte) []byte {
			binary.LittleEndian.PutUint64(d[1024+128+32:], 3)
			binary.LittleEndian.PutUint64(d[1024+128+40:], 9)
			resum(d)
			return d
		}, image.ErrNoImage},
		"gzip": {func(d []byte) []byte { copy(d, "\x1f\x8b"); clear(d[512:4096]); return d }, image.ErrNoImage},
	} {
		t.Run(name, func(t *testing.T) {
			data := c.change(bytes.Clone(good))
			_, err := image.Open(bytes.NewReader(data), int64(len(data)))
			require.ErrorIs(t, err, c.want)
			out := &countingWriter{}
			require.ErrorIs(t, image.Inject(out, bytes.NewReader(data), []byte("seed")), c.want)
			if errors.Is(c.want, image.ErrNoImage) {
				require.Zero(t, out.n)
			}
		})
	}
	failing := errors.New("the disk fails")
	require.ErrorIs(t, image.Inject(io.Discard, iotest.ErrReader(failing), nil), failing)
	require.ErrorIs(t, image.Inject(io.Discard, io.MultiReader(made.Reader(), iotest.ErrReader(failing)), nil), failing)
	// Reading at the end of an image returns io.EOF.
	base, err := image.Open(bytes.NewReader(good), int64(len(good)))
	require.NoError(t, err)
	seeded, err := base.With([]byte("seed"))
	require.NoError(t, err)
	_, err = seeded.ReadAt(make([]byte, 10), seeded.Size())
	require.Equal(t, io.EOF, err)
}

// FuzzLayout: ReadLayout ends for any partition table, and the seed partition is within the image.
func FuzzLayout(f *testing.F) {
	for _, sector := range []int64{512, 2048} {
		f.Add(whole(f, io.NewSectionReader(imagetest.New(imagetest.Options{Sector: sector}), 0, 64<<10)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, sector := range []int{512, 2048} { // correct the checksums, which are wrong in most inputs
			if len(data) < 2*sector+128*128 || !bytes.HasPrefix(data[sector:], []byte("EFI PART")) {
				continue
			}
			header := data[sector:]
			binary.LittleEndian.PutUint32(header[88:], crc32.ChecksumIEEE(data[2*sector:2*sector+128*128]))
			clear(header[16:20])
			binary.LittleEndian.PutUint32(header[16:], crc32.ChecksumIEEE(header[:92]))
			break
		}
		layout, err := image.ReadLayout(bytes.NewReader(data))
		if err != nil {
			return
		}
		if layout.SeedOffset <= 0 || layout.SeedSize <= 0 || layout.SeedOffset+layout.SeedSize > layout.Size {
			t.Fatalf("%+v", layout)
		}
	})
}
