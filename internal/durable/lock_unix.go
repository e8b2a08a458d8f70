//go:build unix

package durable

import (
	"os"

	"golang.org/x/sys/unix"
)

// Lock takes a file for this process, or is an error if another one has. The lock ends with the file's descriptor.
func Lock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
