// Package network reads, validates, edits and compares the network configurations of IncusOS servers. It does no I/O: package
// opscenter/system reads and changes the configurations of servers.
package network

import (
	"fmt"

	"github.com/opscenter-go/sdk/internal/jsonkeep"
)

// Network is the answer of GET /os/1.0/system/network (IncusOS API, SystemNetwork).
type Network struct {
	jsonkeep.Rest
	// Config is the present configuration.
	Config *Config `json:"config,omitempty"`
	// State is the present state of the network.
	State *State `json:"state,omitempty"`
}

// Config is a network configuration (IncusOS API, SystemNetworkConfig). It keeps members of newer releases, at any depth, as
// they were read. So edit the configuration that was read, instead of making a new one. Copy it with Clone. The fields are
// those of the IncusOS API; a field with its zero value is left out.
type Config struct {
	jsonkeep.Rest
	DNS        *DNS        `json:"dns,omitempty"`
	Time       *Time       `json:"time,omitempty"`
	Proxy      *Proxy      `json:"proxy,omitempty"`
	Interfaces []Interface `json:"interfaces,omitempty"`
	Bonds      []Bond      `json:"bonds,omitempty"`
	VLANs      []VLAN      `json:"vlans,omitempty"`
	WireGuard  []WireGuard `json:"wireguard,omitempty"`
	// ConfirmationTimeout, a Go duration, makes the server undo the change unless it is confirmed within that time.
	// opscenter/system sets it when it applies a configuration.
	ConfirmationTimeout string `json:"confirmation_timeout,omitempty"`
}

// Interface is a physical network interface.
type Interface struct {
	jsonkeep.Rest
	Name string `json:"name"`
	// Hwaddr is the MAC address of the interface, or its name, which the server replaces by the MAC address.
	Hwaddr       string `json:"hwaddr"`
	StrictHwaddr bool   `json:"strict_hwaddr,omitempty"`
	// Addresses are IP addresses with prefix lengths, or dhcp4, dhcp6 and slaac.
	Addresses         []string       `json:"addresses,omitempty"`
	MTU               int            `json:"mtu,omitempty"`
	LLDP              bool           `json:"lldp,omitempty"`
	RequiredForOnline string         `json:"required_for_online,omitempty"`
	Roles             []string       `json:"roles,omitempty"`
	Routes            []Route        `json:"routes,omitempty"`
	VLANTags          []int          `json:"vlan_tags,omitempty"`
	FirewallRules     []FirewallRule `json:"firewall_rules,omitempty"`
	Ethernet          *Ethernet      `json:"ethernet,omitempty"`
}

// Bond combines several interfaces into one device.
type Bond struct {
	jsonkeep.Rest
	Name string `json:"name"`
	Mode string `json:"mode"`
	// Members are MAC addresses or names of interfaces.
	Members           []string       `json:"members,omitempty"`
	Hwaddr            string         `json:"hwaddr,omitempty"`
	Addresses         []string       `json:"addresses,omitempty"`
	MTU               int            `json:"mtu,omitempty"`
	LLDP              bool           `json:"lldp,omitempty"`
	RequiredForOnline string         `json:"required_for_online,omitempty"`
	Roles             []string       `json:"roles,omitempty"`
	Routes            []Route        `json:"routes,omitempty"`
	VLANTags          []int          `json:"vlan_tags,omitempty"`
	FirewallRules     []FirewallRule `json:"firewall_rules,omitempty"`
	Ethernet          *Ethernet      `json:"ethernet,omitempty"`
}

// VLAN is a device on top of an interface or a bond, its Parent. ID is 0 to MaxVLAN.
type VLAN struct {
	jsonkeep.Rest
	Name              string         `json:"name"`
	Parent            string         `json:"parent"`
	ID                int            `json:"id"`
	Addresses         []string       `json:"addresses,omitempty"`
	MTU               int            `json:"mtu,omitempty"`
	RequiredForOnline string         `json:"required_for_online,omitempty"`
	Roles             []string       `json:"roles,omitempty"`
	Routes            []Route        `json:"routes,omitempty"`
	FirewallRules     []FirewallRule `json:"firewall_rules,omitempty"`
}

// WireGuard is a WireGuard tunnel.
type WireGuard struct {
	jsonkeep.Rest
	Name              string         `json:"name"`
	Addresses         []string       `json:"addresses,omitempty"`
	Port              int            `json:"port,omitempty"`
	PrivateKey        Secret         `json:"private_key,omitempty"`
	Peers             []Peer         `json:"peers,omitempty"`
	MTU               int            `json:"mtu,omitempty"`
	RequiredForOnline string         `json:"required_for_online,omitempty"`
	Roles             []string       `json:"roles,omitempty"`
	Routes            []Route        `json:"routes,omitempty"`
	FirewallRules     []FirewallRule `json:"firewall_rules,omitempty"`
}

// Peer is the other end of a WireGuard tunnel.
type Peer struct {
	jsonkeep.Rest
	PublicKey    string   `json:"public_key"`
	PresharedKey Secret   `json:"preshared_key,omitempty"`
	AllowedIPs   []string `json:"allowed_ips,omitempty"`
	Endpoint     string   `json:"endpoint,omitempty"`
	// PersistentKeepalive is the interval in seconds; 0: off.
	PersistentKeepalive int `json:"persistent_keepalive,omitempty"`
}

// Route is a static route.
type Route struct {
	jsonkeep.Rest
	// To is a network. Via is an address on a network of the device, or dhcp4, dhcp6 or slaac.
	To  string `json:"to"`
	Via string `json:"via"`
}

// FirewallRule is a rule for incoming packets. Source is an address or a network; Port 0: not set.
type FirewallRule struct {
	jsonkeep.Rest
	Action   string `json:"action"`
	Source   string `json:"source,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	Port     int    `json:"port,omitempty"`
}

// Ethernet has options of the hardware.
type Ethernet struct {
	jsonkeep.Rest
	DisableEnergyEfficient bool     `json:"disable_energy_efficient,omitempty"`
	DisableGRO             bool     `json:"disable_gro,omitempty"`
	DisableGSO             bool     `json:"disable_gso,omitempty"`
	DisableIPv4TSO         bool     `json:"disable_ipv4_tso,omitempty"`
	DisableIPv6TSO         bool     `json:"disable_ipv6_tso,omitempty"`
	WakeOnLAN              bool     `json:"wakeonlan,omitempty"`
	WakeOnLANModes         []string `json:"wakeonlan_modes,omitempty"`
	WakeOnLANPassword      Secret   `json:"wakeonlan_password,omitempty"`
}

// DNS configures name resolution, and the server's own name.
type DNS struct {
	jsonkeep.Rest
	Hostname      string   `json:"hostname,omitempty"`
	Domain        string   `json:"domain,omitempty"`
	SearchDomains []string `json:"search_domains,omitempty"`
	Nameservers   []string `json:"nameservers,omitempty"`
	DNSOverTLS    bool     `json:"dns_over_tls,omitempty"`
}

// Time configures the time servers and the time zone, such as Europe/Berlin.
type Time struct {
	jsonkeep.Rest
	NTPServers []string `json:"ntp_servers,omitempty"`
	Timezone   string   `json:"timezone,omitempty"`
}

// Proxy configures the proxies for HTTP. Servers are by name.
type Proxy struct {
	jsonkeep.Rest
	Servers map[string]ProxyServer `json:"servers,omitempty"`
	Rules   []ProxyRule            `json:"rules,omitempty"`
}

// ProxyServer is an HTTP proxy.
type ProxyServer struct {
	jsonkeep.Rest
	// Host is a host with an optional scheme and port, such as proxy.example.org:8080 or https://proxy.example.org.
	Host   string `json:"host"`
	UseTLS bool   `json:"use_tls,omitempty"`
	// Auth is anonymous, basic or kerberos.
	Auth     string `json:"auth,omitempty"`
	Realm    string `json:"realm,omitempty"`
	Username string `json:"username,omitempty"`
	Password Secret `json:"password,omitempty"`
}

// ProxyRule selects the proxy for a destination.
type ProxyRule struct {
	jsonkeep.Rest
	// Destination is a pattern of host names. Target is the name of a proxy server, direct or none.
	Destination string `json:"destination"`
	Target      string `json:"target"`
}

// State is the present state of the network (IncusOS API, SystemNetworkState). Interfaces are by name.
type State struct {
	jsonkeep.Rest
	Interfaces map[string]InterfaceState `json:"interfaces,omitempty"`
	// ConfigurationInProcess: the server is changing its network. It is not set while a change only awaits its confirmation.
	ConfigurationInProcess bool `json:"configuration_in_process,omitempty"`
}

// InterfaceState is the present state of a device. Members of a bond are by name.
type InterfaceState struct {
	jsonkeep.Rest
	Type      string                    `json:"type,omitempty"`
	Addresses []string                  `json:"addresses,omitempty"`
	Hwaddr    string                    `json:"hwaddr,omitempty"`
	Routes    []Route                   `json:"routes,omitempty"`
	MTU       int                       `json:"mtu,omitempty"`
	Speed     string                    `json:"speed,omitempty"`
	State     string                    `json:"state,omitempty"`
	Roles     []string                  `json:"roles,omitempty"`
	LLDP      []LLDPState               `json:"lldp,omitempty"`
	LACP      *LACPState                `json:"lacp,omitempty"`
	Members   map[string]InterfaceState `json:"members,omitempty"`
	Stats     *InterfaceStats           `json:"stats,omitempty"`
	WireGuard *WireGuardState           `json:"wireguard,omitempty"`
}

// InterfaceStats are counters since boot, in bytes and in packets with errors.
type InterfaceStats struct {
	jsonkeep.Rest
	RXBytes  int64 `json:"rx_bytes"`
	TXBytes  int64 `json:"tx_bytes"`
	RXErrors int64 `json:"rx_errors"`
	TXErrors int64 `json:"tx_errors"`
}

// LLDPState is a neighbour that the server has heard by LLDP.
type LLDPState struct {
	jsonkeep.Rest
	Name      string `json:"name,omitempty"`
	ChassisID string `json:"chassis_id,omitempty"`
	PortID    string `json:"port_id,omitempty"`
	Port      string `json:"port,omitempty"`
}

// LACPState is the state of a bond with the mode 802.3ad.
type LACPState struct {
	jsonkeep.Rest
	LocalMAC  string `json:"local_mac,omitempty"`
	RemoteMAC string `json:"remote_mac,omitempty"`
}

// WireGuardState is the state of a tunnel.
type WireGuardState struct {
	jsonkeep.Rest
	ListeningPort int         `json:"listening_port,omitempty"`
	PublicKey     string      `json:"public_key,omitempty"`
	Peers         []PeerState `json:"peers,omitempty"`
}

// PeerState is the state of a tunnel to one peer.
type PeerState struct {
	jsonkeep.Rest
	PublicKey           string          `json:"public_key,omitempty"`
	Endpoint            string          `json:"endpoint,omitempty"`
	AllowedIPs          []string        `json:"allowed_ips,omitempty"`
	LatestHandshake     string          `json:"latest_handshake,omitempty"`
	PersistentKeepalive string          `json:"persistent_keepalive,omitempty"`
	Stats               *InterfaceStats `json:"stats,omitempty"`
}

// Roles of devices.
const (
	RoleManagement = "management"
	RoleCluster    = "cluster"
	RoleInstances  = "instances"
	RoleStorage    = "storage"
)

// UnmarshalJSON reads a configuration. Errors name the field.
func (c *Config) UnmarshalJSON(data []byte) error { return jsonkeep.Decode(data, c) }

// MarshalJSON writes a configuration with its unknown members and its secrets; see Hide.
func (c Config) MarshalJSON() ([]byte, error) { return jsonkeep.Encode(&c) }

// UnmarshalJSON reads the settings and keeps their unknown members.
func (d *DNS) UnmarshalJSON(data []byte) error { return jsonkeep.Decode(data, d) }

// MarshalJSON writes the settings with their unknown members.
func (d DNS) MarshalJSON() ([]byte, error) { return jsonkeep.Encode(&d) }

// UnmarshalJSON reads the settings and keeps their unknown members.
func (t *Time) UnmarshalJSON(data []byte) error { return jsonkeep.Decode(data, t) }

// MarshalJSON writes the settings with their unknown members.
func (t Time) MarshalJSON() ([]byte, error) { return jsonkeep.Encode(&t) }

// UnmarshalJSON reads the settings and keeps their unknown members.
func (p *Proxy) UnmarshalJSON(data []byte) error { return jsonkeep.Decode(data, p) }

// MarshalJSON writes the settings with their unknown members and their secrets.
func (p Proxy) MarshalJSON() ([]byte, error) { return jsonkeep.Encode(&p) }

// UnmarshalJSON reads configuration and state. Errors name the field.
func (n *Network) UnmarshalJSON(data []byte) error { return jsonkeep.Decode(data, n) }

// MarshalJSON writes configuration and state with their unknown members and secrets.
func (n Network) MarshalJSON() ([]byte, error) { return jsonkeep.Encode(&n) }

// Encode writes a configuration as MarshalJSON does. Unlike json.Marshal, it keeps the bytes of unchanged members, without
// compacting or escaping them.
func (c *Config) Encode() ([]byte, error) { return jsonkeep.Encode(c) }

// Decode reads a configuration. Errors name the field, and never contain its value.
func Decode(data []byte) (*Config, error) {
	c := &Config{}
	if err := jsonkeep.Decode(data, c); err != nil {
		return nil, fmt.Errorf("network configuration: %w", err)
	}
	return c, nil
}

// Clone returns a deep copy. An error means that the configuration can't be encoded as JSON.
func (c *Config) Clone() (*Config, error) {
	data, err := c.Encode()
	if err != nil {
		return nil, err
	}
	return Decode(data)
}

// device has the common fields of interfaces, bonds, VLANs and tunnels.
type device struct {
	field             string // such as interfaces[0]
	kind              string
	name              string
	addresses         *[]string
	mtu               int
	requiredForOnline string
	roles             []string
	routes            []Route
	tags              *[]int // nil: the kind has no tags
	rules             []FirewallRule
	ethernet          *Ethernet
	unknown           bool // the object has unknown members
}

// hasUnknown reports whether an object has unknown members. They may change the meaning of the other members, so only the
// server can validate such an object.
func hasUnknown(object any) bool { return len(jsonkeep.Unknown(object)) > 0 }

// devices returns all devices: first the interfaces, then bonds, VLANs and tunnels.
func (c *Config) devices() (out []device) {
	for i := range c.Interfaces {
		d := &c.Interfaces[i]
		out = append(out, device{fmt.Sprintf("interfaces[%d]", i), "interface", d.Name, &d.Addresses, d.MTU, d.RequiredForOnline, d.Roles, d.Routes, &d.VLANTags, d.FirewallRules, d.Ethernet, hasUnknown(d)})
	}
	for i := range c.Bonds {
		d := &c.Bonds[i]
		out = append(out, device{fmt.Sprintf("bonds[%d]", i), "bond", d.Name, &d.Addresses, d.MTU, d.RequiredForOnline, d.Roles, d.Routes, &d.VLANTags, d.FirewallRules, d.Ethernet, hasUnknown(d)})
	}
	for i := range c.VLANs {
		d := &c.VLANs[i]
		out = append(out, device{fmt.Sprintf("vlans[%d]", i), "VLAN", d.Name, &d.Addresses, d.MTU, d.RequiredForOnline, d.Roles, d.Routes, nil, d.FirewallRules, nil, hasUnknown(d)})
	}
	for i := range c.WireGuard {
		d := &c.WireGuard[i]
		out = append(out, device{fmt.Sprintf("wireguard[%d]", i), "WireGuard tunnel", d.Name, &d.Addresses, d.MTU, d.RequiredForOnline, d.Roles, d.Routes, nil, d.FirewallRules, nil, hasUnknown(d)})
	}
	return out
}
