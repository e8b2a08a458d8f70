package network

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/internal/jsonsecret"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
)

// Edit is a small change of a configuration. Those that are set are made; their zero values
// change nothing.
type Edit struct {
	// AddVLANTags and RemoveVLANTags change the tags of Interface, an interface or a bond. Tags
	// that are there already, or not, are left alone.
	Interface      string     `json:"interface,omitempty"`
	AddVLANTags    []int      `json:"add_vlan_tags,omitempty"`
	RemoveVLANTags []int      `json:"remove_vlan_tags,omitempty"`
	DNS            *DNSEdit   `json:"dns,omitempty"`
	Time           *TimeEdit  `json:"time,omitempty"`
	Proxy          *ProxyEdit `json:"proxy,omitempty"`
}

// DNSEdit changes what is set, and leaves the rest: nil is not set, what is empty takes away.
type DNSEdit struct {
	Hostname      *string  `json:"hostname,omitempty"`
	Domain        *string  `json:"domain,omitempty"`
	SearchDomains []string `json:"search_domains,omitzero"`
	Nameservers   []string `json:"nameservers,omitzero"`
	DNSOverTLS    *bool    `json:"dns_over_tls,omitempty"`
}

// TimeEdit changes what is set, as DNSEdit.
type TimeEdit struct {
	NTPServers []string `json:"ntp_servers,omitzero"`
	Timezone   *string  `json:"timezone,omitempty"`
}

// ProxyEdit changes what is set, as DNSEdit: all servers, or all rules. Where only servers are set, rules for those that
// are no more go with them, as the one that IncusOS makes by itself. Without both, there is no proxy any more.
type ProxyEdit struct {
	Servers map[string]ProxyServer `json:"servers,omitzero"`
	Rules   []ProxyRule            `json:"rules,omitzero"`
}

// set gives a value to what is set.
func set[T any](to *T, value *T) {
	if value != nil {
		*to = *value
	}
}

func (e *DNSEdit) apply(to *DNS) *DNS {
	if to == nil {
		to = &DNS{}
	}
	set(&to.Hostname, e.Hostname)
	set(&to.Domain, e.Domain)
	set(&to.DNSOverTLS, e.DNSOverTLS)
	if e.SearchDomains != nil {
		to.SearchDomains = e.SearchDomains
	}
	if e.Nameservers != nil {
		to.Nameservers = e.Nameservers
	}
	return to
}

func (e *TimeEdit) apply(to *Time) *Time {
	if to == nil {
		to = &Time{}
	}
	set(&to.Timezone, e.Timezone)
	if e.NTPServers != nil {
		to.NTPServers = e.NTPServers
	}
	return to
}

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

// HasSecrets reports whether there are secrets in the edit itself.
func (e *Edit) HasSecrets() bool {
	data, err := json.Marshal(e)
	if err != nil {
		return true
	}
	return len(jsonsecret.Values(data, facts.IsSecretName)) > 0
}

// keepUnknown puts back the secrets of newer releases that are hidden.
func (c *Config) keepUnknown(current *Config, problems []Problem) (*Config, []Problem, error) {
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
		problems = append(problems, Problem{missing, "it is hidden, and the server has none to keep"})
	}
	out, err := Decode(data)
	return out, problems, err
}

// Secrets returns the secrets of a configuration, for those who have to keep them out of texts.
func (c *Config) Secrets() []string {
	data, err := c.Encode()
	if err != nil {
		return nil
	}
	return jsonsecret.Values(data, facts.IsSecretName)
}

// Apply returns the configuration with the edit made. Errors: ErrInvalid.
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
			return nil, fmt.Errorf("%w: nothing is said to be done with interface %s", ErrInvalid, shown(e.Interface))
		}
		return out.Clone() // apart from the edit
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

// Plan is what applying a configuration would do.
type Plan struct {
	// Config is what would be sent, secrets included; Current what the server has.
	Config, Current *Config `json:"-"`
	// Changes are what differs, for people; secrets are hidden.
	Changes []Difference `json:"changes"`
	// Problems are in the way. Old are those the server's configuration has already: they are no reason to refuse.
	Problems []Problem `json:"problems"`
	Old      []Problem `json:"old_problems"`
	// Moves tells that the addresses the server is managed at change.
	Moves bool `json:"moves"`
}

// Make plans to give a server with the configuration current the configuration wanted.
// Secrets that wanted does not tell are kept. Neither is modified.
func Make(current, wanted *Config, rules Rules) (*Plan, error) {
	to, err := wanted.Clone()
	if err != nil {
		return nil, err
	}
	to.ConfirmationTimeout = ""
	to.shorten()
	problems := to.keepSecrets(current)
	if to, problems, err = to.keepUnknown(current, problems); err != nil {
		return nil, err
	}
	p := &Plan{Config: to, Current: current, Problems: problems}
	had := map[Problem]bool{} // by the names of devices: their places may be others
	for _, problem := range current.Validate(rules) {
		had[current.named(problem)] = true
	}
	for _, problem := range to.Validate(rules) {
		if had[to.named(problem)] {
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

// named returns a problem that names devices by their names, and not by their places.
func (c *Config) named(p Problem) Problem {
	for _, d := range c.devices() {
		name := fmt.Sprintf("%s %q", d.kind, d.name)
		p.Field, p.Message = strings.ReplaceAll(p.Field, d.field, name), strings.ReplaceAll(p.Message, d.field, name)
	}
	return p
}

// shorten does what IncusOS does with the name that systemd gives to a network adapter on USB: it
// would be too long for what is made of it.
func (c *Config) shorten() {
	for i := range c.Interfaces {
		if isUSB(c.Interfaces[i].Name) {
			c.Interfaces[i].Name = strings.TrimPrefix(c.Interfaces[i].Name, "enx")
		}
	}
}

// Err returns a ValidationError if there are problems.
func (p *Plan) Err() error {
	if len(p.Problems) == 0 {
		return nil
	}
	return &ValidationError{p.Problems}
}
