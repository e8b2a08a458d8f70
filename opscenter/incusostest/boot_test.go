package incusostest_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/imagetest"
	"github.com/opscenter-go/sdk/opscenter/image"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/seed"
)

// medium returns an installation image with a seed of these files.
func medium(t *testing.T, sector int64, files map[string]string) io.ReaderAt {
	t.Helper()
	partitions := append([]imagetest.Partition{}, imagetest.Small...)
	partitions[4].Fill = []byte("IncusOS 202610010000 x86_64\n")
	made := imagetest.New(imagetest.Options{Sector: sector, Partitions: partitions})
	base, err := image.Open(made, made.Size())
	require.NoError(t, err)
	var archive []byte
	if files != nil {
		s := &seed.Seed{}
		for name, text := range files {
			require.NoError(t, s.Set(name, []byte(text)))
		}
		archive, err = s.Tar()
		require.NoError(t, err)
	}
	seeded, err := base.With(archive)
	require.NoError(t, err)
	return seeded
}

// Boot follows the seed, or stops with the reason on the console.
func TestBoot(t *testing.T) {
	disk := func(id string, gib int64) incusostest.Disk {
		return incusostest.Disk{Bus: "block:nvme:pci", ID: id, Size: gib << 30}
	}
	const install = `{"version":"1"}`
	old := disk("old", 100)
	old.Holds, old.Version = "0123456789abcdef", "202610010000"
	for _, c := range []struct {
		name    string
		sector  int64
		files   map[string]string
		machine incusostest.Machine
		stops   string // text of the console; empty if the machine boots
	}{
		{"installs", 512, map[string]string{"install": install}, incusostest.Machine{}, ""},
		{"installs from a drive", 2048, map[string]string{"install": install}, incusostest.Machine{CDROM: true}, ""},
		{"runs from a stick", 512, map[string]string{"applications": `{"applications":[{"name":"migration-manager"}]}`}, incusostest.Machine{}, ""},
		{"runs without any seed", 512, nil, incusostest.Machine{}, ""},
		{"does not run from a drive", 2048, nil, incusostest.Machine{CDROM: true}, "without seed configuration"},
		{"a raw image in a drive", 512, map[string]string{"install": install}, incusostest.Machine{CDROM: true}, "made for disks"},
		{"an ISO on a stick", 2048, map[string]string{"install": install}, incusostest.Machine{}, "made for CD-ROM drives"},
		{"another architecture", 512, map[string]string{"install": install}, incusostest.Machine{Architecture: "aarch64"}, "the image is for x86_64"},
		{"no application", 512, map[string]string{"install": install, "applications": `{"applications":[]}`}, incusostest.Machine{}, "at least one application"},
		{"two disks", 512, map[string]string{"install": install}, incusostest.Machine{Disks: []incusostest.Disk{disk("a", 100), disk("b", 200)}}, "found 2 potential install devices"},
		{"the largest of two", 512, map[string]string{"install": `{"target":{"sort_order":"largest"}}`}, incusostest.Machine{Disks: []incusostest.Disk{old, disk("b", 200)}}, ""},
		{"selected by ID and bus", 512, map[string]string{"install": `{"target":{"id":"b","bus":"NVMe"}}`}, incusostest.Machine{Disks: []incusostest.Disk{old, disk("b", 200)}}, ""},
		{"on another bus", 512, map[string]string{"install": `{"target":{"bus":"usb"}}`}, incusostest.Machine{}, "no target device matched"},
		{"selected by size", 512, map[string]string{"install": `{"target":{"min_size":"150GiB","max_size":"1TiB"}}`}, incusostest.Machine{Disks: []incusostest.Disk{disk("a", 100), disk("b", 200)}}, ""},
		{"too small", 512, map[string]string{"install": install}, incusostest.Machine{Disks: []incusostest.Disk{disk("a", 40)}}, "no target device matched"},
		{"a used disk", 512, map[string]string{"install": install}, incusostest.Machine{Disks: []incusostest.Disk{old}}, "a partition table already exists"},
		{"a used disk, forced", 512, map[string]string{"install": `{"force_install":true}`}, incusostest.Machine{Disks: []incusostest.Disk{old}}, "force_install_confirmation is required"},
		{"a used disk, confirmed", 512, map[string]string{"install": `{"force_install":true,"force_install_confirmation":"012345"}`}, incusostest.Machine{Disks: []incusostest.Disk{old}}, ""},
		{"the medium stays", 512, map[string]string{"install": install}, incusostest.Machine{LeaveMedium: true}, "Please remove the install media"},
		{"the medium stays, and it reboots", 512, map[string]string{"install": `{"force_reboot":true}`}, incusostest.Machine{LeaveMedium: true}, "already installed"},
		{"an install loop", 512, map[string]string{"install": `{"force_reboot":true,"force_install":true}`}, incusostest.Machine{LeaveMedium: true}, "installation loop"},
		{"no TPM", 512, map[string]string{"install": install}, incusostest.Machine{NoTPM: true}, "no working TPM"},
		{"no TPM, allowed", 512, map[string]string{"install": `{"security":{"missing_tpm":true}}`}, incusostest.Machine{NoTPM: true}, ""},
		{"a TPM, but allowed to be missing", 512, map[string]string{"install": `{"security":{"missing_tpm":true}}`}, incusostest.Machine{}, "a physical TPM was found"},
		{"no Secure Boot", 512, map[string]string{"install": install}, incusostest.Machine{NoSecureBoot: true}, "Secure Boot is disabled"},
		{"Secure Boot, but allowed to be missing", 512, map[string]string{"install": `{"security":{"missing_secure_boot":true}}`}, incusostest.Machine{}, "Secure Boot is enabled"},
		{"no TPM and no Secure Boot", 512, map[string]string{"install": `{"security":{"missing_tpm":true}}`}, incusostest.Machine{NoTPM: true, NoSecureBoot: true}, "cannot run"},
		{"recovery keys", 512, map[string]string{"install": install, "security": `{"encryption_recovery_keys":["x"]}`}, incusostest.Machine{}, "recovery keys"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.machine.Options.Name = "machine"
			server, err := incusostest.Boot(t.Context(), medium(t, c.sector, c.files), c.machine)
			if c.stops != "" {
				require.ErrorIs(t, err, incusostest.ErrBoot)
				require.ErrorContains(t, err, c.stops)
				require.Nil(t, server)
				return
			}
			require.NoError(t, err)
			defer server.Close()
			running, _ := server.Version()
			require.Equal(t, "202610010000", running)
		})
	}
	_, err := incusostest.Boot(t.Context(), bytes.NewReader(make([]byte, 4<<20)), incusostest.Machine{})
	require.ErrorIs(t, err, incusostest.ErrBoot)
	// An invalid seed that was written without validation.
	bad := medium(t, 512, map[string]string{"install": `{"force_reboot":true}`})
	data := make([]byte, 2<<20)
	_, _ = bad.ReadAt(data, 0)
	invalid := bytes.Replace(data, []byte("force_reboot"), []byte("force_rebood"), 1)
	_, err = incusostest.Boot(t.Context(), bytes.NewReader(invalid), incusostest.Machine{})
	require.ErrorContains(t, err, "unable to get install seed")
	require.ErrorContains(t, err, "force_rebood")
}
