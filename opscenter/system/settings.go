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

// The types below are those of the IncusOS API. What a newer release has beyond them is kept
// as it was read: edit what was read, rather than to begin with a new one.

// UpdateConfig says how a server updates itself (SystemUpdateConfig).
type UpdateConfig struct {
	jsonkeep.Rest
	AutoReboot bool   `json:"auto_reboot"`
	Channel    string `json:"channel"`
	// CheckFrequency is a Go duration, or never.
	CheckFrequency     string              `json:"check_frequency"`
	MaintenanceWindows []MaintenanceWindow `json:"maintenance_windows,omitempty"`
}

// MaintenanceWindow is when a server may update itself; days are names, or empty: every day.
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
	// Config of the provider: for operations-center server_url, server_token and
	// server_certificate. The token is a secret, and shown as hidden.
	Config map[string]network.Secret `json:"config,omitempty"`
}

// StorageConfig is a server's local storage (SystemStorageConfig).
type StorageConfig struct {
	jsonkeep.Rest
	ScrubSchedule string `json:"scrub_schedule,omitempty"`
	Pools         []Pool `json:"pools,omitempty"`
}

// Pool is a storage pool. Its name and type can't be changed once there is one.
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

// KernelConfig are settings of the kernel (SystemKernelConfig).
type KernelConfig struct {
	jsonkeep.Rest
	BlacklistModules []string        `json:"blacklist_modules,omitempty"`
	Console          []KernelConsole `json:"console,omitempty"`
	CPU              *KernelCPU      `json:"cpu,omitempty"`
	Memory           *KernelMemory   `json:"memory,omitempty"`
	Network          *KernelNetwork  `json:"network,omitempty"`
	PCI              *KernelPCI      `json:"pci,omitempty"`
}

// KernelConsole is a console.
type KernelConsole struct {
	jsonkeep.Rest
	Device   string `json:"device"`
	BaudRate int    `json:"baud_rate,omitempty"`
}

// KernelCPU are settings of CPUs.
type KernelCPU struct {
	jsonkeep.Rest
	ScalingGovernor string `json:"scaling_governor,omitempty"`
}

// KernelMemory are settings of the memory.
type KernelMemory struct {
	jsonkeep.Rest
	PersistentHugepages int    `json:"persistent_hugepages,omitempty"`
	ZramSwapSize        string `json:"zram_swap_size,omitempty"`
}

// KernelNetwork are settings of the network stack.
type KernelNetwork struct {
	jsonkeep.Rest
	BufferSize             int    `json:"buffer_size,omitempty"`
	NetdevMaxBacklog       int    `json:"netdev_max_backlog,omitempty"`
	QueuingDiscipline      string `json:"queuing_discipline,omitempty"`
	TCPCongestionAlgorithm string `json:"tcp_congestion_algorithm,omitempty"`
	TCPMTUProbing          bool   `json:"tcp_mtu_probing,omitempty"`
}

// KernelPCI are settings of PCI devices.
type KernelPCI struct {
	jsonkeep.Rest
	Passthrough []PCIPassthrough `json:"passthrough,omitempty"`
	SRIOV       []PCISRIOV       `json:"sriov,omitempty"`
}

// PCIPassthrough is a device for virtual machines.
type PCIPassthrough struct {
	jsonkeep.Rest
	VendorID   string `json:"vendor_id,omitempty"`
	ProductID  string `json:"product_id,omitempty"`
	PCIAddress string `json:"pci_address,omitempty"`
}

// PCISRIOV is a device with virtual functions.
type PCISRIOV struct {
	jsonkeep.Rest
	PCIAddress string `json:"pci_address"`
	VFCount    int    `json:"vf_count"`
}

// LoggingConfig says where logs go (SystemLoggingConfig).
type LoggingConfig struct {
	jsonkeep.Rest
	Syslog *Syslog `json:"syslog,omitempty"`
}

// Syslog is a server that takes logs.
type Syslog struct {
	jsonkeep.Rest
	Address   string `json:"address,omitempty"`
	Protocol  string `json:"protocol,omitempty"`
	LogFormat string `json:"log_format,omitempty"`
}

// UnmarshalJSON and MarshalJSON keep what is not known here, as in network.Config.
func (c *UpdateConfig) UnmarshalJSON(data []byte) error { return jsonkeep.Decode(data, c) }
func (c UpdateConfig) MarshalJSON() ([]byte, error)     { return jsonkeep.Encode(&c) }

// UnmarshalJSON and MarshalJSON keep what is not known here, as in network.Config.
func (c *ProviderConfig) UnmarshalJSON(data []byte) error { return jsonkeep.Decode(data, c) }
func (c ProviderConfig) MarshalJSON() ([]byte, error)     { return jsonkeep.Encode(&c) }

// UnmarshalJSON and MarshalJSON keep what is not known here, as in network.Config.
func (c *StorageConfig) UnmarshalJSON(data []byte) error { return jsonkeep.Decode(data, c) }
func (c StorageConfig) MarshalJSON() ([]byte, error)     { return jsonkeep.Encode(&c) }

// UnmarshalJSON and MarshalJSON keep what is not known here, as in network.Config.
func (c *KernelConfig) UnmarshalJSON(data []byte) error { return jsonkeep.Decode(data, c) }
func (c KernelConfig) MarshalJSON() ([]byte, error)     { return jsonkeep.Encode(&c) }

// UnmarshalJSON and MarshalJSON keep what is not known here, as in network.Config.
func (c *LoggingConfig) UnmarshalJSON(data []byte) error { return jsonkeep.Decode(data, c) }
func (c LoggingConfig) MarshalJSON() ([]byte, error)     { return jsonkeep.Encode(&c) }

// Update reads how a server updates itself. Errors are those of Network.
func (m *Manager) Update(ctx context.Context, name string) (*Settings[UpdateConfig], error) {
	return settings[UpdateConfig](ctx, m, name, SectionUpdate)
}

// SetUpdate says how a server updates itself. Unless Options.LeaveUpdates is set, its channel is
// that of its record, it never reboots by itself, and never checks: those are ErrManaged, and
// only the rest can be changed.
//
// A nil change: nothing was to change. The change is final when SetUpdate returns; if its
// answer is lost, the server is asked what it has, for up to twice Options.SettleTimeout. Errors: those of Update;
// opscenter.ErrPrecondition; opscenter.ErrNotReady and opscenter.ErrBusy while another
// operation is under way, unless forced; opscenter.ErrRefused; ErrRolledBack; ErrLost; and
// opscenter.ErrOutcomeUnknown if ctx ends before: Run finds out then.
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
		return fmt.Errorf("update of server %q: channel: it is that of its record, %q: %w", info.Name, want.Channel, ErrManaged)
	case config.AutoReboot != want.AutoReboot:
		return fmt.Errorf("update of server %q: auto_reboot: it is off: %w", info.Name, ErrManaged)
	case config.CheckFrequency != want.CheckFrequency:
		return fmt.Errorf("update of server %q: check_frequency: it is %s: %w", info.Name, want.CheckFrequency, ErrManaged)
	}
	return nil
}

// encoded is a change to a configuration, whatever there is.
func encoded(config any) func(json.RawMessage) (json.RawMessage, error) {
	return func(json.RawMessage) (json.RawMessage, error) { return jsonkeep.Encode(config) }
}

// Provider reads where a server's updates and configuration come from; the token is hidden.
func (m *Manager) Provider(ctx context.Context, name string) (*Settings[ProviderConfig], error) {
	return settings[ProviderConfig](ctx, m, name, SectionProvider)
}

// SetProvider says where a server's updates and configuration come from. A token that is hidden, or
// left out, stays as it is, unless the URL changes: then it must be given anew. Errors are those of SetUpdate.
func (m *Manager) SetProvider(ctx context.Context, name string, config ProviderConfig, options SetOptions) (*Change, error) {
	if config.Name == "" {
		return nil, fmt.Errorf("provider of server %q: name: it is wanted: %w", name, ErrInvalid)
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
					return nil, fmt.Errorf("config[%q]: where it is sent has changed: it must be given anew: %w", key, ErrInvalid)
				}
			}
			return jsonkeep.Encode(out)
		}
		for key, value := range have.Config { // what is left out stays
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

// SetStorage edits a server's local storage: pools are created, and their devices changed; one
// that is left out is not removed. Errors are those of SetUpdate.
func (m *Manager) SetStorage(ctx context.Context, name string, config StorageConfig, options SetOptions) (*Change, error) {
	names := map[string]bool{}
	devices := map[string]string{}
	for i, p := range config.Pools {
		field := fmt.Sprintf("storage of server %q: pools[%d]", name, i)
		switch {
		case p.Name == "":
			return nil, fmt.Errorf("%s.name: it is wanted: %w", field, ErrInvalid)
		case names[p.Name]:
			return nil, fmt.Errorf("%s.name: %.40q is there twice: %w", field, p.Name, ErrInvalid)
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

// Kernel reads a server's settings of the kernel. Errors are those of Network.
func (m *Manager) Kernel(ctx context.Context, name string) (*Settings[KernelConfig], error) {
	return settings[KernelConfig](ctx, m, name, SectionKernel)
}

// SetKernel changes a server's settings of the kernel; some take effect at its next boot.
// Errors are those of SetUpdate.
func (m *Manager) SetKernel(ctx context.Context, name string, config KernelConfig, options SetOptions) (*Change, error) {
	return m.setSection(ctx, name, SectionKernel, encoded(config), options, "")
}

// Logging reads where a server's logs go. Errors are those of Network.
func (m *Manager) Logging(ctx context.Context, name string) (*Settings[LoggingConfig], error) {
	return settings[LoggingConfig](ctx, m, name, SectionLogging)
}

// SetLogging says where a server's logs go. Errors are those of SetUpdate.
func (m *Manager) SetLogging(ctx context.Context, name string, config LoggingConfig, options SetOptions) (*Change, error) {
	return m.setSection(ctx, name, SectionLogging, encoded(config), options, "")
}

// SetClusterKernel changes the settings of the kernel of all members of a cluster, one after
// another, and stops at the first that fails.
func (m *Manager) SetClusterKernel(ctx context.Context, cluster string, config KernelConfig, options SetOptions) (*Batch, error) {
	return m.setCluster(ctx, cluster, SectionKernel, config, options)
}

// SetClusterLogging says where the logs of all members of a cluster go, as SetClusterKernel does.
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
		_, err = kept(section, info.Name, data, d.Config)
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
