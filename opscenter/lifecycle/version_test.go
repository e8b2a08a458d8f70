package lifecycle_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

func TestVersions(t *testing.T) {
	v := lifecycle.Versions{OS: lifecycle.OSVersion{Name: lifecycle.OSName, Version: "202610010000"},
		Applications: []lifecycle.ApplicationVersion{{Name: "incus", Version: "202610010000", Primary: true}, {Name: "debug", Version: ""}}}
	newer := map[string]string{"os": "202610150000", "incus": "202610150000", "debug": "202610150000", "openfga": "202610150000"}
	require.Equal(t, map[string]string{"os": "202610150000", "incus": "202610150000"}, v.Outdated(newer), "per component; what is unknown or absent needs none")
	require.False(t, v.NeedsReboot())

	v.OS.VersionNext = "202610150000"
	require.False(t, v.NeedsReboot(), "a next version is staged only if the server says that it needs a reboot")
	require.Equal(t, map[string]string{"os": "202610150000", "incus": "202610150000"}, v.Outdated(newer), "it may be downloaded still")
	v.OS.BackupImage = true
	require.Equal(t, map[string]string{"incus": "202610150000"}, v.Outdated(newer), "IncusOS does not install again what did not boot")
	require.Equal(t, "202610160000", v.Outdated(map[string]string{"os": "202610160000"})["os"], "but what is newer")
	v.OS.BackupImage, v.OS.NeedsReboot = false, true
	require.True(t, v.NeedsReboot(), "a staged version waits for a reboot")
	require.Equal(t, map[string]string{"incus": "202610150000"}, v.Outdated(newer), "the staged version counts")
	v.OS.VersionNext, v.OS.NeedsReboot = v.OS.Version, false
	require.False(t, v.NeedsReboot(), "the same version twice is none that waits")
	v.OS.NeedsReboot = true
	require.True(t, v.NeedsReboot(), "the server's own word counts")

	require.Empty(t, v.Outdated(map[string]string{"os": "202609010000", "incus": "202610010000"}), "older and equal ones are no updates")
	require.Equal(t, map[string]string{"os": "1202608010000"}, v.Outdated(map[string]string{"os": "1202608010000"}), "versions order as numbers, and not as text")
	plain := lifecycle.Versions{OS: lifecycle.OSVersion{Name: "Debian GNU/Linux", Version: "12"}, Applications: []lifecycle.ApplicationVersion{{Name: "incus", Version: "6.0.4", Primary: true}}}
	require.Empty(t, plain.Outdated(newer), "an Incus without IncusOS has nothing to update here")
}

// TestUnreadVersions: a part of the versions that a poll could not read stays as it was.
func TestUnreadVersions(t *testing.T) {
	application := func(name, version string) lifecycle.ApplicationVersion {
		return lifecycle.ApplicationVersion{Name: name, Version: version}
	}
	before := lifecycle.Versions{OS: lifecycle.OSVersion{Name: lifecycle.OSName, Version: "1", VersionNext: "2", BackupImage: true}, UpdateChannel: "stable",
		Applications: []lifecycle.ApplicationVersion{application("incus", "1"), application("debug", "1")}}
	read := lifecycle.Versions{OS: lifecycle.OSVersion{Name: lifecycle.OSName, Version: "1", NeedsReboot: true}, UpdateChannel: "testing",
		Applications: []lifecycle.ApplicationVersion{application("incus", "2"), application("ceph", "1")}}
	after := func(unread lifecycle.VersionParts, read lifecycle.Versions) lifecycle.Versions {
		incus := lifecycle.TypeIncus
		s := begin(t, ready, none)
		s.state.Versions = before
		s.apply(lifecycle.Observation{Ready: true, Type: &incus, Versions: &read, UnreadVersions: unread})
		return s.state.Versions
	}
	require.Equal(t, read, after(0, read))

	os := after(lifecycle.VersionsOS, read)
	require.Equal(t, lifecycle.OSVersion{Name: lifecycle.OSName, Version: "1", VersionNext: "2", NeedsReboot: true}, os.OS, "a server that needs a reboot does not run from its backup image")
	require.Equal(t, "testing", os.UpdateChannel)
	calm := read
	calm.OS.NeedsReboot = false
	require.True(t, after(lifecycle.VersionsOS, calm).OS.BackupImage)

	update := after(lifecycle.VersionsUpdate, read)
	require.Equal(t, "stable", update.UpdateChannel)
	require.False(t, update.OS.NeedsReboot)
	require.True(t, update.OS.BackupImage)
	other := read
	other.OS.Version = "2"
	require.False(t, after(lifecycle.VersionsUpdate, other).OS.BackupImage, "that was about another version")

	applications := after(lifecycle.VersionsApplications, read).Applications
	require.Equal(t, []lifecycle.ApplicationVersion{application("incus", "2"), application("debug", "1"), application("ceph", "1")}, applications, "those that are listed were read")
	require.Equal(t, "1", before.Applications[0].Version, "the argument stays")
}

// TestStaged: a server that needs a reboot, and does not say for which version, has no staged version.
func TestStaged(t *testing.T) {
	staged := func(os lifecycle.OSVersion, component string) string {
		version, ok := lifecycle.Versions{OS: os}.Staged(component)
		require.Equal(t, version != "", ok)
		return version
	}
	require.Equal(t, "1", staged(lifecycle.OSVersion{Name: lifecycle.OSName, Version: "1"}, lifecycle.ComponentOS))
	require.Equal(t, "2", staged(lifecycle.OSVersion{Name: lifecycle.OSName, Version: "1", VersionNext: "2", NeedsReboot: true}, lifecycle.ComponentOS))
	require.Empty(t, staged(lifecycle.OSVersion{Name: lifecycle.OSName, Version: "1", NeedsReboot: true}, lifecycle.ComponentOS))
	require.Empty(t, staged(lifecycle.OSVersion{Name: "Debian", Version: "12"}, lifecycle.ComponentOS))
	require.Empty(t, staged(lifecycle.OSVersion{}, "incus"), "there is no such component")
	require.Nil(t, lifecycle.Versions{OS: lifecycle.OSVersion{Name: lifecycle.OSName, Version: "1", Plain: true}}.Outdated(map[string]string{"os": "2"}))
}
