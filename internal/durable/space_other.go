//go:build !linux && !darwin && !freebsd

package durable

import "errors"

// Space returns the number of bytes that this process can still write to the file system of a directory, and the total number.
// It returns errors.ErrUnsupported on this system.
func Space(string) (free, total int64, err error) { return 0, 0, errors.ErrUnsupported }
