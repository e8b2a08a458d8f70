//go:build unix

package incustest

import (
	"os/exec"
	"syscall"
)

// ownGroup puts a command into its own process group. A signal to the group of the tests then leaves the command running, so that
// the tests can stop it in order.
func ownGroup(command *exec.Cmd) { command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
