//go:build !linux && !darwin && !freebsd

package durable

import "errors"

// Space returns how many bytes of the file system of dir are left for us, and how many there are in all.
// errors.ErrUnsupported where that is not known.
func Space(string) (free, total int64, err error) { return 0, 0, errors.ErrUnsupported }
