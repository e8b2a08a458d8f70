//go:build !unix

package incustest

import "os/exec"

// ownGroup does nothing, since Incus daemons run only on Linux.
func ownGroup(*exec.Cmd) {}
