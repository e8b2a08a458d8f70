package incusostest

import (
	"net/http"
	"net/url"
	"strings"
)

// place is the collection or object that a request's path names.
type place struct {
	of                    *collection
	parent, typ, name     string
	snapshots             bool // the list of a volume's snapshots
	project               string
	allProjects, recursed bool
}

func parsePlace(r *http.Request) (place, bool) {
	parts := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/1.0/"), "/")
	for i := range parts {
		var err error
		if parts[i], err = url.PathUnescape(parts[i]); err != nil {
			return place{}, false
		}
	}
	q := r.URL.Query()
	out := place{project: q.Get("project"), allProjects: q.Get("all-projects") == "true", recursed: q.Get("recursion") != "" && q.Get("recursion") != "0"}
	if out.project == "" {
		out.project = "default"
	}
	if len(parts) >= 3 {
		if of := collectionOf(parts[2]); of != nil && of.inside == parts[0] {
			out.of, out.parent, parts = of, parts[1], parts[2:]
		}
	}
	if out.of == nil {
		if out.of = collectionOf(parts[0]); out.of == nil || out.of.inside != "" {
			return place{}, false
		}
	}
	parts = parts[1:]
	if out.of.kind == "storage-volume" && len(parts) > 0 {
		out.typ, parts = parts[0], parts[1:]
	}
	if len(parts) > 0 {
		out.name, parts = parts[0], parts[1:]
	}
	if out.of.kind == "storage-volume" && len(parts) > 0 && parts[0] == "snapshots" {
		out.snapshots, parts = true, parts[1:]
		if len(parts) > 0 {
			out.name, parts = out.name+"/"+parts[0], parts[1:]
			out.snapshots = false
		}
	}
	return out, len(parts) == 0
}

// matches reports whether an entity is at a place, or in the collection there.
func (p *place) matches(t *entity) bool {
	return t.of == p.of && t.parent == p.parent && (!p.of.projects || p.allProjects || t.project == p.project) &&
		(p.typ == "" || t.typ() == p.typ) && (p.name == "" || t.name == p.name)
}

// lookup returns the entities at a place. d.mu is held.
func (d *daemon) lookup(p *place, location string) (out []*entity) {
	for _, t := range d.entities {
		if p.matches(t) && (location == "" || !p.of.local || t.location == location) {
			out = append(out, t)
		}
	}
	if p.of.kind == "storage-volume" {
		for _, t := range d.volumesOf(p.parent) {
			if p.matches(t) {
				out = append(out, t)
			}
		}
	}
	return out
}
