package seed

import (
	"fmt"
	"strconv"
	"strings"
)

// Install makes the medium an installer: a server that boots it is installed. Without it a raw image is run from the medium,
// and an ISO stops.
type Install struct {
	Version Version `json:"version"`
	// ForceInstall installs over what is on the disk. With ForceReboot, and a medium that stays in its drive, the server
	// installs itself again and again.
	ForceInstall bool `json:"force_install,omitempty"`
	// ForceInstallConfirmation is wanted where the same release is installed already: the first six characters of its
	// machine ID.
	ForceInstallConfirmation string `json:"force_install_confirmation,omitempty"`
	// ForceReboot reboots after the installation, without waiting for the medium to be removed.
	ForceReboot bool             `json:"force_reboot,omitempty"`
	Security    *InstallSecurity `json:"security,omitempty"`
	// Target is the disk to install on; nil: there must be exactly one that can be.
	Target *InstallTarget `json:"target,omitempty"`
}

// InstallSecurity allows a server to run with less security. Both exclude each other.
type InstallSecurity struct {
	// MissingTPM: there is no TPM, and one of software is used. A server that has one refuses it.
	MissingTPM bool `json:"missing_tpm,omitempty"`
	// MissingSecureBoot: Secure Boot is off. A server where it is on refuses it.
	MissingSecureBoot bool `json:"missing_secure_boot,omitempty"`
}

// InstallTarget selects the disk: all that is set must hold. Disks of less than MinDiskSize are never taken.
type InstallTarget struct {
	// Bus is part of what lsblk prints as SUBSYSTEMS, whatever its case: nvme, scsi, usb.
	Bus string `json:"bus,omitempty"`
	// ID is part of a name in /dev/disk/by-id.
	ID string `json:"id,omitempty"`
	// MinSize and MaxSize, as 100GiB or 1TiB.
	MinSize string `json:"min_size,omitempty"`
	MaxSize string `json:"max_size,omitempty"`
	// SortOrder takes the SortSmallest or the SortLargest of those that match. Without it there must be one alone.
	SortOrder string `json:"sort_order,omitempty"`
}

const (
	SortSmallest = "smallest"
	SortLargest  = "largest"
	// MinDiskSize is the least that IncusOS is installed on, in bytes.
	MinDiskSize = 50 << 30
)

func (i *Install) validate(v *validation) {
	if s := i.Security; s != nil && s.MissingTPM && s.MissingSecureBoot {
		v.add("security", "missing_tpm and missing_secure_boot exclude each other: a server with neither can't be installed")
	}
	if c := i.ForceInstallConfirmation; c != "" && len(c) != 6 {
		v.add("force_install_confirmation", "six characters are wanted, the first ones of a machine ID")
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
			v.add(size.field, "%s is no size, as 100GiB", shown(size.text))
		} else {
			size.set(n)
		}
	}
	if most >= 0 && most < least {
		v.add("target.max_size", "%s is less than %s: no disk can be both", shown(t.MaxSize), map[bool]string{true: "the 50 GiB that IncusOS takes", false: "min_size"}[least == MinDiskSize])
	}
	if t.SortOrder != "" && t.SortOrder != SortSmallest && t.SortOrder != SortLargest {
		v.add("target.sort_order", "%s is neither %s nor %s", shown(t.SortOrder), SortSmallest, SortLargest)
	}
	for field, text := range map[string]string{"target.bus": t.Bus, "target.id": t.ID} {
		if strings.ContainsAny(text, " /\t\n") {
			v.add(field, "%s has characters that the name of no disk has", shown(text))
		}
	}
}

// units of sizes, as Incus reads them.
var units = []struct {
	suffix string
	bytes  int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"PiB", 1 << 50}, {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}, {"PB", 1e15}, {"B", 1}, {"", 1}}

// ParseSize reads a size, as 100GiB or 1TB, and returns it in bytes.
func ParseSize(text string) (int64, error) {
	for _, unit := range units {
		digits, ok := strings.CutSuffix(text, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n < 0 || n > (1<<62)/unit.bytes {
			return 0, fmt.Errorf("%q is no size", text)
		}
		return n * unit.bytes, nil
	}
	return 0, fmt.Errorf("%q is no size", text)
}
