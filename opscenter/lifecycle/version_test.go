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
