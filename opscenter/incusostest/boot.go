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

// Machine describes a machine without an operating system, for Boot. The zero value boots from a USB stick.
type Machine struct {
	// Options are those of the installed server. The image and its seed override Application, Version and
	// Architecture, and Name if the seed has a host name. The server is Standalone.
	Options Options
	// Architecture is that of the processor. Default "x86_64".
	Architecture string
	// Disks are the disks to install on. Default: one of 1 TiB on NVMe.
	Disks []Disk
	// NoTPM means that the machine has no TPM. NoSecureBoot means that Secure Boot is off.
	NoTPM, NoSecureBoot bool
	// CDROM means that the image is in a CD-ROM drive, such as the virtual one of a BMC. Default: on a USB stick.
	CDROM bool
	// LeaveMedium leaves the image in the machine after the installation.
	LeaveMedium bool
}

// Disk is a disk of a Machine.
type Disk struct {
	// Bus is the kind of bus, such as "nvme". ID is the name in /dev/disk/by-id.
	Bus, ID string
	// Size is in bytes.
	Size int64
	// Holds is the machine ID of the system installed on the disk; empty if there is none.
	Holds string
	// Version is that of the installed system.
	Version string
}

// ErrBoot means that a machine stopped. The error has the text of its console.
var ErrBoot = errors.New("the machine stopped")

func stopped(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBoot, fmt.Sprintf(format, args...))
}

var releaseMarks = regexp.MustCompile(`IncusOS (\d+) (\S+)\n`)

// Boot boots a machine from an installation image, like firmware and IncusOS. It reads the seed partition
// strictly. With an install seed, it runs the installer. Without one, it runs a raw image from the medium. The
// first boot applies the seeds of security, network, provider and update. Then the server fetches its primary
// application from the feed of its provider, and registers.
//
// Errors: ErrBoot with the text of the console. If the first boot fails to install the application or to
// register, Boot returns both the server and the error of Install. The caller must close the server.
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
	if err := machine.checkSecurity(s.Install); err != nil {
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

// firmware checks that the machine can boot a medium, and returns the version on it.
func (m *Machine) firmware(medium io.ReaderAt, layout *image.Layout) (version string, err error) {
	if layout.ISO() != m.CDROM {
		return "", stopped("no bootable medium: the image is made for %s", map[bool]string{true: "CD-ROM drives", false: "disks"}[layout.ISO()])
	}
	last := make([]byte, 256)
	if n, err := medium.ReadAt(last, layout.Size-int64(len(last))); n < len(last) {
		return "", stopped("no bootable medium: %v", err)
	}
	mark := releaseMarks.FindSubmatch(last)
	if mark == nil {
		return "", stopped("no bootable medium: no IncusOS found")
	}
	if string(mark[2]) != m.Architecture {
		return "", stopped("no bootable medium: the image is for %s", mark[2])
	}
	return string(mark[1]), nil
}

// read parses the named files of a seed strictly.
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

// checkSecurity checks TPM and Secure Boot like IncusOS.
func (m *Machine) checkSecurity(install *seed.Install) error {
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

// install runs the checks of the installer.
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
		return stopped("release %s is already installed on '%s': force_install_confirmation is required", version, disk.ID)
	case m.LeaveMedium && s.Install.ForceReboot && s.Install.ForceInstall:
		return stopped("installation loop: the machine installs again at each boot from the medium")
	case m.LeaveMedium && s.Install.ForceReboot:
		return stopped("install media detected, but the system is already installed; please remove USB/CDROM and reboot the system")
	case m.LeaveMedium:
		return stopped("IncusOS was successfully installed. Please remove the install media to complete the installation")
	}
	return nil
}

// target selects the disk for the installation.
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

// firstBoot boots the installed system for the first time.
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
	if err := out.applySeed(s, files); err != nil {
		out.Close()
		return nil, err
	}
	if s.Provider == nil || s.Provider.Name != seed.ProviderOperationsCenter {
		out.mu.Lock()
		defer out.mu.Unlock()
		out.state.bare, out.state.ready = false, true // installed from the public provider
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

// applySeed configures a fresh system by its seed, and keeps the seed for a factory reset.
func (s *Server) applySeed(from *seed.Seed, files map[string][]byte) error {
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
		err = s.network.setFromSeed(s, from.Network)
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

// setFromSeed sets the configuration from a seed. Without interfaces, bonds and VLANs the default interfaces stay. s.mu is held.
func (n *network) setFromSeed(s *Server, from *seed.Network) error {
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
	if s.address = n.configuredAddress(before); s.address != before && !s.off {
		s.stopServing()
		return s.serve()
	}
	return nil
}

// applyDefaults adds the objects that Incus creates without a seed: a storage pool and a bridge.
func (s *Server) applyDefaults() {
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	location := s.location(d)
	d.put(collectionOf("storage-pools"), "", "", "local", location, map[string]any{"driver": "zfs", "config": map[string]any{"source": "local/incus"}})
	d.put(collectionOf("networks"), "default", "", "incusbr0", location, map[string]any{"type": "bridge", "config": map[string]any{"ipv4.address": "10.1.2.1/24", "ipv4.nat": "true"}})
}
