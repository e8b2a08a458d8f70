package system

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/internal/jsonkeep"
	"github.com/opscenter-go/sdk/internal/jsonsecret"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/network"
)

// The types below are those of the IncusOS API. Fields that only a newer release has are kept as they were
// read. So edit a configuration that was read, instead of building a new one.

// UpdateConfig are the settings for a server's own updates (SystemUpdateConfig).
type UpdateConfig struct {
	jsonkeep.Rest
	AutoReboot bool   `json:"auto_reboot"`
	Channel    string `json:"channel"`
	// CheckFrequency is a Go duration, or "never".
	CheckFrequency     string              `json:"check_frequency"`
	MaintenanceWindows []MaintenanceWindow `json:"maintenance_windows,omitempty"`
}

// MaintenanceWindow is a time in which a server may update itself. Days are names of weekdays; empty: every day. Hours
// are 0 to 23, minutes 0 to 59.
type MaintenanceWindow struct {
	jsonkeep.Rest
	StartDayOfWeek string `json:"start_day_of_week,omitempty"`
	StartHour      int    `json:"start_hour"`
	StartMinute    int    `json:"start_minute"`
	EndDayOfWeek   string `json:"end_day_of_week,omitempty"`
	EndHour        int    `json:"end_hour"`
	EndMinute      int    `json:"end_minute"`
}

// ProviderConfig tells a server where its updates and its configuration come from (SystemProviderConfig).
type ProviderConfig struct {
	jsonkeep.Rest
	Name string `json:"name"`
	// Config of the provider. Provider operations-center has server_url, server_token and server_certificate. The
	// token is a secret, and shown as network.Hidden.
	Config map[string]network.Secret `json:"config,omitempty"`
}

// StorageConfig is a server's local storage (SystemStorageConfig).
type StorageConfig struct {
	jsonkeep.Rest
	ScrubSchedule string `json:"scrub_schedule,omitempty"`
	Pools         []Pool `json:"pools,omitempty"`
}

// Pool is a storage pool. The name and type of an existing pool can't be changed.
type Pool struct {
	jsonkeep.Rest
	Name string `json:"name"`
	// Type is zfs-raid0, zfs-raid1, zfs-raid10, zfs-raidz1, zfs-raidz2 or zfs-raidz3.
	Type               string       `json:"type,omitempty"`
	Devices            []string     `json:"devices,omitempty"`
	Cache              []string     `json:"cache,omitempty"`
	Log                []string     `json:"log,omitempty"`
	Special            *PoolSpecial `json:"special,omitempty"`
	AllowMixedDevSizes bool         `json:"allow_mixed_dev_sizes,omitempty"`
}

// PoolSpecial is a pool's special device.
type PoolSpecial struct {
	jsonkeep.Rest
	Type                       string   `json:"type,omitempty"`
	Devices                    []string `json:"devices,omitempty"`
	SpecialSmallBlocksSizeInKB int      `json:"special_small_blocks_size_in_kb,omitempty"`
}

// KernelConfig are the kernel settings of a server (SystemKernelConfig).
type KernelConfig struct {
	jsonkeep.Rest
	BlacklistModules []string        `json:"blacklist_modules,omitempty"`
	Console          []KernelConsole `json:"console,omitempty"`
	CPU              *KernelCPU      `json:"cpu,omitempty"`
	Memory           *KernelMemory   `json:"memory,omitempty"`
	Network          *KernelNetwork  `json:"network,omitempty"`
	PCI              *KernelPCI      `json:"pci,omitempty"`
}

// KernelConsole is a kernel console.
type KernelConsole struct {
	jsonkeep.Rest
	Device   string `json:"device"`
	BaudRate int    `json:"baud_rate,omitempty"`
}

// KernelCPU are the kernel's CPU settings.
type KernelCPU struct {
	jsonkeep.Rest
	ScalingGovernor string `json:"scaling_governor,omitempty"`
}

// KernelMemory are the kernel's memory settings.
type KernelMemory struct {
	jsonkeep.Rest
	PersistentHugepages int    `json:"persistent_hugepages,omitempty"`
	ZramSwapSize        string `json:"zram_swap_size,omitempty"`
}

// KernelNetwork are the settings of the kernel's network stack.
type KernelNetwork struct {
	jsonkeep.Rest
	BufferSize             int    `json:"buffer_size,omitempty"`
	NetdevMaxBacklog       int    `json:"netdev_max_backlog,omitempty"`
	QueuingDiscipline      string `json:"queuing_discipline,omitempty"`
	TCPCongestionAlgorithm string `json:"tcp_congestion_algorithm,omitempty"`
	TCPMTUProbing          bool   `json:"tcp_mtu_probing,omitempty"`
}

// KernelPCI are the kernel's settings of PCI devices.
type KernelPCI struct {
	jsonkeep.Rest
	Passthrough []PCIPassthrough `json:"passthrough,omitempty"`
	SRIOV       []PCISRIOV       `json:"sriov,omitempty"`
}

// PCIPassthrough selects a PCI device for virtual machines.
type PCIPassthrough struct {
	jsonkeep.Rest
	VendorID   string `json:"vendor_id,omitempty"`
	ProductID  string `json:"product_id,omitempty"`
	PCIAddress string `json:"pci_address,omitempty"`
}

// PCISRIOV selects a PCI device, and the number of its virtual functions.
type PCISRIOV struct {
	jsonkeep.Rest
	PCIAddress string `json:"pci_address"`
	VFCount    int    `json:"vf_count"`
}

// LoggingConfig is the destination of a server's logs (SystemLoggingConfig).
type LoggingConfig struct {
	jsonkeep.Rest
	Syslog *Syslog `json:"syslog,omitempty"`
}

// Syslog is a syslog server.
type Syslog struct {
	jsonkeep.Rest
	Address   string `json:"address,omitempty"`
	Protocol  string `json:"protocol,omitempty"`
	LogFormat string `json:"log_format,omitempty"`
}

// UnmarshalJSON keeps unknown fields, as that of network.Config.
func (c *UpdateConfig) UnmarshalJSON(data []byte) error { return jsonkeep.Decode(data, c) }

// MarshalJSON also writes the fields that UnmarshalJSON kept.
func (c UpdateConfig) MarshalJSON() ([]byte, error) { return jsonkeep.Encode(&c) }

// UnmarshalJSON keeps unknown fields, as that of network.Config.
func (c *ProviderConfig) UnmarshalJSON(data []byte) error { return jsonkeep.Decode(data, c) }

// MarshalJSON also writes the fields that UnmarshalJSON kept.
func (c ProviderConfig) MarshalJSON() ([]byte, error) { return jsonkeep.Encode(&c) }

// UnmarshalJSON keeps unknown fields, as that of network.Config.
func (c *StorageConfig) UnmarshalJSON(data []byte) error { return jsonkeep.Decode(data, c) }

// MarshalJSON also writes the fields that UnmarshalJSON kept.
func (c StorageConfig) MarshalJSON() ([]byte, error) { return jsonkeep.Encode(&c) }

// UnmarshalJSON keeps unknown fields, as that of network.Config.
func (c *KernelConfig) UnmarshalJSON(data []byte) error { return jsonkeep.Decode(data, c) }

// MarshalJSON also writes the fields that UnmarshalJSON kept.
func (c KernelConfig) MarshalJSON() ([]byte, error) { return jsonkeep.Encode(&c) }

// UnmarshalJSON keeps unknown fields, as that of network.Config.
func (c *LoggingConfig) UnmarshalJSON(data []byte) error { return jsonkeep.Decode(data, c) }

// MarshalJSON also writes the fields that UnmarshalJSON kept.
func (c LoggingConfig) MarshalJSON() ([]byte, error) { return jsonkeep.Encode(&c) }

// Update reads the update settings of a server. Errors are those of Network.
func (m *Manager) Update(ctx context.Context, name string) (*Settings[UpdateConfig], error) {
	return settings[UpdateConfig](ctx, m, name, SectionUpdate)
}

// SetUpdate changes the update settings of a server. Unless Options.LeaveUpdates is set, the control plane manages
// three of them: the channel is that of the record, auto_reboot is off, and check_frequency is "never". A change of
// these is ErrManaged.
//
// The change is final when SetUpdate returns. A nil Change: the server already had the settings. If the answer is lost,
// SetUpdate reads the settings again, for up to twice Options.SettleTimeout.
//
// Errors: those of Update; ErrInvalid; opscenter.ErrPrecondition; opscenter.ErrNotReady and opscenter.ErrBusy while
// another operation is under way, unless forced; opscenter.ErrRefused; ErrRolledBack; ErrLost; and
// opscenter.ErrOutcomeUnknown if ctx ends before, after which Run finds the outcome.
func (m *Manager) SetUpdate(ctx context.Context, name string, config UpdateConfig, options SetOptions) (*Change, error) {
	info, err := m.registry.Server(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := m.checkUpdate(info, &config); err != nil {
		return nil, err
	}
	return m.setSection(ctx, name, SectionUpdate, encoded(config), options, "")
}

// checkUpdate returns ErrInvalid or ErrManaged for update settings that can't be set.
func (m *Manager) checkUpdate(info *opscenter.ServerInfo, config *UpdateConfig) error {
	for i, w := range config.MaintenanceWindows {
		if w.StartHour < 0 || w.StartHour > 23 || w.EndHour < 0 || w.EndHour > 23 || w.StartMinute < 0 || w.StartMinute > 59 || w.EndMinute < 0 || w.EndMinute > 59 {
			return fmt.Errorf("update of server %q: maintenance_windows[%d]: hours are 0 to 23, and minutes 0 to 59: %w", info.Name, i, ErrInvalid)
		}
	}
	if m.options.LeaveUpdates {
		if _, err := time.ParseDuration(config.CheckFrequency); err != nil && config.CheckFrequency != "never" {
			return fmt.Errorf("update of server %q: check_frequency: %.40q is neither a duration nor never: %w", info.Name, config.CheckFrequency, ErrInvalid)
		}
		return nil
	}
	want := lifecycle.ManagedUpdates(info.Channel)
	switch {
	case config.Channel != want.Channel:
		return fmt.Errorf("update of server %q: channel: the control plane keeps that of the record, %q: %w", info.Name, want.Channel, ErrManaged)
	case config.AutoReboot != want.AutoReboot:
		return fmt.Errorf("update of server %q: auto_reboot: the control plane keeps it off: %w", info.Name, ErrManaged)
	case config.CheckFrequency != want.CheckFrequency:
		return fmt.Errorf("update of server %q: check_frequency: the control plane keeps it at %s: %w", info.Name, want.CheckFrequency, ErrManaged)
	}
	return nil
}

// encoded returns a function that ignores the current configuration, and encodes config.
func encoded(config any) func(json.RawMessage) (json.RawMessage, error) {
	return func(json.RawMessage) (json.RawMessage, error) { return jsonkeep.Encode(config) }
}

// Provider reads where a server's updates and configuration come from. The token is hidden. Errors are those of Network.
func (m *Manager) Provider(ctx context.Context, name string) (*Settings[ProviderConfig], error) {
	return settings[ProviderConfig](ctx, m, name, SectionProvider)
}

// SetProvider sets where a server's updates and configuration come from. A token that is hidden or left out stays as it
// is. If the URL or the provider changes, the token must be given again. To remove a token, set it to network.Removed.
// Errors are those of SetUpdate.
func (m *Manager) SetProvider(ctx context.Context, name string, config ProviderConfig, options SetOptions) (*Change, error) {
	if config.Name == "" {
		return nil, fmt.Errorf("provider of server %q: name: a name is wanted: %w", name, ErrInvalid)
	}
	return m.setSection(ctx, name, SectionProvider, func(current json.RawMessage) (json.RawMessage, error) {
		var have ProviderConfig
		if err := json.Unmarshal(current, &have); err != nil {
			return nil, fmt.Errorf("%w: %v", opscenter.ErrAnswer, err)
		}
		out := config
		out.Config = maps.Clone(config.Config)
		if elsewhere := have.Config["server_url"] != config.Config["server_url"] || have.Name != config.Name; elsewhere {
			for key, value := range config.Config {
				if value == network.Hidden {
					return nil, fmt.Errorf("config[%q]: its destination has changed, so it must be given again: %w", key, ErrInvalid)
				}
			}
			return jsonkeep.Encode(out)
		}
		for key, value := range have.Config { // secrets that are left out stay
			if _, given := out.Config[key]; !given && facts.IsSecretName(key) {
				if out.Config == nil {
					out.Config = map[string]network.Secret{}
				}
				out.Config[key] = value
			}
		}
		return jsonkeep.Encode(out)
	}, options, "")
}

// Storage reads a server's local storage. Errors are those of Network.
func (m *Manager) Storage(ctx context.Context, name string) (*Settings[StorageConfig], error) {
	return settings[StorageConfig](ctx, m, name, SectionStorage)
}

var poolTypes = []string{"", "zfs-raid0", "zfs-raid1", "zfs-raid10", "zfs-raidz1", "zfs-raidz2", "zfs-raidz3"}

// SetStorage changes a server's local storage: it creates pools, and changes the devices of pools. A pool that is
// left out stays. Errors are those of SetUpdate.
func (m *Manager) SetStorage(ctx context.Context, name string, config StorageConfig, options SetOptions) (*Change, error) {
	names := map[string]bool{}
	devices := map[string]string{}
	for i, p := range config.Pools {
		field := fmt.Sprintf("storage of server %q: pools[%d]", name, i)
		switch {
		case p.Name == "":
			return nil, fmt.Errorf("%s.name: a name is wanted: %w", field, ErrInvalid)
		case names[p.Name]:
			return nil, fmt.Errorf("%s.name: %.40q is used twice: %w", field, p.Name, ErrInvalid)
		case !slices.Contains(poolTypes, p.Type):
			return nil, fmt.Errorf("%s.type: %.40q is not known: %w", field, p.Type, ErrInvalid)
		}
		names[p.Name] = true
		for _, device := range slices.Concat(p.Devices, p.Cache, p.Log) {
			if other, twice := devices[device]; twice {
				return nil, fmt.Errorf("%s: device %.100q is in pool %.40q as well: %w", field, device, other, ErrInvalid)
			}
			devices[device] = p.Name
		}
	}
	return m.setSection(ctx, name, SectionStorage, encoded(config), options, "")
}

// Kernel reads the kernel settings of a server. Errors are those of Network.
func (m *Manager) Kernel(ctx context.Context, name string) (*Settings[KernelConfig], error) {
	return settings[KernelConfig](ctx, m, name, SectionKernel)
}

// SetKernel changes the kernel settings of a server. Some take effect at its next boot.
// Errors are those of SetUpdate.
func (m *Manager) SetKernel(ctx context.Context, name string, config KernelConfig, options SetOptions) (*Change, error) {
	return m.setSection(ctx, name, SectionKernel, encoded(config), options, "")
}

// Logging reads the logging settings of a server. Errors are those of Network.
func (m *Manager) Logging(ctx context.Context, name string) (*Settings[LoggingConfig], error) {
	return settings[LoggingConfig](ctx, m, name, SectionLogging)
}

// SetLogging changes the logging settings of a server. Errors are those of SetUpdate.
func (m *Manager) SetLogging(ctx context.Context, name string, config LoggingConfig, options SetOptions) (*Change, error) {
	return m.setSection(ctx, name, SectionLogging, encoded(config), options, "")
}

// SetClusterKernel changes the kernel settings of all members of a cluster, one after another. It stops at the first
// member that fails, with ErrStopped and the error of SetUpdate. If ctx ends before, Run continues the batch, unless
// the settings have secrets.
func (m *Manager) SetClusterKernel(ctx context.Context, cluster string, config KernelConfig, options SetOptions) (*Batch, error) {
	return m.setCluster(ctx, cluster, SectionKernel, config, options)
}

// SetClusterLogging changes the logging settings of all members of a cluster, as SetClusterKernel does.
func (m *Manager) SetClusterLogging(ctx context.Context, cluster string, config LoggingConfig, options SetOptions) (*Batch, error) {
	return m.setCluster(ctx, cluster, SectionLogging, config, options)
}

func (m *Manager) setCluster(ctx context.Context, cluster, section string, config any, options SetOptions) (*Batch, error) {
	data, err := jsonkeep.Encode(config)
	if err != nil {
		return nil, err
	}
	check := func(ctx context.Context, info *opscenter.ServerInfo) error {
		d, err := m.readSection(ctx, info, section)
		if err != nil {
			return err
		}
		_, err = restoreHidden(section, info.Name, data, d.Config)
		return err
	}
	stored := &batchEdit{Config: data, Force: options.Force}
	if len(jsonsecret.Values(data, facts.IsSecretName)) > 0 {
		stored = nil
	}
	return m.batch(ctx, cluster, section, stored, nil, check, options.Force, func(ctx context.Context, server *BatchMember, batch string) (*Change, error) {
		return m.setSection(ctx, server.Server, section, func(json.RawMessage) (json.RawMessage, error) { return data, nil }, SetOptions{Force: options.Force}, batch)
	})
}
