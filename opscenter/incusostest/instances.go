package incusostest

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/lxc/incus/v6/shared/api"
)

func (i *Instance) profiles() []string {
	if i.Profiles == nil {
		return []string{"default"}
	}
	return i.Profiles
}

func (i *Instance) path() string { return "/1.0/instances/" + i.Name + inProject(i.Project) }

// full returns the API's description of an instance with its state and snapshots.
func (i *Instance) full() api.InstanceFull {
	out := api.InstanceFull{State: &api.InstanceState{}}
	out.Name, out.Project, out.Location, out.Ephemeral, out.Type, out.Architecture = i.Name, i.Project, i.Location, i.Ephemeral, "container", "x86_64"
	out.Description, out.Profiles = i.Description, i.profiles()
	out.Status, out.StatusCode = api.Stopped.String(), api.Stopped
	if i.Running {
		out.Status, out.StatusCode = api.Running.String(), api.Running
		out.State.Memory.Usage, out.State.CPU.Usage = time.Now().UnixNano()%1e9, time.Now().UnixNano()
		out.State.Network = map[string]api.InstanceStateNetwork{"eth0": {Hwaddr: "10:66:6a:00:00:01", State: "up", Type: "broadcast", Mtu: 1500,
			Addresses: []api.InstanceStateNetworkAddress{{Family: "inet", Address: "10.115.25.20", Netmask: "24", Scope: "global"}},
			Counters:  api.InstanceStateNetworkCounters{BytesReceived: time.Now().UnixNano()}}}
	}
	out.State.Status, out.State.StatusCode = out.Status, out.StatusCode
	out.Config, out.Devices = map[string]string{}, map[string]map[string]string{}
	maps.Copy(out.Config, i.Config)
	out.ExpandedConfig, out.ExpandedDevices = out.Config, map[string]map[string]string{"root": {"type": "disk", "path": "/", "pool": "local"}}
	for _, s := range i.snapshots {
		out.Snapshots = append(out.Snapshots, api.InstanceSnapshot{Name: s, Profiles: i.profiles(), Architecture: "x86_64"})
	}
	return out
}

// memberIsDown reports whether the member of an instance is down. d.mu is held.
func (d *daemon) memberIsDown(i *Instance) bool {
	m := d.member(i.Location)
	return d.clustered && m != nil && (m.server == nil || m.server.isDown())
}

// shown returns the API's description of an instance, with state and snapshots if full is set. If its member is down,
// the description has only its names and status Error, like that of Incus. d.mu is held.
func (d *daemon) shown(i *Instance, full bool) any {
	out := i.full()
	if d.memberIsDown(i) {
		out = api.InstanceFull{}
		out.Name, out.Project, out.Location, out.Type = i.Name, i.Project, i.Location, "container"
		out.Status, out.StatusCode = api.Error.String(), api.Error
	}
	if full {
		return out
	}
	return out.Instance
}

// getInstances lists the instances of the cluster. It ignores the filter parameter, so clients have to filter again.
func (s *Server) getInstances(w http.ResponseWriter, r *http.Request) {
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	q := r.URL.Query()
	out := []any{}
	for _, i := range d.instances {
		switch {
		case q.Get("all-projects") != "true" && q.Get("project") != "" && q.Get("project") != i.Project:
		case q.Get("recursion") == "1", q.Get("recursion") == "2":
			out = append(out, d.shown(i, q.Get("recursion") == "2"))
		default:
			out = append(out, i.path())
		}
	}
	respond(w, out)
}

// postInstances creates a stopped instance. As with Incus, the event comes first, and the volume of the instance later.
func (s *Server) postInstances(w http.ResponseWriter, r *http.Request) {
	var body api.InstancesPost
	if !decode(w, r, &body) {
		return
	}
	project := cmp.Or(r.URL.Query().Get("project"), "default")
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	if body.Name == "" || slices.ContainsFunc(d.instances, func(i *Instance) bool { return i.Name == body.Name && i.Project == project }) {
		respondError(w, http.StatusConflict, "Instance %q can't be created", body.Name)
		return
	}
	i := &Instance{Project: project, Name: body.Name, Location: cmp.Or(r.URL.Query().Get("target"), s.options.Name), Description: body.Description, Config: body.Config, Profiles: body.Profiles}
	s.background(w, d, "Creating instance", func() {
		d.instances = append(d.instances, i)
		d.emit(s, "instance-created", i.path(), project, nil)
		s.delayVolume(d, i, "")
	})
}

// delayVolume hides a volume of an instance for Options.VolumeDelay: that of the instance itself, or of a snapshot.
// d.mu is held.
func (s *Server) delayVolume(d *daemon, i *Instance, snapshot string) {
	if s.options.VolumeDelay <= 0 {
		return
	}
	if i.withoutVolume == nil {
		i.withoutVolume = map[string]bool{}
	}
	i.withoutVolume[snapshot] = true
	s.later(s.options.VolumeDelay, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(i.withoutVolume, snapshot)
	})
}

// background answers with an operation that calls do at its end. d.mu is held, also while do runs.
func (s *Server) background(w http.ResponseWriter, d *daemon, description string, do func()) {
	s.begin(w, description, time.Millisecond, nil, func() string {
		d.mu.Lock()
		defer d.mu.Unlock()
		do()
		s.later(0, d.save)
		return ""
	})
}

// changeInstance answers with an operation that changes the instance of a request. If refuse returns a reason, it
// answers with that as the error.
func (s *Server) changeInstance(w http.ResponseWriter, r *http.Request, body any, description string, refuse func(*daemon, *Instance) string, change func(*daemon, *Instance)) {
	if body != nil && !decode(w, r, body) {
		return
	}
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	i := d.instance(w, r)
	if i == nil {
		return
	}
	if refuse != nil {
		if reason := refuse(d, i); reason != "" {
			respondError(w, http.StatusConflict, "%s", reason)
			return
		}
	}
	s.background(w, d, description, func() { change(d, i) })
}

func (s *Server) patchInstance(w http.ResponseWriter, r *http.Request) {
	var body api.InstancePut
	s.changeInstance(w, r, &body, "Updating instance", nil, func(d *daemon, i *Instance) {
		if body.Description != "" {
			i.Description = body.Description
		}
		if body.Profiles != nil {
			i.Profiles = body.Profiles
		}
		config := map[string]string{}
		maps.Copy(config, i.Config)
		maps.Copy(config, body.Config)
		i.Config = config
		d.emit(s, "instance-updated", i.path(), i.Project, nil)
	})
}

func (s *Server) renameInstance(w http.ResponseWriter, r *http.Request) {
	var body api.InstancePost
	taken := func(d *daemon, i *Instance) string {
		if body.Name == "" || slices.ContainsFunc(d.instances, func(o *Instance) bool { return o.Name == body.Name && o.Project == i.Project }) {
			return "The name is empty or taken"
		}
		return ""
	}
	s.changeInstance(w, r, &body, "Renaming instance", taken, func(d *daemon, i *Instance) {
		old := i.Name
		i.Name = body.Name
		d.emit(s, "instance-renamed", i.path(), i.Project, map[string]any{"old_name": old})
	})
}

func (s *Server) deleteInstance(w http.ResponseWriter, r *http.Request) {
	s.changeInstance(w, r, nil, "Deleting instance", nil, func(d *daemon, i *Instance) {
		d.instances = slices.DeleteFunc(d.instances, func(o *Instance) bool { return o == i })
		d.emit(s, "instance-deleted", i.path(), i.Project, nil)
	})
}

func (s *Server) postSnapshots(w http.ResponseWriter, r *http.Request) {
	var body api.InstanceSnapshotsPost
	s.changeInstance(w, r, &body, "Snapshotting instance", nil, func(d *daemon, i *Instance) {
		i.snapshots = append(i.snapshots, body.Name)
		d.emit(s, "instance-snapshot-created", "/1.0/instances/"+i.Name+"/snapshots/"+body.Name+inProject(i.Project), i.Project, nil)
		s.delayVolume(d, i, body.Name)
	})
}

// instance returns the instance of a request. If there is none, it sends the error and returns nil. d.mu is held.
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
	switch i := d.instance(w, r); {
	case i == nil:
	case d.memberIsDown(i):
		respondError(w, http.StatusServiceUnavailable, "Failed to connect to member %q", i.Location)
	default:
		respond(w, d.shown(i, r.URL.Query().Get("recursion") == "1"))
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
			d.emit(s, "instance-started", i.path(), i.Project, nil)
		case body.Action == "stop":
			i.Running = false
			d.emit(s, "instance-shutdown", i.path(), i.Project, nil)
			if i.Ephemeral {
				d.emit(s, "instance-deleted", i.path(), i.Project, nil)
				d.instances = slices.DeleteFunc(d.instances, func(other *Instance) bool { return other == i })
			}
		default:
			return "Unknown action"
		}
		s.later(0, d.save)
		return ""
	})
}
