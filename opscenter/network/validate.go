package network

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrInvalid: a configuration can't work, or would be refused. See ValidationError.
var ErrInvalid = errors.New("invalid network configuration")

// Problem is something wrong with a configuration.
type Problem struct {
	// Field it is about, as in interfaces[0].addresses[1].
	Field   string `json:"field"`
	Message string `json:"message"`
}

func (p Problem) String() string { return p.Field + ": " + p.Message }

// ValidationError lists what is wrong. It is an ErrInvalid.
type ValidationError struct{ Problems []Problem }

func (e *ValidationError) Error() string {
	list := make([]string, 0, maxProblems)
	for _, p := range e.Problems[:min(len(e.Problems), maxProblems)] {
		list = append(list, p.String())
	}
	if more := len(e.Problems) - maxProblems; more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	return ErrInvalid.Error() + ": " + strings.Join(list, "; ")
}

// Unwrap returns ErrInvalid.
func (e *ValidationError) Unwrap() error { return ErrInvalid }

// Limits of a configuration.
const (
	MaxNameLength = 13 // of a device (IncusOS)
	MinMTU        = 68
	MinMTUIPv6    = 1280
	MaxMTU        = 9000 // IncusOS
	DefaultMTU    = 1500
	MinVLAN       = 1
	MaxVLAN       = 4094
	// MaxDevices and MaxEntries bound how many devices there are, and entries in a list of one.
	MaxDevices = 1000
	MaxEntries = 4096
	// maxProblems is how many an error's text names.
	maxProblems = 10
)

var (
	bondModes   = []string{"balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"}
	roles       = []string{RoleCluster, RoleInstances, RoleManagement, RoleStorage}
	onlineModes = []string{"", "ipv4", "ipv6", "both", "any", "no"}
	dynamic     = []string{"dhcp4", "dhcp6", "slaac"}
	proxyAuths  = []string{"anonymous", "basic", "kerberos"}
)

// Rules of Validate. The zero value is all of them.
type Rules struct {
	// AllowUnmanaged accepts a configuration that gives no address to a device with role
	// management: nobody will be able to reach the server to change that again.
	AllowUnmanaged bool
}

// Validate says what is wrong with a configuration; empty: nothing that is known here. The
// rules are those of IncusOS releases (systemd network validation), and beyond them what
// can't work: two devices with one address, a gateway on no network of its device, an MTU
// above the parent's.
func (c *Config) Validate(rules Rules) []Problem {
	v := &validation{config: c, rules: rules}
	v.all()
	return v.problems
}

type validation struct {
	config   *Config
	rules    Rules
	problems []Problem
}

func (v *validation) add(field, format string, args ...any) {
	v.problems = append(v.problems, Problem{field, fmt.Sprintf(format, args...)})
}

// shown limits what is repeated of a configuration.
func shown(value string) string {
	if len(value) > 60 {
		value = value[:60] + "…"
	}
	return strconv.Quote(strings.ToValidUTF8(value, "�"))
}

func (v *validation) all() {
	c := v.config
	all := c.devices()
	if len(c.Interfaces)+len(c.Bonds)+len(c.VLANs) == 0 {
		v.add("interfaces", "at least one interface, bond or VLAN is wanted")
	}
	if len(all) > MaxDevices {
		v.add("interfaces", "%d devices, at most %d are allowed", len(all), MaxDevices)
		return
	}
	names := map[string]string{}
	addresses := map[netip.Addr]string{}
	for i := range all {
		v.device(&all[i], names, addresses)
	}
	v.hardware()
	v.vlans()
	v.wireguard()
	v.management(all)
	v.dns()
	v.time()
	v.proxy()
	if text := c.ConfirmationTimeout; text != "" {
		if d, err := time.ParseDuration(text); err != nil || d <= 0 {
			v.add("confirmation_timeout", "%s is not a duration above 0, as 5m", shown(text))
		}
	}
}

func (v *validation) device(d *device, names map[string]string, addresses map[netip.Addr]string) {
	switch other, taken := names[d.name]; {
	case d.name == "":
		v.add(d.field+".name", "a name is wanted")
	case taken:
		v.add(d.field+".name", "%s is the name of %s as well", shown(d.name), other)
	case len(d.name) > MaxNameLength && (d.kind != "interface" || !isUSB(d.name)):
		v.add(d.field+".name", "%s is longer than %d characters", shown(d.name), MaxNameLength)
	case strings.HasPrefix(d.name, "_"):
		v.add(d.field+".name", "%s begins with an underscore", shown(d.name))
	case !isDeviceName(d.name):
		v.add(d.field+".name", "%s is not a name of a network device", shown(d.name))
	}
	names[d.name] = d.field
	v.mtu(d)
	v.onlyOnce(d.field+".roles", d.roles)
	for i, role := range d.roles {
		if !slices.Contains(roles, role) {
			v.add(fmt.Sprintf("%s.roles[%d]", d.field, i), "%s is none of %s", shown(role), strings.Join(roles, ", "))
		}
	}
	if !slices.Contains(onlineModes, d.requiredForOnline) {
		v.add(d.field+".required_for_online", "%s is none of %s", shown(d.requiredForOnline), strings.Join(onlineModes[1:], ", "))
	}
	v.addresses(d, addresses)
	v.routes(d)
	v.firewall(d)
	if d.tags != nil {
		seen := map[int]bool{}
		for i, tag := range *d.tags {
			field := fmt.Sprintf("%s.vlan_tags[%d]", d.field, i)
			switch {
			case tag < MinVLAN || tag > MaxVLAN:
				v.add(field, "%d is not in the range %d to %d", tag, MinVLAN, MaxVLAN)
			case seen[tag]:
				v.add(field, "%d is there twice", tag)
			}
			seen[tag] = true
		}
	}
}

// isUSB reports whether a name is the one that systemd gives to a network adapter on USB, which IncusOS shortens.
func isUSB(name string) bool {
	mac, ok := strings.CutPrefix(name, "enx")
	return ok && len(mac) == 12 && !strings.ContainsFunc(mac, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') && (r < 'A' || r > 'F') })
}

func isDeviceName(name string) bool {
	return name != "." && name != ".." && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == ':' })
}

func (v *validation) mtu(d *device) {
	least := MinMTU
	for _, text := range *d.addresses {
		if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Is6() || text == "slaac" || text == "dhcp6" {
			least = MinMTUIPv6
		}
	}
	if d.mtu != 0 && (d.mtu < least || d.mtu > MaxMTU) {
		v.add(d.field+".mtu", "%d is not in the range %d to %d", d.mtu, least, MaxMTU)
	}
}

func (v *validation) onlyOnce(field string, list []string) {
	seen := map[string]bool{}
	for i, value := range list {
		if seen[value] {
			v.add(fmt.Sprintf("%s[%d]", field, i), "%s is there twice", shown(value))
		}
		seen[value] = true
	}
	if len(list) > MaxEntries {
		v.add(field, "%d entries, at most %d are allowed", len(list), MaxEntries)
	}
}

func (v *validation) addresses(d *device, taken map[netip.Addr]string) {
	v.onlyOnce(d.field+".addresses", *d.addresses)
	for i, text := range *d.addresses {
		field := fmt.Sprintf("%s.addresses[%d]", d.field, i)
		if slices.Contains(dynamic, text) {
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			if _, bare := netip.ParseAddr(text); bare == nil {
				v.add(field, "%s has no prefix length", shown(text))
			} else {
				v.add(field, "%s is not an IP address with a prefix length, nor one of %s", shown(text), strings.Join(dynamic, ", "))
			}
			continue
		}
		a := p.Addr()
		switch other, twice := taken[a]; {
		case a.Is4In6():
			v.add(field, "%s is an IPv4 address in the form of IPv6", shown(text))
		case a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			v.add(field, "%s is not an address of one host", shown(text))
		case p.Bits() == 0:
			v.add(field, "%s has a prefix length of 0", shown(text))
		case isNetworkOrBroadcast(p):
			v.add(field, "%s is the address of a network, or of all its hosts", shown(text))
		case twice && other != field:
			v.add(field, "%s is the address %s as well", shown(a.String()), other)
		}
		taken[a] = field
	}
}

// isNetworkOrBroadcast reports whether an IPv4 address is the first or the last of its network.
func isNetworkOrBroadcast(p netip.Prefix) bool {
	if !p.Addr().Is4() || p.Bits() >= 31 {
		return false
	}
	if p.Masked().Addr() == p.Addr() {
		return true
	}
	b := p.Addr().As4()
	host := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	mask := uint32(1)<<(32-p.Bits()) - 1
	return host&mask == mask
}

func (v *validation) routes(d *device) {
	seen := map[string]bool{}
	for i, r := range d.routes {
		field := fmt.Sprintf("%s.routes[%d]", d.field, i)
		if key := r.To + " " + r.Via; seen[key] {
			v.add(field, "the same route is there twice")
		} else {
			seen[key] = true
		}
		to, err := network(r.To)
		if err != nil {
			v.add(field+".to", "%s is not a network, as 10.0.0.0/8", shown(r.To))
		}
		if slices.Contains(dynamic, r.Via) {
			if !slices.Contains(*d.addresses, r.Via) {
				v.add(field+".via", "the device has no address by %s", r.Via)
			}
			continue
		}
		via, viaErr := netip.ParseAddr(r.Via)
		switch {
		case viaErr != nil:
			v.add(field+".via", "%s is not an IP address, nor one of %s", shown(r.Via), strings.Join(dynamic, ", "))
		case err == nil && to.Addr().Is4() != via.Is4():
			v.add(field+".via", "%s is not of the same family as %s", shown(r.Via), shown(r.To))
		case !d.reaches(via):
			v.add(field+".via", "%s is on no network of the device", shown(r.Via))
		}
	}
}

// network reads a network; an address stands for itself alone.
func network(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(text)
}

// reaches reports whether an address is, or may be, on a network of the device.
func (d *device) reaches(a netip.Addr) bool {
	if a.Is6() && a.IsLinkLocalUnicast() {
		return true
	}
	for _, text := range *d.addresses {
		switch {
		case text == "dhcp4" && a.Is4(), (text == "slaac" || text == "dhcp6") && a.Is6():
			return true // nobody knows before
		}
		if p, err := netip.ParsePrefix(text); err == nil && p.Contains(a) && p.Addr() != a {
			return true
		}
	}
	return false
}

func (v *validation) firewall(d *device) {
	for i, r := range d.rules {
		field := fmt.Sprintf("%s.firewall_rules[%d]", d.field, i)
		if r.Action == "" {
			v.add(field+".action", "an action is wanted")
		}
		if r.Source != "" {
			if _, err := network(r.Source); err != nil {
				v.add(field+".source", "%s is not an address, nor a network", shown(r.Source))
			}
		}
		if r.Port < 0 || r.Port > 65535 {
			v.add(field+".port", "%d is not in the range 1 to 65535", r.Port)
		}
		if r.Port > 0 && r.Protocol == "" {
			v.add(field+".protocol", "a port is of a protocol: it is wanted")
		}
	}
}

// hardware checks which interfaces devices are made of.
func (v *validation) hardware() {
	taken := map[string]string{}
	use := func(field, hwaddr string) {
		key := strings.ToLower(hwaddr)
		mac, err := net.ParseMAC(hwaddr)
		switch {
		case hwaddr == "":
			v.add(field, "a MAC address, or the name of an interface, is wanted")
			return
		case err == nil && (len(mac) != 6 || mac[0]&1 == 1 || mac.String() == "00:00:00:00:00:00"):
			v.add(field, "%s is not the MAC address of an interface", shown(hwaddr))
		case err != nil && (!isDeviceName(hwaddr) || len(hwaddr) > 15):
			v.add(field, "%s is neither a MAC address nor the name of an interface", shown(hwaddr))
		case err == nil:
			key = mac.String()
		}
		if other, twice := taken[key]; twice {
			v.add(field, "%s is %s as well", shown(hwaddr), other)
		}
		taken[key] = field
	}
	for i := range v.config.Interfaces {
		use(fmt.Sprintf("interfaces[%d].hwaddr", i), v.config.Interfaces[i].Hwaddr)
	}
	for i := range v.config.Bonds {
		b := &v.config.Bonds[i]
		field := fmt.Sprintf("bonds[%d]", i)
		if !slices.Contains(bondModes, b.Mode) {
			v.add(field+".mode", "%s is none of %s", shown(b.Mode), strings.Join(bondModes, ", "))
		}
		if len(b.Members) == 0 {
			v.add(field+".members", "at least one member is wanted")
		}
		for k, member := range b.Members {
			use(fmt.Sprintf("%s.members[%d]", field, k), member)
		}
		if b.Hwaddr == "" {
			continue
		}
		if other, twice := taken[strings.ToLower(b.Hwaddr)]; twice && !strings.HasPrefix(other, field+".members") {
			v.add(field+".hwaddr", "%s is %s as well", shown(b.Hwaddr), other)
		}
		if mac, err := net.ParseMAC(b.Hwaddr); err == nil && (len(mac) != 6 || mac[0]&1 == 1) || err != nil && !isDeviceName(b.Hwaddr) {
			v.add(field+".hwaddr", "%s is neither a MAC address nor the name of an interface", shown(b.Hwaddr))
		}
	}
}

func (v *validation) vlans() {
	parents := map[string]int{} // MTU, by name
	for i := range v.config.Interfaces {
		parents[v.config.Interfaces[i].Name] = v.config.Interfaces[i].MTU
	}
	for i := range v.config.Bonds {
		parents[v.config.Bonds[i].Name] = v.config.Bonds[i].MTU
	}
	taken := map[string]string{}
	for i := range v.config.VLANs {
		vlan := &v.config.VLANs[i]
		field := fmt.Sprintf("vlans[%d]", i)
		mtu, there := parents[vlan.Parent]
		switch {
		case vlan.Parent == "":
			v.add(field+".parent", "an interface or a bond is wanted")
		case !there:
			v.add(field+".parent", "there is no interface and no bond %s", shown(vlan.Parent))
		default:
			if mtu == 0 {
				mtu = DefaultMTU
			}
			if vlan.MTU > mtu {
				v.add(field+".mtu", "%d is more than that of its parent %s, %d", vlan.MTU, shown(vlan.Parent), mtu)
			}
		}
		if vlan.ID < MinVLAN || vlan.ID > MaxVLAN {
			v.add(field+".id", "%d is not in the range %d to %d", vlan.ID, MinVLAN, MaxVLAN)
			continue
		}
		key := fmt.Sprint(vlan.Parent, " ", vlan.ID)
		if other, twice := taken[key]; twice {
			v.add(field+".id", "%d on %s is %s as well", vlan.ID, shown(vlan.Parent), other)
		}
		taken[key] = field
	}
}

// Managers returns the names of the devices that the server is managed by: those with role
// management, and if there are none all with an address (IncusOS gives them the role then).
func (c *Config) Managers() (out []string) {
	for _, d := range c.managers() {
		out = append(out, d.name)
	}
	return out
}

func (c *Config) managers() (out []device) {
	all := c.devices()
	given := slices.ContainsFunc(all, func(d device) bool { return slices.Contains(d.roles, RoleManagement) })
	for _, d := range all {
		if given && slices.Contains(d.roles, RoleManagement) || !given && len(*d.addresses) > 0 {
			out = append(out, d)
		}
	}
	return out
}

// Addresses returns the static addresses of all devices.
func (c *Config) Addresses() (out []netip.Addr) {
	for _, d := range c.devices() {
		for _, text := range *d.addresses {
			if p, err := netip.ParsePrefix(text); err == nil {
				out = append(out, p.Addr())
			}
		}
	}
	return out
}

// ManagementAddresses returns the addresses the server is managed at: the static ones, and
// whether there are others that only the network will tell.
func (c *Config) ManagementAddresses() (static []netip.Addr, more bool) {
	for _, d := range c.managers() {
		for _, text := range *d.addresses {
			if p, err := netip.ParsePrefix(text); err == nil {
				static = append(static, p.Addr())
			} else if slices.Contains(dynamic, text) {
				more = true
			}
		}
	}
	return static, more
}

func (v *validation) management(all []device) {
	if v.rules.AllowUnmanaged || len(all) == 0 {
		return
	}
	managers := v.config.managers()
	for _, d := range managers {
		if len(*d.addresses) > 0 {
			return
		}
	}
	field := all[0].field + ".roles"
	if len(managers) > 0 {
		field = managers[0].field + ".addresses"
	}
	v.add(field, "no device with role management has an address: nobody could reach the server again")
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
