// Package durable wraps the file functions that differ between operating systems: durable renames, locks and free space.
package durable

import (
	"errors"
	"os"
	"runtime"
)

// SyncDir makes the creation, renaming and removal of files in a directory durable.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // NTFS writes its journal by itself, and directories can't be synced
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
