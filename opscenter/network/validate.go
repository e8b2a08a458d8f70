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

// ErrInvalid: a configuration can't work, or a server would reject it. See ValidationError.
var ErrInvalid = errors.New("invalid network configuration")

// Problem is one mistake in a configuration.
type Problem struct {
	// Field is the path of the field, such as interfaces[0].addresses[1].
	Field string `json:"field"`
	// Message describes the mistake.
	Message string `json:"message"`
}

// String returns "FIELD: MESSAGE".
func (p Problem) String() string { return p.Field + ": " + p.Message }

// ValidationError lists all problems of a configuration. It wraps ErrInvalid.
type ValidationError struct{ Problems []Problem }

// Error implements error. It contains up to 10 problems.
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
	MaxNameLength = 15 // of a device's name, in Linux; IncusOS allows less for some devices
	MinMTU        = 68
	MaxMTU        = 65535
	MinVLAN       = 1
	MaxVLAN       = 4094
	// MaxDevices is the maximum number of devices, and MaxEntries that of entries in a list of a device.
	MaxDevices = 1000
	MaxEntries = 4096
	// maxProblems is the maximum number of problems in the text of an error.
	maxProblems = 10
)

var (
	// dynamic are the values of addresses that a device gets from the network.
	dynamic = []string{"dhcp4", "dhcp6", "slaac"}
	// proxyAuths are the kinds of authentication to a proxy.
	proxyAuths = []string{"anonymous", "basic", "kerberos"}
)

// Rules are the options of Validate. The zero value applies all rules.
type Rules struct {
	// AllowUnmanaged accepts a configuration in which no device with role management has an address. The control plane can't
	// reach a server with such a configuration, not even to change it again.
	AllowUnmanaged bool
}

// Validate returns the problems of a configuration; empty: no problem is known. It rejects a configuration that works on no
// release, and one that cuts the server off (see Rules). No release works
//
//   - without a device,
//   - with a repeated name, MAC address, IP address, or VLAN ID of one parent,
//   - with a gateway outside the networks of its device,
//   - with an MTU or a VLAN ID out of range.
//
// Validate leaves the rest to the server, which rejects or undoes it: unknown roles and modes, and objects with unknown members.
// A newer release may know them.
func (c *Config) Validate(rules Rules) []Problem {
	v := &validation{config: c, rules: rules}
	v.run()
	return v.problems
}

// validation collects the problems of a configuration.
type validation struct {
	config   *Config
	rules    Rules
	problems []Problem
}

// add adds a problem.
func (v *validation) add(field, format string, args ...any) {
	v.problems = append(v.problems, Problem{field, fmt.Sprintf(format, args...)})
}

// shown quotes a value for a problem, and shortens it to 60 bytes.
func shown(value string) string {
	if len(value) > 60 {
		value = value[:60] + "…"
	}
	return strconv.Quote(strings.ToValidUTF8(value, "�"))
}

// run checks the whole configuration.
func (v *validation) run() {
	c := v.config
	all := c.devices()
	if len(c.Interfaces)+len(c.Bonds)+len(c.VLANs) == 0 && !hasUnknown(c) {
		v.add("interfaces", "at least one interface, bond or VLAN is required")
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
			v.add("confirmation_timeout", "%s is not a duration above 0 such as 5m", shown(text))
		}
	}
}

// device checks a device. names and addresses map the names and addresses so far to their fields.
func (v *validation) device(d *device, names map[string]string, addresses map[netip.Addr]string) {
	switch other, taken := names[d.name]; {
	case d.name == "":
		v.add(d.field+".name", "a name is required")
	case taken:
		v.add(d.field+".name", "%s is also the name of %s", shown(d.name), other)
	case len(d.name) > MaxNameLength && (d.kind != "interface" || !isUSB(d.name)):
		v.add(d.field+".name", "%s is longer than %d characters", shown(d.name), MaxNameLength)
	case !isDeviceName(d.name):
		v.add(d.field+".name", "%s is not the name of a network device", shown(d.name))
	}
	names[d.name] = d.field
	v.mtu(d)
	v.bounded(d.field+".roles", len(d.roles))
	v.addresses(d, addresses)
	v.routes(d)
	v.firewall(d)
	if d.tags != nil {
		for i, tag := range *d.tags {
			if tag < MinVLAN || tag > MaxVLAN {
				v.add(fmt.Sprintf("%s.vlan_tags[%d]", d.field, i), "%d is not in the range %d to %d", tag, MinVLAN, MaxVLAN)
			}
		}
	}
}

// isUSB reports whether a name is systemd's name of a USB network adapter, which IncusOS shortens.
func isUSB(name string) bool {
	mac, ok := strings.CutPrefix(name, "enx")
	return ok && len(mac) == 12 && !strings.ContainsFunc(mac, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') && (r < 'A' || r > 'F') })
}

// isDeviceName reports whether Linux allows a name for a network device, except for its length.
func isDeviceName(name string) bool {
	return name != "." && name != ".." && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == ':' })
}

// mtu checks the MTU of a device.
func (v *validation) mtu(d *device) {
	if d.mtu != 0 && (d.mtu < MinMTU || d.mtu > MaxMTU) {
		v.add(d.field+".mtu", "%d is not in the range %d to %d", d.mtu, MinMTU, MaxMTU)
	}
}

// bounded checks the number of entries in a list.
func (v *validation) bounded(field string, n int) {
	if n > MaxEntries {
		v.add(field, "%d entries, at most %d are allowed", n, MaxEntries)
	}
}

// addresses checks the addresses of a device. taken maps the addresses so far to their fields.
func (v *validation) addresses(d *device, taken map[netip.Addr]string) {
	v.bounded(d.field+".addresses", len(*d.addresses))
	for i, text := range *d.addresses {
		field := fmt.Sprintf("%s.addresses[%d]", d.field, i)
		if slices.Contains(dynamic, text) {
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, bare := netip.ParseAddr(text) // older releases accept an address without a prefix length
			if bare != nil {
				if !d.unknown && strings.ContainsAny(text, ".:/") || text == "" { // newer releases may have further keywords
					v.add(field, "%s is not an IP address with a prefix length, nor one of %s", shown(text), strings.Join(dynamic, ", "))
				}
				continue
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		a := p.Addr()
		// Two devices may share an address of a single host, and a link-local address is local to its device.
		shared := p.IsSingleIP() || a.IsLinkLocalUnicast() || a.IsUnspecified() || d.unknown
		switch other, twice := taken[a]; {
		case a.Is4In6():
			v.add(field, "%s is an IPv4 address in IPv6 form", shown(text))
		case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			v.add(field, "%s is not the address of one host", shown(text))
		case isBroadcast(p):
			v.add(field, "%s is the broadcast address of a network", shown(text))
		case twice && !shared && !strings.HasPrefix(other, d.field+"."):
			v.add(field, "%s is also the address %s", shown(a.String()), other)
		}
		if !shared {
			taken[a] = field
		}
	}
}

// isBroadcast reports whether an IPv4 address is the last one of its network. The first one is valid for a host in newer kernels.
func isBroadcast(p netip.Prefix) bool {
	if !p.Addr().Is4() || p.Bits() >= 31 || p.Addr().IsUnspecified() {
		return false
	}
	b := p.Addr().As4()
	host := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	mask := uint32(1)<<(32-p.Bits()) - 1
	return host&mask == mask
}

// routes checks the routes of a device.
func (v *validation) routes(d *device) {
	v.bounded(d.field+".routes", len(d.routes))
	for i := range d.routes {
		r := &d.routes[i]
		field := fmt.Sprintf("%s.routes[%d]", d.field, i)
		to, err := network(r.To)
		if err != nil && !hasUnknown(r) {
			v.add(field+".to", "%s is not a network such as 10.0.0.0/8", shown(r.To))
		}
		if d.unknown || hasUnknown(r) {
			continue // an unknown member may put the gateway on the link
		}
		if slices.Contains(dynamic, r.Via) {
			if !d.getsAddress(r.Via) {
				v.add(field+".via", "the device gets no address by %s", r.Via)
			}
			continue
		}
		via, viaErr := netip.ParseAddr(r.Via)
		switch {
		case viaErr != nil:
			v.add(field+".via", "%s is neither an IP address nor one of %s", shown(r.Via), strings.Join(dynamic, ", "))
		case err == nil && to.Addr().Is6() && via.Is4():
			v.add(field+".via", "%s is not of the address family of %s", shown(r.Via), shown(r.To))
		case !d.reaches(via):
			v.add(field+".via", "%s is not on a network of the device", shown(r.Via))
		}
	}
}

// getsAddress reports whether a device gets an address by a method: dhcp4, dhcp6 or slaac. IncusOS uses router advertisements for
// both dhcp6 and slaac.
func (d *device) getsAddress(method string) bool {
	if method == "slaac" || method == "dhcp6" {
		return slices.Contains(*d.addresses, "slaac") || slices.Contains(*d.addresses, "dhcp6")
	}
	return slices.Contains(*d.addresses, method)
}

// network reads a network. An address without a prefix length is a network of one host.
func network(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(text)
}

// reaches reports whether an address is, or may be, on a network of the device.
func (d *device) reaches(a netip.Addr) bool {
	if a.Is6() && a.IsLinkLocalUnicast() || a.IsUnspecified() { // the unspecified address means the device itself
		return true
	}
	for i := range d.routes {
		// The destination of a route without a gateway is on the link of the device.
		r := &d.routes[i]
		via, err := netip.ParseAddr(r.Via)
		to, toErr := network(r.To)
		if toErr == nil && to.Bits() > 0 && to.Contains(a) && (err == nil && via.IsUnspecified() || hasUnknown(r)) {
			return true
		}
	}
	for _, text := range *d.addresses {
		switch {
		case text == "dhcp4" && a.Is4(), (text == "slaac" || text == "dhcp6") && a.Is6():
			return true // the network is unknown until the device has an address
		}
		if p, err := netip.ParsePrefix(text); err == nil && p.Contains(a) && p.Addr() != a {
			return true
		}
	}
	return false
}

// firewall checks the firewall rules of a device.
func (v *validation) firewall(d *device) {
	v.bounded(d.field+".firewall_rules", len(d.rules))
	for i := range d.rules {
		r := &d.rules[i]
		field := fmt.Sprintf("%s.firewall_rules[%d]", d.field, i)
		if hasUnknown(r) {
			continue
		}
		if r.Action == "" {
			v.add(field+".action", "an action is required")
		}
		if r.Source != "" {
			if _, err := network(r.Source); err != nil {
				v.add(field+".source", "%s is neither an address nor a network", shown(r.Source))
			}
		}
		if r.Port < 0 || r.Port > 65535 {
			v.add(field+".port", "%d is not in the range 1 to 65535", r.Port)
		}
	}
}

// hardware checks the hardware addresses of interfaces and bonds, and rejects interfaces that two devices use.
func (v *validation) hardware() {
	taken := map[string]string{}
	use := func(field, hwaddr string, unknown bool) {
		key := strings.ToLower(hwaddr)
		mac, err := net.ParseMAC(hwaddr)
		switch {
		case hwaddr == "" && unknown:
			return // an unknown member may identify the interface
		case hwaddr == "":
			v.add(field, "a MAC address or the name of an interface is required")
			return
		case err == nil && len(mac) == 6 && (mac[0]&1 == 1 || mac.String() == "00:00:00:00:00:00"): // other hardware has longer addresses
			v.add(field, "%s is not the MAC address of an interface", shown(hwaddr))
		case err != nil && (!isDeviceName(hwaddr) || len(hwaddr) > 15):
			v.add(field, "%s is neither a MAC address nor the name of an interface", shown(hwaddr))
		case err == nil:
			key = mac.String()
		}
		if other, twice := taken[key]; twice {
			v.add(field, "%s is also %s", shown(hwaddr), other)
		}
		taken[key] = field
	}
	for i := range v.config.Interfaces {
		use(fmt.Sprintf("interfaces[%d].hwaddr", i), v.config.Interfaces[i].Hwaddr, hasUnknown(&v.config.Interfaces[i]))
	}
	for i := range v.config.Bonds {
		b := &v.config.Bonds[i]
		field := fmt.Sprintf("bonds[%d]", i)
		if b.Mode == "" && !hasUnknown(b) {
			v.add(field+".mode", "a mode such as 802.3ad is required")
		}
		if len(b.Members) == 0 && !hasUnknown(b) {
			v.add(field+".members", "at least one member is required")
		}
		for k, member := range b.Members {
			use(fmt.Sprintf("%s.members[%d]", field, k), member, false)
		}
		if b.Hwaddr == "" {
			continue
		}
		if other, twice := taken[strings.ToLower(b.Hwaddr)]; twice && !strings.HasPrefix(other, field+".members") {
			v.add(field+".hwaddr", "%s is also %s", shown(b.Hwaddr), other)
		}
		if mac, err := net.ParseMAC(b.Hwaddr); err == nil && len(mac) == 6 && mac[0]&1 == 1 || err != nil && !isDeviceName(b.Hwaddr) {
			v.add(field+".hwaddr", "%s is neither a MAC address nor the name of an interface", shown(b.Hwaddr))
		}
	}
}

// vlans checks the VLANs and their parents.
func (v *validation) vlans() {
	parents := map[string]int{} // MTU by name of the device
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
		case hasUnknown(vlan) || hasUnknown(v.config): // the parent may be of an unknown kind
		case vlan.Parent == "":
			v.add(field+".parent", "an interface or a bond is required")
		case !there:
			v.add(field+".parent", "there is no interface and no bond %s", shown(vlan.Parent))
		case mtu > 0 && vlan.MTU > mtu: // without a value, the adapter or DHCP sets the MTU
			v.add(field+".mtu", "%d is more than the MTU of its parent %s, %d", vlan.MTU, shown(vlan.Parent), mtu)
		}
		if vlan.ID < 0 || vlan.ID > MaxVLAN {
			v.add(field+".id", "%d is not in the range 0 to %d", vlan.ID, MaxVLAN)
			continue
		}
		key := fmt.Sprint(vlan.Parent, " ", vlan.ID)
		if other, twice := taken[key]; twice {
			v.add(field+".id", "%d on %s is also %s", vlan.ID, shown(vlan.Parent), other)
		}
		if !hasUnknown(vlan) {
			taken[key] = field
		}
	}
}

// Managers returns the names of the devices at which the server is managed: those with role management. Without any, IncusOS gives
// the role to all devices with an address.
func (c *Config) Managers() (out []string) {
	for _, d := range c.managers() {
		out = append(out, d.name)
	}
	return out
}

// managers returns the devices that Managers names.
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

// ManagementAddresses returns the static addresses at which the server is managed. more reports whether the server also gets
// addresses from the network, which are not known here.
func (c *Config) ManagementAddresses() (static []netip.Addr, more bool) {
	for _, d := range c.managers() {
		for _, text := range *d.addresses {
			if p, err := netip.ParsePrefix(text); err == nil {
				if a := p.Addr(); !a.IsLinkLocalUnicast() && !a.IsUnspecified() { // a control plane can't use them
					static = append(static, a)
				}
			} else if slices.Contains(dynamic, text) {
				more = true
			}
		}
	}
	return static, more
}

// management rejects a configuration without an address for management, unless the rules allow it.
func (v *validation) management(all []device) {
	if v.rules.AllowUnmanaged || len(all) == 0 || hasUnknown(v.config) {
		return
	}
	managers := v.config.managers()
	for _, d := range managers {
		if len(*d.addresses) > 0 || d.unknown {
			return
		}
	}
	field := all[0].field + ".roles"
	if len(managers) > 0 {
		field = managers[0].field + ".addresses"
	} else if slices.ContainsFunc(all, func(d device) bool { return d.unknown }) {
		return
	}
	v.add(field, "no device with role management has an address: the server could not be reached again")
}

// sortedKeys returns the keys of a map, sorted.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
