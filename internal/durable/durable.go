// Package durable is what the operating systems do differently about files that are to last.
package durable

import (
	"errors"
	"os"
	"runtime"
)

// SyncDir puts the names in a directory on disk: of files that were made there, renamed or removed.
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
