//go:build unix

package badgerstore

import (
	"os"

	"golang.org/x/sys/unix"
)

// lock takes the store for this process. The lock ends with the file's descriptor.
func lock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
