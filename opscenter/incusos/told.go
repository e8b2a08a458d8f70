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

// told is a member of an answer. Releases of every age and odd hardware leave members out, or
// give them another form: that is not told, and costs none of the others.
type told[T any] struct {
	value T
	told  bool
}

func (t *told[T]) UnmarshalJSON(data []byte) error {
	var value T
	if bytes.Equal(data, []byte("null")) || json.Unmarshal(data, &value) != nil {
		*t = told[T]{}
		return nil
	}
	*t = told[T]{value, true}
	return nil
}

// osRoot is what GET /os/1.0 tells.
type osRoot struct {
	Environment environment `json:"environment"`
}

type environment struct {
	OSName             told[string] `json:"os_name"`
	OSVersion          told[string] `json:"os_version"`
	OSVersionNext      told[string] `json:"os_version_next"`
	OSVersionAlternate told[string] `json:"os_version_alternate"`
	MachineID          told[string] `json:"machine_id"`
	Ready              told[bool]   `json:"system_is_ready"`
	Uptime             told[uptime] `json:"uptime"`
}

// version returns the version of the operating system. Whether the next one is staged is the
// server's word in system/update. A next one that is not, while no update is under way, is one
// that did not boot: the server runs from its backup image, and the other image it has is that one.
// With auto_reboot too: such a server reboots before its check ends.
func (e *environment) version(update updateSection) lifecycle.OSVersion {
	out := lifecycle.OSVersion{Name: lifecycle.OSName, Version: truncate.Text(e.OSVersion.value, maxText), VersionNext: truncate.Text(e.OSVersionNext.value, maxText)}
	if e.OSName.value != "" {
		out.Name = truncate.Text(e.OSName.value, maxText)
	}
	state := update.State.value
	newer := lifecycle.Newer(out.VersionNext, out.Version)
	if out.NeedsReboot = state.NeedsReboot.value; !state.NeedsReboot.told {
		out.NeedsReboot = update.State.told && newer // the release does not say
	}
	status := update.status()
	out.BackupImage = newer && state.NeedsReboot.told && !out.NeedsReboot && status != nil && status.Idle() &&
		(e.OSVersionAlternate.value == "" || e.OSVersionAlternate.value == e.OSVersionNext.value)
	return out
}

// maxUptime is a hundred years, in seconds.
const maxUptime = 100 * 365 * 24 * 3600

// uptime has been both a number and a string of digits, of seconds.
type uptime time.Duration

func (u *uptime) UnmarshalJSON(data []byte) error {
	seconds, err := strconv.ParseFloat(string(bytes.Trim(data, `"`)), 64)
	if err != nil || !(seconds >= 0 && seconds <= maxUptime) {
		return strconv.ErrRange
	}
	*u = uptime(seconds * float64(time.Second))
	return nil
}

// updateSection is what GET /os/1.0/system/update tells.
type updateSection struct {
	Config told[struct {
		Channel        told[string]            `json:"channel"`
		AutoReboot     told[bool]              `json:"auto_reboot"`
		CheckFrequency told[release.Frequency] `json:"check_frequency"`
	}] `json:"config"`
	State told[struct {
		NeedsReboot told[bool]      `json:"needs_reboot"`
		Status      told[string]    `json:"status"`
		LastCheck   told[time.Time] `json:"last_check"`
	}] `json:"state"`
}

// settings returns how the server updates itself; nil: it does not say.
func (u *updateSection) settings() *lifecycle.UpdateSettings {
	if !u.Config.told {
		return nil
	}
	c := &u.Config.value
	return &lifecycle.UpdateSettings{AutoReboot: c.AutoReboot.value, Channel: truncate.Text(c.Channel.value, maxText), CheckFrequency: truncate.Text(string(c.CheckFrequency.value), maxText)}
}

// status returns how its last check for updates went; nil: it does not say.
func (u *updateSection) status() *lifecycle.UpdateStatus {
	s := &u.State.value
	if !s.Status.told {
		return nil
	}
	out := &lifecycle.UpdateStatus{Status: truncate.Text(s.Status.value, maxMessage), LastCheck: s.LastCheck.value.UTC()}
	if year := out.LastCheck.Year(); year < firstYear || year > lastYear {
		out.LastCheck = time.Time{} // no check was made then
	}
	return out
}

// Years of which a time is believed. JSON has no form for those beyond 9999, and Unix
// nanoseconds none for those beyond 2262.
const firstYear, lastYear = 1970, 2200
