package incusostest

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/lxc/incus/v6/shared/api"
)

// collection is a list of Incus's API: what is in it has the type of Incus's own client.
type collection struct {
	kind   string // as lifecycle events name it
	path   string
	inside string // path of the list its parents are in; empty: none
	// projects: what is in it belongs to one.
	projects bool
	// local: of each member its own.
	local bool
	// named is the member that holds the name.
	named string
	shape func() any
	// fixed are members that what is made has, unless it says otherwise.
	fixed map[string]any
}

var collections = []collection{
	{kind: "project", path: "projects", named: "name", shape: func() any { return new(api.Project) }},
	{kind: "profile", path: "profiles", projects: true, named: "name", shape: func() any { return new(api.Profile) }},
	{kind: "image", path: "images", projects: true, named: "fingerprint", shape: func() any { return new(api.Image) }},
	{kind: "network", path: "networks", projects: true, named: "name", shape: func() any { return new(api.Network) }, fixed: map[string]any{"managed": true, "status": "Created"}},
	{kind: "network-acl", path: "network-acls", projects: true, named: "name", shape: func() any { return new(api.NetworkACL) }},
	{kind: "network-address-set", path: "network-address-sets", projects: true, named: "name", shape: func() any { return new(api.NetworkAddressSet) }},
	{kind: "network-zone", path: "network-zones", projects: true, named: "name", shape: func() any { return new(api.NetworkZone) }},
	{kind: "network-integration", path: "network-integrations", named: "name", shape: func() any { return new(api.NetworkIntegration) }},
	{kind: "network-forward", path: "forwards", inside: "networks", projects: true, local: true, named: "listen_address", shape: func() any { return new(api.NetworkForward) }},
	{kind: "network-load-balancer", path: "load-balancers", inside: "networks", projects: true, named: "listen_address", shape: func() any { return new(api.NetworkLoadBalancer) }},
	{kind: "network-peer", path: "peers", inside: "networks", projects: true, named: "name", shape: func() any { return new(api.NetworkPeer) }},
	{kind: "storage-pool", path: "storage-pools", named: "name", shape: func() any { return new(api.StoragePool) }, fixed: map[string]any{"status": "Created"}},
	{kind: "storage-volume", path: "volumes", inside: "storage-pools", projects: true, local: true, named: "name", shape: func() any { return new(api.StorageVolume) }, fixed: map[string]any{"content_type": "filesystem"}},
	{kind: "storage-bucket", path: "buckets", inside: "storage-pools", projects: true, local: true, named: "name", shape: func() any { return new(api.StorageBucket) }},
}

// extensions that an Incus has which serves all of this.
var extensions = []string{"etag", "patch", "storage", "network", "event_lifecycle", "container_full", "image_types", "instances", "network_integrations_peer_name", "storage_api_volume_snapshots", "clustering", "clustering_evacuate", "resources", "projects", "network_acl", "network_forward", "network_load_balancer", "network_peer",
	"network_dns", "network_address_set", "network_integrations", "storage_buckets", "instance_all_projects", "instance_get_full", "images_all_projects",
	"networks_all_projects", "network_acls_all_projects", "network_zones_all_projects", "profiles_all_projects", "storage_volumes_all_projects", "storage_buckets_all_projects"}

// thing is something in a cluster that is no instance.
type thing struct {
	of                              *collection
	project, parent, name, location string
	document                        map[string]any
}

func (t *thing) typ() string {
	typ, _ := t.document["type"].(string)
	return typ
}

// path of the thing in the API, with its project unless that is the default one.
func (t *thing) path() string {
	out := "/1.0/"
	if t.of.inside != "" {
		out += t.of.inside + "/" + url.PathEscape(t.parent) + "/"
	}
	out += t.of.path + "/"
	name := t.name
	if t.of.kind == "storage-volume" {
		out += t.typ() + "/"
		if volume, snapshot, ok := strings.Cut(name, "/"); ok {
			return out + url.PathEscape(volume) + "/snapshots/" + url.PathEscape(snapshot) + inProject(t.project)
		}
	}
	return out + url.PathEscape(name) + inProject(t.project)
}

func inProject(project string) string {
	if project == "" || project == "default" {
		return ""
	}
	return "?project=" + url.QueryEscape(project)
}

// showSnapshot is a snapshot of a volume in the shape of Incus's API, which has less of it than of a volume. d.mu is held.
func (d *daemon) showSnapshot(t *thing) json.RawMessage {
	var shaped api.StorageVolumeSnapshot
	_ = json.Unmarshal(d.show(t), &shaped)
	data, _ := json.Marshal(shaped)
	return data
}

// extensions are those of the server's release.
func (s *Server) extensions() []string {
	if s.options.LegacyVolumes {
		return extensions
	}
	return append(slices.Clone(extensions), "storage_volume_full")
}

// show is the thing in the shape of Incus's API. d.mu is held.
func (d *daemon) show(t *thing) json.RawMessage {
	document := maps.Clone(t.document)
	document[t.of.named] = t.name
	if t.of.projects {
		document["project"] = t.project
	}
	if t.of.local {
		document["location"] = t.location
	}
	switch t.of.kind {
	case "network", "storage-pool":
		document["locations"] = d.locations()
		fallthrough
	case "project", "profile", "network-acl", "network-zone", "network-integration", "storage-volume", "network-address-set":
		document["used_by"] = d.usedBy(t)
	}
	shaped := t.of.shape()
	data, err := json.Marshal(document)
	if err == nil {
		err = json.Unmarshal(data, shaped)
	}
	if err == nil {
		data, err = json.Marshal(shaped)
	}
	if err != nil {
		return json.RawMessage("null")
	}
	return data
}

func (d *daemon) locations() (out []string) {
	if !d.clustered {
		return []string{"none"}
	}
	for _, m := range d.members {
		out = append(out, m.name)
	}
	return out
}

// usedBy lists who uses a thing, as Incus does.
func (d *daemon) usedBy(t *thing) []string {
	out := []string{}
	for _, i := range d.instances {
		path := "/1.0/instances/" + url.PathEscape(i.Name) + inProject(i.Project)
		uses := false
		switch t.of.kind {
		case "project":
			uses = i.Project == t.name
		case "profile":
			uses = i.Project == t.project && slices.Contains(i.profiles(), t.name)
		case "storage-pool":
			uses = d.rootPool() == t.name
		case "storage-volume":
			uses = t.typ() == "container" && i.Name == t.name && i.Project == t.project
		}
		if uses {
			out = append(out, path)
		}
	}
	for _, other := range d.things {
		config, _ := other.document["config"].(map[string]any)
		uses := false
		switch t.of.kind {
		case "project":
			uses = other.of.projects && other.project == t.name && other.of.inside != "networks" && (other.of.kind != "storage-volume" || other.typ() == "custom")
		case "storage-pool":
			uses = other.of.inside == "storage-pools" && other.parent == t.name && other.typ() != "container"
		case "network-acl":
			acls, _ := config["security.acls"].(string)
			uses = other.of.kind == "network" && other.project == t.project && slices.Contains(strings.Split(acls, ","), t.name)
		case "network-zone":
			uses = other.of.kind == "network" && config["dns.zone.forward"] == t.name
		case "network-integration":
			uses = other.of.kind == "network-peer" && other.document["target_integration"] == t.name
		case "network":
			uses = other.of.kind == "network-peer" && other.document["target_network"] == t.name
		}
		if uses {
			out = append(out, other.path())
		}
	}
	return out
}

// rootPool is where the instances have their volumes: the first; empty: there is none, and they have none.
func (d *daemon) rootPool() string {
	for _, t := range d.things {
		if t.of.kind == "storage-pool" {
			return t.name
		}
	}
	return ""
}

// volumesOf are the volumes of the instances.
func (d *daemon) volumesOf(pool string) (out []*thing) {
	if pool == "" || pool != d.rootPool() {
		return nil
	}
	of := collectionOf("volumes")
	for _, i := range d.instances {
		out = append(out, &thing{of: of, project: i.Project, parent: pool, name: i.Name, location: i.Location, document: map[string]any{"type": "container", "content_type": "filesystem"}})
		for _, s := range i.snapshots {
			out = append(out, &thing{of: of, project: i.Project, parent: pool, name: i.Name + "/" + s, location: i.Location, document: map[string]any{"type": "container", "content_type": "filesystem"}})
		}
	}
	return out
}

func collectionOf(path string) *collection {
	for i := range collections {
		if collections[i].path == path {
			return &collections[i]
		}
	}
	return nil
}

// buffered reads a request before, and sends the answer after it is handled: what is locked for
// that does not wait for anybody's connection.
func buffered(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			respondError(w, http.StatusBadRequest, "%v", err)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		answer := record(handle, r)
		copyHead(w, answer)
		_, _ = w.Write(answer.body.Bytes())
	}
}

// objects serves all lists, and what is in them.
func (s *Server) objects(w http.ResponseWriter, r *http.Request) {
	p, ok := parsePlace(r)
	if !ok {
		respondError(w, http.StatusNotFound, "Not Found")
		return
	}
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	if p.of.inside != "" {
		parent := place{of: collectionOf(p.of.inside), name: p.parent, project: p.project}
		if len(d.at(&parent, "")) == 0 {
			respondError(w, http.StatusNotFound, "%s not found", p.parent)
			return
		}
	}
	location := r.URL.Query().Get("target")
	if m := d.member(location); p.snapshots && m != nil && m.server != s && (m.server == nil || m.server.isDown()) {
		respondError(w, http.StatusServiceUnavailable, "Missing event connection with target cluster member")
		return
	}
	switch {
	case r.Method == http.MethodGet && (p.name == "" || p.snapshots):
		d.list(w, &p, s.options.LegacyVolumes)
	case r.Method == http.MethodPost && (p.name == "" || p.snapshots):
		d.create(s, w, r, &p, location)
	case p.name == "":
		respondError(w, http.StatusNotFound, "Not Found")
	default:
		found := d.at(&p, location)
		if len(found) == 0 {
			respondError(w, http.StatusNotFound, "%s not found", p.of.kind)
			return
		}
		d.change(s, w, r, found[0])
	}
}

func (d *daemon) list(w http.ResponseWriter, p *place, among bool) {
	out := []any{}
	within := *p
	if p.snapshots {
		within.name = ""
	}
	for _, t := range d.at(&within, "") {
		volume, _, snapshot := strings.Cut(t.name, "/")
		if t.of.kind == "storage-volume" && (p.snapshots && (!snapshot || volume != p.name) || snapshot && !p.snapshots && !among) {
			continue
		}
		if p.snapshots && p.recursed {
			out = append(out, d.showSnapshot(t))
		} else if p.recursed {
			out = append(out, d.show(t))
		} else {
			out = append(out, t.path())
		}
	}
	respond(w, out)
}

func (d *daemon) create(s *Server, w http.ResponseWriter, r *http.Request, p *place, location string) {
	var document map[string]any
	if !decode(w, r, &document) {
		return
	}
	if p.typ != "" {
		document["type"] = p.typ
	}
	name, _ := document[p.of.named].(string)
	if p.snapshots {
		name = p.name + "/" + name
	}
	if name == "" || location != "" && d.member(location) == nil {
		respondError(w, http.StatusBadRequest, "A %s has a %s, and a target that exists", p.of.kind, p.of.named)
		return
	}
	if location == "" {
		location = s.location(d)
	}
	taken := *p
	taken.name, taken.snapshots = name, false
	if len(d.at(&taken, location)) > 0 {
		respondError(w, http.StatusConflict, "The %s exists already", p.of.kind)
		return
	}
	t := d.put(p.of, p.project, p.parent, name, location, document)
	kind := p.of.kind
	if p.snapshots {
		kind += "-snapshot"
	}
	d.emit(s, kind+"-created", t.path(), t.project, nil)
	respond(w, nil)
}

// put adds a thing. d.mu is held.
func (d *daemon) put(of *collection, project, parent, name, location string, document map[string]any) *thing {
	t := &thing{of: of, parent: parent, name: name, document: maps.Clone(document)}
	if of.projects {
		t.project = project
	}
	if of.local {
		t.location = location
	}
	for key, value := range of.fixed {
		if _, there := t.document[key]; !there {
			t.document[key] = value
		}
	}
	delete(t.document, of.named)
	d.things = append(d.things, t)
	if of.kind == "project" {
		d.things = append(d.things, &thing{of: collectionOf("profiles"), project: name, name: "default", document: map[string]any{}})
	}
	return t
}

// change changes, renames or removes a thing. d.mu is held.
func (d *daemon) change(s *Server, w http.ResponseWriter, r *http.Request, t *thing) {
	kind := t.of.kind
	if kind == "storage-volume" && strings.Contains(t.name, "/") {
		kind += "-snapshot"
	}
	if r.Method == http.MethodGet {
		respond(w, d.show(t))
		return
	}
	var body map[string]any
	if r.Method != http.MethodDelete && !decode(w, r, &body) {
		return
	}
	switch r.Method {
	case http.MethodDelete:
		if used := d.usedBy(t); kind == "project" && len(used) > 1 || t.name == "default" && t.of.kind == "profile" {
			respondError(w, http.StatusBadRequest, "The %s is in use: %s", kind, strings.Join(used, ", "))
			return
		}
		d.remove(t)
		d.emit(s, kind+"-deleted", t.path(), t.project, nil)
	case http.MethodPost:
		name, _ := body["name"].(string)
		if name == "" || kind == "project" || kind == "storage-pool" {
			respondError(w, http.StatusBadRequest, "The %s can't be renamed", kind)
			return
		}
		old := t.name
		if volume, snapshot, ok := strings.Cut(t.name, "/"); ok && kind == "storage-volume-snapshot" {
			name, old = volume+"/"+name, snapshot
		}
		if d.taken(t, name) {
			respondError(w, http.StatusConflict, "The %s exists already", kind)
			return
		}
		d.rename(t, name)
		t.name = name
		d.emit(s, kind+"-renamed", t.path(), t.project, map[string]any{"old_name": old})
	case http.MethodPut, http.MethodPatch:
		for key, value := range body {
			config, isMap := value.(map[string]any)
			have, had := t.document[key].(map[string]any)
			if r.Method == http.MethodPatch && isMap && had {
				merged := maps.Clone(have)
				maps.Copy(merged, config)
				value = merged
			}
			t.document[key] = value
		}
		d.emit(s, kind+"-updated", t.path(), t.project, nil)
	default:
		respondError(w, http.StatusMethodNotAllowed, "Method %s", r.Method)
		return
	}
	respond(w, nil)
}

func (d *daemon) taken(t *thing, name string) bool {
	return slices.ContainsFunc(d.things, func(o *thing) bool {
		return o.of == t.of && o.project == t.project && o.parent == t.parent && o.typ() == t.typ() && o.location == t.location && o.name == name
	})
}

// remove removes a thing, and all that is in it.
func (d *daemon) remove(t *thing) {
	d.things = slices.DeleteFunc(d.things, func(o *thing) bool {
		switch {
		case o == t:
			return true
		case t.of.kind == "project":
			return o.of.projects && o.project == t.name
		case o.of.inside == t.of.path && o.parent == t.name && (t.of.kind != "network" || o.project == t.project):
			return true
		}
		return t.of.kind == "storage-volume" && o.of == t.of && o.project == t.project && o.parent == t.parent && o.location == t.location && strings.HasPrefix(o.name, t.name+"/")
	})
}

// rename renames what bears the name of a thing within its own.
func (d *daemon) rename(t *thing, name string) {
	for _, o := range d.things {
		switch {
		case o.of.inside == t.of.path && o.parent == t.name && o.project == t.project:
			o.parent = name
		case t.of.kind == "storage-volume" && o != t && o.of == t.of && o.project == t.project && o.parent == t.parent && o.location == t.location:
			if rest, ok := strings.CutPrefix(o.name, t.name+"/"); ok {
				o.name = name + "/" + rest
			}
		}
	}
	if t.of.kind == "profile" {
		for _, i := range d.instances {
			if at := slices.Index(i.profiles(), t.name); at >= 0 && i.Project == t.project {
				i.Profiles = slices.Clone(i.profiles())
				i.Profiles[at] = name
			}
		}
	}
}

// location is what Incus names a server's own, "none" outside clusters. d.mu is held.
func (s *Server) location(d *daemon) string {
	if d.clustered {
		return s.options.Name
	}
	return "none"
}
