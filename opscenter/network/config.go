// Package network is the network configuration of an IncusOS server: what it says, whether it
// can work, and how one differs from another. All of it is pure; package opscenter/system
// reads and changes the configurations of servers.
package network

import (
	"fmt"

	"github.com/opscenter-go/sdk/internal/jsonkeep"
)

// Network is what GET /os/1.0/system/network returns (IncusOS API, SystemNetwork).
type Network struct {
	jsonkeep.Rest
	Config *Config `json:"config,omitempty"`
	State  *State  `json:"state,omitempty"`
}

// Config is a network configuration (IncusOS API, SystemNetworkConfig). What a newer release
// has beyond these fields, on any level, is kept as it was read: edit what was read, rather
// than to begin with a new one. Copy one with Clone.
type Config struct {
	jsonkeep.Rest
	DNS        *DNS        `json:"dns,omitempty"`
	Time       *Time       `json:"time,omitempty"`
	Proxy      *Proxy      `json:"proxy,omitempty"`
	Interfaces []Interface `json:"interfaces,omitempty"`
	Bonds      []Bond      `json:"bonds,omitempty"`
	VLANs      []VLAN      `json:"vlans,omitempty"`
	WireGuard  []WireGuard `json:"wireguard,omitempty"`
	// ConfirmationTimeout, a Go duration, makes the server undo the change by itself unless it
	// is confirmed in time. Whoever applies a configuration sets it.
	ConfirmationTimeout string `json:"confirmation_timeout,omitempty"`
}

// Interface is a physical network interface.
type Interface struct {
	jsonkeep.Rest
	Name string `json:"name"`
	// Hwaddr is its MAC address, or its name, which the server replaces by the address.
	Hwaddr       string `json:"hwaddr"`
	StrictHwaddr bool   `json:"strict_hwaddr,omitempty"`
	// Addresses are IP addresses with their prefix lengths, and dhcp4, dhcp6 and slaac.
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

// Bond is one device made of several interfaces.
type Bond struct {
	jsonkeep.Rest
	Name string `json:"name"`
	Mode string `json:"mode"`
	// Members are MAC addresses, or names of interfaces.
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

// VLAN is a device on top of an interface or a bond.
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
	// PersistentKeepalive in seconds; 0: none.
	PersistentKeepalive int `json:"persistent_keepalive,omitempty"`
}

// Route is a static route.
type Route struct {
	jsonkeep.Rest
	// To is a network; Via an address on a network of the device, or dhcp4, dhcp6 or slaac.
	To  string `json:"to"`
	Via string `json:"via"`
}

// FirewallRule is a rule about what comes in.
type FirewallRule struct {
	jsonkeep.Rest
	Action   string `json:"action"`
	Source   string `json:"source,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	Port     int    `json:"port,omitempty"`
}

// Ethernet holds options of the hardware.
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

// DNS says how names are resolved, and what the server's own is.
type DNS struct {
	jsonkeep.Rest
	Hostname      string   `json:"hostname,omitempty"`
	Domain        string   `json:"domain,omitempty"`
	SearchDomains []string `json:"search_domains,omitempty"`
	Nameservers   []string `json:"nameservers,omitempty"`
	DNSOverTLS    bool     `json:"dns_over_tls,omitempty"`
}

// Time says where the time comes from.
type Time struct {
	jsonkeep.Rest
	NTPServers []string `json:"ntp_servers,omitempty"`
	Timezone   string   `json:"timezone,omitempty"`
}

// Proxy says how to reach HTTP servers.
type Proxy struct {
	jsonkeep.Rest
	Servers map[string]ProxyServer `json:"servers,omitempty"`
	Rules   []ProxyRule            `json:"rules,omitempty"`
}

// ProxyServer is an HTTP proxy.
type ProxyServer struct {
	jsonkeep.Rest
	// Host is a host, with a port or without, as proxy.example.org:8080 or https://proxy.example.org.
	Host   string `json:"host"`
	UseTLS bool   `json:"use_tls,omitempty"`
	// Auth is anonymous, basic or kerberos.
	Auth     string `json:"auth,omitempty"`
	Realm    string `json:"realm,omitempty"`
	Username string `json:"username,omitempty"`
	Password Secret `json:"password,omitempty"`
}

// ProxyRule says which proxy is for which destinations.
type ProxyRule struct {
	jsonkeep.Rest
	// Destination is a pattern of host names; Target a proxy server's name, direct, or none.
	Destination string `json:"destination"`
	Target      string `json:"target"`
}

// State is how the network is (IncusOS API, SystemNetworkState).
type State struct {
	jsonkeep.Rest
	Interfaces map[string]InterfaceState `json:"interfaces,omitempty"`
	// ConfigurationInProcess: a change is being made. That one waits for its confirmation it does not tell.
	ConfigurationInProcess bool `json:"configuration_in_process,omitempty"`
}

// InterfaceState is how a device is.
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

// InterfaceStats are counters since boot.
type InterfaceStats struct {
	jsonkeep.Rest
	RXBytes  int64 `json:"rx_bytes"`
	TXBytes  int64 `json:"tx_bytes"`
	RXErrors int64 `json:"rx_errors"`
	TXErrors int64 `json:"tx_errors"`
}

// LLDPState is a neighbour that was heard.
type LLDPState struct {
	jsonkeep.Rest
	Name      string `json:"name,omitempty"`
	ChassisID string `json:"chassis_id,omitempty"`
	PortID    string `json:"port_id,omitempty"`
	Port      string `json:"port,omitempty"`
}

// LACPState is how a bond of mode 802.3ad is.
type LACPState struct {
	jsonkeep.Rest
	LocalMAC  string `json:"local_mac,omitempty"`
	RemoteMAC string `json:"remote_mac,omitempty"`
}

// WireGuardState is how a tunnel is.
type WireGuardState struct {
	jsonkeep.Rest
	ListeningPort int         `json:"listening_port,omitempty"`
	PublicKey     string      `json:"public_key,omitempty"`
	Peers         []PeerState `json:"peers,omitempty"`
}

// PeerState is how the tunnel to a peer is.
type PeerState struct {
	jsonkeep.Rest
	PublicKey           string          `json:"public_key,omitempty"`
	Endpoint            string          `json:"endpoint,omitempty"`
	AllowedIPs          []string        `json:"allowed_ips,omitempty"`
	LatestHandshake     string          `json:"latest_handshake,omitempty"`
	PersistentKeepalive string          `json:"persistent_keepalive,omitempty"`
	Stats               *InterfaceStats `json:"stats,omitempty"`
}

// Roles that a device can have.
const (
	RoleManagement = "management"
	RoleCluster    = "cluster"
	RoleInstances  = "instances"
	RoleStorage    = "storage"
)

// UnmarshalJSON reads a configuration; errors name the field.
func (c *Config) UnmarshalJSON(data []byte) error { return jsonkeep.Decode(data, c) }

// MarshalJSON writes a configuration, with what was read and is not known here. Secrets are in it: see Hide.
func (c Config) MarshalJSON() ([]byte, error) { return jsonkeep.Encode(&c) }

// UnmarshalJSON and MarshalJSON keep what is not known here, as those of Config.
func (d *DNS) UnmarshalJSON(data []byte) error { return jsonkeep.Decode(data, d) }
func (d DNS) MarshalJSON() ([]byte, error)     { return jsonkeep.Encode(&d) }

// UnmarshalJSON and MarshalJSON keep what is not known here, as those of Config.
func (t *Time) UnmarshalJSON(data []byte) error { return jsonkeep.Decode(data, t) }
func (t Time) MarshalJSON() ([]byte, error)     { return jsonkeep.Encode(&t) }

// UnmarshalJSON and MarshalJSON keep what is not known here, as those of Config.
func (p *Proxy) UnmarshalJSON(data []byte) error { return jsonkeep.Decode(data, p) }
func (p Proxy) MarshalJSON() ([]byte, error)     { return jsonkeep.Encode(&p) }

// UnmarshalJSON reads configuration and state; errors name the field.
func (n *Network) UnmarshalJSON(data []byte) error { return jsonkeep.Decode(data, n) }

// MarshalJSON writes configuration and state, with what was read and is not known here.
func (n Network) MarshalJSON() ([]byte, error) { return jsonkeep.Encode(&n) }

// Encode writes a configuration as MarshalJSON does, and what json.Marshal would escape or
// compact stays as it was.
func (c *Config) Encode() ([]byte, error) { return jsonkeep.Encode(c) }

// Decode reads a configuration. Errors name the field, and do not repeat its value.
func Decode(data []byte) (*Config, error) {
	c := &Config{}
	if err := jsonkeep.Decode(data, c); err != nil {
		return nil, fmt.Errorf("network configuration: %w", err)
	}
	return c, nil
}

// Clone returns a copy that shares nothing that can be changed. Errors: what can't be written
// as JSON.
func (c *Config) Clone() (*Config, error) {
	data, err := c.Encode()
	if err != nil {
		return nil, err
	}
	return Decode(data)
}

// device is what interfaces, bonds, VLANs and tunnels have in common.
type device struct {
	field             string // interfaces[0]
	kind              string
	name              string
	addresses         *[]string
	mtu               int
	requiredForOnline string
	roles             []string
	routes            []Route
	tags              *[]int // nil: it has none
	rules             []FirewallRule
	ethernet          *Ethernet
	unknown           bool // it has members that are not known here
}

// odd reports whether an object has members that are not known here: what they make of the others is
// for the server's release to judge.
func odd(object any) bool { return len(jsonkeep.Unknown(object)) > 0 }

// devices lists all of them, in their order.
func (c *Config) devices() (out []device) {
	for i := range c.Interfaces {
		d := &c.Interfaces[i]
		out = append(out, device{fmt.Sprintf("interfaces[%d]", i), "interface", d.Name, &d.Addresses, d.MTU, d.RequiredForOnline, d.Roles, d.Routes, &d.VLANTags, d.FirewallRules, d.Ethernet, odd(d)})
	}
	for i := range c.Bonds {
		d := &c.Bonds[i]
		out = append(out, device{fmt.Sprintf("bonds[%d]", i), "bond", d.Name, &d.Addresses, d.MTU, d.RequiredForOnline, d.Roles, d.Routes, &d.VLANTags, d.FirewallRules, d.Ethernet, odd(d)})
	}
	for i := range c.VLANs {
		d := &c.VLANs[i]
		out = append(out, device{fmt.Sprintf("vlans[%d]", i), "VLAN", d.Name, &d.Addresses, d.MTU, d.RequiredForOnline, d.Roles, d.Routes, nil, d.FirewallRules, nil, odd(d)})
	}
	for i := range c.WireGuard {
		d := &c.WireGuard[i]
		out = append(out, device{fmt.Sprintf("wireguard[%d]", i), "WireGuard tunnel", d.Name, &d.Addresses, d.MTU, d.RequiredForOnline, d.Roles, d.Routes, nil, d.FirewallRules, nil, odd(d)})
	}
	return out
}
