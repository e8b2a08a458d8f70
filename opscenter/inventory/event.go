package inventory

import (
	"net/url"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/internal/truncate"
)

// Event is a lifecycle event of Incus.
type Event struct {
	// Action is the name of the event, such as "instance-created". Source is the URL path of its object.
	Action string
	Source string
	// Project is the project of the event, Location the name of the member.
	Project  string
	Location string
	// OldName is the former name of a renamed object.
	OldName string
	// Requestor is the client that caused the event, as Incus names it. Empty: none, or not known.
	Requestor string
	// At is the time of the event, by the daemon's clock.
	At time.Time
}

// effect is the work that an event causes.
type effect struct {
	// renamed is the former identity of a renamed object; the first of refs is the new one.
	renamed *ref
	// refs are the objects to read.
	refs []ref
	// scopes are lists to read again, because their objects may have changed too.
	scopes []scope
	// scan is the reason for a scan. Empty: no scan is needed.
	scan string
}

// related maps the kind of a changed object to the kinds whose objects may change with it.
var related = map[Kind][]Kind{
	// An object lists its users in used_by, and the volume of an instance comes and goes with it.
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

// quietActions change nothing that the inventory shows.
var quietActions = map[string]bool{
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

// instanceOnly are the verbs of actions that change an instance, but no related object.
var instanceOnly = map[string]bool{"started": true, "stopped": true, "shutdown": true, "restarted": true, "paused": true, "resumed": true, "ready": true}

// subjects map the prefix of an action to a kind. A longer prefix comes before its own prefixes.
var subjects = []struct {
	prefix string
	kind   Kind
}{
	{"network-acl-", KindNetworkACL}, {"network-address-set-", KindNetworkAddressSet}, {"network-forward-", KindNetworkForward},
	{"network-integration-", KindNetworkIntegration}, {"network-load-balancer-", KindNetworkLoadBalancer}, {"network-peer-", KindNetworkPeer},
	{"network-zone-", KindNetworkZone}, {"network-", KindNetwork}, {"instance-", KindInstance}, {"image-", KindImage}, {"profile-", KindProfile},
	{"project-", KindProject}, {"storage-pool-", KindStoragePool}, {"storage-volume-", KindStorageVolume}, {"storage-bucket-", KindStorageBucket},
}

// verbs are the known ends of actions, after a subject or a part of one, as in instance-snapshot-created. An
// unknown verb may change anything.
var verbs = map[string]bool{"created": true, "deleted": true, "renamed": true, "updated": true, "refreshed": true, "migrated": true, "restored": true,
	"agent-started": true, "agent-stopped": true, "started": true, "stopped": true, "shutdown": true, "restarted": true, "paused": true, "resumed": true, "ready": true}

var partsOf = []string{"snapshot-", "backup-", "record-", "alias-"}

// interpret returns the work that an event causes. It covers at least all objects that may have changed. An
// unknown event causes a scan.
func interpret(e *Event) effect {
	if quietActions[e.Action] {
		return effect{}
	}
	if len(e.Source) > MaxSourceLength || max(len(e.Project), len(e.Location)) > MaxNameLength {
		return effect{scan: "event " + truncate.Text(e.Action, maxText) + " about " + truncate.Text(e.Source, maxText)}
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
		out.scopes, out.scan = nil, e.Action // objects may belong to another project now
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
	return effect{scan: "event " + truncate.Text(e.Action, maxText)}
}

// about is interpret for an event about an object of that kind, or about a part of the object.
func about(e *Event, kind Kind, part, verb string) effect {
	named, ok := parseSource(kind, e)
	if kind == KindImage && part == "alias-" { // the event names the alias, but not always the image
		return effect{scopes: []scope{{kind: KindImage}}}
	}
	if !ok {
		return effect{scan: "event " + truncate.Text(e.Action, maxText) + " about " + truncate.Text(e.Source, maxText)}
	}
	out := effect{refs: []ref{named}}
	if kind == KindStorageVolume {
		// Here Incus may use the name of the volume in its database, which begins with the project.
		if bare, ok := strings.CutPrefix(named.name, named.project+"_"); ok {
			other := named
			other.name = bare
			out.refs = []ref{other, named}
		}
	}
	if kind == KindInstance && part == "" && instanceOnly[verb] {
		return out
	}
	for _, also := range related[kind] {
		s := scope{kind: also}
		if info := also.info(); info.parent == kind && verb != "renamed" { // a rename also affects children of the old name
			s.parent = named.name
		} else if named.parent != "" && also == kind {
			s.parent = named.parent
		}
		out.scopes = append(out.scopes, s)
	}
	if kind == KindStorageVolume && verb != "updated" {
		// The snapshots of a volume come, go, and are renamed with it.
		out.scopes = append(out.scopes, scope{KindStorageVolume, named.parent})
	}
	switch {
	case part == "snapshot-" && kind == KindStorageVolume && verb == "renamed" && e.OldName != "": // snapshots are volumes, too
		volume, _, _ := strings.Cut(out.refs[0].name, "/")
		old := out.refs[0]
		old.name = volume + "/" + e.OldName[strings.LastIndex(e.OldName, "/")+1:]
		if old != out.refs[0] {
			out.renamed = &old
		} else { // Incus 6.0 sends the old name as both
			whole := old
			whole.name = volume
			out.refs = append(out.refs, whole)
		}
	case part != "":
	case e.OldName == "" && verb == "renamed": // the event lacks the old name
		out.scopes = append(out.scopes, scope{kind, named.parent})
	case e.OldName != "": // Incus 6.0 sends "deleted" for a renamed integration
		old := out.refs[0]
		old.name = e.OldName
		out.renamed = &old
	}
	return out
}

// parseSource returns the object of an event. For a part of an object, such as a snapshot, that is the object.
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

// maxText bounds a text that comes from a server, in bytes, in errors, logs and causes.
const maxText = 200
