package incusostest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/internal/release"
	"github.com/opscenter-go/sdk/opscenter/image"
	"github.com/opscenter-go/sdk/opscenter/seed"
)

// Machine is a machine without an operating system.
type Machine struct {
	// Options of the server that it becomes. The image and its seed say its Application, Version, Architecture and, if they give one, its
	// Name; its Incus is in no cluster.
	Options Options
	// Architecture of its processor. Default "x86_64".
	Architecture string
	// Disks. Default: one of 1 TiB on NVMe.
	Disks []Disk
	// NoTPM: it has none. NoSecureBoot: it is switched off.
	NoTPM, NoSecureBoot bool
	// CDROM: the image is in a CD-ROM drive, or in that of a BMC; else it is on a USB stick.
	CDROM bool
	// LeaveMedium leaves it there after the installation.
	LeaveMedium bool
}

// Disk of a machine.
type Disk struct {
	// Bus, as "nvme", and ID, as its name in /dev/disk/by-id.
	Bus, ID string
	// Size in bytes.
	Size int64
	// Holds is what is installed there: a machine ID; empty: nothing.
	Holds string
	// Version of what is installed there.
	Version string
}

// ErrBoot: a machine stopped, and says why at its console.
var ErrBoot = errors.New("the machine stopped")

func stopped(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBoot, fmt.Sprintf(format, args...))
}

var releaseMarks = regexp.MustCompile(`IncusOS (\d+) (\S+)\n`)

// Boot boots a machine from an installation image, as firmware and IncusOS do. The seed partition is found, and read strictly. The installer obeys the
// install seed; without one a raw image is run from the medium. The first boot goes through security, network, provider and update.
// Then it fetches its primary application from the feed of the provider, and registers.
//
// Errors: ErrBoot, with what the console says. A server that hangs at its first boot is returned with the error of Install.
func Boot(ctx context.Context, medium io.ReaderAt, machine Machine) (*Server, error) {
	machine.Architecture = cmp.Or(machine.Architecture, "x86_64")
	if machine.Disks == nil {
		machine.Disks = []Disk{{Bus: "nvme", ID: "nvme-Simulated_1TB_0001", Size: 1 << 40}}
	}
	layout, err := image.ReadLayout(medium)
	if err != nil {
		return nil, stopped("no bootable medium: %v", err)
	}
	version, err := machine.firmware(medium, layout)
	if err != nil {
		return nil, err
	}
	files, err := seed.Unpack(io.NewSectionReader(medium, layout.SeedOffset, layout.SeedSize))
	if err != nil {
		return nil, stopped("unable to read the seed: %v", err)
	}
	s := &seed.Seed{}
	if err := read(s, files, seed.FileInstall, seed.FileApplications, seed.FileKernel, seed.FileSecurity); err != nil {
		return nil, err
	}
	if err := machine.secure(s.Install); err != nil {
		return nil, err
	}
	switch {
	case s.Install != nil:
		err = machine.install(s, version)
	case machine.CDROM:
		err = stopped("unable to begin install from read-only device '/dev/sr0' without seed configuration")
	}
	if err != nil {
		return nil, err
	}
	return firstBoot(ctx, machine, version, files)
}

// firmware finds what can be booted of a medium.
func (m *Machine) firmware(medium io.ReaderAt, layout *image.Layout) (version string, err error) {
	if layout.ISO() != m.CDROM {
		return "", stopped("no bootable medium: it is made for %s", map[bool]string{true: "CD-ROM drives", false: "disks"}[layout.ISO()])
	}
	last := make([]byte, 256)
	if n, err := medium.ReadAt(last, layout.Size-int64(len(last))); n < len(last) {
		return "", stopped("no bootable medium: %v", err)
	}
	mark := releaseMarks.FindSubmatch(last)
	if mark == nil {
		return "", stopped("no bootable medium: there is no IncusOS on it")
	}
	if string(mark[2]) != m.Architecture {
		return "", stopped("no bootable medium: it is for %s", mark[2])
	}
	return string(mark[1]), nil
}

// read reads some files of a seed, strictly.
func read(into *seed.Seed, files map[string][]byte, names ...string) error {
	for _, name := range names {
		if data, ok := files[name]; ok {
			if err := into.Set(name, data); err != nil {
				return stopped("unable to get %s seed: %v", name, err)
			}
		}
	}
	return nil
}

// secure is IncusOS's check of TPM and Secure Boot.
func (m *Machine) secure(install *seed.Install) error {
	allowed := seed.InstallSecurity{}
	if install != nil && install.Security != nil {
		allowed = *install.Security
	}
	switch {
	case m.NoTPM && m.NoSecureBoot:
		return stopped("cannot run if Secure Boot is disabled and no physical TPM is present")
	case allowed.MissingTPM && allowed.MissingSecureBoot:
		return stopped("install seed cannot enable both Secure Boot and TPM degraded security options")
	case allowed.MissingTPM && !m.NoTPM:
		return stopped("a physical TPM was found, but install seed wants to configure a swtpm-backed TPM")
	case allowed.MissingSecureBoot && !m.NoSecureBoot:
		return stopped("Secure Boot is enabled, but install seed expects it to be disabled")
	case m.NoTPM && install != nil && !allowed.MissingTPM:
		return stopped("no working TPM found, but install seed doesn't allow for use of swtpm")
	case m.NoSecureBoot && install != nil && !allowed.MissingSecureBoot:
		return stopped("Secure Boot is disabled, but install seed doesn't allow this")
	}
	return nil
}

// install is the installer.
func (m *Machine) install(s *seed.Seed, version string) error {
	if s.Applications != nil && len(s.Applications.Applications) == 0 {
		return stopped("at least one application must be defined in the provided applications seed")
	}
	disk, err := m.target(s.Install.Target)
	if err != nil {
		return err
	}
	switch {
	case disk.Holds != "" && !s.Install.ForceInstall:
		return stopped("a partition table already exists on device '%s', and `ForceInstall` from install configuration isn't true", disk.ID)
	case disk.Holds != "" && disk.Version == version && (len(s.Install.ForceInstallConfirmation) != 6 || !strings.HasPrefix(disk.Holds, s.Install.ForceInstallConfirmation)):
		return stopped("release %s is installed on '%s' already: its confirmation is wanted", version, disk.ID)
	case m.LeaveMedium && s.Install.ForceReboot && s.Install.ForceInstall:
		return stopped("it installs itself again and again from the medium that stays")
	case m.LeaveMedium && s.Install.ForceReboot:
		return stopped("install media detected, but the system is already installed; please remove USB/CDROM and reboot the system")
	case m.LeaveMedium:
		return stopped("IncusOS was successfully installed. Please remove the install media to complete the installation")
	}
	return nil
}

// target selects the disk to install on.
func (m *Machine) target(wanted *seed.InstallTarget) (*Disk, error) {
	var fit []*Disk
	least, most := int64(seed.MinDiskSize), int64(1<<62)
	if wanted != nil {
		for _, size := range []struct {
			text string
			into *int64
		}{{wanted.MinSize, &least}, {wanted.MaxSize, &most}} {
			if size.text == "" {
				continue
			}
			n, err := seed.ParseSize(size.text)
			if err != nil {
				return nil, stopped("invalid target size %q", size.text)
			}
			*size.into = n
		}
	}
	for i := range m.Disks {
		d := &m.Disks[i]
		if d.Size < max(least, seed.MinDiskSize) || d.Size > most {
			continue
		}
		if wanted != nil && (!strings.Contains(strings.ToLower(d.Bus), strings.ToLower(wanted.Bus)) || !strings.Contains(d.ID, wanted.ID)) {
			continue
		}
		fit = append(fit, d)
	}
	if wanted != nil && wanted.SortOrder != "" {
		slices.SortStableFunc(fit, func(a, b *Disk) int {
			if wanted.SortOrder == seed.SortLargest {
				a, b = b, a
			}
			return cmp.Compare(a.Size, b.Size)
		})
		fit = fit[:min(len(fit), 1)]
	}
	switch len(fit) {
	case 0:
		return nil, stopped("no target device matched")
	case 1:
		return fit[0], nil
	}
	return nil, stopped("found %d potential install devices, and the target configuration selects none of them", len(fit))
}

// firstBoot is that of a system that was just installed.
func firstBoot(ctx context.Context, machine Machine, version string, files map[string][]byte) (*Server, error) {
	files = maps.Clone(files)
	delete(files, seed.FileInstall)
	s := &seed.Seed{}
	if err := read(s, files, slices.DeleteFunc(slices.Clone(seed.Files), func(name string) bool { return name == seed.FileInstall })...); err != nil {
		return nil, err
	}
	if s.Security != nil && len(s.Security.EncryptionRecoveryKeys) > 0 {
		return nil, stopped("encryption recovery keys can't be seeded")
	}
	options := machine.Options
	options.Application, options.Version, options.Architecture, options.Fresh, options.Standalone = s.Applications.Primary(), version, machine.Architecture, true, true
	if s.Network != nil && s.Network.DNS != nil && s.Network.DNS.Hostname != "" {
		options.Name = s.Network.DNS.Hostname
		if s.Network.DNS.Domain != "" {
			options.Name += "." + s.Network.DNS.Domain
		}
	}
	out, err := New(options)
	if err != nil {
		return nil, err
	}
	if err := out.settle(s, files); err != nil {
		out.Close()
		return nil, err
	}
	if s.Provider == nil || s.Provider.Name != seed.ProviderOperationsCenter {
		out.mu.Lock()
		defer out.mu.Unlock()
		out.state.bare, out.state.ready = false, true // from the public provider
		out.state.applications = []deployed{{options.Application, version, true}}
		return out, nil
	}
	provider, err := providerOf(s.Provider)
	if err != nil {
		out.Close()
		return nil, stopped("unable to get provider seed: %v", err)
	}
	return out, out.Install(ctx, provider)
}

func providerOf(p *seed.Provider) (Provider, error) {
	parsed := providerSeed{Name: p.Name, Config: map[string]string{}}
	for key, value := range p.Config {
		parsed.Config[key] = string(value)
	}
	return parsed.provider()
}

// settle gives a fresh system what its seed says, and keeps the seed for a factory reset.
func (s *Server) settle(from *seed.Seed, files map[string][]byte) error {
	s.mu.Lock()
	s.seeds = files
	if from.Update != nil {
		s.state.update.AutoReboot = from.Update.AutoReboot
		if from.Update.Channel != "" {
			s.state.update.Channel = from.Update.Channel
		}
		if from.Update.CheckFrequency != "" {
			s.state.update.CheckFrequency = release.Frequency(from.Update.CheckFrequency)
		}
	}
	var err error
	if from.Network != nil {
		err = s.network.seeded(s, from.Network)
	}
	s.mu.Unlock()
	if err != nil {
		return stopped("unable to apply the network seed: %v", err)
	}
	if isIncus(s.options.Application) && (from.Incus == nil || from.Incus.ApplyDefaults) {
		s.applyDefaults()
	}
	return nil
}

// seeded takes a seed as the configuration. Without interfaces, bonds and VLANs the default ones stay. s.mu is held.
func (n *network) seeded(s *Server, from *seed.Network) error {
	data, err := from.Config.Encode()
	if err != nil {
		return err
	}
	var config map[string]any
	if err := json.Unmarshal(data, &config); err != nil {
		return err
	}
	if len(from.Interfaces)+len(from.Bonds)+len(from.VLANs) == 0 {
		config["interfaces"] = n.config["interfaces"]
	}
	n.config = config
	before := s.address
	if s.address = n.home(before); s.address != before && !s.off {
		s.hangUp()
		return s.serve()
	}
	return nil
}

// applyDefaults is what Incus does without a seed: it makes a storage pool and a bridge.
func (s *Server) applyDefaults() {
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	location := s.location(d)
	d.put(collectionOf("storage-pools"), "", "", "local", location, map[string]any{"driver": "zfs", "config": map[string]any{"source": "local/incus"}})
	d.put(collectionOf("networks"), "default", "", "incusbr0", location, map[string]any{"type": "bridge", "config": map[string]any{"ipv4.address": "10.1.2.1/24", "ipv4.nat": "true"}})
}
