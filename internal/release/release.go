// Package release knows the differences between the APIs of IncusOS releases. A release is named by its version, YYYYMMDDHHMM.
package release

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// The first releases with a feature. The dates of the first four are those of IncusOS. The others are estimates; only the
// simulator uses them, and relies only on their order.
const (
	// SecurityReads: reading system/security no longer marks the recovery keys as retrieved.
	SecurityReads = "202608160000"
	// Primary: applications have is_primary.
	Primary = "202606240000"
	// MachineID: /os/1.0 has machine_id.
	MachineID = "202605290000"
	// FrequencyText: check_frequency is a string. Before, it is a number of nanoseconds.
	FrequencyText = "202510280000"

	// Ready: /os/1.0 has system_is_ready.
	Ready = "202604010000"
	// Confirmation: changes of the network can be confirmed (confirmation_timeout, configuration_in_process).
	Confirmation = "202602010000"
	// NextVersion: /os/1.0 has uptime, os_version_next and os_version_alternate.
	NextVersion = "202511010000"
)

// Before reports whether a version is a number and older than the release.
func Before(version, release string) bool {
	have, err := strconv.ParseUint(version, 10, 64)
	than, _ := strconv.ParseUint(release, 10, 64)
	return err == nil && have < than
}

// Has reports whether a version is a number and at least the release.
func Has(version, release string) bool {
	_, err := strconv.ParseUint(version, 10, 64)
	return err == nil && !Before(version, release)
}

// Never is the Frequency of a server that checks for updates only on request.
const Never = "never"

// never is the number that stands for Never in releases before FrequencyText.
const never = 10 * 365 * 24 * time.Hour

// Frequency is how often a server checks for updates: Never, or a duration such as "6h0m0s". In JSON it is a string, or a number
// of nanoseconds in releases before FrequencyText. Any other JSON value reads as the empty Frequency, which means unknown.
type Frequency string

// UnmarshalJSON implements json.Unmarshaler.
func (f *Frequency) UnmarshalJSON(data []byte) error {
	*f = ""
	if bytes.HasPrefix(data, []byte(`"`)) {
		var text string
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
		*f = Frequency(text)
		return nil
	}
	if n, err := strconv.ParseInt(string(data), 10, 64); err == nil && n >= 0 {
		if *f = Frequency(time.Duration(n).String()); time.Duration(n) >= never {
			*f = Never
		}
	}
	return nil
}

// Nanoseconds returns the frequency in the form of releases before FrequencyText. An error means that f is no duration.
func (f Frequency) Nanoseconds() (int64, error) {
	if f == Never {
		return int64(never), nil
	}
	d, err := time.ParseDuration(string(f))
	if err != nil || d < 0 {
		return 0, fmt.Errorf("update frequency %.40q is not a duration", string(f))
	}
	return int64(d), nil
}
