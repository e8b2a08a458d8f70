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
	// MaxSecureBootKeys is how many keys an update may bring.
	MaxSecureBootKeys = 32
	// MaxSecureBootKey bounds a key, in bytes, as IncusOS does.
	MaxSecureBootKey = 8192
)

// countKeys returns how many Secure Boot keys an update brings. Errors: ErrInvalid for an archive that a server could not
// read.
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
			return 0, fmt.Errorf("key %.80q is no file of at most %d bytes: %w", header.Name, MaxSecureBootKey, ErrInvalid)
		}
		if keys++; keys > MaxSecureBootKeys {
			return 0, fmt.Errorf("more than %d keys: %w", MaxSecureBootKeys, ErrInvalid)
		}
	}
}
