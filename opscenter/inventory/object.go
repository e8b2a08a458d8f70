package inventory

import (
	"encoding/json"
	"time"

	"github.com/opscenter-go/sdk/storage"
)

// Object is something that is in an Incus cluster, or on an Incus server in none, which
// counts as a cluster of one by its own name.
type Object struct {
	// UUID names the object in the inventory, and stays when the object is renamed.
	UUID string
	Kind Kind
	// Cluster is the name of the cluster, or of the server in none.
	Cluster string
	// ClusterID names the cluster's record, or that of the server in none: a cluster and a server
	// may have the same name.
	ClusterID string
	// Server is the name of the server it is on; empty, if it is on all of the cluster's.
	Server string
	// Project it is in, and Parent: the network of a forward, load balancer or peer, the storage
	// pool of a volume or bucket. Empty where there is none.
	Project string
	Parent  string
	// Type of a storage volume: container, virtual-machine, image, custom. Else empty.
	Type string
	// Name: the fingerprint of an image, the listen address of a forward or load balancer; that
	// of a snapshot of a volume is the volume's, a slash, and its own.
	Name string
	// FirstSeen is when the inventory first had it, LastUpdated when anything of it changed.
	FirstSeen   time.Time
	LastUpdated time.Time
	// Truncated are the members that were left out of Object because it was over MaxObjectSize. It is TruncatedAll if only
	// the name is kept: the object is over MaxMembers or incusos.Options.MaxObject, or the unit is over
	// Options.MaxObjects or MaxSize. Of an instance over MaxObject, the instance itself may still be kept.
	Truncated []string
	// Object is what Incus tells of it, as JSON, without secrets. An instance has its snapshots
	// and backups, and of its state what does not change all the time: the addresses of its
	// interfaces are those of when it was last read, no event tells of them.
	Object json.RawMessage
}

// TruncatedAll stands in Object.Truncated for all members but the name.
const TruncatedAll = "*"

// row is an object as it is stored. What it is in is stored by ID, which outlives renames.
type row struct {
	Unit     string // ID of the cluster, or of the server in none
	Kind     Kind
	Project  string `json:",omitempty"`
	Parent   string `json:",omitempty"`
	Type     string `json:",omitempty"`
	Name     string
	Location string `json:",omitempty"` // member it is on, by its name in Incus

	UUID        string
	FirstSeen   time.Time
	LastUpdated time.Time
	Truncated   []string        `json:",omitempty"`
	Object      json.RawMessage `json:",omitempty"`
	// Packed is Object, compressed, and Sum its sum, where it is kept so; see pack.go.
	Packed []byte `json:",omitempty"`
	Sum    uint64 `json:",omitempty"`
	// Away is the sum of the answer that Incus made up for the instance, as its member does not
	// answer; 0: Object is the instance's own. Stub: nothing but such answers was ever read.
	Away uint64 `json:",omitempty"`
	Stub bool   `json:",omitempty"`

	madeUp bool // by Incus, see away.go
}

// unitRow says that there is, or was, an inventory of a unit.
type unitRow struct {
	ID string
	// Cluster: it is one; else a server in none.
	Cluster bool
	// ScannedAt is when all of it had been read for the first time, but for the kinds in Unread.
	// From then on what comes and goes is a change.
	ScannedAt time.Time
	Unread    []Kind `json:",omitempty"`
	// Name is what it was called at its last scan.
	Name string `json:",omitempty"`
}

var (
	objects = storage.NewTable("inventory_objects", func(r *row) storage.Key { return r.key() })
	byUUID  = objects.Unique("uuid", func(r *row) []storage.Key { return []storage.Key{storage.StringKey(r.UUID)} })
	units   = storage.NewTable("inventory_units", func(u *unitRow) storage.Key { return storage.StringKey(u.ID) })

	// changes by number; those of an object by its UUID, which outlives it.
	changes         = storage.NewLog("inventory_changes", func(c *changeRow) *uint64 { return &c.Sequence })
	changesByObject = changes.Index("object", func(c *changeRow) []storage.Key { return []storage.Key{storage.StringKey(c.UUID)} })
)

func allTables() []*storage.TableSchema {
	return []*storage.TableSchema{objects.Schema(), units.Schema(), changes.Schema()}
}

// key orders objects by unit, kind, project, parent, type and name. Where several members may
// have one of the same name, the member is part of it.
func (r *row) key() storage.Key {
	if info := r.Kind.info(); info != nil && info.local {
		return storage.StringsKey(r.Unit, string(r.Kind), r.Project, r.Parent, r.Type, r.Name, r.Location)
	}
	return storage.StringsKey(r.Unit, string(r.Kind), r.Project, r.Parent, r.Type, r.Name)
}

// ref names an object by what Incus names it by.
type ref struct {
	kind    Kind
	project string
	parent  string
	typ     string
	name    string
}

func (r *row) ref() ref { return ref{r.Kind, r.Project, r.Parent, r.Type, r.Name} }

// prefix of the rows that a ref names: more than one, where several members have one.
func (r ref) prefix(unit string) storage.Key {
	return storage.StringsKey(unit, string(r.kind), r.project, r.parent, r.typ, r.name)
}

// scope is a part of a unit that is listed as a whole: a kind, in one parent if that is not empty.
type scope struct {
	kind   Kind
	parent string
}

// holds reports whether an object is in the scope.
func (s scope) holds(r *row) bool {
	return r.Kind == s.kind && (s.parent == "" || r.Parent == s.parent)
}
