package seed

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // time zones for systems without a zone database

	"github.com/opscenter-go/sdk/opscenter/network"
)

// Network is the network configuration for the first boot. Without this file, or without interfaces, bonds and VLANs in it,
// every interface uses DHCP and router advertisements. Without a time zone the server uses UTC.
//
// The server registers with the name DNS.Hostname, followed by DNS.Domain.
type Network struct {
	network.Config
	Version Version
}

// MarshalJSON writes the configuration and its version as one object.
func (n Network) MarshalJSON() ([]byte, error) {
	data, err := n.Config.Encode()
	if err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, err
	}
	if all["version"], err = json.Marshal(n.Version); err != nil {
		return nil, err
	}
	return json.Marshal(all)
}

// UnmarshalJSON reads the form that MarshalJSON writes.
func (n *Network) UnmarshalJSON(data []byte) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	n.Version = ""
	if version, ok := all["version"]; ok {
		if err := json.Unmarshal(version, &n.Version); err != nil {
			return err
		}
		delete(all, "version")
	}
	data, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return n.Config.UnmarshalJSON(data)
}

func (n *Network) validate(v *validation) {
	c := &n.Config
	if c.ConfirmationTimeout != "" {
		v.add("confirmation_timeout", "it must not be set in a seed: nothing confirms the first configuration")
	}
	for _, p := range c.Validate(network.Rules{AllowUnmanaged: v.rules.AllowUnmanaged}) {
		if p.Field == "interfaces" && len(c.Interfaces)+len(c.Bonds)+len(c.VLANs) == 0 {
			continue // the server adds the default interfaces
		}
		v.add(p.Field, "%s", p.Message)
	}
	n.devices(v)
	if t := c.Time; t != nil && t.Timezone != "" {
		if _, err := time.LoadLocation(t.Timezone); err != nil {
			v.add("time.timezone", "there is no time zone %s", shown(t.Timezone))
		}
	}
}

// words are the keywords that an address field accepts; roles are the roles of devices.
var (
	words = []string{"dhcp4", "dhcp6", "slaac"}
	roles = []string{network.RoleManagement, network.RoleCluster, network.RoleInstances, network.RoleStorage}
)

// devices rejects misspelt addresses and roles. An installed server may be of a newer release with further values, so package
// network accepts them there. A new server that can't be reached would stay unreachable.
func (n *Network) devices(v *validation) {
	check := func(field string, addresses, given []string) {
		for i, text := range addresses {
			if _, err := netip.ParsePrefix(text); err != nil && !slices.Contains(words, text) {
				v.add(fmt.Sprintf("%s.addresses[%d]", field, i), "%s is neither an address with a prefix length, such as 10.0.0.5/24, nor one of %s", shown(text), strings.Join(words, ", "))
			}
		}
		for i, text := range given {
			if !slices.Contains(roles, text) {
				v.add(fmt.Sprintf("%s.roles[%d]", field, i), "%s is not one of %s", shown(text), strings.Join(roles, ", "))
			}
		}
	}
	for i, d := range n.Interfaces {
		check(fmt.Sprintf("interfaces[%d]", i), d.Addresses, d.Roles)
	}
	for i, d := range n.Bonds {
		check(fmt.Sprintf("bonds[%d]", i), d.Addresses, d.Roles)
	}
	for i, d := range n.VLANs {
		check(fmt.Sprintf("vlans[%d]", i), d.Addresses, d.Roles)
	}
	for i, d := range n.WireGuard {
		check(fmt.Sprintf("wireguard[%d]", i), d.Addresses, d.Roles)
	}
}
