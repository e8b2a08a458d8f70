package network

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// dns checks the DNS settings.
func (v *validation) dns() {
	d := v.config.DNS
	if d == nil || hasUnknown(d) {
		return
	}
	if d.Hostname != "" && !isDomain(d.Hostname) {
		v.add("dns.hostname", "%s is not a host name", shown(d.Hostname))
	}
	if d.Domain != "" && !isDomain(d.Domain) {
		v.add("dns.domain", "%s is not a domain", shown(d.Domain))
	}
	v.bounded("dns.search_domains", len(d.SearchDomains))
	for i, text := range d.SearchDomains {
		if !isDomain(strings.TrimPrefix(text, "~")) && text != "~." {
			v.add(fmt.Sprintf("dns.search_domains[%d]", i), "%s is not a domain", shown(text))
		}
	}
	v.bounded("dns.nameservers", len(d.Nameservers))
	for i, text := range d.Nameservers {
		if !isNameserver(text) {
			v.add(fmt.Sprintf("dns.nameservers[%d]", i), "%s is not a name server such as 10.0.0.53, 10.0.0.53:5353 or 10.0.0.53#dns.example.org", shown(text))
		}
	}
}

// time checks the time settings.
func (v *validation) time() {
	t := v.config.Time
	if t == nil || hasUnknown(t) {
		return
	}
	v.bounded("time.ntp_servers", len(t.NTPServers))
	for i, text := range t.NTPServers {
		if !isHost(text) {
			v.add(fmt.Sprintf("time.ntp_servers[%d]", i), "%s is neither an IP address nor a host name", shown(text))
		}
	}
	if t.Timezone != "" && !isTimezone(t.Timezone) {
		v.add("time.timezone", "%s is not a time zone such as Europe/Berlin", shown(t.Timezone))
	}
}

// isTimezone reports whether a text has the form of a time zone's name. It does not look the name up, since the server may have
// newer zones than this machine.
func isTimezone(name string) bool {
	if name == "Local" || strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool {
		return r != '/' && r != '_' && r != '-' && r != '+' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// proxy checks the proxy settings.
func (v *validation) proxy() {
	p := v.config.Proxy
	if p == nil || hasUnknown(p) {
		return
	}
	for _, name := range sortedKeys(p.Servers) {
		s := p.Servers[name]
		field := fmt.Sprintf("proxy.servers[%q]", name)
		if name == "" || name == "direct" || name == "none" {
			v.add(field, "%s can't be the name of a proxy", shown(name))
		}
		if !isProxyHost(s.Host) {
			v.add(field+".host", "%s is not a proxy such as proxy.example.org:8080", shown(s.Host))
		}
		if s.Auth == "" && !hasUnknown(&s) {
			v.add(field+".auth", "it is required: one of %s", strings.Join(proxyAuths, ", "))
		}
	}
	for i := range p.Rules {
		r := &p.Rules[i]
		field := fmt.Sprintf("proxy.rules[%d]", i)
		if hasUnknown(r) {
			continue
		}
		if r.Destination == "" {
			v.add(field+".destination", "a pattern of host names is required")
		}
		if _, there := p.Servers[r.Target]; !there && r.Target != "direct" && r.Target != "none" {
			v.add(field+".target", "there is no proxy server %s, and it is neither direct nor none", shown(r.Target))
		}
	}
}

// wireguard checks keys, ports and peers of the tunnels.
func (v *validation) wireguard() {
	for i := range v.config.WireGuard {
		w := &v.config.WireGuard[i]
		field := fmt.Sprintf("wireguard[%d]", i)
		v.key(field+".private_key", string(w.PrivateKey), true)
		if w.Port < 0 || w.Port > 65535 {
			v.add(field+".port", "%d is not in the range 1 to 65535", w.Port)
		}
		for k := range w.Peers {
			p := &w.Peers[k]
			if hasUnknown(p) {
				continue
			}
			peer := fmt.Sprintf("%s.peers[%d]", field, k)
			if p.PublicKey == "" {
				v.add(peer+".public_key", "a key is required")
			}
			v.key(peer+".public_key", p.PublicKey, false)
			v.key(peer+".preshared_key", string(p.PresharedKey), true)
			for n, text := range p.AllowedIPs {
				if _, err := network(text); err != nil {
					v.add(fmt.Sprintf("%s.allowed_ips[%d]", peer, n), "%s is not a network such as 10.0.0.0/8", shown(text))
				}
			}
			if p.Endpoint != "" && !isHostPort(p.Endpoint) {
				v.add(peer+".endpoint", "%s is not a host with a port", shown(p.Endpoint))
			}
			if p.PersistentKeepalive < 0 || p.PersistentKeepalive > 65535 {
				v.add(peer+".persistent_keepalive", "%d is not in the range 0 to 65535", p.PersistentKeepalive)
			}
		}
	}
}

// key checks a WireGuard key. The problem omits the value of a secret key.
func (v *validation) key(field, value string, secret bool) {
	if value == "" || Secret(value) == Hidden {
		return
	}
	if data, err := base64.StdEncoding.DecodeString(value); err == nil && len(data) == 32 {
		return
	}
	if secret {
		value = "it"
	} else {
		value = shown(value)
	}
	v.add(field, "%s is not a WireGuard key: 32 bytes in base64", value)
}

// isHostPort reports whether a text is a host with a port.
func isHostPort(text string) bool {
	host, port, err := net.SplitHostPort(text)
	n, number := strconv.Atoi(port)
	return err == nil && number == nil && n > 0 && n <= 65535 && isHost(host)
}

// isProxyHost reports whether IncusOS accepts a text as a proxy: a host, with an optional port, and an optional scheme http:// or
// https:// before it.
func isProxyHost(text string) bool {
	for _, scheme := range []string{"http://", "https://"} {
		if rest, ok := strings.CutPrefix(text, scheme); ok {
			text = strings.TrimSuffix(rest, "/")
			break
		}
	}
	return isHostPort(text) || isHost(text) && !strings.Contains(text, ":") || strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") && isHost(text[1:len(text)-1])
}

// isNameserver reports whether systemd-resolved accepts a text as a name server. The text is a host name, or an address with an
// optional port, interface and name for its certificate.
func isNameserver(text string) bool {
	address, name, named := strings.Cut(text, "#")
	if named && !isDomain(name) {
		return false
	}
	address, device, scoped := strings.Cut(address, "%")
	if scoped && (device == "" || !isDeviceName(device)) {
		return false
	}
	if _, err := netip.ParseAddr(address); err == nil {
		return true
	}
	if at, err := netip.ParseAddrPort(address); err == nil {
		return at.Port() > 0
	}
	return !named && !scoped && isDomain(address)
}

// isHost reports whether a text is an IP address or a host name.
func isHost(text string) bool {
	if _, err := netip.ParseAddr(text); err == nil {
		return true
	}
	return isDomain(text)
}

// isDomain reports whether a text is a domain or host name, with an optional final dot.
func isDomain(text string) bool {
	text = strings.TrimSuffix(text, ".")
	if text == "" || len(text) > 253 {
		return false
	}
	for label := range strings.SplitSeq(text, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.ContainsFunc(label, func(r rune) bool {
			return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		}) {
			return false
		}
	}
	return true
}
