//go:build unix

package durable

import (
	"os"

	"golang.org/x/sys/unix"
)

// Lock locks a file for this process. It returns an error if another process holds the lock. Closing the file ends the lock.
func Lock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
