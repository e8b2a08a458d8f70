package incusostest

import (
	"net/http"
	"slices"
)

// document is what is told of an instance.
func (i *Instance) document() map[string]any {
	status, code := "Stopped", 102
	if i.Running {
		status, code = "Running", 103
	}
	return map[string]any{"name": i.Name, "project": i.Project, "status": status, "status_code": code, "location": i.Location, "ephemeral": i.Ephemeral,
		"type": "container", "architecture": "x86_64", "config": map[string]any{}, "expanded_config": map[string]any{}, "devices": map[string]any{}, "profiles": []string{"default"}}
}

// getInstances lists all of the cluster's: filters are for the one who asks to apply again.
func (s *Server) getInstances(w http.ResponseWriter, r *http.Request) {
	out := []any{}
	for _, i := range s.Instances() {
		if r.URL.Query().Get("recursion") == "1" {
			out = append(out, i.document())
		} else {
			out = append(out, "/1.0/instances/"+i.Name)
		}
	}
	respond(w, out)
}

// instance finds the one a request names. d.mu is held.
func (d *daemon) instance(w http.ResponseWriter, r *http.Request) *Instance {
	project := r.URL.Query().Get("project")
	if project == "" {
		project = "default"
	}
	for _, i := range d.instances {
		if i.Name == r.PathValue("name") && i.Project == project {
			return i
		}
	}
	respondError(w, http.StatusNotFound, "Instance not found")
	return nil
}

func (s *Server) getInstance(w http.ResponseWriter, r *http.Request) {
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := d.instance(w, r); i != nil {
		respond(w, i.document())
	}
}

func (s *Server) putInstance(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Action string `json:"action"`
	}
	if !decode(w, r, &body) {
		return
	}
	d := s.db()
	d.mu.Lock()
	i := d.instance(w, r)
	d.mu.Unlock()
	if i == nil {
		return
	}
	s.begin(w, body.Action+" instance", s.options.EvacuateDelay/4, nil, func() string {
		d.mu.Lock()
		defer d.mu.Unlock()
		switch {
		case body.Action == "start" && i.Running, body.Action == "stop" && !i.Running:
			return "The instance is already " + map[string]string{"start": "running", "stop": "stopped"}[body.Action]
		case body.Action == "start":
			i.Running = true
		case body.Action == "stop":
			i.Running = false
			if i.Ephemeral {
				d.instances = slices.DeleteFunc(d.instances, func(other *Instance) bool { return other == i })
			}
		default:
			return "unknown action"
		}
		s.later(0, d.save)
		return ""
	})
}
