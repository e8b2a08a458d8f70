package incusostest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/internal/release"
)

// network is a server's network configuration, and its pending change.
type network struct {
	config  map[string]any
	before  map[string]any // configuration to roll back to
	timer   *time.Timer
	pending bool
	// killed has the addresses that can't be reached. lease is the address that DHCP gives to management. port is
	// the port after the next change; empty for the current one.
	killed  map[string]bool
	lease   string
	port    string
	stuck   bool
	stay    bool
	failing bool
	muted   bool
	// applying is how long the server takes to apply a change. inProgress: it is applying one.
	applying   time.Duration
	inProgress bool
	// moved is called when a change is applied, back when it is undone.
	moved, back func()
}

// OnMove sets two functions, which may be nil. The server calls applied when it applies a change of its network, before
// it listens at the new address. It calls undone when it undoes a change.
func (s *Server) OnMove(applied, undone func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.network.moved, s.network.back = applied, undone
}

// SetStaying makes the server accept changes of its network, but keep listening at its current address. False
// ends that.
func (s *Server) SetStaying(stay bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.network.stay = stay
}

// KillAddress makes an IP address of the server unreachable, as if its cable were cut, or reachable again. It
// closes the connections to the address.
func (s *Server) KillAddress(host string, killed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if killed {
		s.network.killed[host] = true
	} else {
		delete(s.network.killed, host)
	}
	if current, _, _ := net.SplitHostPort(s.address); current == host && !s.off && !s.closed {
		s.stopServing()
		_ = s.serve()
	}
}

// SetLease sets the IP address that DHCP gives to the management interface.
func (s *Server) SetLease(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.network.lease = host
}

// SetPort sets the port on which the server listens after its next change of the network.
func (s *Server) SetPort(port string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.network.port = port
}

// SetStuck makes the server accept changes of its network, but keep its address and configuration. False ends
// that.
func (s *Server) SetStuck(stuck bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.network.stuck = stuck
}

// SetFailing makes the server apply changes of its network, but answer with an error. A real server does so if its
// name servers do not answer with the new configuration. False ends that.
func (s *Server) SetFailing(failing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.network.failing = failing
}

// SetApplying makes the server apply a change of its network before it answers. A real server waits for the network and
// for its name servers. The server takes the configuration and moves to its new address at once. After the time d it
// answers over the old connection, and sends a self update. If the client disconnects before that, the server sends no
// self update. With 0, the default, the server answers at once.
func (s *Server) SetApplying(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.network.applying = d
}

// SetMuted stops the server from sending self updates. False ends that.
func (s *Server) SetMuted(muted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.network.muted = muted
}

// NetworkConfig returns the server's current network configuration, as JSON.
func (s *Server) NetworkConfig() json.RawMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, _ := json.Marshal(s.network.config) // it came from JSON
	return data
}

// NetworkPending reports whether a change of the network waits for confirmation.
func (s *Server) NetworkPending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.network.pending
}

func newNetwork(s *Server) network {
	host, _, _ := net.SplitHostPort(s.address)
	mac := func(n int) string { return macAddress(s.options.Seed, n) }
	return network{killed: map[string]bool{}, config: map[string]any{
		"dns":  map[string]any{"domain": "example.test", "hostname": s.options.Name, "nameservers": []any{"127.0.0.53"}, "search_domains": []any{"example.test"}},
		"time": map[string]any{"ntp_servers": []any{"ntp.example.test"}, "timezone": "UTC"},
		"proxy": map[string]any{"servers": map[string]any{"main": map[string]any{"host": "proxy.example.test:8080", "use_tls": true,
			"auth": "basic", "username": "servers", "password": "simulated-proxy-password"}},
			"rules": []any{map[string]any{"destination": "*", "target": "main"}}},
		"interfaces": []any{
			map[string]any{"name": "mgmt", "hwaddr": mac(0), "addresses": []any{host + "/8"}, "mtu": 1500.0, "lldp": true, "required_for_online": "both", "roles": []any{"management"}},
			map[string]any{"name": "stor", "hwaddr": mac(1), "addresses": []any{"dhcp4", "slaac"}, "mtu": 9000.0, "lldp": true, "roles": []any{"storage", "cluster"}},
			map[string]any{"name": "inst0", "hwaddr": mac(2), "mtu": 9000.0, "lldp": true, "roles": []any{"instances"}, "vlan_tags": []any{100.0, 200.0}},
		},
		"wireguard": []any{map[string]any{"name": "wg0", "addresses": []any{"fd00::1/64"}, "port": 51820.0, "private_key": simulatedKey("private"),
			"peers": []any{map[string]any{"public_key": simulatedKey("peer"), "preshared_key": simulatedKey("preshared"), "allowed_ips": []any{"fd00::2/128"}}}}},
	}}
}

// document returns the answer to GET. s.mu is held.
func (n *network) document(s *Server) map[string]any {
	interfaces := map[string]any{}
	host, _, _ := net.SplitHostPort(s.address)
	list, _ := n.config["interfaces"].([]any)
	for i, entry := range list {
		device, _ := entry.(map[string]any)
		name, _ := device["name"].(string)
		state := map[string]any{"hwaddr": device["hwaddr"], "mtu": device["mtu"], "roles": device["roles"], "type": "interface", "state": "routable", "speed": "25000",
			"lldp":  []any{map[string]any{"chassis_id": "40:a6:b7:12:34:56", "name": "leaf-01", "port_id": "Ethernet1/" + string(rune('0'+i)), "port": "Ethernet1"}},
			"stats": map[string]any{"rx_bytes": time.Now().UnixNano() / 1000, "tx_bytes": time.Now().UnixNano() / 2000, "rx_errors": 0, "tx_errors": 0}}
		if hasRole(device, "management") {
			state["addresses"] = []any{host}
			if n.stay { // the server still listens at an address that it no longer reports
				state["addresses"] = []any{n.managementHost()}
			}
		}
		interfaces[name] = state
	}
	out := map[string]any{"interfaces": interfaces}
	if s.supports(release.Confirmation) {
		out["configuration_in_process"] = n.inProgress
	}
	return map[string]any{"config": n.config, "state": out}
}

// confirms reports whether the server's release undoes unconfirmed changes of the network. s.mu is held.
func (s *Server) confirms() bool { return !s.options.LegacyNetwork && s.supports(release.Confirmation) }

func hasRole(device map[string]any, role string) bool {
	roles, _ := device["roles"].([]any)
	for _, r := range roles {
		if r == role {
			return true
		}
	}
	return false
}

// simulatedKey makes a WireGuard key of 32 bytes from a name.
func simulatedKey(name string) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%.32s", "simulated-"+name+"-key"+strings.Repeat(".", 32)))
}

// managementHost returns the address of the management interface, or "" if the configuration has none. s.mu is held.
func (n *network) managementHost() string {
	for _, kind := range []string{"interfaces", "bonds", "vlans"} {
		list, _ := n.config[kind].([]any)
		for _, entry := range list {
			device, _ := entry.(map[string]any)
			addresses, _ := device["addresses"].([]any)
			if !hasRole(device, "management") {
				continue
			}
			for _, address := range addresses {
				text, _ := address.(string)
				if ip, _, err := net.ParseCIDR(text); err == nil {
					return ip.String()
				}
				if text == "dhcp4" && n.lease != "" {
					return n.lease
				}
			}
		}
	}
	return ""
}

// dropPending ends the wait for a confirmation when the server goes down. Like a real server, it boots with the
// unconfirmed configuration, and does not undo it. s.mu is held.
func (n *network) dropPending() {
	if n.pending {
		n.timer.Stop()
		n.pending = false
	}
}

// configuredAddress returns the address (host:port) by the configuration, for a server at the given address. s.mu is held.
func (n *network) configuredAddress(address string) string {
	host, port, _ := net.SplitHostPort(address)
	if configured := n.managementHost(); configured != "" {
		host = configured
	}
	return net.JoinHostPort(host, port)
}

func (s *Server) putNetwork(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Config map[string]any `json:"config"`
	}
	if !decode(w, r, &body) {
		return
	}
	empty := true
	for _, kind := range []string{"interfaces", "bonds", "vlans"} {
		if list, _ := body.Config[kind].([]any); len(list) > 0 {
			empty = false
		}
	}
	var timeout time.Duration
	if text, _ := body.Config["confirmation_timeout"].(string); text != "" {
		var err error
		if timeout, err = time.ParseDuration(text); err != nil || timeout <= 0 {
			respondError(w, http.StatusBadRequest, "Invalid confirmation timeout %q", text)
			return
		}
	}
	delete(body.Config, "confirmation_timeout")
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case empty:
		respondError(w, http.StatusBadRequest, "At least one interface, bond, or VLAN must be configured")
		return
	case s.network.pending:
		respondError(w, http.StatusBadRequest, "A network change is already waiting for its confirmation")
		return
	}
	s.fillIn(body.Config)
	applying := s.network.applying
	if applying == 0 {
		s.answerNetwork(w)
	}
	if s.network.stuck {
		return
	}
	before := s.network.config
	s.network.config = body.Config
	s.saveSoon()
	if timeout > 0 && s.confirms() {
		s.network.before, s.network.pending = before, true
		s.network.timer = time.AfterFunc(timeout, s.rollBack)
	}
	moved := s.network.moved
	if applying == 0 {
		s.laterLocked(0, func() {
			if moved != nil {
				moved()
			}
			s.applyNetwork()
		})
		return
	}
	s.network.inProgress = true
	s.mu.Unlock()
	defer s.mu.Lock()
	if moved != nil {
		moved()
	}
	s.move(s.drainConnections)
	stayed := pause(r, s, applying)
	s.mu.Lock()
	s.network.inProgress = false
	failing := s.network.failing
	if stayed {
		s.answerNetwork(w)
	}
	s.mu.Unlock()
	if stayed && !failing {
		_ = s.SelfUpdate(s.ctx, "network-config-changed")
	}
}

// answerNetwork sends the answer to a change of the network. s.mu is held.
func (s *Server) answerNetwork(w http.ResponseWriter) {
	if s.network.failing {
		respondError(w, http.StatusInternalServerError, "Failed to update network configuration: DNS check failed")
	} else {
		respond(w, nil)
	}
	_ = http.NewResponseController(w).Flush()
}

// fillIn completes a configuration like IncusOS: it shortens the names of USB adapters, replaces names by MAC addresses,
// and adds missing keys of tunnels and a missing proxy rule. s.mu is held.
func (s *Server) fillIn(config map[string]any) {
	list, _ := config["interfaces"].([]any)
	for i, entry := range list {
		device, _ := entry.(map[string]any)
		if name, _ := device["name"].(string); strings.HasPrefix(name, "enx") && len(name) == 15 {
			device["name"] = strings.TrimPrefix(name, "enx")
		}
		if hwaddr, _ := device["hwaddr"].(string); device != nil && !strings.Contains(hwaddr, ":") {
			device["hwaddr"] = macAddress(s.options.Seed, i)
		}
	}
	tunnels, _ := config["wireguard"].([]any)
	for _, entry := range tunnels {
		if tunnel, _ := entry.(map[string]any); tunnel != nil && (tunnel["private_key"] == nil || tunnel["private_key"] == "") {
			tunnel["private_key"] = simulatedKey("generated")
		}
	}
	proxy, _ := config["proxy"].(map[string]any)
	if rules, _ := proxy["rules"].([]any); proxy != nil && len(rules) == 0 {
		target := "direct"
		servers, _ := proxy["servers"].(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(servers)) {
			target = name
			break
		}
		proxy["rules"] = []any{map[string]any{"destination": "*", "target": target}}
	}
}

// rollBack undoes a change that was not confirmed in time.
func (s *Server) rollBack() {
	s.mu.Lock()
	if !s.network.pending || s.closed {
		s.mu.Unlock()
		return
	}
	s.network.config, s.network.pending = s.network.before, false
	back := s.network.back
	s.mu.Unlock()
	if back != nil {
		back()
	}
	s.applyNetwork()
}

// applyNetwork moves the server to its configured address, and sends a self update.
func (s *Server) applyNetwork() {
	s.move(s.stopServing)
	_ = s.SelfUpdate(s.ctx, "network-config-changed")
}

// move moves the server to its configured address. stopServing ends the service at the old one.
func (s *Server) move(stopServing func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	to := s.network.configuredAddress(s.address)
	if host, _, _ := net.SplitHostPort(to); s.network.port != "" {
		to = net.JoinHostPort(host, s.network.port)
	}
	if to != s.address && !s.network.stay && !s.off && !s.closed {
		stopServing()
		s.address = to // even if it can't be reached
		_ = s.serve()
	}
}

func (s *Server) confirmNetwork(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	confirms := s.confirms()
	s.mu.Unlock()
	if r.PathValue("action") != ":confirm" || !confirms {
		respondError(w, http.StatusNotFound, "Not Found")
		return
	}
	if r.Method != http.MethodPost {
		respondError(w, http.StatusNotImplemented, "Not implemented")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.network.pending {
		respondError(w, http.StatusBadRequest, "No network change is waiting for its confirmation")
		return
	}
	s.network.timer.Stop()
	s.network.pending = false
	respond(w, nil)
}
