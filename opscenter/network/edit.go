package network

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/internal/jsonsecret"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
)

// Edit is a change of parts of a configuration. Fields with zero values change nothing.
type Edit struct {
	// Interface is the name of the interface or bond whose VLAN tags change. Required with tags, and invalid without.
	Interface string `json:"interface,omitempty"`
	// AddVLANTags adds tags; tags that are present stay.
	AddVLANTags []int `json:"add_vlan_tags,omitempty"`
	// RemoveVLANTags removes tags; tags that are absent are ignored.
	RemoveVLANTags []int `json:"remove_vlan_tags,omitempty"`
	// DNS, Time and Proxy change these settings.
	DNS   *DNSEdit   `json:"dns,omitempty"`
	Time  *TimeEdit  `json:"time,omitempty"`
	Proxy *ProxyEdit `json:"proxy,omitempty"`
}

// DNSEdit changes the DNS settings. A nil field changes nothing; an empty value removes the setting.
type DNSEdit struct {
	Hostname      *string  `json:"hostname,omitempty"`
	Domain        *string  `json:"domain,omitempty"`
	SearchDomains []string `json:"search_domains,omitzero"`
	Nameservers   []string `json:"nameservers,omitzero"`
	DNSOverTLS    *bool    `json:"dns_over_tls,omitempty"`
}

// TimeEdit changes the time settings. A nil field changes nothing; an empty value removes the setting.
type TimeEdit struct {
	NTPServers []string `json:"ntp_servers,omitzero"`
	Timezone   *string  `json:"timezone,omitempty"`
}

// ProxyEdit replaces all proxy servers, all rules, or both. A nil field changes nothing. If only the servers are replaced, rules
// for removed servers are removed as well, such as the rule that IncusOS adds by itself. If both are empty, the proxy settings
// are removed.
type ProxyEdit struct {
	Servers map[string]ProxyServer `json:"servers,omitzero"`
	Rules   []ProxyRule            `json:"rules,omitzero"`
}

// setUnlessNil copies *value to *to, unless value is nil.
func setUnlessNil[T any](to *T, value *T) {
	if value != nil {
		*to = *value
	}
}

// apply returns the changed settings.
func (e *DNSEdit) apply(to *DNS) *DNS {
	if to == nil {
		to = &DNS{}
	}
	setUnlessNil(&to.Hostname, e.Hostname)
	setUnlessNil(&to.Domain, e.Domain)
	setUnlessNil(&to.DNSOverTLS, e.DNSOverTLS)
	if e.SearchDomains != nil {
		to.SearchDomains = e.SearchDomains
	}
	if e.Nameservers != nil {
		to.Nameservers = e.Nameservers
	}
	return to
}

// apply returns the changed settings.
func (e *TimeEdit) apply(to *Time) *Time {
	if to == nil {
		to = &Time{}
	}
	setUnlessNil(&to.Timezone, e.Timezone)
	if e.NTPServers != nil {
		to.NTPServers = e.NTPServers
	}
	return to
}

// apply returns the changed settings; nil: they are removed.
func (e *ProxyEdit) apply(to *Proxy) *Proxy {
	if to == nil {
		to = &Proxy{}
	}
	if e.Servers != nil {
		to.Servers = e.Servers
		to.Rules = slices.DeleteFunc(to.Rules, func(r ProxyRule) bool {
			_, there := e.Servers[r.Target]
			return !there && r.Target != "direct" && r.Target != "none"
		})
	}
	if e.Rules != nil {
		to.Rules = e.Rules
	}
	if e.Servers != nil && e.Rules != nil && len(e.Servers)+len(e.Rules) == 0 {
		return nil
	}
	return to
}

// HasSecrets reports whether the edit contains secrets.
func (e *Edit) HasSecrets() bool {
	data, err := json.Marshal(e)
	if err != nil {
		return true
	}
	return len(jsonsecret.Values(data, facts.IsSecretName)) > 0
}

// restoreUnknownSecrets replaces hidden secrets in unknown members by the server's current ones.
func (c *Config) restoreUnknownSecrets(current *Config, problems []Problem) (*Config, []Problem, error) {
	data, err := c.Encode()
	if err != nil {
		return nil, nil, err
	}
	have, err := current.Encode()
	if err != nil {
		return nil, nil, err
	}
	data, missing, err := jsonsecret.Restore(data, have, facts.IsSecretName)
	if err != nil {
		return nil, nil, err
	}
	if missing != "" && len(problems) == 0 {
		problems = append(problems, Problem{missing, "it is hidden, and the server has no such secret"})
	}
	out, err := Decode(data)
	return out, problems, err
}

// Secrets returns the secrets of the configuration, so that callers can keep them out of texts. It includes secrets in unknown
// members.
func (c *Config) Secrets() []string {
	data, err := c.Encode()
	if err != nil {
		return nil
	}
	return jsonsecret.Values(data, facts.IsSecretName)
}

// Apply returns a changed copy of a configuration. It does not validate the result. Errors: ErrInvalid for an unknown Interface,
// or an Interface without tags.
func (e *Edit) Apply(to *Config) (*Config, error) {
	out, err := to.Clone()
	if err != nil {
		return nil, err
	}
	if e.DNS != nil {
		out.DNS = e.DNS.apply(out.DNS)
	}
	if e.Time != nil {
		out.Time = e.Time.apply(out.Time)
	}
	if e.Proxy != nil {
		out.Proxy = e.Proxy.apply(out.Proxy)
	}
	if len(e.AddVLANTags)+len(e.RemoveVLANTags) == 0 {
		if e.Interface != "" {
			return nil, fmt.Errorf("%w: no VLAN tags to add to or remove from interface %s", ErrInvalid, shown(e.Interface))
		}
		return out.Clone() // copy the values that the edit shares
	}
	for _, d := range out.devices() {
		if d.name != e.Interface || d.tags == nil {
			continue
		}
		tags := *d.tags
		for _, tag := range e.AddVLANTags {
			if !slices.Contains(tags, tag) {
				tags = append(tags, tag)
			}
		}
		*d.tags = slices.DeleteFunc(tags, func(tag int) bool { return slices.Contains(e.RemoveVLANTags, tag) })
		return out.Clone()
	}
	return nil, fmt.Errorf("%w: there is no interface and no bond %s", ErrInvalid, shown(e.Interface))
}

// Plan is the effect of applying a configuration to a server.
type Plan struct {
	// Config is the configuration to send, with its secrets. Current is the server's present configuration.
	Config, Current *Config `json:"-"`
	// Changes are the differences, for people, with hidden secrets.
	Changes []Difference `json:"changes"`
	// Problems prevent the change.
	Problems []Problem `json:"problems"`
	// Old are problems of the server's present configuration. They do not prevent the change.
	Old []Problem `json:"old_problems"`
	// Moves: the addresses or the devices at which the server is managed change.
	Moves bool `json:"moves"`
}

// Make plans the change of a server from the configuration current to the configuration wanted. Secrets that are empty or Hidden
// in wanted are taken from current. Make modifies neither. Errors: a configuration that can't be encoded as JSON.
func Make(current, wanted *Config, rules Rules) (*Plan, error) {
	to, err := wanted.Clone()
	if err != nil {
		return nil, err
	}
	to.ConfirmationTimeout = ""
	to.shortenUSBNames()
	problems := to.restoreSecrets(current)
	if to, problems, err = to.restoreUnknownSecrets(current, problems); err != nil {
		return nil, err
	}
	p := &Plan{Config: to, Current: current, Problems: problems}
	had := map[Problem]bool{} // with names of devices, as their indexes may differ
	for _, problem := range current.Validate(rules) {
		had[current.withDeviceNames(problem)] = true
	}
	for _, problem := range to.Validate(rules) {
		if had[to.withDeviceNames(problem)] {
			p.Old = append(p.Old, problem)
		} else {
			p.Problems = append(p.Problems, problem)
		}
	}
	if p.Changes, err = Diff(current, to); err != nil {
		return nil, err
	}
	before, dynamicBefore := current.ManagementAddresses()
	after, dynamicAfter := to.ManagementAddresses()
	p.Moves = !slices.Equal(before, after) || dynamicBefore != dynamicAfter || !slices.Equal(current.Managers(), to.Managers())
	return p, nil
}

// withDeviceNames returns a problem in which the names of devices replace their indexes.
func (c *Config) withDeviceNames(p Problem) Problem {
	for _, d := range c.devices() {
		name := fmt.Sprintf("%s %q", d.kind, d.name)
		p.Field, p.Message = strings.ReplaceAll(p.Field, d.field, name), strings.ReplaceAll(p.Message, d.field, name)
	}
	return p
}

// shortenUSBNames shortens systemd's names of USB network adapters as IncusOS does. The full names are too long for the names
// that IncusOS derives from them.
func (c *Config) shortenUSBNames() {
	for i := range c.Interfaces {
		if isUSB(c.Interfaces[i].Name) {
			c.Interfaces[i].Name = strings.TrimPrefix(c.Interfaces[i].Name, "enx")
		}
	}
}

// Err returns a *ValidationError with the Problems, or nil if there are none.
func (p *Plan) Err() error {
	if len(p.Problems) == 0 {
		return nil
	}
	return &ValidationError{p.Problems}
}
