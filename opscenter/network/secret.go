package network

import (
	"fmt"

	"github.com/opscenter-go/sdk/internal/jsonsecret"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
)

// Secret is a key or a password. It prints as Hidden, but is encoded as it is.
type Secret string

// Placeholders of secrets.
const (
	// Hidden stands for a secret that is not shown. In a configuration to apply, it stands for the server's present secret.
	Hidden Secret = jsonsecret.Hidden
	// Removed removes a secret, in a configuration to apply.
	Removed Secret = jsonsecret.Removed
)

// String returns Hidden, unless the secret is empty or Removed.
func (s Secret) String() string {
	switch s {
	case "", Removed:
		return string(s)
	}
	return string(Hidden)
}

// GoString returns String in quotes.
func (s Secret) GoString() string { return fmt.Sprintf("%q", s.String()) }

// secretAt is a secret in a configuration. path identifies the secret across configurations.
type secretAt struct {
	field, path string
	value       *Secret
	// bound identifies the use of the secret. A secret is not restored for another use.
	bound string
	store func() // stores a changed copy; nil: value points into the configuration
}

// secrets returns all secrets of the configuration, empty ones too.
func (c *Config) secrets() (out []secretAt) {
	for _, d := range c.devices() {
		if d.ethernet != nil {
			out = append(out, secretAt{field: d.field + ".ethernet.wakeonlan_password", path: d.kind + " " + d.name + " wake-on-LAN password", value: &d.ethernet.WakeOnLANPassword})
		}
	}
	for i := range c.WireGuard {
		w := &c.WireGuard[i]
		field := fmt.Sprintf("wireguard[%d]", i)
		out = append(out, secretAt{field: field + ".private_key", path: "WireGuard tunnel " + w.Name + " private key", value: &w.PrivateKey})
		for k := range w.Peers {
			p := &w.Peers[k]
			out = append(out, secretAt{field: fmt.Sprintf("%s.peers[%d].preshared_key", field, k), path: "WireGuard tunnel " + w.Name + " peer " + p.PublicKey + " preshared key", value: &p.PresharedKey})
		}
	}
	if c.Proxy != nil {
		for _, name := range sortedKeys(c.Proxy.Servers) {
			server := c.Proxy.Servers[name]
			changed := &server
			out = append(out, secretAt{field: fmt.Sprintf("proxy.servers[%q].password", name), path: "proxy server " + name + " password", value: &changed.Password,
				bound: fmt.Sprint(server.Host, " ", server.UseTLS, " ", server.Auth), store: func() { c.Proxy.Servers[name] = *changed }})
		}
	}
	return out
}

// set changes a secret in its configuration.
func (s *secretAt) set(value Secret) {
	*s.value = value
	if s.store != nil {
		s.store()
	}
}

// Hide returns a copy in which Hidden replaces all secrets that are not empty.
func (c *Config) Hide() (*Config, error) {
	out, err := c.Clone()
	if err != nil {
		return nil, err
	}
	for _, s := range out.secrets() {
		if *s.value != "" {
			s.set(Hidden)
		}
	}
	data, err := out.Encode()
	if err != nil {
		return nil, err
	}
	// Hide secrets of newer releases, by the names of their members.
	if data, err = jsonsecret.Hide(data, facts.IsSecretName); err != nil {
		return nil, err
	}
	return Decode(data) // Decode drops the original members, which contain the secrets
}

// restoreSecrets replaces secrets that are empty or Hidden by the server's current ones, and Removed by "". It restores a proxy's
// password only if host, TLS and authentication are unchanged. Otherwise the problem says that the password must be given.
func (c *Config) restoreSecrets(current *Config) (problems []Problem) {
	have := map[string]secretAt{}
	for _, s := range current.secrets() {
		if *s.value != "" {
			have[s.path] = s
		}
	}
	for _, s := range c.secrets() {
		old, there := have[s.path]
		switch value := *s.value; {
		case value == Removed:
			s.set("")
		case value != "" && value != Hidden:
		case there && old.bound != s.bound:
			problems = append(problems, Problem{s.field, "its destination has changed: it must be given again, or removed"})
		case there:
			s.set(*old.value)
		case value == Hidden:
			problems = append(problems, Problem{s.field, "it is hidden, and the server has no such secret"})
		}
	}
	return problems
}
