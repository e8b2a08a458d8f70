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
	MaxNameLength = 15 // of a device (Linux); IncusOS's releases take less of some
	MinMTU        = 68
	MaxMTU        = 65535
	MinVLAN       = 1
	MaxVLAN       = 4094
	// MaxDevices and MaxEntries bound how many devices there are, and entries in a list of one.
	MaxDevices = 1000
	MaxEntries = 4096
	// maxProblems is how many an error's text names.
	maxProblems = 10
)

var (
	dynamic    = []string{"dhcp4", "dhcp6", "slaac"}
	proxyAuths = []string{"anonymous", "basic", "kerberos"}
)

// Rules of Validate. The zero value is all of them.
type Rules struct {
	// AllowUnmanaged accepts a configuration that gives no address to a device with role
	// management: nobody will be able to reach the server to change that again.
	AllowUnmanaged bool
}

// Validate lists what is wrong with a configuration; empty: nothing that is known here. It refuses
// what no release can make work, and a configuration that cuts the server off (Rules). No release can
// do without a device, use one name, MAC address, IP address or VLAN ID of a parent twice, reach a
// gateway that is on no network of its device, or use a MTU or VLAN ID that is out of its range. What
// a newer release may know better is the server's to judge, which refuses it, or undoes it: roles and
// modes that are not known here, and all that an object says that has members that are not.
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
	if len(c.Interfaces)+len(c.Bonds)+len(c.VLANs) == 0 && !odd(c) {
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
	case !isDeviceName(d.name):
		v.add(d.field+".name", "%s is not a name of a network device", shown(d.name))
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

// isUSB reports whether a name is the one that systemd gives to a network adapter on USB, which IncusOS shortens.
func isUSB(name string) bool {
	mac, ok := strings.CutPrefix(name, "enx")
	return ok && len(mac) == 12 && !strings.ContainsFunc(mac, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') && (r < 'A' || r > 'F') })
}

func isDeviceName(name string) bool {
	return name != "." && name != ".." && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == ':' })
}

func (v *validation) mtu(d *device) {
	if d.mtu != 0 && (d.mtu < MinMTU || d.mtu > MaxMTU) {
		v.add(d.field+".mtu", "%d is not in the range %d to %d", d.mtu, MinMTU, MaxMTU)
	}
}

// bounded bounds how many entries a list has.
func (v *validation) bounded(field string, n int) {
	if n > MaxEntries {
		v.add(field, "%d entries, at most %d are allowed", n, MaxEntries)
	}
}

func (v *validation) addresses(d *device, taken map[netip.Addr]string) {
	v.bounded(d.field+".addresses", len(*d.addresses))
	for i, text := range *d.addresses {
		field := fmt.Sprintf("%s.addresses[%d]", d.field, i)
		if slices.Contains(dynamic, text) {
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, bare := netip.ParseAddr(text) // as older releases take it
			if bare != nil {
				if !d.unknown && strings.ContainsAny(text, ".:/") || text == "" { // a word may be one of a newer release
					v.add(field, "%s is not an IP address with a prefix length, nor one of %s", shown(text), strings.Join(dynamic, ", "))
				}
				continue
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		a := p.Addr()
		// One host may be reached over two devices by one address of its own alone, and a link-local
		// address is a device's.
		shared := p.IsSingleIP() || a.IsLinkLocalUnicast() || a.IsUnspecified() || d.unknown
		switch other, twice := taken[a]; {
		case a.Is4In6():
			v.add(field, "%s is an IPv4 address in the form of IPv6", shown(text))
		case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			v.add(field, "%s is not an address of one host", shown(text))
		case isBroadcast(p):
			v.add(field, "%s is the address of all hosts of a network", shown(text))
		case twice && !shared && !strings.HasPrefix(other, d.field+"."):
			v.add(field, "%s is the address %s as well", shown(a.String()), other)
		}
		if !shared {
			taken[a] = field
		}
	}
}

// isBroadcast reports whether an IPv4 address is the last of its network. The first is a host's
// on newer kernels.
func isBroadcast(p netip.Prefix) bool {
	if !p.Addr().Is4() || p.Bits() >= 31 || p.Addr().IsUnspecified() {
		return false
	}
	b := p.Addr().As4()
	host := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	mask := uint32(1)<<(32-p.Bits()) - 1
	return host&mask == mask
}

func (v *validation) routes(d *device) {
	v.bounded(d.field+".routes", len(d.routes))
	for i := range d.routes {
		r := &d.routes[i]
		field := fmt.Sprintf("%s.routes[%d]", d.field, i)
		to, err := network(r.To)
		if err != nil && !odd(r) {
			v.add(field+".to", "%s is not a network, as 10.0.0.0/8", shown(r.To))
		}
		if d.unknown || odd(r) {
			continue // as one that says that its gateway is on the link
		}
		if slices.Contains(dynamic, r.Via) {
			if !d.has(r.Via) {
				v.add(field+".via", "the device has no address by %s", r.Via)
			}
			continue
		}
		via, viaErr := netip.ParseAddr(r.Via)
		switch {
		case viaErr != nil:
			v.add(field+".via", "%s is not an IP address, nor one of %s", shown(r.Via), strings.Join(dynamic, ", "))
		case err == nil && to.Addr().Is6() && via.Is4():
			v.add(field+".via", "%s is not of the same family as %s", shown(r.Via), shown(r.To))
		case !d.reaches(via):
			v.add(field+".via", "%s is on no network of the device", shown(r.Via))
		}
	}
}

// has reports whether a device gets an address in that way. IncusOS listens to routers for
// slaac and for dhcp6.
func (d *device) has(way string) bool {
	if way == "slaac" || way == "dhcp6" {
		return slices.Contains(*d.addresses, "slaac") || slices.Contains(*d.addresses, "dhcp6")
	}
	return slices.Contains(*d.addresses, way)
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
	if a.Is6() && a.IsLinkLocalUnicast() || a.IsUnspecified() { // the latter is the device itself
		return true
	}
	for i := range d.routes {
		// What a route leads to over the device itself is on its link.
		r := &d.routes[i]
		via, err := netip.ParseAddr(r.Via)
		to, toErr := network(r.To)
		if toErr == nil && to.Bits() > 0 && to.Contains(a) && (err == nil && via.IsUnspecified() || odd(r)) {
			return true
		}
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
	v.bounded(d.field+".firewall_rules", len(d.rules))
	for i := range d.rules {
		r := &d.rules[i]
		field := fmt.Sprintf("%s.firewall_rules[%d]", d.field, i)
		if odd(r) {
			continue
		}
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
	}
}

// hardware checks which interfaces devices are made of.
func (v *validation) hardware() {
	taken := map[string]string{}
	use := func(field, hwaddr string, unknown bool) {
		key := strings.ToLower(hwaddr)
		mac, err := net.ParseMAC(hwaddr)
		switch {
		case hwaddr == "" && unknown:
			return // it may be found by something else
		case hwaddr == "":
			v.add(field, "a MAC address, or the name of an interface, is wanted")
			return
		case err == nil && len(mac) == 6 && (mac[0]&1 == 1 || mac.String() == "00:00:00:00:00:00"): // others have longer ones
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
		use(fmt.Sprintf("interfaces[%d].hwaddr", i), v.config.Interfaces[i].Hwaddr, odd(&v.config.Interfaces[i]))
	}
	for i := range v.config.Bonds {
		b := &v.config.Bonds[i]
		field := fmt.Sprintf("bonds[%d]", i)
		if b.Mode == "" && !odd(b) {
			v.add(field+".mode", "one is wanted, as 802.3ad")
		}
		if len(b.Members) == 0 && !odd(b) {
			v.add(field+".members", "at least one member is wanted")
		}
		for k, member := range b.Members {
			use(fmt.Sprintf("%s.members[%d]", field, k), member, false)
		}
		if b.Hwaddr == "" {
			continue
		}
		if other, twice := taken[strings.ToLower(b.Hwaddr)]; twice && !strings.HasPrefix(other, field+".members") {
			v.add(field+".hwaddr", "%s is %s as well", shown(b.Hwaddr), other)
		}
		if mac, err := net.ParseMAC(b.Hwaddr); err == nil && len(mac) == 6 && mac[0]&1 == 1 || err != nil && !isDeviceName(b.Hwaddr) {
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
		case odd(vlan) || odd(v.config): // the parent may be of a kind that is not known here
		case vlan.Parent == "":
			v.add(field+".parent", "an interface or a bond is wanted")
		case !there:
			v.add(field+".parent", "there is no interface and no bond %s", shown(vlan.Parent))
		case mtu > 0 && vlan.MTU > mtu: // what is not set is the adapter's own, or DHCP's
			v.add(field+".mtu", "%d is more than that of its parent %s, %d", vlan.MTU, shown(vlan.Parent), mtu)
		}
		if vlan.ID < 0 || vlan.ID > MaxVLAN {
			v.add(field+".id", "%d is not in the range 0 to %d", vlan.ID, MaxVLAN)
			continue
		}
		key := fmt.Sprint(vlan.Parent, " ", vlan.ID)
		if other, twice := taken[key]; twice {
			v.add(field+".id", "%d on %s is %s as well", vlan.ID, shown(vlan.Parent), other)
		}
		if !odd(vlan) {
			taken[key] = field
		}
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
				if a := p.Addr(); !a.IsLinkLocalUnicast() && !a.IsUnspecified() { // no control plane reaches it by these
					static = append(static, a)
				}
			} else if slices.Contains(dynamic, text) {
				more = true
			}
		}
	}
	return static, more
}

func (v *validation) management(all []device) {
	if v.rules.AllowUnmanaged || len(all) == 0 || odd(v.config) {
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
	v.add(field, "no device with role management has an address: nobody could reach the server again")
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
