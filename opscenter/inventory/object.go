package inventory

import (
	"encoding/json"
	"time"

	"github.com/opscenter-go/sdk/storage"
)

// Object is an object in an Incus cluster, or on an Incus server in no cluster. Such a server counts as a cluster with
// its own name.
type Object struct {
	// UUID identifies the object in the inventory. It stays when the object is renamed.
	UUID string
	Kind Kind
	// Cluster is the name of the cluster, or of the server in no cluster.
	Cluster string
	// ClusterID is the ID of the cluster's record, or of the server in no cluster. A cluster and a server
	// may have the same name.
	ClusterID string
	// Server is the name of the server that has the object. Empty: all servers of the cluster have it.
	Server string
	// Project is the project of the object. Parent is the network of a forward, load balancer or peer, or the storage
	// pool of a volume or bucket. Each is empty for kinds without one.
	Project string
	Parent  string
	// Type is the type of a storage volume: container, virtual-machine, image or custom. It is empty for other kinds.
	Type string
	// Name is the name of the object. For an image it is the fingerprint, for a forward or load balancer the listen
	// address. For the snapshot of a volume it is "VOLUME/SNAPSHOT".
	Name string
	// FirstSeen is when the inventory first had the object, LastUpdated when the stored object last changed. Both are
	// in UTC.
	FirstSeen   time.Time
	LastUpdated time.Time
	// Truncated names the members that were left out of Object because it was over MaxObjectSize. It is TruncatedAll if
	// only the name is kept: the object is over MaxMembers or incusos.Options.MaxObject, or the unit is over
	// Options.MaxObjects or MaxSize. An instance over MaxObject may be kept without its parts.
	Truncated []string
	// Object is the object of the Incus API as JSON, without secrets. An instance has its snapshots and backups. Of its
	// state, members that change all the time are left out. The addresses of its interfaces are as of the last
	// reading, because no event reports them.
	Object json.RawMessage
}

// TruncatedAll in Object.Truncated stands for all members except the name.
const TruncatedAll = "*"

// row is the stored form of an object. The unit is stored by its ID, which outlives renames.
type row struct {
	Unit     string // ID of the cluster, or of the server in no cluster
	Kind     Kind
	Project  string `json:",omitempty"`
	Parent   string `json:",omitempty"`
	Type     string `json:",omitempty"`
	Name     string
	Location string `json:",omitempty"` // member that has the object, by its name in Incus

	UUID        string
	FirstSeen   time.Time
	LastUpdated time.Time
	Truncated   []string        `json:",omitempty"`
	Object      json.RawMessage `json:",omitempty"`
	// Packed is the compressed Object, and Sum its sum. They are set instead of Object, see pack.go.
	Packed []byte `json:",omitempty"`
	Sum    uint64 `json:",omitempty"`
	// Away is the sum of the entry that Incus made up for the instance, because its member does not answer. 0: Object
	// is the real instance. Stub: only such entries were ever read.
	Away uint64 `json:",omitempty"`
	Stub bool   `json:",omitempty"`

	madeUp bool // by Incus, see away.go
}

// unitRow is stored while a unit has an inventory, until its objects are removed.
type unitRow struct {
	ID string
	// Cluster: the unit is a cluster. Otherwise it is a server in no cluster.
	Cluster bool
	// ScannedAt is when the unit had been read for the first time, except for the kinds in Unread. From then on,
	// new and removed objects are changes.
	ScannedAt time.Time
	Unread    []Kind `json:",omitempty"`
	// Name is the name of the unit at its last scan.
	Name string `json:",omitempty"`
}

var (
	objects = storage.NewTable("inventory_objects", func(r *row) storage.Key { return r.key() })
	byUUID  = objects.Unique("uuid", func(r *row) []storage.Key { return []storage.Key{storage.StringKey(r.UUID)} })
	units   = storage.NewTable("inventory_units", func(u *unitRow) storage.Key { return storage.StringKey(u.ID) })

	// changes by number; those of an object by its UUID, which outlives it.
	changes         = storage.NewLog("inventory_changes", func(c *changeRow) *uint64 { return &c.Sequence })
	changesByObject = changes.Index("object", func(c *changeRow) []storage.Key { return []storage.Key{storage.StringKey(c.UUID)} })
	changesByUnit   = changes.Index("unit", func(c *changeRow) []storage.Key { return []storage.Key{storage.StringKey(c.Unit)} })
)

func allTables() []*storage.TableSchema {
	return []*storage.TableSchema{objects.Schema(), units.Schema(), changes.Schema()}
}

// key orders objects by unit, kind, project, parent, type and name. Where several members may
// have objects of the same name, it ends with the member.
func (r *row) key() storage.Key {
	if info := r.Kind.info(); info != nil && info.local {
		return storage.StringsKey(r.Unit, string(r.Kind), r.Project, r.Parent, r.Type, r.Name, r.Location)
	}
	return storage.StringsKey(r.Unit, string(r.Kind), r.Project, r.Parent, r.Type, r.Name)
}

// ref identifies an object as Incus does.
type ref struct {
	kind    Kind
	project string
	parent  string
	typ     string
	name    string
}

func (r *row) ref() ref { return ref{r.Kind, r.Project, r.Parent, r.Type, r.Name} }

// prefix returns the common prefix of the rows of a ref. There are several if several members have such an object.
func (r ref) prefix(unit string) storage.Key {
	return storage.StringsKey(unit, string(r.kind), r.project, r.parent, r.typ, r.name)
}

// scope is a list: all objects of a kind in a unit, or only those of one parent.
type scope struct {
	kind   Kind
	parent string
}

// holds reports whether an object is in the scope.
func (s scope) holds(r *row) bool {
	return r.Kind == s.kind && (s.parent == "" || r.Parent == s.parent)
}
