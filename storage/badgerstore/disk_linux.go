package badgerstore

import (
	"os"

	"golang.org/x/sys/unix"
)

// freeSpace returns how many bytes the file system of dir has left for us, -1 if it can't tell.
func freeSpace(dir string) int64 {
	var stat unix.Statfs_t
	if unix.Statfs(dir, &stat) != nil {
		return -1
	}
	return int64(stat.Bavail) * int64(stat.Bsize) // Bsize is 32 bits wide on some platforms
}

// syncData syncs a file whose size did not change.
func syncData(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
