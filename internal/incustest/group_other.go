//go:build !unix

package incustest

import "os/exec"

// ownGroup has nothing to do where no Incus daemon runs.
func ownGroup(*exec.Cmd) {}
