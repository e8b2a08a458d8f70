//go:build !unix

package durable

import "os"

// Lock does nothing where the system has no such lock.
func Lock(*os.File) error { return nil }
