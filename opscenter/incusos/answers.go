package incusos

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"

	"github.com/opscenter-go/sdk/internal/release"
	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// optional is a member of an answer that may be missing. Some releases and some hardware leave members out,
// or give them another form. Such a member counts as unknown, and the other members stay readable.
type optional[T any] struct {
	value T
	known bool
}

func (t *optional[T]) UnmarshalJSON(data []byte) error {
	var value T
	if bytes.Equal(data, []byte("null")) || json.Unmarshal(data, &value) != nil {
		*t = optional[T]{}
		return nil
	}
	*t = optional[T]{value, true}
	return nil
}

// osRoot is the answer of GET /os/1.0.
type osRoot struct {
	Environment environment `json:"environment"`
}

// environment describes the operating system.
type environment struct {
	OSName             optional[string] `json:"os_name"`
	OSVersion          optional[string] `json:"os_version"`
	OSVersionNext      optional[string] `json:"os_version_next"`
	OSVersionAlternate optional[string] `json:"os_version_alternate"`
	MachineID          optional[string] `json:"machine_id"`
	Ready              optional[bool]   `json:"system_is_ready"`
	Uptime             optional[uptime] `json:"uptime"`
}

// version returns the version of the operating system, and of the next one.
//
// A newer next version is staged if the update section says that a reboot is needed. A newer version that
// is not staged, while no update is in progress, failed to boot. The server then runs from its backup image,
// and its other image has that version. This holds for a server with auto_reboot, too: it reboots before its
// check for updates ends.
func (e *environment) version(update updateSection) lifecycle.OSVersion {
	out := lifecycle.OSVersion{Name: lifecycle.OSName, Version: truncate.Text(e.OSVersion.value, maxText), VersionNext: truncate.Text(e.OSVersionNext.value, maxText)}
	if e.OSName.value != "" {
		out.Name = truncate.Text(e.OSName.value, maxText)
	}
	state := update.State.value
	newer := lifecycle.Newer(out.VersionNext, out.Version)
	if out.NeedsReboot = state.NeedsReboot.value; !state.NeedsReboot.known {
		out.NeedsReboot = update.State.known && newer // the release has no needs_reboot
	}
	status := update.status()
	out.BackupImage = newer && state.NeedsReboot.known && !out.NeedsReboot && status != nil && status.Idle() &&
		(e.OSVersionAlternate.value == "" || e.OSVersionAlternate.value == e.OSVersionNext.value)
	return out
}

// maxUptime is a hundred years, in seconds.
const maxUptime = 100 * 365 * 24 * 3600

// uptime is a number of seconds. Some releases send it as a string.
type uptime time.Duration

func (u *uptime) UnmarshalJSON(data []byte) error {
	seconds, err := strconv.ParseFloat(string(bytes.Trim(data, `"`)), 64)
	if err != nil || !(seconds >= 0 && seconds <= maxUptime) {
		return strconv.ErrRange
	}
	*u = uptime(seconds * float64(time.Second))
	return nil
}

// updateSection is the answer of GET /os/1.0/system/update.
type updateSection struct {
	Config optional[struct {
		Channel        optional[string]            `json:"channel"`
		AutoReboot     optional[bool]              `json:"auto_reboot"`
		CheckFrequency optional[release.Frequency] `json:"check_frequency"`
	}] `json:"config"`
	State optional[struct {
		NeedsReboot optional[bool]      `json:"needs_reboot"`
		Status      optional[string]    `json:"status"`
		LastCheck   optional[time.Time] `json:"last_check"`
	}] `json:"state"`
}

// settings returns the settings for updates, or nil if they are unknown.
func (u *updateSection) settings() *lifecycle.UpdateSettings {
	if !u.Config.known {
		return nil
	}
	c := &u.Config.value
	return &lifecycle.UpdateSettings{AutoReboot: c.AutoReboot.value, Channel: truncate.Text(c.Channel.value, maxText), CheckFrequency: truncate.Text(string(c.CheckFrequency.value), maxText)}
}

// status returns the result of the last check for updates, or nil if it is unknown.
func (u *updateSection) status() *lifecycle.UpdateStatus {
	s := &u.State.value
	if !s.Status.known {
		return nil
	}
	out := &lifecycle.UpdateStatus{Status: truncate.Text(s.Status.value, maxMessage), LastCheck: s.LastCheck.value.UTC()}
	if year := out.LastCheck.Year(); year < firstYear || year > lastYear {
		out.LastCheck = time.Time{} // not the time of a real check
	}
	return out
}

// The years of plausible times. JSON can't represent years after 9999, and Unix nanoseconds can't represent
// years after 2262.
const firstYear, lastYear = 1970, 2200
