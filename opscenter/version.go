package opscenter

import (
	"fmt"
	"strconv"

	"github.com/opscenter-go/sdk/opscenter/rolling"
)

// OSName is what the operating system is called whose updates we speak of.
const OSName = "IncusOS"

// ComponentOS is the name of the operating system among the components of an update; the
// others have the names of the applications.
const ComponentOS = rolling.ComponentOS

// Versions is what runs on a server.
type Versions struct {
	OS           OSVersion
	Applications []ApplicationVersion
	// UpdateChannel is the channel the server itself is set to.
	UpdateChannel string
}

// OSVersion is the version of the operating system.
type OSVersion struct {
	Name string // OSName, or what else an Incus runs on
	// Version runs now.
	Version string
	// VersionNext is active after the next reboot, if it differs from Version.
	VersionNext string
	// NeedsReboot is the server's own word.
	NeedsReboot bool
}

// ApplicationVersion is the version of one application.
type ApplicationVersion struct {
	Name            string
	Version         string
	FriendlyVersion string
	Primary         bool
}

// Staged returns the version of a component that is, or after a reboot will be, active; not
// ok if the server has no such component.
func (v Versions) Staged(component string) (string, bool) {
	if component == ComponentOS {
		if v.OS.Name != OSName {
			return "", false
		}
		if v.OS.VersionNext != "" {
			return v.OS.VersionNext, true
		}
		return v.OS.Version, true
	}
	for _, a := range v.Applications {
		if a.Name == component {
			return a.Version, true
		}
	}
	return "", false
}

// NeedsReboot reports whether a staged version waits for a reboot, or the server says it needs one.
func (v Versions) NeedsReboot() bool {
	return v.OS.NeedsReboot || (v.OS.VersionNext != "" && v.OS.VersionNext != v.OS.Version)
}

// Outdated returns, per component that needs an update, the version to update to: the newest
// available one, where it is greater than the staged, else running, version of that component.
// Versions that are not numbers, as those of an Incus without IncusOS, can't be compared, and need none.
func (v Versions) Outdated(available map[string]string) map[string]string {
	var out map[string]string
	note := func(component, have string) {
		if newest, ok := available[component]; ok && rolling.Newer(newest, have) {
			if out == nil {
				out = map[string]string{}
			}
			out[component] = newest
		}
	}
	if have, ok := v.Staged(ComponentOS); ok {
		note(ComponentOS, have)
	}
	for _, a := range v.Applications {
		note(a.Name, a.Version)
	}
	return out
}

// checkVersion wants a number in decimal digits.
func checkVersion(version string) error {
	if _, err := strconv.ParseUint(version, 10, 64); err != nil || version[0] == '+' {
		return fmt.Errorf("version %q: digits are wanted, as in 202608150000: %w", version, ErrInvalidVersion)
	}
	return nil
}
