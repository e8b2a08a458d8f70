//go:build linux || darwin || freebsd

package durable

import "golang.org/x/sys/unix"

// Space returns how many bytes of the file system of dir are left for us, and how many there are in all.
// errors.ErrUnsupported where that is not known.
func Space(dir string) (free, total int64, err error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, 0, err
	}
	return int64(stat.Bavail) * int64(stat.Bsize), int64(stat.Blocks) * int64(stat.Bsize), nil // their types differ
}
