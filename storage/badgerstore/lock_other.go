//go:build !unix

package badgerstore

import "os"

// lock leaves it to Badger's own lock to keep other processes out.
func lock(*os.File) error { return nil }
