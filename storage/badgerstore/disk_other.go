//go:build !linux

package badgerstore

import "os"

// freeSpace returns -1: the free space is not known here, and not checked.
func freeSpace(string) int64 { return -1 }

func syncData(f *os.File) error { return f.Sync() }
