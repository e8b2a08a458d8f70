package incusostest

import (
	"fmt"
	"time"
)

// Furnish adds objects of all kinds to the server's cluster until it has about n. It sends no events. It is for
// tests and demonstrations of large inventories.
func (s *Server) Furnish(n int) {
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	location := s.location(d)
	add := func(path, project, parent, name string, document map[string]any) {
		d.put(collectionOf(path), project, parent, name, location, document)
	}
	add("storage-pools", "", "", "local", map[string]any{"driver": "zfs", "config": map[string]any{"source": "/dev/disk/by-id/nvme0", "zfs.pool_name": "local"}})
	add("projects", "", "", "web", map[string]any{"description": "web servers", "config": map[string]any{"features.images": "true", "features.profiles": "true", "features.storage.volumes": "true", "features.networks": "true"}})
	add("profiles", "default", "", "small", map[string]any{"config": map[string]any{"limits.cpu": "1", "limits.memory": "1GiB"}, "devices": map[string]any{"eth0": map[string]any{"type": "nic", "network": "net0"}}})
	add("images", "default", "", fmt.Sprintf("%064x", 0xb00+n), map[string]any{"architecture": "x86_64", "type": "container", "size": 1996800, "properties": map[string]any{"os": "Debian", "release": "bookworm"}})
	add("network-integrations", "", "", "east", map[string]any{"type": "ovn", "config": map[string]any{"ovn.northbound_connection": "ssl:10.0.0.1:6641", "ovn.client_key": "simulated-client-key"}})
	add("network-zones", "default", "", "example.net", map[string]any{"config": map[string]any{"peers.ns1.key": "simulated-tsig-key", "peers.ns1.address": "10.0.0.53"}})
	add("network-address-sets", "default", "", "offices", map[string]any{"addresses": []any{"192.0.2.0/24", "2001:db8::/32"}})
	add("network-acls", "default", "", "web", map[string]any{"ingress": []any{map[string]any{"action": "allow", "protocol": "tcp", "destination_port": "443", "state": "enabled"}}})
	add("networks", "default", "", "net0", map[string]any{"type": "ovn", "config": map[string]any{"ipv4.address": "10.115.25.1/24", "network": "UPLINK", "security.acls": "web"}})
	add("forwards", "default", "net0", "192.0.2.10", map[string]any{"description": "shop", "ports": []any{map[string]any{"protocol": "tcp", "listen_port": "443", "target_address": "10.115.25.20"}}})
	add("load-balancers", "default", "net0", "192.0.2.11", map[string]any{"backends": []any{map[string]any{"name": "a", "target_address": "10.115.25.21"}}})
	add("peers", "default", "net0", "to-east", map[string]any{"target_integration": "east", "type": "remote", "status": "Created"})
	add("buckets", "default", "local", "backups", map[string]any{"config": map[string]any{"size": "10GiB"}, "s3_url": "https://10.0.0.1:9000/backups"})
	for i := 0; len(d.entities)+2*len(d.instances) < n; i++ {
		project := []string{"default", "web"}[i%2]
		switch i % 4 {
		case 0:
			add("volumes", project, "local", fmt.Sprintf("data%04d", i), map[string]any{"type": "custom", "content_type": "filesystem", "config": map[string]any{"size": "10GiB"}, "created_at": time.Date(2026, 8, 1, 0, 0, i, 0, time.UTC)})
		default:
			d.instances = append(d.instances, &Instance{Project: project, Name: fmt.Sprintf("c%04d", i), Location: s.options.Name, Running: i%3 > 0,
				Config: map[string]string{"limits.memory": "2GiB", "user.role": []string{"web", "db", "cache"}[i%3], "image.os": "Debian", "image.release": "bookworm"}})
		}
	}
}

// Touch changes the description of the first profile of the server's cluster, and sends an event, as if an operator
// had done so.
func (s *Server) Touch(description string) {
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.entities {
		if t.of.kind == "profile" {
			t.document["description"] = description
			d.emit(s, "profile-updated", t.path(), t.project, nil)
			return
		}
	}
}
