//go:build !unix

package durable

import "os"

// Lock does nothing and returns nil, since this system has no such locks.
func Lock(*os.File) error { return nil }
