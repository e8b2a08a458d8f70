package incusostest

import (
	"net"
	"net/http"
	"time"
)

// network is a server's network configuration, with the change that waits for its confirmation.
type network struct {
	config  map[string]any
	before  map[string]any // what a roll-back returns to
	timer   *time.Timer
	pending bool
}

func newNetwork(s *Server) network {
	host, _, _ := net.SplitHostPort(s.address)
	mac := func(n int) string { return macAddress(s.options.Seed, n) }
	return network{config: map[string]any{
		"dns":  map[string]any{"domain": "example.test", "hostname": s.options.Name, "nameservers": []any{"127.0.0.53"}, "search_domains": []any{"example.test"}},
		"time": map[string]any{"ntp_servers": []any{"ntp.example.test"}, "timezone": "UTC"},
		"proxy": map[string]any{"servers": map[string]any{"main": map[string]any{"host": "proxy.example.test:8080", "use_tls": true,
			"auth": "basic", "username": "servers", "password": "simulated-proxy-password"}}},
		"interfaces": []any{
			map[string]any{"name": "mgmt", "hwaddr": mac(0), "addresses": []any{host + "/8"}, "mtu": 1500.0, "lldp": true, "required_for_online": "both", "roles": []any{"management"}},
			map[string]any{"name": "stor", "hwaddr": mac(1), "addresses": []any{"dhcp4", "slaac"}, "mtu": 9000.0, "lldp": true, "roles": []any{"storage", "cluster"}},
			map[string]any{"name": "inst0", "hwaddr": mac(2), "mtu": 9000.0, "lldp": true, "roles": []any{"instances"}, "vlan_tags": []any{100.0, 200.0}},
		},
		"wireguard": []any{map[string]any{"name": "wg0", "addresses": []any{"fd00::1/64"}, "port": 51820.0, "private_key": "simulated-private-key",
			"peers": []any{map[string]any{"public_key": "public-key-of-a-peer", "preshared_key": "simulated-preshared-key", "allowed_ips": []any{"fd00::2/128"}}}}},
	}}
}

// document is what GET returns. s.mu is held.
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
		}
		interfaces[name] = state
	}
	return map[string]any{"config": n.config, "state": map[string]any{"interfaces": interfaces, "configuration_in_process": n.pending}}
}

func hasRole(device map[string]any, role string) bool {
	roles, _ := device["roles"].([]any)
	for _, r := range roles {
		if r == role {
			return true
		}
	}
	return false
}

// managementHost returns the address a configuration gives to management; empty if none.
func managementHost(config map[string]any) string {
	list, _ := config["interfaces"].([]any)
	for _, entry := range list {
		device, _ := entry.(map[string]any)
		addresses, _ := device["addresses"].([]any)
		if !hasRole(device, "management") || len(addresses) == 0 {
			continue
		}
		address, _ := addresses[0].(string)
		if ip, _, err := net.ParseCIDR(address); err == nil {
			return ip.String()
		}
	}
	return ""
}

// forget drops a pending change: the server went down before it was confirmed, and boots
// with what it had before. s.mu is held.
func (n *network) forget() {
	if n.pending {
		n.timer.Stop()
		n.config, n.pending = n.before, false
	}
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
	respond(w, nil)
	_ = http.NewResponseController(w).Flush()
	before := s.network.config
	s.network.config = body.Config
	if timeout > 0 {
		s.network.before, s.network.pending = before, true
		s.network.timer = time.AfterFunc(timeout, s.rollBack)
	}
	s.laterLocked(0, s.applyNetwork)
}

func (s *Server) rollBack() {
	s.mu.Lock()
	if !s.network.pending || s.closed {
		s.mu.Unlock()
		return
	}
	s.network.config, s.network.pending = s.network.before, false
	s.mu.Unlock()
	s.applyNetwork()
}

// applyNetwork moves the server to the address its configuration gives to management.
func (s *Server) applyNetwork() {
	s.mu.Lock()
	host := managementHost(s.network.config)
	current, port, _ := net.SplitHostPort(s.address)
	if host != "" && host != current && s.web != nil {
		s.hangUp()
		if s.listen(net.JoinHostPort(host, port)) != nil {
			s.address = net.JoinHostPort(host, port) // configured, and not reachable
		}
	}
	s.mu.Unlock()
	_ = s.SelfUpdate(s.ctx, "network-config-changed")
}

func (s *Server) confirmNetwork(w http.ResponseWriter, r *http.Request) {
	if r.PathValue("action") != ":confirm" {
		respondError(w, http.StatusNotFound, "Not Found")
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
