// Package release knows what IncusOS releases of different ages say differently. A release is
// named by its version, YYYYMMDDHHMM.
package release

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// First releases that have something. The first four are IncusOS's own dates; those of the
// others are estimates, of which only the order is relied on, by the simulator alone.
const (
	// SecurityReads: to read system/security marks the recovery keys as retrieved no more.
	SecurityReads = "202608160000"
	// Primary: applications tell is_primary.
	Primary = "202606240000"
	// MachineID: /os/1.0 tells machine_id.
	MachineID = "202605290000"
	// FrequencyText: check_frequency is a text, and not a number of nanoseconds.
	FrequencyText = "202510280000"

	// Ready: /os/1.0 tells system_is_ready.
	Ready = "202604010000"
	// Confirmation: changes of the network can be confirmed (confirmation_timeout, configuration_in_process).
	Confirmation = "202602010000"
	// NextVersion: /os/1.0 tells uptime, os_version_next and os_version_alternate.
	NextVersion = "202511010000"
)

// Before reports whether a version is known, and older than a release.
func Before(version, release string) bool {
	have, err := strconv.ParseUint(version, 10, 64)
	than, _ := strconv.ParseUint(release, 10, 64)
	return err == nil && have < than
}

// Has reports whether a version is known, and is that release or a later one.
func Has(version, release string) bool {
	_, err := strconv.ParseUint(version, 10, 64)
	return err == nil && !Before(version, release)
}

// Never is the update frequency of a server that does not look for updates by itself.
const Never = "never"

// never stands for Never where a frequency is a number.
const never = 10 * 365 * 24 * time.Hour

// Frequency is how often a server looks for updates: "never", or a duration such as "6h0m0s". In
// JSON it is a text, or a number of nanoseconds as in releases before FrequencyText. What is
// neither is kept out: it reads as the empty Frequency, which is unknown.
type Frequency string

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

// Nanoseconds returns the frequency as releases before FrequencyText take it.
func (f Frequency) Nanoseconds() (int64, error) {
	if f == Never {
		return int64(never), nil
	}
	d, err := time.ParseDuration(string(f))
	if err != nil || d < 0 {
		return 0, fmt.Errorf("update frequency %.40q is no duration", string(f))
	}
	return int64(d), nil
}
