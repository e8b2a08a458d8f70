package network

import (
	"fmt"

	"github.com/opscenter-go/sdk/internal/jsonsecret"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
)

// Secret is a key or a password. It prints as Hidden.
type Secret string

const (
	// Hidden stands for a secret that is not shown, and in a configuration that is applied for
	// the one the server has, as no value does.
	Hidden Secret = jsonsecret.Hidden
	// Removed takes a secret away, in a configuration that is applied.
	Removed Secret = jsonsecret.Removed
)

// String hides the secret.
func (s Secret) String() string {
	switch s {
	case "", Removed:
		return string(s)
	}
	return string(Hidden)
}

// GoString hides the secret.
func (s Secret) GoString() string { return fmt.Sprintf("%q", s.String()) }

// secretAt is a secret of a configuration, and whose it is: path names it across configurations.
type secretAt struct {
	field, path string
	value       *Secret
	// bound is what the secret is for: it is not kept for anything else.
	bound string
	store func() // puts a changed copy back
}

// secrets lists all of them, those that are empty too.
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

func (s *secretAt) set(value Secret) {
	*s.value = value
	if s.store != nil {
		s.store()
	}
}

// Hide returns a copy whose secrets are Hidden.
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
	// Those of newer releases, by their names.
	if data, err = jsonsecret.Hide(data, facts.IsSecretName); err != nil {
		return nil, err
	}
	return Decode(data) // which forgets what was read
}

// keepSecrets takes over from a server's configuration the secrets that are not given: those
// that are empty or Hidden. Those that are Removed become empty. A proxy's password is not
// kept if it would go to another host, or the other way: it must be given anew then.
func (c *Config) keepSecrets(current *Config) (problems []Problem) {
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
			problems = append(problems, Problem{s.field, "where it is sent has changed: it must be given anew, or removed"})
		case there:
			s.set(*old.value)
		case value == Hidden:
			problems = append(problems, Problem{s.field, "it is hidden, and the server has none to keep"})
		}
	}
	return problems
}
