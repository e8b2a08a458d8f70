//go:build linux || darwin || freebsd

package durable

import "golang.org/x/sys/unix"

// Space returns the number of bytes that this process can still write to the file system of dir, and the total number.
// It returns errors.ErrUnsupported on systems that do not report them.
func Space(dir string) (free, total int64, err error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, 0, err
	}
	return int64(stat.Bavail) * int64(stat.Bsize), int64(stat.Blocks) * int64(stat.Bsize), nil // the types of the fields differ between systems
}
