package seed

import (
	"fmt"
	"net/netip"
	"strings"
)

// Services configure access to external storage and networks. Fields that are nil leave a service off. The fields and values
// are those of the IncusOS API. Ceph and LINSTOR can't be seeded.
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

// ISCSI configures storage over iSCSI.
type ISCSI struct {
	Enabled bool          `json:"enabled"`
	Targets []ISCSITarget `json:"targets,omitempty"`
}

// ISCSITarget is an iSCSI target. Target is its IQN. Port 0 means the default port.
type ISCSITarget struct {
	Target  string `json:"target"`
	Address string `json:"address"`
	Port    int    `json:"port"`
}

// LVM configures shared storage with lvmlockd.
type LVM struct {
	Enabled bool `json:"enabled"`
	// SystemID must differ between all servers that share a volume group: 1 to 2000; 0: not set.
	SystemID int64 `json:"system_id,omitempty"`
}

// Multipath configures storage with several paths. WWNs are the names of its devices.
type Multipath struct {
	Enabled bool     `json:"enabled"`
	WWNs    []string `json:"wwns,omitempty"`
}

// Netbird configures the Netbird overlay network.
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

// NVME configures storage over NVMe over fabrics.
type NVME struct {
	Enabled bool         `json:"enabled"`
	Targets []NVMETarget `json:"targets,omitempty"`
}

// NVMETarget is an NVMe target. Transport is a transport of nvme-cli, such as tcp. Port 0 means the default port.
type NVMETarget struct {
	Transport   string `json:"transport"`
	Address     string `json:"address"`
	HostAddress string `json:"host_address,omitempty"`
	Port        int    `json:"port,omitempty"`
	NQN         string `json:"nqn,omitempty"`
}

// OVN configures the server as a chassis of Open Virtual Network. Certificates and keys are in PEM form.
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

// Tailscale configures the Tailscale overlay network. AdvertisedRoutes are networks such as 10.0.0.0/8.
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

// USBIP attaches USB devices of other machines.
type USBIP struct {
	Enabled bool          `json:"enabled"`
	Targets []USBIPTarget `json:"targets,omitempty"`
}

// USBIPTarget is a USB device of another machine.
type USBIPTarget struct {
	Address string `json:"address"`
	BusID   string `json:"bus_id"`
}

// validate checks addresses, ports and required fields.
func (s *Services) validate(v *validation) {
	if s.ISCSI != nil {
		for i, t := range s.ISCSI.Targets {
			field := fmt.Sprintf("iscsi.targets[%d]", i)
			v.require(field+".target", t.Target)
			v.require(field+".address", t.Address)
			v.port(field+".port", t.Port)
		}
	}
	if s.NVME != nil {
		for i, t := range s.NVME.Targets {
			field := fmt.Sprintf("nvme.targets[%d]", i)
			v.require(field+".transport", t.Transport)
			v.require(field+".address", t.Address)
			v.port(field+".port", t.Port)
		}
	}
	if s.USBIP != nil {
		for i, t := range s.USBIP.Targets {
			field := fmt.Sprintf("usbip.targets[%d]", i)
			v.require(field+".address", t.Address)
			v.require(field+".bus_id", t.BusID)
		}
	}
	if l := s.LVM; l != nil && (l.SystemID < 0 || l.SystemID > 2000) {
		v.add("lvm.system_id", "%d is not in the range 1 to 2000", l.SystemID)
	}
	if o := s.OVN; o != nil && o.TunnelAddress != "" {
		if _, err := netip.ParseAddr(o.TunnelAddress); err != nil {
			v.add("ovn.tunnel_address", "%s is not an IP address", shown(o.TunnelAddress))
		}
	}
	if t := s.Tailscale; t != nil {
		v.port("tailscale.serve_port", t.ServePort)
		for i, route := range t.AdvertisedRoutes {
			if _, err := netip.ParsePrefix(route); err != nil {
				v.add(fmt.Sprintf("tailscale.advertised_routes[%d]", i), "%s is not a network such as 10.0.0.0/8", shown(route))
			}
		}
	}
}

// require rejects a blank text.
func (v *validation) require(field, text string) {
	if strings.TrimSpace(text) == "" {
		v.add(field, "it is missing")
	}
}

// port rejects numbers that are no port. It accepts 0, the default.
func (v *validation) port(field string, n int) {
	if n < 0 || n > 65535 {
		v.add(field, "%d is not in the range 1 to 65535", n)
	}
}
