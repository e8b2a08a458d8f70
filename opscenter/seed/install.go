package seed

import (
	"fmt"
	"strconv"
	"strings"
)

// Install makes the medium an installer: a server that boots from it installs IncusOS to a disk. Without this file, a server
// runs a raw image directly from the medium, and an ISO stops.
type Install struct {
	Version Version `json:"version"`
	// ForceInstall overwrites a disk that is not empty. If ForceReboot is also set and the medium stays in the drive, the
	// server reinstalls itself at every boot.
	ForceInstall bool `json:"force_install,omitempty"`
	// ForceInstallConfirmation is required to overwrite an installation of the same release: the first six characters of
	// its machine ID.
	ForceInstallConfirmation string `json:"force_install_confirmation,omitempty"`
	// ForceReboot reboots after the installation, without waiting for the medium to be removed.
	ForceReboot bool `json:"force_reboot,omitempty"`
	// Security relaxes the requirements on the server; nil: it must have a TPM and Secure Boot.
	Security *InstallSecurity `json:"security,omitempty"`
	// Target selects the disk; nil: the server must have exactly one suitable disk.
	Target *InstallTarget `json:"target,omitempty"`
}

// InstallSecurity relaxes the security requirements. At most one field may be set.
type InstallSecurity struct {
	// MissingTPM installs a server without a TPM, with a software TPM. A server with a TPM rejects it.
	MissingTPM bool `json:"missing_tpm,omitempty"`
	// MissingSecureBoot installs a server with Secure Boot off. A server with Secure Boot on rejects it.
	MissingSecureBoot bool `json:"missing_secure_boot,omitempty"`
}

// InstallTarget selects the disk that matches all fields that are set. The disk must have at least MinDiskSize bytes.
type InstallTarget struct {
	// Bus is a part of lsblk's SUBSYSTEMS, in any case: nvme, scsi, usb.
	Bus string `json:"bus,omitempty"`
	// ID is a part of a name in /dev/disk/by-id.
	ID string `json:"id,omitempty"`
	// MinSize and MaxSize are sizes as ParseSize reads them, such as 100GiB or 1TiB.
	MinSize string `json:"min_size,omitempty"`
	MaxSize string `json:"max_size,omitempty"`
	// SortOrder selects one of several matching disks: SortSmallest or SortLargest. Without it exactly one must match.
	SortOrder string `json:"sort_order,omitempty"`
}

// Values of InstallTarget.SortOrder, and the limit of its sizes.
const (
	SortSmallest = "smallest"
	SortLargest  = "largest"
	// MinDiskSize is the minimum size of a disk for IncusOS, in bytes.
	MinDiskSize = 50 << 30
)

func (i *Install) validate(v *validation) {
	if s := i.Security; s != nil && s.MissingTPM && s.MissingSecureBoot {
		v.add("security", "missing_tpm and missing_secure_boot exclude each other: a server with neither can't be installed")
	}
	if c := i.ForceInstallConfirmation; c != "" && len(c) != 6 {
		v.add("force_install_confirmation", "it must be the first six characters of a machine ID")
	}
	t := i.Target
	if t == nil {
		return
	}
	least, most := int64(MinDiskSize), int64(-1)
	for _, size := range []struct {
		field, text string
		set         func(int64)
	}{{"target.min_size", t.MinSize, func(n int64) { least = max(least, n) }}, {"target.max_size", t.MaxSize, func(n int64) { most = n }}} {
		if size.text == "" {
			continue
		}
		if n, err := ParseSize(size.text); err != nil {
			v.add(size.field, "%s is not a size such as 100GiB", shown(size.text))
		} else {
			size.set(n)
		}
	}
	if most >= 0 && most < least {
		v.add("target.max_size", "%s is less than %s: no disk can match", shown(t.MaxSize), map[bool]string{true: "the 50 GiB that IncusOS needs", false: "min_size"}[least == MinDiskSize])
	}
	if t.SortOrder != "" && t.SortOrder != SortSmallest && t.SortOrder != SortLargest {
		v.add("target.sort_order", "%s is neither %s nor %s", shown(t.SortOrder), SortSmallest, SortLargest)
	}
	for field, text := range map[string]string{"target.bus": t.Bus, "target.id": t.ID} {
		if strings.ContainsAny(text, " /\t\n") {
			v.add(field, "%s has characters that no disk name contains", shown(text))
		}
	}
}

// units are the suffixes of sizes, as Incus reads them.
var units = []struct {
	suffix string
	bytes  int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"PiB", 1 << 50}, {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"PB", 1e15}, {"B", 1}, {"", 1}}

// ParseSize returns a size such as 100GiB or 1TB in bytes. A number without a unit is in bytes.
func ParseSize(text string) (int64, error) {
	for _, unit := range units {
		digits, ok := strings.CutSuffix(text, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n < 0 || n > (1<<62)/unit.bytes {
			return 0, fmt.Errorf("%q is not a size", text)
		}
		return n * unit.bytes, nil
	}
	return 0, fmt.Errorf("%q is not a size", text)
}
