package lifecycle

import (
	"fmt"
	"strings"
	"time"
)

// UpdateSettings are how a server updates itself, as far as a control plane has a say in it
// (IncusOS API, SystemUpdateConfig).
type UpdateSettings struct {
	AutoReboot     bool
	Channel        string
	CheckFrequency string
}

// String returns the settings for people.
func (s UpdateSettings) String() string {
	return fmt.Sprintf("channel %s, auto_reboot %t, check_frequency %s", s.Channel, s.AutoReboot, s.CheckFrequency)
}

// ManagedUpdates are the settings of a server whose control plane says when to update, and to
// reboot: never by itself.
func ManagedUpdates(channel string) UpdateSettings {
	return UpdateSettings{Channel: channel, CheckFrequency: "never"}
}

// UpdateStatus is what a server says of its checks for updates (system/update).
type UpdateStatus struct {
	// Status is a text of IncusOS, see Running.
	Status string
	// LastCheck is when the last check began, by the server's clock; zero: it does not say.
	LastCheck time.Time
}

// Running reports whether a check or a download is under way. Releases that check for one kind of
// update after the other say between them that a check is completed.
func (s UpdateStatus) Running() bool {
	switch s.Status {
	case "Secure Boot update check completed", "Application update check completed":
		return true
	}
	return strings.HasPrefix(s.Status, "Running ") || strings.HasPrefix(s.Status, "Checking ")
}

// Idle reports whether the last check has ended, well or not.
func (s UpdateStatus) Idle() bool { return s.Status != "" && !s.Running() }

// checkedSince reports whether a check was made since the server said what it said before. The server's
// clock is compared with itself alone.
func (s UpdateStatus) checkedSince(before *UpdateStatus) bool {
	if before == nil {
		return false
	}
	return !s.LastCheck.Equal(before.LastCheck) || !before.Running() && s.Status != before.Status
}
