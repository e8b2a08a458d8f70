package lifecycle

import (
	"slices"
	"strconv"
)

// OSName is the name of the operating system that a control plane updates.
const OSName = "IncusOS"

// Versions are the versions of the software on a server.
type Versions struct {
	OS           OSVersion
	Applications []ApplicationVersion
	// UpdateChannel is the channel in the server's own settings.
	UpdateChannel string
}

// OSVersion is the version of the operating system.
type OSVersion struct {
	// Name is OSName, or the name of another operating system that Incus runs on.
	Name string
	// Version runs now.
	Version string
	// VersionNext is the server's next release. It is staged, that is active after the next reboot, only if NeedsReboot is
	// set: see StagedVersion.
	VersionNext string
	// NeedsReboot: the server says that it needs a reboot.
	NeedsReboot bool
	// BackupImage: the server runs from its backup image, because VersionNext did not boot. IncusOS does not install that
	// version again. Releases without a status of updates do not tell it.
	BackupImage bool `json:",omitempty"`
	// Plain: the server runs Incus on another operating system than IncusOS. Its updates and reboots are not managed.
	Plain bool `json:",omitempty"`
}

// keepUnread returns the versions. The parts that could not be read are those of before.
func (v Versions) keepUnread(before Versions, unread VersionParts) Versions {
	if unread&VersionsOS != 0 {
		needs := v.OS.NeedsReboot
		v.OS = before.OS
		v.OS.NeedsReboot, v.OS.BackupImage = needs, before.OS.BackupImage && !needs
	}
	if unread&VersionsUpdate != 0 {
		v.UpdateChannel = before.UpdateChannel
		v.OS.NeedsReboot, v.OS.BackupImage = before.OS.NeedsReboot, before.OS.BackupImage
		if v.OS.Version != before.OS.Version {
			v.OS.NeedsReboot, v.OS.BackupImage = false, false // they were about the version before
		}
	}
	if unread&VersionsApplications != 0 {
		read := v.Applications
		v.Applications = slices.Clone(before.Applications)
		for _, a := range read {
			i := slices.IndexFunc(v.Applications, func(known ApplicationVersion) bool { return known.Name == a.Name })
			if i < 0 {
				v.Applications = append(v.Applications, a)
			} else {
				v.Applications[i] = a
			}
		}
	}
	return v
}

// StagedVersion returns the version that the next reboot makes active; empty: there is none. If the server has a VersionNext,
// but does not say that it needs a reboot, that version is not staged: the server still downloads it, or runs from its
// backup image.
func (v OSVersion) StagedVersion() string {
	if !v.NeedsReboot || v.VersionNext == v.Version {
		return ""
	}
	return v.VersionNext
}

// Skipped returns the version that did not boot, and that IncusOS therefore does not install again; empty: there is none.
func (v OSVersion) Skipped() string {
	if !v.BackupImage {
		return ""
	}
	return v.VersionNext
}

// ApplicationVersion is the version of one application.
type ApplicationVersion struct {
	Name            string
	Version         string
	FriendlyVersion string
	Primary         bool
}

// Staged returns the version of a component that is active now, or that the next reboot makes active. It returns false if
// the server has no such component, or does not tell the version: releases before 2025-11 say that they need a reboot, but
// not for which version.
func (v Versions) Staged(component string) (string, bool) {
	if component == ComponentOS {
		if v.OS.Name != OSName {
			return "", false
		}
		if staged := v.OS.StagedVersion(); staged != "" {
			return staged, true
		}
		if v.OS.NeedsReboot && v.OS.VersionNext == "" {
			return "", false
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

// NeedsReboot reports whether the server says that it needs a reboot. It is false for a server that is not on IncusOS.
func (v Versions) NeedsReboot() bool { return v.OS.NeedsReboot && !v.OS.Plain }

// Outdated returns the components that need an update, and the version to update each to. available are the newest versions
// by component. A component needs an update if that version is greater than its staged version, or if none is staged, than
// its running one. A version that is not a number cannot be compared, and a server that is not on IncusOS has no updates:
// neither needs one. The operating system does not need the version that OSVersion.Skipped returns.
func (v Versions) Outdated(available map[string]string) map[string]string {
	if v.OS.Plain {
		return nil
	}
	var out map[string]string
	note := func(component, have string) {
		if newest, ok := available[component]; ok && Newer(newest, have) {
			if out == nil {
				out = map[string]string{}
			}
			out[component] = newest
		}
	}
	if have, ok := v.Staged(ComponentOS); ok && available[ComponentOS] != v.OS.Skipped() {
		note(ComponentOS, have)
	}
	for _, a := range v.Applications {
		note(a.Name, a.Version)
	}
	return out
}

// ComponentOS is the name of the operating system among the components of an update. The other components are named after
// their applications.
const ComponentOS = "os"

// Newer reports whether version a is greater than b. Versions are numbers, YYYYMMDDHHMM. It is false if one of them is not a
// number.
func Newer(a, b string) bool {
	if a == b {
		return false
	}
	x, errX := strconv.ParseUint(a, 10, 64)
	y, errY := strconv.ParseUint(b, 10, 64)
	return errX == nil && errY == nil && x > y
}
