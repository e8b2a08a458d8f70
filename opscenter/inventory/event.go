package inventory

import (
	"net/url"
	"strings"
	"time"
)

// Event is a lifecycle event of Incus.
type Event struct {
	// Action is its name, as instance-created; Source the URL path of what it is about.
	Action string
	Source string
	// Project it happened in, Location the member on which.
	Project  string
	Location string
	// OldName is what a renamed object was called.
	OldName string
	// Requestor is who asked for it; empty: nobody, or not known.
	Requestor string
	At        time.Time
}

// effect is what an event means for the inventory.
type effect struct {
	// renamed from what; the first of refs is what to.
	renamed *ref
	// refs are the objects to look at.
	refs []ref
	// scopes are what else may have changed with them, to be listed anew.
	scopes []scope
	// scan tells why all has to be listed anew; empty: it hasn't.
	scan string
}

// related are the kinds of which others may change when an object does, by its kind.
var related = map[Kind][]Kind{
	// Whoever uses something shows there, and a volume comes and goes with its instance.
	KindInstance:            {KindProject, KindProfile, KindNetwork, KindNetworkACL, KindStoragePool, KindStorageVolume, KindImage},
	KindImage:               {KindProject, KindStoragePool, KindStorageVolume},
	KindNetwork:             {KindProject, KindNetwork, KindNetworkACL, KindNetworkZone, KindProfile, KindNetworkForward, KindNetworkLoadBalancer, KindNetworkPeer},
	KindNetworkACL:          {KindProject, KindNetwork, KindNetworkAddressSet},
	KindNetworkAddressSet:   {KindProject, KindNetworkACL},
	KindNetworkForward:      {KindNetwork},
	KindNetworkLoadBalancer: {KindNetwork},
	KindNetworkPeer:         {KindNetwork, KindNetworkIntegration, KindNetworkPeer},
	KindNetworkIntegration:  {KindNetworkPeer},
	KindNetworkZone:         {KindProject, KindNetwork},
	KindProfile:             {KindProject, KindNetwork, KindNetworkACL, KindStoragePool, KindStorageVolume, KindInstance},
	KindProject:             {KindProfile},
	KindStoragePool:         {KindStorageVolume, KindStorageBucket},
	KindStorageVolume:       {KindProject, KindStoragePool},
	KindStorageBucket:       {KindProject, KindStoragePool},
}

// quiet are actions after which everything is as it was, as far as the inventory shows it.
var quiet = map[string]bool{
	"certificate-created": true, "certificate-deleted": true, "certificate-updated": true, "cluster-token-created": true,
	"cluster-certificate-updated": true,
	"image-retrieved":             true, "image-secret-created": true, "instance-backup-retrieved": true, "instance-console": true, "instance-console-reset": true,
	"instance-console-retrieved": true, "instance-exec": true, "instance-file-deleted": true, "instance-file-pushed": true,
	"instance-file-retrieved": true, "instance-log-deleted": true, "instance-log-retrieved": true, "instance-metadata-retrieved": true,
	"instance-metadata-template-created": true, "instance-metadata-template-deleted": true, "instance-metadata-template-retrieved": true,
	"instance-metadata-updated": true, "operation-cancelled": true, "storage-bucket-backup-retrieved": true,
	"storage-bucket-backup-created": true, "storage-bucket-backup-deleted": true, "storage-bucket-backup-renamed": true,
	"storage-bucket-key-created": true, "storage-bucket-key-deleted": true, "storage-bucket-key-updated": true,
	"storage-volume-backup-created": true, "storage-volume-backup-deleted": true, "storage-volume-backup-renamed": true,
	"storage-volume-backup-retrieved": true, "storage-volume-file-deleted": true, "storage-volume-file-pushed": true,
	"storage-volume-file-retrieved": true, "warning-acknowledged": true, "warning-deleted": true, "warning-reset": true,
}

// alone are verbs of actions that change an instance, and nothing else with it.
var alone = map[string]bool{"started": true, "stopped": true, "shutdown": true, "restarted": true, "paused": true, "resumed": true, "ready": true}

// subjects are what actions begin with, the longest first where one begins another.
var subjects = []struct {
	prefix string
	kind   Kind
}{
	{"network-acl-", KindNetworkACL}, {"network-address-set-", KindNetworkAddressSet}, {"network-forward-", KindNetworkForward},
	{"network-integration-", KindNetworkIntegration}, {"network-load-balancer-", KindNetworkLoadBalancer}, {"network-peer-", KindNetworkPeer},
	{"network-zone-", KindNetworkZone}, {"network-", KindNetwork}, {"instance-", KindInstance}, {"image-", KindImage}, {"profile-", KindProfile},
	{"project-", KindProject}, {"storage-pool-", KindStoragePool}, {"storage-volume-", KindStorageVolume}, {"storage-bucket-", KindStorageBucket},
}

// verbs that follow a subject, or a part of it, as instance-snapshot-created. Others are not
// known, and what they do is not either.
var verbs = map[string]bool{"created": true, "deleted": true, "renamed": true, "updated": true, "refreshed": true, "migrated": true, "restored": true,
	"agent-started": true, "agent-stopped": true, "started": true, "stopped": true, "shutdown": true, "restarted": true, "paused": true, "resumed": true, "ready": true}

var partsOf = []string{"snapshot-", "backup-", "record-", "alias-"}

// interpret says what an event means. It never says less than what may have changed: what it
// does not know is a reason to look at everything.
func interpret(e *Event) effect {
	if quiet[e.Action] {
		return effect{}
	}
	if len(e.Source) > MaxSourceLength || max(len(e.Project), len(e.Location)) > MaxNameLength {
		return effect{scan: "event " + limited(e.Action) + " about " + limited(e.Source)}
	}
	if len(e.OldName) > MaxNameLength {
		nameless := *e
		nameless.OldName = ""
		e = &nameless
	}
	switch e.Action {
	case "cluster-group-created", "cluster-group-deleted", "cluster-group-renamed", "cluster-group-updated", "cluster-member-updated":
		return effect{scopes: []scope{{kind: KindClusterMember}}}
	case "project-renamed", "project-deleted", "project-updated":
		_, verb, _ := strings.Cut(e.Action, "-")
		out := about(e, KindProject, "", verb)
		out.scopes, out.scan = nil, e.Action // what belongs to which project may be another now
		return out
	}
	for _, s := range subjects {
		verb, ok := strings.CutPrefix(e.Action, s.prefix)
		if !ok {
			continue
		}
		part := ""
		for _, p := range partsOf {
			if rest, ok := strings.CutPrefix(verb, p); ok {
				verb, part = rest, p
				break
			}
		}
		if !verbs[verb] {
			break
		}
		return about(e, s.kind, part, verb)
	}
	return effect{scan: "event " + limited(e.Action)}
}

// about is interpret for an event about an object of that kind, or a part of it.
func about(e *Event, kind Kind, part, verb string) effect {
	named, ok := parseSource(kind, e)
	if kind == KindImage && part == "alias-" { // it says the alias, and not always of what
		return effect{scopes: []scope{{kind: KindImage}}}
	}
	if !ok {
		return effect{scan: "event " + limited(e.Action) + " about " + limited(e.Source)}
	}
	out := effect{refs: []ref{named}}
	if kind == KindStorageVolume {
		// Incus names volumes there by their names in its database: with the project before it.
		if bare, ok := strings.CutPrefix(named.name, named.project+"_"); ok {
			other := named
			other.name = bare
			out.refs = []ref{other, named}
		}
	}
	if kind == KindInstance && part == "" && alone[verb] {
		return out
	}
	for _, also := range related[kind] {
		s := scope{kind: also}
		if info := also.info(); info.parent == kind && verb != "renamed" { // then there are those of the old name
			s.parent = named.name
		} else if named.parent != "" && also == kind {
			s.parent = named.parent
		}
		out.scopes = append(out.scopes, s)
	}
	if kind == KindStorageVolume && verb != "updated" {
		// Its snapshots come, go, and are renamed with it.
		out.scopes = append(out.scopes, scope{KindStorageVolume, named.parent})
	}
	switch {
	case part == "snapshot-" && kind == KindStorageVolume && verb == "renamed" && e.OldName != "": // they are volumes, too
		volume, _, _ := strings.Cut(out.refs[0].name, "/")
		old := out.refs[0]
		old.name = volume + "/" + e.OldName[strings.LastIndex(e.OldName, "/")+1:]
		if old != out.refs[0] {
			out.renamed = &old
		} else { // Incus 6.0 says the old name twice
			whole := old
			whole.name = volume
			out.refs = append(out.refs, whole)
		}
	case part != "":
	case e.OldName == "" && verb == "renamed": // from what, nobody says
		out.scopes = append(out.scopes, scope{kind, named.parent})
	case e.OldName != "": // Incus 6.0 says "deleted" of an integration that was renamed
		old := out.refs[0]
		old.name = e.OldName
		out.renamed = &old
	}
	return out
}

// parseSource reads which object an event is about. A part of one, as a snapshot, is the object.
func parseSource(kind Kind, e *Event) (ref, bool) {
	u, err := url.Parse(e.Source)
	if err != nil {
		return ref{}, false
	}
	path, ok := strings.CutPrefix(u.EscapedPath(), "/1.0/")
	if !ok {
		return ref{}, false
	}
	parts := strings.Split(path, "/")
	for i := range parts {
		if parts[i], err = url.PathUnescape(parts[i]); err != nil {
			return ref{}, false
		}
	}
	return refOf(kind, parts, projectOf(u, e, kind))
}

func projectOf(u *url.URL, e *Event, kind Kind) string {
	if !kind.info().project {
		return ""
	}
	for _, project := range []string{u.Query().Get("project"), e.Project} {
		if project != "" {
			return project
		}
	}
	return "default"
}

func refOf(kind Kind, parts []string, project string) (ref, bool) {
	info := kind.info()
	out := ref{kind: kind, project: project}
	collection := info.collection
	if info.parent != "" {
		parent := info.parent.info()
		if len(parts) < 4 || parts[0] != parent.collection {
			return out, false
		}
		out.parent = parts[1]
		parts = parts[2:]
	}
	if len(parts) < 2 || parts[0] != collection || parts[1] == "" {
		return out, false
	}
	if kind == KindStorageVolume {
		if len(parts) < 3 || parts[2] == "" {
			return out, false
		}
		out.typ, parts = parts[1], parts[1:]
	}
	out.name = parts[1]
	if kind == KindStorageVolume && len(parts) >= 4 && parts[2] == "snapshots" {
		out.name += "/" + parts[3]
	}
	return out, max(len(out.project), len(out.parent), len(out.typ), len(out.name)) <= MaxNameLength
}

// limited cuts a text that comes from a server.
func limited(text string) string {
	if len(text) > 200 {
		text = text[:200] + "…"
	}
	return strings.ToValidUTF8(text, "�")
}
