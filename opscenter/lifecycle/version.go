package lifecycle

import (
	"slices"
	"strconv"
)

// OSName is what the operating system is called whose updates we speak of.
const OSName = "IncusOS"

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
	// VersionNext is what the server calls its next release. It is staged, and active after the
	// next reboot, only if the server says that it needs a reboot: see Staged.
	VersionNext string
	// NeedsReboot is the server's own word.
	NeedsReboot bool
	// BackupImage tells that the server runs from its backup image: VersionNext did not boot,
	// and IncusOS does not install it again. A release without a status of updates does not tell.
	BackupImage bool `json:",omitempty"`
	// Plain: the server is an Incus server that is not on IncusOS. Nothing that needs the operating
	// system can be done with it: its updates and reboots are not managed.
	Plain bool `json:",omitempty"`
}

// keepUnread returns the versions with the parts that could not be read as they were before.
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
			v.OS.NeedsReboot, v.OS.BackupImage = false, false // that was said of the other one
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

// StagedVersion returns the version that the next reboot makes active; empty: there is none. A
// next release without the server's word that it needs a reboot is not staged: the server
// downloads it still, or runs from its backup image.
func (v OSVersion) StagedVersion() string {
	if !v.NeedsReboot || v.VersionNext == v.Version {
		return ""
	}
	return v.VersionNext
}

// Skipped returns the version that IncusOS does not install again, because it did not boot; empty: there is none.
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

// Staged returns the version of a component that is, or after a reboot will be, active; not
// ok if the server has no such component, or does not tell: releases before 2025-11 say that they need
// a reboot, and not for which version.
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

// NeedsReboot reports whether the server says that it needs a reboot: nothing else tells.
func (v Versions) NeedsReboot() bool { return v.OS.NeedsReboot && !v.OS.Plain }

// Outdated returns, per component that needs an update, the version to update to: the newest
// available one, where it is greater than the staged, else running, version of that component.
// Versions that are not numbers, as those of an Incus without IncusOS, can't be compared, and need none.
// Neither does the operating system's version that the server skips, see OSVersion.Skipped.
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

// ComponentOS is the name of the operating system among the components of an update. The other components have the names
// of the applications.
const ComponentOS = "os"

// Newer reports whether version a is greater than b. Versions are numbers, YYYYMMDDHHMM. A version that is no number is
// neither greater nor smaller than another.
func Newer(a, b string) bool {
	if a == b {
		return false
	}
	x, errX := strconv.ParseUint(a, 10, 64)
	y, errY := strconv.ParseUint(b, 10, 64)
	return errX == nil && errY == nil && x > y
}
