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

// collection describes a list of Incus's API.
type collection struct {
	kind   string // name in lifecycle events
	path   string
	inside string // path of the list of its parents; empty if it has none
	// projects: each object belongs to a project.
	projects bool
	// local: each cluster member has its own objects.
	local bool
	// named is the JSON member with the name of an object.
	named string
	shape func() any // returns a new value of the Incus client's type
	// fixed has default values of new objects.
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

// extensions lists the API extensions of an Incus daemon with all collections.
var extensions = []string{"etag", "patch", "storage", "network", "event_lifecycle", "container_full", "image_types", "instances", "network_integrations_peer_name", "storage_api_volume_snapshots", "clustering", "clustering_evacuate", "resources", "projects", "network_acl", "network_forward", "network_load_balancer", "network_peer",
	"network_dns", "network_address_set", "network_integrations", "storage_buckets", "instance_all_projects", "instance_get_full", "images_all_projects",
	"networks_all_projects", "network_acls_all_projects", "network_zones_all_projects", "profiles_all_projects", "storage_volumes_all_projects", "storage_buckets_all_projects"}

// entity is an object of a cluster other than an instance.
type entity struct {
	of                              *collection
	project, parent, name, location string
	document                        map[string]any
}

// typ returns the member "type" of its document.
func (t *entity) typ() string {
	typ, _ := t.document["type"].(string)
	return typ
}

// path returns the path of an entity in the API, with its project unless that is the default one.
func (t *entity) path() string {
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

// showSnapshot returns the API's description of a snapshot of a volume, which has fewer members than that of a volume.
// d.mu is held.
func (d *daemon) showSnapshot(t *entity) json.RawMessage {
	var shaped api.StorageVolumeSnapshot
	_ = json.Unmarshal(d.show(t), &shaped)
	data, _ := json.Marshal(shaped)
	return data
}

// extensions returns the API extensions of the server's release.
func (s *Server) extensions() []string {
	if s.options.LegacyVolumes {
		return extensions
	}
	return append(slices.Clone(extensions), "storage_volume_full")
}

// show returns the API's description of an entity. d.mu is held.
func (d *daemon) show(t *entity) json.RawMessage {
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

// usedBy lists the paths of the objects that use an entity.
func (d *daemon) usedBy(t *entity) []string {
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
			uses = d.rootPool() == t.name && !i.withoutVolume[""]
		case "storage-volume":
			uses = t.typ() == "container" && i.Name == t.name && i.Project == t.project
		}
		if uses {
			out = append(out, path)
		}
	}
	for _, other := range d.entities {
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

// rootPool returns the pool with the volumes of the instances, which is the first one; "" if there is no pool.
func (d *daemon) rootPool() string {
	for _, t := range d.entities {
		if t.of.kind == "storage-pool" {
			return t.name
		}
	}
	return ""
}

// volumesOf returns the volumes of the instances in a pool, with their snapshots.
func (d *daemon) volumesOf(pool string) (out []*entity) {
	if pool == "" || pool != d.rootPool() {
		return nil
	}
	of := collectionOf("volumes")
	for _, i := range d.instances {
		if i.withoutVolume[""] {
			continue
		}
		out = append(out, &entity{of: of, project: i.Project, parent: pool, name: i.Name, location: i.Location, document: map[string]any{"type": "container", "content_type": "filesystem"}})
		for _, s := range i.snapshots {
			if i.withoutVolume[s] {
				continue
			}
			out = append(out, &entity{of: of, project: i.Project, parent: pool, name: i.Name + "/" + s, location: i.Location, document: map[string]any{"type": "container", "content_type": "filesystem"}})
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

// buffered reads the request before it calls the handler, and sends the answer afterwards. So no lock of the handler
// waits for a connection.
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

// objects serves all collections and their objects.
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
		if len(d.lookup(&parent, "")) == 0 {
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
		found := d.lookup(&p, location)
		if len(found) == 0 {
			respondError(w, http.StatusNotFound, "%s not found", p.of.kind)
			return
		}
		d.change(s, w, r, found[0])
	}
}

// list answers with a collection. withSnapshots includes snapshots in lists of volumes. d.mu is held.
func (d *daemon) list(w http.ResponseWriter, p *place, withSnapshots bool) {
	out := []any{}
	within := *p
	if p.snapshots {
		within.name = ""
	}
	for _, t := range d.lookup(&within, "") {
		volume, _, snapshot := strings.Cut(t.name, "/")
		if t.of.kind == "storage-volume" && (p.snapshots && (!snapshot || volume != p.name) || snapshot && !p.snapshots && !withSnapshots) {
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

// create adds the entity of a request. d.mu is held.
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
		respondError(w, http.StatusBadRequest, "A %s needs a %s, and an existing target", p.of.kind, p.of.named)
		return
	}
	if location == "" {
		location = s.location(d)
	}
	taken := *p
	taken.name, taken.snapshots = name, false
	if len(d.lookup(&taken, location)) > 0 {
		respondError(w, http.StatusConflict, "The %s already exists", p.of.kind)
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

// put adds an entity. d.mu is held.
func (d *daemon) put(of *collection, project, parent, name, location string, document map[string]any) *entity {
	t := &entity{of: of, parent: parent, name: name, document: maps.Clone(document)}
	if of.projects {
		t.project = project
	}
	if of.local {
		t.location = location
	}
	for key, value := range of.fixed {
		if _, set := t.document[key]; !set {
			t.document[key] = value
		}
	}
	delete(t.document, of.named)
	d.entities = append(d.entities, t)
	if of.kind == "project" {
		d.entities = append(d.entities, &entity{of: collectionOf("profiles"), project: name, name: "default", document: map[string]any{}})
	}
	return t
}

// change answers a request for an entity: it shows, changes, renames or removes it. d.mu is held.
func (d *daemon) change(s *Server, w http.ResponseWriter, r *http.Request, t *entity) {
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
			respondError(w, http.StatusConflict, "The %s already exists", kind)
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

// taken reports whether another entity of the same kind and place has a name. d.mu is held.
func (d *daemon) taken(t *entity, name string) bool {
	return slices.ContainsFunc(d.entities, func(o *entity) bool {
		return o.of == t.of && o.project == t.project && o.parent == t.parent && o.typ() == t.typ() && o.location == t.location && o.name == name
	})
}

// remove removes an entity, and all entities inside it.
func (d *daemon) remove(t *entity) {
	d.entities = slices.DeleteFunc(d.entities, func(o *entity) bool {
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

// rename updates the references of other objects to an entity that gets a new name.
func (d *daemon) rename(t *entity, name string) {
	for _, o := range d.entities {
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

// location returns the location of the server's objects: its name in a cluster, or "none". d.mu is held.
func (s *Server) location(d *daemon) string {
	if d.clustered {
		return s.options.Name
	}
	return "none"
}
