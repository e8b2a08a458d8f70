package incusostest

import (
	"fmt"
	"net/http"
	"strings"
)

func (s *Server) postMember(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Action string `json:"action"`
		Mode   string `json:"mode"`
	}
	if !decode(w, r, &body) {
		return
	}
	d := s.db()
	d.mu.Lock()
	m := s.find(w, d, r.PathValue("name"))
	if m == nil {
		d.mu.Unlock()
		return
	}
	description := ""
	switch {
	case body.Action == "evacuate":
		description = "Evacuating cluster member"
		if m.status != "Evacuated" {
			m.status = "Evacuating"
		}
	case body.Action == "restore":
		description = "Restoring cluster member"
		if m.status != "Online" {
			m.status = "Restoring"
		}
	default:
		d.mu.Unlock()
		respondError(w, http.StatusBadRequest, "Unknown action %q", body.Action)
		return
	}
	m.action = body.Action + " " + body.Mode
	d.mu.Unlock()
	d.save()
	s.begin(w, description, s.options.EvacuateDelay, nil, func() string { return d.finish(m) })
}

// finish completes the active evacuation or restore of a member. It returns the error message, or "".
func (d *daemon) finish(m *clusterMember) string {
	defer d.save()
	d.mu.Lock()
	defer d.mu.Unlock()
	action, mode, _ := strings.Cut(m.action, " ")
	m.action = ""
	if s := m.server; s != nil {
		switch {
		case action == "evacuate" && s.hasTrouble(TroubleEvacuation):
			m.status = "Online"
			return "Failed to migrate instance \"stubborn\" in project \"default\""
		case action == "restore" && s.hasTrouble(TroubleRestore):
			m.status = "Evacuated"
			return "Failed to start instance \"stubborn\""
		}
	}
	if action == "evacuate" {
		if failed := d.evacuate(m, mode); failed != "" {
			m.status = "Online"
			return failed
		}
		m.status = "Evacuated"
		d.announce(m, "cluster-member-evacuated")
		return ""
	}
	for _, i := range d.instances {
		if i.Origin != m.name {
			continue
		}
		if mode != "skip" {
			i.Location, i.Running = m.name, true
		}
		i.Origin = ""
	}
	m.status = "Online"
	d.announce(m, "cluster-member-restored")
	return ""
}

// announce sends an event about a member. d.mu is held.
func (d *daemon) announce(m *clusterMember, action string) {
	if m.server != nil {
		d.emit(m.server, action, "/1.0/cluster/members/"+m.name, "", nil)
	}
}

// evacuate moves the running instances of a member to other members, or stops them. It returns the error message, or
// "". d.mu is held.
func (d *daemon) evacuate(m *clusterMember, mode string) string {
	var others []string
	for _, other := range d.members {
		if other != m && other.status == "Online" && other.server != nil && !other.server.isDown() {
			others = append(others, other.name)
		}
	}
	next := 0
	for _, i := range d.instances {
		if i.Location != m.name || !i.Running {
			continue
		}
		switch {
		case mode == "stop":
			i.Running = false
		case len(others) == 0:
			return fmt.Sprintf("Failed getting target for instance %q: no other member is online", i.Name)
		default:
			i.Location = others[next%len(others)]
			next++
		}
		i.Origin = m.name
	}
	return ""
}
