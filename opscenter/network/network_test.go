package network_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/network"
)

const (
	key1 = "QEPmYUWzzmWKLGnAKpCJhxUJp/u0Lz1cWkr4ruZ9Xk8="
	key2 = "ALqTjMGw2cGq9VnHWnT2sZ+9f3zVqOd6c4tHYRwPM1k="
)

// whole is a configuration with all kinds of settings, and with members of a newer release.
const whole = `{"dns":{"hostname":"server01","domain":"example.com","search_domains":["example.com"],"nameservers":["10.0.0.53"],"dnssec":"yes"},` +
	`"time":{"ntp_servers":["ntp.example.com"],"timezone":"Europe/Berlin"},` +
	`"proxy":{"servers":{"main":{"host":"proxy.example.com:8080","use_tls":true,"auth":"basic","username":"me","password":"proxy-secret"}},"rules":[{"destination":"*","target":"main"}]},` +
	`"interfaces":[{"name":"mgmt","hwaddr":"10:66:6a:1a:20:0f","addresses":["10.0.0.10/24"],"roles":["management"],"routes":[{"to":"0.0.0.0/0","via":"10.0.0.1"}],"quantum":{"b":2,"a":1.50}},` +
	`{"name":"inst0","hwaddr":"enp6s0","mtu":9000,"roles":["instances"],"vlan_tags":[100,200],"lldp":false}],` +
	`"bonds":[{"name":"bond0","mode":"802.3ad","members":["10:66:6a:1a:20:11","10:66:6a:1a:20:12"],"mtu":9000}],` +
	`"vlans":[{"name":"stor","parent":"bond0","id":30,"addresses":["10.30.0.10/24"],"mtu":9000,"roles":["storage"]}],` +
	`"wireguard":[{"name":"wg0","addresses":["fd00::1/64"],"port":51820,"private_key":"` + key1 + `","peers":[{"public_key":"` + key2 + `","preshared_key":"` + key1 + `","allowed_ips":["fd00::2/128"],"endpoint":"peer.example.com:51820"}]}],` +
	`"next":[1,2]}`

// plain is whole without the unknown members.
var plain = strings.NewReplacer(`,"quantum":{"b":2,"a":1.50}`, "", `,"dnssec":"yes"`, "", `,"next":[1,2]`, "").Replace(whole)

func decode(t testing.TB, text string) *network.Config {
	t.Helper()
	c, err := network.Decode([]byte(text))
	require.NoError(t, err)
	return c
}

func encode(t testing.TB, c *network.Config) string {
	t.Helper()
	data, err := c.Encode()
	require.NoError(t, err)
	return string(data)
}

// TestRoundTrip: Encode returns a decoded configuration byte for byte, and changes only the changed fields.
func TestRoundTrip(t *testing.T) {
	require.Equal(t, whole, encode(t, decode(t, whole)))
	require.Empty(t, decode(t, whole).Validate(network.Rules{}))
	c := decode(t, whole)
	c.Interfaces[0].MTU = 1400
	require.Contains(t, encode(t, c), `"quantum":{"b":2,"a":1.50},"mtu":1400}`)
}

// TestValidate makes one mistake at a time. The error must name its field.
func TestValidate(t *testing.T) {
	for want, change := range map[string]func(*network.Config){
		`interfaces: at least one`:                                               func(c *network.Config) { c.Interfaces, c.Bonds, c.VLANs = nil, nil, nil },
		`interfaces[1].name: "mgmt" is also the name of interfaces[0]`:           func(c *network.Config) { c.Interfaces[1].Name = "mgmt" },
		`interfaces[0].name: a name is required`:                                 func(c *network.Config) { c.Interfaces[0].Name = "" },
		`interfaces[0].name: "a/b" is not`:                                       func(c *network.Config) { c.Interfaces[0].Name = "a/b" },
		`interfaces[0].hwaddr: a MAC address`:                                    func(c *network.Config) { c.Interfaces[0].Hwaddr = "" },
		`interfaces[0].hwaddr: "10:66:6a:1a:20" is neither`:                      func(c *network.Config) { c.Interfaces[0].Hwaddr = "10:66:6a:1a:20" },
		`interfaces[0].hwaddr: "01:66:6a:1a:20:0f" is not the MAC`:               func(c *network.Config) { c.Interfaces[0].Hwaddr = "01:66:6a:1a:20:0f" },
		`interfaces[1].hwaddr: "10:66:6A:1A:20:0F" is also interfaces[0].hwaddr`: func(c *network.Config) { c.Interfaces[1].Hwaddr = "10:66:6A:1A:20:0F" },
		`interfaces[0].addresses[0]: "10.0.0.10/33" is not an IP`:                func(c *network.Config) { c.Interfaces[0].Addresses[0] = "10.0.0.10/33" },
		`interfaces[0].addresses[0]: "10.0.0.255/24" is the broadcast address`:   func(c *network.Config) { c.Interfaces[0].Addresses[0] = "10.0.0.255/24" },
		`interfaces[0].addresses[0]: "224.0.0.1/24" is not the address of one`:   func(c *network.Config) { c.Interfaces[0].Addresses[0] = "224.0.0.1/24" },
		`vlans[0].addresses[0]: "10.0.0.10" is also the address interfaces[0]`:   func(c *network.Config) { c.VLANs[0].Addresses[0] = "10.0.0.10/16" },
		`interfaces[0].mtu: 60 is not in the range 68 to 65535`:                  func(c *network.Config) { c.Interfaces[0].MTU = 60 },
		`vlans[0].mtu: 9000 is more than the MTU of its parent "bond0", 1500`:    func(c *network.Config) { c.Bonds[0].MTU = 1500 },
		`vlans[0].id: 4095 is not in the range 0 to 4094`:                        func(c *network.Config) { c.VLANs[0].ID = 4095 },
		`interfaces[0].routes[0].via: "10.9.0.1" is not on a network`:            func(c *network.Config) { c.Interfaces[0].Routes[0].Via = "10.9.0.1" },
		`interfaces[0].routes[0].via: the device gets no address by dhcp4`:       func(c *network.Config) { c.Interfaces[0].Routes[0].Via = "dhcp4" },
		`interfaces[0].routes[0].to: "internet" is not a network`:                func(c *network.Config) { c.Interfaces[0].Routes[0].To = "internet" },
		`interfaces[1].vlan_tags[1]: 4095 is not in the range`:                   func(c *network.Config) { c.Interfaces[1].VLANTags[1] = 4095 },
		`interfaces[0].firewall_rules[0].source: "here" is neither`: func(c *network.Config) {
			c.Interfaces[0].FirewallRules = []network.FirewallRule{{Action: "accept", Source: "here"}}
		},
		`bonds[0].members: at least one`:                                        func(c *network.Config) { c.Bonds[0].Members = nil },
		`bonds[0].members[1]: "10:66:6a:1a:20:0f" is also interfaces[0].hwaddr`: func(c *network.Config) { c.Bonds[0].Members[1] = "10:66:6a:1a:20:0f" },
		`vlans[0].parent: there is no interface and no bond "bond1"`:            func(c *network.Config) { c.VLANs[0].Parent = "bond1" },
		`vlans[1].id: 30 on "bond0" is also vlans[0]`: func(c *network.Config) {
			c.VLANs = append(c.VLANs, network.VLAN{Name: "again", Parent: "bond0", ID: 30})
		},
		`interfaces[0].addresses: no device with role management has`:         func(c *network.Config) { c.Interfaces[0].Addresses, c.Interfaces[0].Routes = nil, nil },
		`dns.nameservers[0]: "not a host!" is not a name server`:              func(c *network.Config) { c.DNS.Nameservers[0] = "not a host!" },
		`dns.hostname: "-x" is not a host name`:                               func(c *network.Config) { c.DNS.Hostname = "-x" },
		`time.timezone: "Mars/Olympus Mons" is not a time zone`:               func(c *network.Config) { c.Time.Timezone = "Mars/Olympus Mons" },
		`time.ntp_servers[0]: "" is neither`:                                  func(c *network.Config) { c.Time.NTPServers[0] = "" },
		`proxy.servers["main"].host: "proxy:x" is not a proxy`:                func(c *network.Config) { s := c.Proxy.Servers["main"]; s.Host = "proxy:x"; c.Proxy.Servers["main"] = s },
		`proxy.servers["main"].auth: it is required: one of anonymous, basic`: func(c *network.Config) { s := c.Proxy.Servers["main"]; s.Auth = ""; c.Proxy.Servers["main"] = s },
		`dns.nameservers[0]: "10.0.0.53:0" is not a name server`:              func(c *network.Config) { c.DNS.Nameservers[0] = "10.0.0.53:0" },
		`dns.nameservers[0]: "10.0.0.53#-x" is not a name server`:             func(c *network.Config) { c.DNS.Nameservers[0] = "10.0.0.53#-x" },
		`interfaces[0].name: "enx00e04c680000g" is longer than 15`:            func(c *network.Config) { c.Interfaces[0].Name = "enx00e04c680000g" },
		`proxy.rules[0].target: there is no proxy server "other"`:             func(c *network.Config) { c.Proxy.Rules[0].Target = "other" },
		`wireguard[0].private_key: it is not a WireGuard key`:                 func(c *network.Config) { c.WireGuard[0].PrivateKey = "not a key" },
		`wireguard[0].peers[0].endpoint: "peer" is not a host with a port`:    func(c *network.Config) { c.WireGuard[0].Peers[0].Endpoint = "peer" },
		`wireguard[0].peers[0].allowed_ips[0]: "all" is not a network`:        func(c *network.Config) { c.WireGuard[0].Peers[0].AllowedIPs[0] = "all" },
		`confirmation_timeout: "soon" is not a duration`:                      func(c *network.Config) { c.ConfirmationTimeout = "soon" },
	} {
		c := decode(t, plain)
		change(c)
		problems := c.Validate(network.Rules{})
		require.NotEmpty(t, problems, want)
		err := &network.ValidationError{Problems: problems}
		require.ErrorIs(t, err, network.ErrInvalid)
		require.Contains(t, err.Error(), want)
		require.NotContains(t, err.Error(), "not a key")
	}
	c := decode(t, plain)
	c.Interfaces[0].Addresses, c.Interfaces[0].Routes = nil, nil
	require.Empty(t, c.Validate(network.Rules{AllowUnmanaged: true}))
	// Without a device with role management, the devices with addresses have the role.
	c = decode(t, `{"interfaces":[{"name":"a","hwaddr":"enp1s0","addresses":["dhcp4"]},{"name":"b","hwaddr":"enp2s0"}]}`)
	require.Empty(t, c.Validate(network.Rules{}))
	require.Equal(t, []string{"a"}, c.Managers())
	addresses, more := c.ManagementAddresses()
	require.Empty(t, addresses)
	require.True(t, more)
}

// TestUnusualButValid: Validate accepts unusual configurations that work on some release.
func TestUnusualButValid(t *testing.T) {
	const eth0 = `{"name":"eth0","hwaddr":"10:66:6a:00:00:01","addresses":["203.0.113.7/24","2001:db8::7/64"],"roles":["management"]`
	for name, text := range map[string]string{
		"gateway on the link, by a newer member":       `{"interfaces":[{"name":"eth0","hwaddr":"10:66:6a:00:00:01","addresses":["203.0.113.7/32"],"routes":[{"to":"0.0.0.0/0","via":"198.51.100.1","on_link":true}],"roles":["management"]}]}`,
		"gateway on the link, by a route":              `{"interfaces":[` + eth0 + `,"routes":[{"to":"198.51.100.1/32","via":"0.0.0.0"},{"to":"0.0.0.0/0","via":"198.51.100.1"}]}]}`,
		"IPv6 gateway for IPv4":                        `{"interfaces":[` + eth0 + `,"routes":[{"to":"0.0.0.0/0","via":"fe80::1"}]}]}`,
		"link-local address on two devices":            `{"interfaces":[{"name":"a","hwaddr":"10:66:6a:00:00:01","addresses":["fe80::1/64","192.0.2.1/24"],"roles":["management"]},{"name":"b","hwaddr":"10:66:6a:00:00:02","addresses":["fe80::1/64"]}]}`,
		"address of one host on two uplinks":           `{"interfaces":[{"name":"a","hwaddr":"10:66:6a:00:00:01","addresses":["192.0.2.1/32"],"roles":["management"]},{"name":"b","hwaddr":"10:66:6a:00:00:02","addresses":["192.0.2.1/32"]}]}`,
		"dhcp6 uses router advertisements":             `{"interfaces":[{"name":"a","hwaddr":"10:66:6a:00:00:01","addresses":["dhcp6"],"routes":[{"to":"::/0","via":"slaac"}],"roles":["management"]}]}`,
		"address without a prefix length":              `{"interfaces":[{"name":"a","hwaddr":"10:66:6a:00:00:01","addresses":["192.0.2.1"],"roles":["management"]}]}`,
		"address range":                                `{"interfaces":[{"name":"a","hwaddr":"10:66:6a:00:00:01","addresses":["0.0.0.0/24","192.0.2.0/24"],"roles":["management"]}]}`,
		"address keyword of a newer release":           `{"interfaces":[{"name":"a","hwaddr":"10:66:6a:00:00:01","addresses":["dhcp5"],"roles":["management"]}]}`,
		"roles and modes of a newer release":           `{"interfaces":[` + eth0 + `,"required_for_online":"routable"},{"name":"b","hwaddr":"enp2s0","roles":["instances","instances","backup"]}],"bonds":[{"name":"c","mode":"fast","members":["enp3s0"]}]}`,
		"jumbo frames of a VLAN, parent's MTU not set": `{"interfaces":[` + eth0 + `}],"vlans":[{"name":"v","parent":"eth0","id":0,"mtu":9000},{"name":"w","parent":"eth0","id":1,"mtu":16000}]}`,
		"device of an unknown kind":                    `{"bridges":[{"name":"br0","roles":["management"]}],"interfaces":[{"name":"b","hwaddr":"enp2s0"}],"vlans":[{"name":"v","parent":"br0","id":7}]}`,
		"interface without a hardware address":         `{"interfaces":[{"name":"a","match":{"driver":"mlx5"},"addresses":["dhcp4"],"roles":["management"]}]}`,
		"time zone unknown to this machine":            `{"interfaces":[` + eth0 + `}],"time":{"timezone":"America/Newtown"}}`,
		"adapter with a long hardware address":         `{"interfaces":[` + eth0 + `},{"name":"ib0","hwaddr":"80:00:02:08:fe:80:00:00:00:00:00:00:e4:1d:2d:03:00:00:00:01"}]}`,
		"names listed twice":                           `{"interfaces":[` + eth0 + `}],"dns":{"nameservers":["10.0.0.53","10.0.0.53"],"search_domains":["a.b","a.b"]},"time":{"ntp_servers":["x","x"]}}`,
	} {
		require.Empty(t, decode(t, text).Validate(network.Rules{}), name)
	}
}

// TestUnknownMembers: Validate leaves an object with an unknown member to the server, except for mistakes that no release
// accepts.
func TestUnknownMembers(t *testing.T) {
	for text, refused := range map[string]bool{
		`{"interfaces":[{"name":"a","hwaddr":"",%s"addresses":["dhcp4"],"roles":["management"]}]}`:                                                                               false,
		`{"interfaces":[{"name":"a","hwaddr":"enp1s0",%s"roles":["management"]}]}`:                                                                                               false,
		`{"interfaces":[{"name":"a","hwaddr":"enp1s0","addresses":["dhcp4"],"roles":["management"],"routes":[{%s"to":"x","via":"10.0.0.1"}]}]}`:                                  false,
		`{"interfaces":[{"name":"a","hwaddr":"enp1s0","addresses":["dhcp4"],"roles":["management"],"firewall_rules":[{%s"source":"x"}]}]}`:                                       false,
		`{"interfaces":[{"name":"a","hwaddr":"enp1s0","addresses":["dhcp4"],"roles":["management"]}],"vlans":[{"name":"v","parent":"x",%s"id":1}]}`:                              false,
		`{"interfaces":[{"name":"a","hwaddr":"enp1s0","addresses":["dhcp4"],"roles":["management"]}],"dns":{%s"hostname":"-x"}}`:                                                 false,
		`{"interfaces":[{"name":"a/b","hwaddr":"enp1s0",%s"addresses":["dhcp4"],"roles":["management"]}]}`:                                                                       true,
		`{"interfaces":[{"name":"a","hwaddr":"enp1s0",%s"mtu":1,"addresses":["dhcp4"],"roles":["management"]}]}`:                                                                 true,
		`{"interfaces":[{"name":"a","hwaddr":"enp1s0","addresses":["dhcp4"],"roles":["management"]},{"name":"b",%s"hwaddr":"enp1s0"}]}`:                                          true,
		`{"interfaces":[{"name":"a","hwaddr":"enp1s0","addresses":["dhcp4"],"roles":["management"]},{"name":"a",%s"hwaddr":"enp2s0"}]}`:                                          true,
		`{"interfaces":[{"name":"a","hwaddr":"enp1s0","addresses":["dhcp4"],"roles":["management"]}],"wireguard":[{"name":"w",%s"private_key":"x","addresses":["fd00::1/64"]}]}`: true,
	} {
		require.NotEmpty(t, decode(t, fmt.Sprintf(text, "")).Validate(network.Rules{}), text)
		require.Equal(t, refused, len(decode(t, fmt.Sprintf(text, `"zz":1,`)).Validate(network.Rules{})) > 0, text)
	}
}

// TestOldProblemsMove: a problem of the present configuration stays an old one if the index of its device changes.
func TestOldProblemsMove(t *testing.T) {
	current := decode(t, plain)
	current.Interfaces = append(current.Interfaces, network.Interface{Name: "odd", Hwaddr: "enp9s0", MTU: 10})
	wanted := decode(t, encode(t, current))
	wanted.Interfaces = append(wanted.Interfaces[:1:1], wanted.Interfaces[2])
	plan, err := network.Make(current, wanted, network.Rules{})
	require.NoError(t, err)
	require.NoError(t, plan.Err())
	require.Len(t, plan.Old, 1)
	require.Equal(t, "interfaces[1].mtu", plan.Old[0].Field)
}

// TestManyProblems: an error names ten problems, and too many devices are one problem.
func TestManyProblems(t *testing.T) {
	c := decode(t, whole)
	for i := range 20 {
		c.Interfaces = append(c.Interfaces, network.Interface{Name: fmt.Sprint("n", i)})
	}
	require.Contains(t, (&network.ValidationError{Problems: c.Validate(network.Rules{})}).Error(), "and 10 more")
	c.Interfaces = make([]network.Interface, network.MaxDevices+1)
	require.Len(t, c.Validate(network.Rules{}), 1)
}

func TestDiff(t *testing.T) {
	from, to := decode(t, whole), decode(t, whole)
	to.Interfaces[0].Addresses[0] = "10.0.0.11/24"
	to.Interfaces[1].VLANTags = append(to.Interfaces[1].VLANTags, 300)
	to.Interfaces[1].LLDP = true
	to.Bonds = nil
	to.VLANs = nil
	to.WireGuard[0].PrivateKey = key2
	to.DNS.Nameservers = nil
	to.ConfirmationTimeout = "5m"
	to.Interfaces = append(to.Interfaces, network.Interface{Name: "new", Hwaddr: "enp7s0"})
	changes, err := network.Diff(from, to)
	require.NoError(t, err)
	var lines []string
	for _, c := range changes {
		lines = append(lines, c.String())
	}
	require.Equal(t, []string{
		`- bonds[bond0]: {"members":["10:66:6a:1a:20:11","10:66:6a:1a:20:12"],"mode":"802.3ad","mtu":9000,"name":"bond0"}`,
		`- dns.nameservers: ["10.0.0.53"]`,
		`+ interfaces[inst0].lldp: true`,
		`~ interfaces[inst0].vlan_tags: [100,200] → [100,200,300]`,
		`~ interfaces[mgmt].addresses: ["10.0.0.10/24"] → ["10.0.0.11/24"]`,
		`+ interfaces[new]: {"hwaddr":"enp7s0","name":"new"}`,
		`- vlans[stor]: {"addresses":["10.30.0.10/24"],"id":30,"mtu":9000,"name":"stor","parent":"bond0","roles":["storage"]}`,
		`~ wireguard[0].private_key: "(hidden)" → "(hidden, another)"`,
	}, lines)
	require.NotContains(t, strings.Join(lines, "\n"), key1)
	require.NotContains(t, strings.Join(lines, "\n"), key2)
	none, err := network.Diff(from, from)
	require.NoError(t, err)
	require.Empty(t, none)
}

func TestSecrets(t *testing.T) {
	c := decode(t, whole)
	hidden, err := c.Hide()
	require.NoError(t, err)
	shown := encode(t, hidden) + fmt.Sprintf("%v %+v %#v", hidden, hidden, hidden) + fmt.Sprint(c.WireGuard[0].PrivateKey)
	for _, secret := range []string{key1, "proxy-secret"} {
		require.NotContains(t, shown, secret)
		require.NotContains(t, shown, fmt.Sprint([]byte(secret))[1:20])
	}
	require.Equal(t, 3, strings.Count(encode(t, hidden), "(hidden)"))
	// A client reads the hidden configuration, changes it and sends it back. The secrets are restored.
	hidden.Interfaces[0].MTU = 1400
	p, err := network.Make(c, hidden, network.Rules{})
	require.NoError(t, err)
	require.NoError(t, p.Err())
	require.Len(t, p.Changes, 1)
	require.Equal(t, network.Secret(key1), p.Config.WireGuard[0].PrivateKey)
	require.Equal(t, network.Secret("proxy-secret"), p.Config.Proxy.Servers["main"].Password)
	require.Equal(t, network.Hidden, hidden.WireGuard[0].PrivateKey, "Make does not modify its arguments")
	// An empty secret stays, and a removed one is gone.
	bare := decode(t, whole)
	bare.WireGuard[0].PrivateKey, bare.WireGuard[0].Peers[0].PresharedKey = "", network.Removed
	p, err = network.Make(c, bare, network.Rules{})
	require.NoError(t, err)
	require.NoError(t, p.Err())
	require.Equal(t, network.Secret(key1), p.Config.WireGuard[0].PrivateKey)
	require.Empty(t, p.Config.WireGuard[0].Peers[0].PresharedKey)
	// A password is not restored for another host, for a connection without TLS, or for another authentication.
	var other *network.Config
	for _, change := range []func(*network.ProxyServer){
		func(s *network.ProxyServer) { s.Host = "evil.example.com:8080" },
		func(s *network.ProxyServer) { s.UseTLS = false },
		func(s *network.ProxyServer) { s.Auth, s.Realm = "kerberos", "EXAMPLE.COM" },
	} {
		other = decode(t, encode(t, hidden))
		s := other.Proxy.Servers["main"]
		change(&s)
		other.Proxy.Servers["main"] = s
		p, err = network.Make(c, other, network.Rules{})
		require.NoError(t, err)
		require.ErrorContains(t, p.Err(), `proxy.servers["main"].password: its destination has changed`)
	}
	// Secrets in members of newer releases are hidden and restored as well.
	future := decode(t, strings.Replace(whole, `"quantum":{"b":2`, `"eap":{"identity":"x","password":"hunter2"},"quantum":{"b":2`, 1))
	hidden2, err := future.Hide()
	require.NoError(t, err)
	require.NotContains(t, encode(t, hidden2), "hunter2")
	hidden2.Interfaces[0].MTU = 1400
	p, err = network.Make(future, hidden2, network.Rules{})
	require.NoError(t, err)
	require.NoError(t, p.Err())
	require.Contains(t, encode(t, p.Config), `"password":"hunter2"`)
	require.NotContains(t, fmt.Sprint(p.Changes), "hunter2")
	p, err = network.Make(c, future, network.Rules{})
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprint(p.Changes), "hunter2")
	require.Contains(t, future.Secrets(), "hunter2")
	// A hidden secret that the server does not have is a problem.
	other = decode(t, encode(t, hidden))
	other.WireGuard[0].Name = "wg1"
	p, err = network.Make(c, other, network.Rules{})
	require.NoError(t, err)
	require.ErrorContains(t, p.Err(), "wireguard[0].private_key: it is hidden")
}

func TestEdits(t *testing.T) {
	c := decode(t, whole)
	for _, e := range []struct {
		edit network.Edit
		want string
	}{
		{network.Edit{Interface: "inst0", AddVLANTags: []int{300, 100}}, `"vlan_tags":[100,200,300]`},
		{network.Edit{Interface: "inst0", RemoveVLANTags: []int{100, 7}}, `"vlan_tags":[200]`},
		{network.Edit{Interface: "inst0", AddVLANTags: []int{5}, RemoveVLANTags: []int{100, 200}}, `"vlan_tags":[5]`},
		{network.Edit{Interface: "bond0", AddVLANTags: []int{7}}, `"mtu":9000,"vlan_tags":[7]}`},
		{network.Edit{DNS: &network.DNSEdit{Nameservers: []string{"10.0.0.54"}}}, `"nameservers":["10.0.0.54"]`},
		{network.Edit{DNS: &network.DNSEdit{Nameservers: []string{"10.0.0.54"}}}, `"hostname":"server01"`},
		{network.Edit{DNS: &network.DNSEdit{Nameservers: []string{}, Hostname: new("other")}}, `"hostname":"other"`},
		{network.Edit{Time: &network.TimeEdit{NTPServers: []string{"a.example.com"}}}, `"ntp_servers":["a.example.com"]`},
		{network.Edit{Time: &network.TimeEdit{NTPServers: []string{"a.example.com"}}}, `"timezone":"Europe/Berlin"`},
		{network.Edit{Proxy: &network.ProxyEdit{Rules: []network.ProxyRule{{Destination: "*", Target: "direct"}}}}, `"rules":[{"destination":"*","target":"direct"}]`},
		{network.Edit{Proxy: &network.ProxyEdit{Rules: []network.ProxyRule{}}}, `"host":"proxy.example.com:8080"`},
	} {
		out, err := e.edit.Apply(c)
		require.NoError(t, err)
		require.Contains(t, encode(t, out), e.want)
		require.Contains(t, encode(t, out), `"quantum":{"b":2,"a":1.50}`)
		require.Equal(t, whole, encode(t, c), "Apply does not modify its argument")
	}
	for _, e := range []network.Edit{{Interface: "none", AddVLANTags: []int{1}}, {Interface: "stor", AddVLANTags: []int{1}}, {Interface: "inst0"}} {
		_, err := e.Apply(c)
		require.ErrorIs(t, err, network.ErrInvalid)
	}
	moved, err := (&network.Edit{Proxy: &network.ProxyEdit{Servers: map[string]network.ProxyServer{"new": {Host: "new.example.com:8080", Auth: "anonymous"}}}}).Apply(c)
	require.NoError(t, err)
	require.Empty(t, moved.Proxy.Rules, "a rule for a removed server is removed")
	require.Empty(t, moved.Validate(network.Rules{}))
	none, err := (&network.Edit{Proxy: &network.ProxyEdit{Servers: map[string]network.ProxyServer{}, Rules: []network.ProxyRule{}}}).Apply(c)
	require.NoError(t, err)
	require.Nil(t, none.Proxy)
	cleared, err := (&network.Edit{DNS: &network.DNSEdit{Nameservers: []string{}}}).Apply(c)
	require.NoError(t, err)
	require.Empty(t, cleared.DNS.Nameservers)
	first, err := (&network.Edit{DNS: &network.DNSEdit{Nameservers: []string{"10.0.0.1"}}, Time: &network.TimeEdit{Timezone: new("UTC")}, Proxy: &network.ProxyEdit{Rules: []network.ProxyRule{}}}).Apply(&network.Config{})
	require.NoError(t, err)
	require.Equal(t, "UTC", first.Time.Timezone)
	// An edit survives JSON, including its empty values.
	for _, e := range []network.Edit{{DNS: &network.DNSEdit{Nameservers: []string{}}}, {Time: &network.TimeEdit{NTPServers: []string{}}}, {Proxy: &network.ProxyEdit{Servers: map[string]network.ProxyServer{}, Rules: []network.ProxyRule{}}}} {
		data, err := json.Marshal(e)
		require.NoError(t, err)
		var again network.Edit
		require.NoError(t, json.Unmarshal(data, &again))
		require.Equal(t, e, again, string(data))
	}
	require.False(t, (&network.Edit{}).HasSecrets())
	require.True(t, (&network.Edit{Proxy: &network.ProxyEdit{Servers: map[string]network.ProxyServer{"a": {Password: "x"}}}}).HasSecrets())
}

// FuzzNetwork: encoding returns each field as it was decoded. The other functions do not panic.
func FuzzNetwork(f *testing.F) {
	f.Add(everyField(f))
	f.Add([]byte(`{"config":` + whole + `,"state":{"interfaces":{"mgmt":{"addresses":["10.0.0.10"],"extra":[null]}},"configuration_in_process":false}}`))
	f.Add([]byte(`{"config":{"interfaces":[{"name":"x","addresses":null,"mtu":0,"vlan_tags":[]}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var n network.Network
		if json.Unmarshal(data, &n) != nil {
			return
		}
		out, err := json.Marshal(n)
		require.NoError(t, err)
		require.Equal(t, generic(t, data), generic(t, out))
		if n.Config == nil {
			return
		}
		again, err := n.Config.Clone()
		require.NoError(t, err)
		require.Equal(t, encode(t, n.Config), encode(t, again))
		again.Validate(network.Rules{})
		none, err := network.Diff(n.Config, again)
		require.NoError(t, err)
		require.Empty(t, none)
		p, err := network.Make(n.Config, again, network.Rules{})
		require.NoError(t, err)
		require.Empty(t, p.Changes)
		hidden, err := n.Config.Hide()
		require.NoError(t, err)
		p, err = network.Make(n.Config, hidden, network.Rules{})
		require.NoError(t, err)
		_ = p.Err()
	})
}

func generic(t *testing.T, data []byte) (out any) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	require.NoError(t, d.Decode(&out))
	return out
}

// TestFilledIn: Unmet ignores fields that IncusOS fills in.
func TestFilledIn(t *testing.T) {
	current := decode(t, `{"interfaces":[{"name":"mgmt","hwaddr":"10:66:6a:1a:20:0f","addresses":["10.0.0.10/24"],"roles":["management"]}]}`)
	wanted, err := (&network.Edit{Proxy: &network.ProxyEdit{Servers: map[string]network.ProxyServer{"p": {Host: "proxy.example.com:8080", Auth: "anonymous"}}}}).Apply(current)
	require.NoError(t, err)
	wanted.Interfaces = append(wanted.Interfaces, network.Interface{Name: "enx00e04c680001", Hwaddr: "enx00e04c680001", Addresses: []string{"dhcp4"}})
	plan, err := network.Make(current, wanted, network.Rules{})
	require.NoError(t, err)
	require.NoError(t, plan.Err())
	require.Equal(t, "00e04c680001", plan.Config.Interfaces[1].Name)
	require.Equal(t, "enx00e04c680001", wanted.Interfaces[1].Name, "Make does not modify its arguments")
	have, err := plan.Config.Clone()
	require.NoError(t, err)
	have.Interfaces[1].Hwaddr = "00:e0:4c:68:00:01"
	have.Proxy.Rules = []network.ProxyRule{{Destination: "*", Target: "p"}}
	unmet, err := network.Unmet(have, plan.Config, plan.Changes)
	require.NoError(t, err)
	require.Empty(t, unmet)
	// Rules that the configuration names must be present.
	plan.Config.Proxy.Rules = []network.ProxyRule{{Destination: "*.example.com", Target: "p"}}
	unmet, err = network.Unmet(have, plan.Config, plan.Changes)
	require.NoError(t, err)
	require.Equal(t, []string{"proxy.rules"}, unmet)
}

// TestAcceptedForms: Validate accepts the forms of name servers and proxies that IncusOS and systemd-resolved accept.
func TestAcceptedForms(t *testing.T) {
	base := `{"interfaces":[{"name":"mgmt","hwaddr":"10:66:6a:1a:20:0f","addresses":["10.0.0.10/24"],"roles":["management"]}],`
	for _, nameserver := range []string{"1.1.1.1", "1.1.1.1#cloudflare-dns.com", "10.0.0.53:5353", "[fd00::53]:5353#dns.example.org", "fe80::1%eth0", "10.0.0.53:53%eth0#x.example.org", "dns.example.org"} {
		require.Empty(t, decode(t, base+`"dns":{"nameservers":["`+nameserver+`"]}}`).Validate(network.Rules{}), nameserver)
	}
	for _, host := range []string{"proxy:8080", "proxy.example.org", "http://proxy.example.org:8080", "https://proxy.example.org", "http://proxy.example.org/", "10.0.0.1", "[fd00::1]:3128", "[fd00::1]", "https://[fd00::1]"} {
		require.Empty(t, decode(t, base+`"proxy":{"servers":{"p":{"host":"`+host+`","auth":"anonymous"}}}}`).Validate(network.Rules{}), host)
	}
	for _, host := range []string{"", "http://", "proxy:", "proxy:0", "ftp://proxy", "fd00::1", "a b", "https://user:pw@proxy:1"} {
		require.NotEmpty(t, decode(t, base+`"proxy":{"servers":{"p":{"host":"`+host+`","auth":"anonymous"}}}}`).Validate(network.Rules{}), host)
	}
}
