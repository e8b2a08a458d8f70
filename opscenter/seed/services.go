package seed

import (
	"fmt"
	"net/netip"
	"strings"
)

// Services are those that connect the server with storage and networks. Ceph and LINSTOR can't be seeded.
type Services struct {
	Version   Version    `json:"version"`
	ISCSI     *ISCSI     `json:"iscsi,omitempty"`
	LVM       *LVM       `json:"lvm,omitempty"`
	Multipath *Multipath `json:"multipath,omitempty"`
	Netbird   *Netbird   `json:"netbird,omitempty"`
	NVME      *NVME      `json:"nvme,omitempty"`
	OVN       *OVN       `json:"ovn,omitempty"`
	Tailscale *Tailscale `json:"tailscale,omitempty"`
	USBIP     *USBIP     `json:"usbip,omitempty"`
}

// ISCSI is storage over iSCSI.
type ISCSI struct {
	Enabled bool          `json:"enabled"`
	Targets []ISCSITarget `json:"targets,omitempty"`
}

// ISCSITarget is a target at an address.
type ISCSITarget struct {
	Target  string `json:"target"`
	Address string `json:"address"`
	Port    int    `json:"port"`
}

// LVM is shared storage with lvmlockd.
type LVM struct {
	Enabled bool `json:"enabled"`
	// SystemID is another one for each server that shares a volume group.
	SystemID int64 `json:"system_id,omitempty"`
}

// Multipath is storage that is reached on several paths.
type Multipath struct {
	Enabled bool     `json:"enabled"`
	WWNs    []string `json:"wwns,omitempty"`
}

// Netbird is an overlay network.
type Netbird struct {
	Enabled             bool     `json:"enabled"`
	SetupKey            Secret   `json:"setup_key,omitempty"`
	ManagementURL       string   `json:"management_url,omitempty"`
	AdminURL            string   `json:"admin_url,omitempty"`
	Anonymize           bool     `json:"anonymize,omitempty"`
	BlockInbound        bool     `json:"block_inbound,omitempty"`
	BlockLANAccess      bool     `json:"block_lan_access,omitempty"`
	DisableClientRoutes bool     `json:"disable_client_routes,omitempty"`
	DisableServerRoutes bool     `json:"disable_server_routes,omitempty"`
	DisableDNS          bool     `json:"disable_dns,omitempty"`
	DisableFirewall     bool     `json:"disable_firewall,omitempty"`
	DNSResolverAddress  string   `json:"dns_resolver_address,omitempty"`
	ExternalIPMap       []string `json:"external_ip_map,omitempty"`
	ExtraDNSLabels      []string `json:"extra_dns_labels,omitempty"`
}

// NVME is storage over NVMe over fabrics.
type NVME struct {
	Enabled bool         `json:"enabled"`
	Targets []NVMETarget `json:"targets,omitempty"`
}

// NVMETarget is a target at an address.
type NVMETarget struct {
	Transport   string `json:"transport"`
	Address     string `json:"address"`
	HostAddress string `json:"host_address,omitempty"`
	Port        int    `json:"port,omitempty"`
	NQN         string `json:"nqn,omitempty"`
}

// OVN is the chassis of an Open Virtual Network.
type OVN struct {
	Enabled              bool   `json:"enabled"`
	ICChassis            bool   `json:"ic_chassis,omitempty"`
	Database             string `json:"database,omitempty"`
	TLSClientCertificate string `json:"tls_client_certificate,omitempty"`
	TLSClientKey         Secret `json:"tls_client_key,omitempty"`
	TLSCACertificate     string `json:"tls_ca_certificate,omitempty"`
	TunnelAddress        string `json:"tunnel_address,omitempty"`
	TunnelProtocol       string `json:"tunnel_protocol,omitempty"`
}

// Tailscale is an overlay network.
type Tailscale struct {
	Enabled                bool     `json:"enabled"`
	LoginServer            string   `json:"login_server,omitempty"`
	AuthKey                Secret   `json:"auth_key,omitempty"`
	AcceptRoutes           bool     `json:"accept_routes,omitempty"`
	AcceptDNS              bool     `json:"accept_dns,omitempty"`
	AdvertisedRoutes       []string `json:"advertised_routes,omitempty"`
	AdvertiseExitNode      bool     `json:"advertise_exit_node,omitempty"`
	ExitNode               string   `json:"exit_node,omitempty"`
	ExitNodeAllowLANAccess bool     `json:"exit_node_allow_lan_access,omitempty"`
	ServeEnabled           bool     `json:"serve_enabled,omitempty"`
	ServePort              int      `json:"serve_port,omitempty"`
	ServeService           string   `json:"serve_service,omitempty"`
}

// USBIP is USB devices of other machines.
type USBIP struct {
	Enabled bool          `json:"enabled"`
	Targets []USBIPTarget `json:"targets,omitempty"`
}

// USBIPTarget is a device at an address.
type USBIPTarget struct {
	Address string `json:"address"`
	BusID   string `json:"bus_id"`
}

func (s *Services) validate(v *validation) {
	if s.ISCSI != nil {
		for i, t := range s.ISCSI.Targets {
			field := fmt.Sprintf("iscsi.targets[%d]", i)
			v.wanted(field+".target", t.Target)
			v.wanted(field+".address", t.Address)
			v.port(field+".port", t.Port)
		}
	}
	if s.NVME != nil {
		for i, t := range s.NVME.Targets {
			field := fmt.Sprintf("nvme.targets[%d]", i)
			v.wanted(field+".transport", t.Transport)
			v.wanted(field+".address", t.Address)
			v.port(field+".port", t.Port)
		}
	}
	if s.USBIP != nil {
		for i, t := range s.USBIP.Targets {
			field := fmt.Sprintf("usbip.targets[%d]", i)
			v.wanted(field+".address", t.Address)
			v.wanted(field+".bus_id", t.BusID)
		}
	}
	if l := s.LVM; l != nil && (l.SystemID < 0 || l.SystemID > 2000) {
		v.add("lvm.system_id", "%d is not in the range 1 to 2000", l.SystemID)
	}
	if o := s.OVN; o != nil && o.TunnelAddress != "" {
		if _, err := netip.ParseAddr(o.TunnelAddress); err != nil {
			v.add("ovn.tunnel_address", "%s is no IP address", shown(o.TunnelAddress))
		}
	}
	if t := s.Tailscale; t != nil {
		v.port("tailscale.serve_port", t.ServePort)
		for i, route := range t.AdvertisedRoutes {
			if _, err := netip.ParsePrefix(route); err != nil {
				v.add(fmt.Sprintf("tailscale.advertised_routes[%d]", i), "%s is no network, as 10.0.0.0/8", shown(route))
			}
		}
	}
}

func (v *validation) wanted(field, text string) {
	if strings.TrimSpace(text) == "" {
		v.add(field, "it is missing")
	}
}

// port takes 0, too: the default.
func (v *validation) port(field string, n int) {
	if n < 0 || n > 65535 {
		v.add(field, "%d is not in the range 1 to 65535", n)
	}
}
