package lifecycle

import (
	"fmt"
	"strings"
	"time"
)

// UpdateSettings are the settings of a server's own updates that a control plane manages: a part of SystemUpdateConfig in
// IncusOS's API.
type UpdateSettings struct {
	AutoReboot     bool
	Channel        string
	CheckFrequency string
}

// String returns the settings as operators read them.
func (s UpdateSettings) String() string {
	return fmt.Sprintf("channel %s, auto_reboot %t, check_frequency %s", s.Channel, s.AutoReboot, s.CheckFrequency)
}

// ManagedUpdates returns the settings of a server that updates and reboots only when the control plane asks it to.
func ManagedUpdates(channel string) UpdateSettings {
	return UpdateSettings{Channel: channel, CheckFrequency: "never"}
}

// UpdateStatus is what a server says of its checks for updates: a part of system/update in IncusOS's API.
type UpdateStatus struct {
	// Status is a text that IncusOS writes for operators. Running and Idle interpret it.
	Status string
	// LastCheck is when the last check began, by the server's clock; zero: the server does not say.
	LastCheck time.Time
}

// Running reports whether a check or a download is under way. Some releases check for one kind of update after the other, and
// say in between that one check is completed.
func (s UpdateStatus) Running() bool {
	switch s.Status {
	case "Secure Boot update check completed", "Application update check completed":
		return true
	}
	return strings.HasPrefix(s.Status, "Running ") || strings.HasPrefix(s.Status, "Checking ")
}

// Idle reports whether the last check has ended, with success or not.
func (s UpdateStatus) Idle() bool { return s.Status != "" && !s.Running() }

// checkedSince reports whether the server has made another check since that earlier status. It compares times of the
// server's clock only with each other.
func (s UpdateStatus) checkedSince(before *UpdateStatus) bool {
	if before == nil {
		return false
	}
	return !s.LastCheck.Equal(before.LastCheck) || !before.Running() && s.Status != before.Status
}
