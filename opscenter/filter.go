package opscenter

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter/expression"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// serverSchema is the fields of expressions about servers: those of the REST API, by their names there and by those in
// Operations Center's filters.
var serverSchema = &expression.Schema{
	Fields: map[string]any{
		"name": "", "connection_url": "", "public_connection_url": "", "channel": "", "description": "", "properties": map[string]string{},
		"fingerprint": "", "system_uuid": "", "machine_id": "", "cluster": "", "member_name": "", "member_roles": []string{},
		"server_type": "", "server_status": "", "server_status_detail": "", "server_status_reason": "", "os_version": "", "os_version_next": "",
		"needs_update": false, "needs_reboot": false, "in_maintenance": false, "recommended_action": "", "system_state_is_trusted": false,
		"last_updated": time.Time{}, "last_seen": time.Time{}, "backup_image": false,
		"status": "", "status_detail": "", "type": "", "certificate": "", "cluster_certificate": "", "cluster_connection_url": "", "last_status_updated": time.Time{},
		"version_data": map[string]any{},
	},
	Documents: []string{"hardware_data", "os_data"},
}

// clusterSchema is the fields of expressions about clusters.
var clusterSchema = &expression.Schema{Fields: map[string]any{
	"name": "", "description": "", "properties": map[string]string{}, "connection_url": "", "channel": "", "fingerprint": "", "status": "",
	"created_at": time.Time{}, "last_updated": time.Time{},
	"certificate": "", "server_names": []string{}, "server_type": "", "update_status": map[string]any{}, "config": map[string]any{},
}}

// compileFilter compiles an expression. It returns nil for an empty one.
func compileFilter(text string, schema *expression.Schema) (*expression.Matcher, error) {
	if text == "" {
		return nil, nil
	}
	program, err := expression.Compile(text, schema)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidFilter, err)
	}
	return program.Matcher(), nil
}

// filterError returns the error of an expression that could be evaluated for no row, after a scan of all rows from the
// first page.
func filterError(m *expression.Matcher, from Page) error {
	if m == nil || from.Cursor != "" && !m.Spent() || m.Err() == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrInvalidFilter, m.Err())
}

// serverValues are the fields of expressions about servers that a ServerInfo holds, by their names in serverSchema.
var serverValues = map[string]func(*ServerInfo) any{
	"name":                    func(i *ServerInfo) any { return i.Name },
	"connection_url":          func(i *ServerInfo) any { return i.ConnectionURL },
	"public_connection_url":   func(i *ServerInfo) any { return i.PublicConnectionURL },
	"channel":                 func(i *ServerInfo) any { return i.Channel },
	"description":             func(i *ServerInfo) any { return i.Description },
	"properties":              func(i *ServerInfo) any { return i.Properties },
	"fingerprint":             func(i *ServerInfo) any { return i.Fingerprint },
	"certificate":             func(i *ServerInfo) any { return i.Certificate },
	"system_uuid":             func(i *ServerInfo) any { return i.SystemUUID },
	"machine_id":              func(i *ServerInfo) any { return i.MachineID },
	"cluster":                 func(i *ServerInfo) any { return i.Cluster },
	"member_name":             func(i *ServerInfo) any { return i.State.MemberName },
	"member_roles":            func(i *ServerInfo) any { return i.State.MemberRoles },
	"server_type":             func(i *ServerInfo) any { return string(i.State.Type) },
	"type":                    func(i *ServerInfo) any { return string(i.State.Type) },
	"server_status":           func(i *ServerInfo) any { return string(i.State.Status) },
	"status":                  func(i *ServerInfo) any { return string(i.State.Status) },
	"server_status_detail":    func(i *ServerInfo) any { return string(i.State.StatusDetail) },
	"status_detail":           func(i *ServerInfo) any { return string(i.State.StatusDetail) },
	"server_status_reason":    func(i *ServerInfo) any { return i.State.StatusReason },
	"last_status_updated":     func(i *ServerInfo) any { return i.State.StatusSince },
	"os_version":              func(i *ServerInfo) any { return i.State.Versions.OS.Version },
	"os_version_next":         func(i *ServerInfo) any { return i.State.Versions.OS.VersionNext },
	"backup_image":            func(i *ServerInfo) any { return i.State.Versions.OS.BackupImage },
	"needs_reboot":            func(i *ServerInfo) any { return i.NeedsReboot() },
	"needs_update":            func(i *ServerInfo) any { return i.NeedsUpdate() },
	"in_maintenance":          func(i *ServerInfo) any { return i.InMaintenance() },
	"system_state_is_trusted": func(i *ServerInfo) any { return i.State.SystemStateTrusted },
	"last_seen":               func(i *ServerInfo) any { return i.LastSeen },
	"version_data":            func(i *ServerInfo) any { return versionData(i) },
	"recommended_action":      func(i *ServerInfo) any { return string(i.Recommendation().Action) },
	"last_updated": func(i *ServerInfo) any {
		if i.State.LastUpdated.After(i.LastUpdated) {
			return i.State.LastUpdated
		}
		return i.LastUpdated
	},
}

// serverMatcher evaluates an expression for servers. It reads no field that the expression does not use.
type serverMatcher struct {
	*expression.Matcher
	registry *Registry
	values   map[string]func(*ServerInfo) any // those that the expression uses
}

func (r *Registry) newServerMatcher(m *expression.Matcher) *serverMatcher {
	out := &serverMatcher{m, r, map[string]func(*ServerInfo) any{}}
	for name, value := range serverValues {
		if m.Uses(name) {
			out.values[name] = value
		}
	}
	return out
}

// matches evaluates the expression for a server.
func (m *serverMatcher) matches(tx storage.ReadTx, info *ServerInfo) (bool, error) {
	for name, value := range m.values {
		m.Set(name, value(info))
	}
	if m.Uses("cluster_certificate") || m.Uses("cluster_connection_url") {
		cluster := &Cluster{}
		if info.Cluster != "" {
			known, err := clusters.Find(tx, nameKey(info.Cluster))
			if err != nil {
				return false, err
			}
			if known != nil {
				cluster = known
			}
		}
		m.Set("cluster_certificate", cluster.Certificate)
		m.Set("cluster_connection_url", cluster.ConnectionURL)
	}
	if m.Uses("hardware_data") || m.Uses("os_data") {
		found, err := (&Snapshot{ReadTx: tx, registry: m.registry}).Facts(info)
		if errors.Is(err, storage.ErrCorrupt) {
			found, err = &lifecycle.Facts{}, nil // the damaged facts of one server must not hide the others
		}
		if err != nil {
			return false, err
		}
		m.SetDocument("hardware_data", found.Hardware)
		data, err := json.Marshal(map[string]json.RawMessage{"network": orNull(found.Network), "security": orNull(found.Security), "storage": orNull(found.Storage)})
		if err != nil {
			return false, err
		}
		m.SetDocument("os_data", data)
	}
	return m.Matches(), nil
}

func orNull(data json.RawMessage) json.RawMessage {
	if len(data) == 0 {
		return json.RawMessage("null")
	}
	return data
}

// versionData returns the versions of a server in the form of the REST API.
func versionData(info *ServerInfo) map[string]any {
	v, outdated, maintenance := &info.State.Versions, info.Outdated(), int(info.State.Maintenance)
	needs := func(component string) bool { _, ok := outdated[component]; return ok }
	var applications []any
	for _, a := range v.Applications {
		applications = append(applications, map[string]any{"name": a.Name, "version": a.Version, "friendly_version": a.FriendlyVersion,
			"available_version": info.Available[a.Name], "needs_update": needs(a.Name), "in_maintenance": maintenance})
	}
	osAvailable := "" // a server without IncusOS has no available version
	if v.OS.Name == lifecycle.OSName && !v.OS.Plain {
		osAvailable = info.Available[lifecycle.ComponentOS]
	}
	return map[string]any{"applications": applications, "update_channel": v.UpdateChannel, "needs_update": len(outdated) > 0, "needs_reboot": v.NeedsReboot(), "in_maintenance": maintenance,
		"os": map[string]any{"name": v.OS.Name, "version": v.OS.Version, "version_next": v.OS.VersionNext, "available_version": osAvailable,
			"needs_reboot": v.NeedsReboot(), "needs_update": needs(lifecycle.ComponentOS), "backup_image": v.OS.BackupImage}}
}

// matchesCluster evaluates an expression for a cluster. It reads the members only if the expression uses them.
func (s *Snapshot) matchesCluster(m *expression.Matcher, c *Cluster) (bool, error) {
	for name, value := range map[string]any{
		"name": c.Name, "description": c.Description, "properties": c.Properties, "connection_url": c.ConnectionURL, "channel": c.Channel,
		"fingerprint": c.Fingerprint, "status": string(c.Status), "created_at": c.CreatedAt, "last_updated": c.LastUpdated, "certificate": c.Certificate,
		"config": map[string]any{"rolling_restart": map[string]any{"post_restore_delay": c.PostRestoreDelay, "restore_mode": c.RestoreMode}},
	} {
		m.Set(name, value)
	}
	if m.Uses("server_names") || m.Uses("server_type") || m.Uses("update_status") {
		names, kind := []string{}, ""
		status := map[string][]any{"needs_update": {}, "needs_reboot": {}, "in_maintenance": {}}
		for info, err := range s.Servers(ServerFilter{Cluster: c.Name}) {
			if err != nil {
				return false, err
			}
			names = append(names, info.Name)
			kind = string(info.State.Type)
			for name, is := range map[string]bool{"needs_update": info.NeedsUpdate(), "needs_reboot": info.NeedsReboot(), "in_maintenance": info.InMaintenance()} {
				if is {
					status[name] = append(status[name], info.Name)
				}
			}
		}
		all := map[string]any{}
		for name, list := range status {
			all[name] = list
		}
		m.Set("server_names", names)
		m.Set("server_type", kind)
		m.Set("update_status", all)
	}
	return m.Matches(), nil
}
