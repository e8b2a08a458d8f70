package seed

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// MaxTarSize is the size of the seed partition, in bytes, and the maximum size of an archive.
const MaxTarSize = 100 << 20

// ErrTooLarge: the archive does not fit into the seed partition.
var ErrTooLarge = errors.New("the seed is larger than its partition")

// Tar returns the archive for the seed partition. Equal seeds give equal bytes. Entries are named install.json, not
// ./install.json, because an installed server removes the entry by that name. Errors: ErrInvalid for a file that can't be
// encoded, ErrTooLarge.
func (s *Seed) Tar() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range Files {
		data, err := s.Encode(name)
		if err != nil {
			return nil, err
		}
		if data == nil {
			continue
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name + ".json", Size: int64(len(data)), Mode: 0o600, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if out.Len() > MaxTarSize {
		return nil, fmt.Errorf("%d bytes, the partition has %d: %w", out.Len(), MaxTarSize, ErrTooLarge)
	}
	return out.Bytes(), nil
}

// extensions of seed files that a server reads.
var extensions = []string{".json", ".yaml", ".yml"}

// Unpack returns the undecoded files of an archive, by name without extension. It follows the rules of a server: of two
// files with one name the first counts, a leading "./" is ignored, and unknown files are skipped. It returns nil if r holds
// no tar archive, which means that there is no seed. Errors: ErrInvalid.
func Unpack(r io.Reader) (map[string][]byte, error) {
	head := make([]byte, 263)
	if _, err := io.ReadFull(r, head); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, nil
		}
		return nil, err
	}
	if string(head[257:262]) != "ustar" {
		return nil, nil
	}
	out := map[string][]byte{}
	archive := tar.NewReader(io.MultiReader(bytes.NewReader(head), r))
	for {
		header, err := archive.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the archive: %w: %v", ErrInvalid, err)
		}
		name := strings.TrimPrefix(header.Name, "./")
		for _, extension := range extensions {
			base, ok := strings.CutSuffix(name, extension)
			if !ok || (&Seed{}).file(base) == nil || out[base] != nil {
				continue
			}
			if header.Size > MaxFileSize {
				return nil, fmt.Errorf("%s has %d bytes, at most %d are allowed: %w", name, header.Size, MaxFileSize, ErrInvalid)
			}
			data, err := io.ReadAll(archive)
			if err != nil {
				return nil, fmt.Errorf("%s: %w: %v", name, ErrInvalid, err)
			}
			out[base] = append([]byte{}, data...)
		}
	}
}

// Read reads an archive as Unpack does, and each file as Set does. It returns nil if there is no seed. Errors: ErrInvalid,
// with file and field.
func Read(r io.Reader) (*Seed, error) {
	files, err := Unpack(r)
	if err != nil || files == nil {
		return nil, err
	}
	out := &Seed{}
	for name, data := range sorted(files) {
		if err := out.Set(name, data); err != nil {
			return nil, err
		}
	}
	return out, nil
}
