//go:build unix

package incustest

import (
	"os/exec"
	"syscall"
)

// ownGroup keeps a command from being stopped by what stops the tests, before they could tidy up.
func ownGroup(command *exec.Cmd) { command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
