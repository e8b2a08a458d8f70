package updates

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"fmt"
	"io"
)

// Limits of an archive of Secure Boot keys.
const (
	// MaxSecureBootKeys is the maximum number of keys in an archive.
	MaxSecureBootKeys = 32
	// MaxSecureBootKey is the maximum size of a key, in bytes. IncusOS has the same limit.
	MaxSecureBootKey = 8192
)

// countKeys returns the number of Secure Boot keys in an update. It returns ErrInvalid for an archive that a server could
// not read.
func (m *Manager) countKeys(ctx context.Context, u *Update) (keys int, err error) {
	for i := range u.Files {
		if f := &u.Files[i]; f.Type == TypeSecureBoot {
			n, err := m.keysIn(ctx, f)
			if err != nil {
				return 0, fmt.Errorf("file %s: %w", f.Filename, err)
			}
			keys += n
		}
	}
	return keys, nil
}

// keysIn returns the number of keys in one archive.
func (m *Manager) keysIn(ctx context.Context, f *File) (keys int, err error) {
	file, err := m.files.Open(ctx, f.SHA256)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	unpacked, err := gzip.NewReader(file)
	if err != nil {
		return 0, fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	for archive := tar.NewReader(io.LimitReader(unpacked, 4*MaxSecureBootKeys*MaxSecureBootKey)); ; {
		header, err := archive.Next()
		switch {
		case err == io.EOF:
			return keys, nil
		case err != nil:
			return 0, fmt.Errorf("the archive of keys: %w: %v", ErrInvalid, err)
		case header.Typeflag == tar.TypeDir:
			continue
		case header.Typeflag != tar.TypeReg || header.Size > MaxSecureBootKey:
			return 0, fmt.Errorf("key %.80q is not a regular file of at most %d bytes: %w", header.Name, MaxSecureBootKey, ErrInvalid)
		}
		if keys++; keys > MaxSecureBootKeys {
			return 0, fmt.Errorf("more than %d keys: %w", MaxSecureBootKeys, ErrInvalid)
		}
	}
}
