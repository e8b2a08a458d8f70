package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/inventory"
)

// Adopter takes an Incus server, or all members of its cluster, into the registry by an Incus trust token. It returns the names
// of the servers. Use incusos.Client.Adopt for it.
type Adopter func(ctx context.Context, a Adopting) ([]string, error)

// Adopting describes a server, or a cluster, that an operator adopts. Names, ConnectionURLs and Certificates are by the names of
// members: see incusos.AdoptOptions.
type Adopting struct {
	ConnectionURL  string            `json:"connection_url"`
	TrustToken     string            `json:"trust_token"`
	Name           string            `json:"name"`
	Channel        string            `json:"channel"`
	Names          map[string]string `json:"names"`
	ConnectionURLs map[string]string `json:"connection_urls"`
	Certificates   map[string]string `json:"certificates"`
}

var (
	errNoInventory = errors.New("no inventory is set up")
	errNoAdopter   = errors.New("adoption is not set up")
)

// inventoryObject is the document of an object: the fields of Operations Center, and behind them those of this control plane
// alone.
type inventoryObject struct {
	UUID        string          `json:"uuid"`
	Cluster     string          `json:"cluster"`
	Server      string          `json:"server,omitempty"`
	ProjectName string          `json:"project_name,omitempty"`
	ParentName  string          `json:"parent_name,omitempty"`
	Name        string          `json:"name"`
	Type        string          `json:"type,omitempty"`
	Object      json.RawMessage `json:"object"`
	LastUpdated time.Time       `json:"last_updated"`
	FirstSeen   time.Time       `json:"first_seen"`
	Truncated   []string        `json:"truncated,omitempty"`
}

func showObject(o *inventory.Object) inventoryObject {
	return inventoryObject{UUID: o.UUID, Cluster: o.Cluster, Server: o.Server, ProjectName: o.Project, ParentName: o.Parent, Name: o.Name, Type: o.Type,
		Object: o.Object, LastUpdated: o.LastUpdated, FirstSeen: o.FirstSeen, Truncated: o.Truncated}
}

func (h *Handler) objects() resource[*inventory.Object] {
	return resource[*inventory.Object]{h: h, show: always(showObject), step: objectStep,
		path: func(o *inventory.Object) string {
			return "/1.0/inventory/" + o.Kind.Plural() + "/" + url.PathEscape(o.UUID)
		}}
}

// objects returns the query that a request makes.
func (q *query) objects(kinds ...inventory.Kind) (inventory.Query, error) {
	v := q.values
	out := inventory.Query{Kinds: kinds, Clusters: given(v["cluster"]), Servers: given(v["server"]), Projects: given(v["project"]), Parents: given(v["parent"]),
		Type: v.Get("type"), Name: v.Get("name"), Search: v.Get("search"), Filter: v.Get("filter")}
	for name, into := range map[string]*bool{"server_include_null": &out.ServerOrNone, "project_include_null": &out.ProjectOrNone, "parent_include_null": &out.ParentOrNone} {
		var err error
		if *into, err = q.flagOr(name, false); err != nil {
			return out, err
		}
	}
	return out, nil
}

// given leaves out empty values, which are no filters.
func given(values []string) []string {
	return slices.DeleteFunc(slices.Clone(values), func(value string) bool { return value == "" })
}

// objectStep is how many objects are read, and held, at a time.
const objectStep = 500

func (h *Handler) getObjects(w http.ResponseWriter, r *http.Request, kind inventory.Kind) {
	q := queryOf(r)
	asked, err := q.objects(kind)
	h.objects().list(w, r, q, err, func(page opscenter.Page) ([]*inventory.Object, string, error) {
		asked.Cursor, asked.Limit = page.Cursor, page.Limit
		found, err := h.options.Inventory.List(r.Context(), asked)
		return found.Objects, found.Next, err
	})
}

// object returns the object that a request names, if it is of the kind.
func (h *Handler) object(r *http.Request, kind inventory.Kind) (*inventory.Object, error) {
	o, err := h.options.Inventory.Get(r.Context(), r.PathValue("uuid"))
	if err == nil && o.Kind != kind {
		err = fmt.Errorf("%s %.80q: %w", kind, r.PathValue("uuid"), opscenter.ErrNotFound)
	}
	return o, err
}

func (h *Handler) getObject(w http.ResponseWriter, r *http.Request, kind inventory.Kind) {
	o, err := h.object(r, kind)
	h.objects().answer(w, r, o, err)
}

func (h *Handler) resyncObject(w http.ResponseWriter, r *http.Request, kind inventory.Kind) {
	_, err := h.object(r, kind)
	if err == nil {
		err = h.options.Inventory.Resync(r.Context(), r.PathValue("uuid"))
	}
	h.done(w, r, err)
}

func (h *Handler) resyncCluster(w http.ResponseWriter, r *http.Request) {
	// The name may also be that of a server in no cluster.
	name := r.PathValue("name")
	err := h.inScope(r, func(scope *access.Scope) (bool, error) {
		inside, err := h.containsServer(r.Context(), scope, func(s *opscenter.Snapshot) (*opscenter.ServerInfo, error) { return s.Server(name) })
		if errors.Is(err, opscenter.ErrNotFound) {
			return true, nil
		}
		return inside, err
	})
	if err == nil {
		h.patient(w, func() { err = h.options.Inventory.ResyncCluster(r.Context(), name) })
	}
	h.done(w, r, err)
}

// change is the document of a change.
type change struct {
	Sequence  uint64                 `json:"sequence"`
	At        time.Time              `json:"at"`
	Action    inventory.ChangeAction `json:"action"`
	Source    inventory.Source       `json:"source"`
	Event     string                 `json:"event,omitempty"`
	Requestor string                 `json:"requestor,omitempty"`
	UUID      string                 `json:"uuid"`
	Kind      inventory.Kind         `json:"kind"`
	Cluster   string                 `json:"cluster"`
	ClusterID string                 `json:"cluster_id"`
	Project   string                 `json:"project_name,omitempty"`
	Parent    string                 `json:"parent_name,omitempty"`
	Type      string                 `json:"type,omitempty"`
	Name      string                 `json:"name"`
	Fields    []fieldChange          `json:"fields,omitempty"`
}

type fieldChange struct {
	Path string          `json:"path"`
	From json.RawMessage `json:"from,omitempty"`
	To   json.RawMessage `json:"to,omitempty"`
}

func showChanges(list []inventory.Change) []change {
	out := make([]change, 0, len(list))
	for i := range list {
		c := &list[i]
		shown := change{Sequence: c.Sequence, At: c.At, Action: c.Action, Source: c.Source, Event: c.Event, Requestor: c.Requestor, UUID: c.UUID,
			Kind: c.Kind, Cluster: c.Cluster, ClusterID: c.ClusterID, Project: c.Project, Parent: c.Parent, Type: c.Type, Name: c.Name}
		for _, f := range c.Fields {
			shown.Fields = append(shown.Fields, fieldChange(f))
		}
		out = append(out, shown)
	}
	return out
}

// getHistory lists the changes of an object, also of a removed one.
func (h *Handler) getHistory(w http.ResponseWriter, r *http.Request, kind inventory.Kind) {
	list, err := h.options.Inventory.History(r.Context(), r.PathValue("uuid"))
	if err == nil && (len(list) == 0 || list[0].Kind != kind) {
		if _, missing := h.object(r, kind); len(list) > 0 || missing != nil {
			err = fmt.Errorf("%s %.80q: %w", kind, r.PathValue("uuid"), opscenter.ErrNotFound)
		}
	}
	h.answer(w, r, showChanges(list), err)
}

// getChanges lists the changes after a sequence number.
func (h *Handler) getChanges(w http.ResponseWriter, r *http.Request) {
	q, err := queryOf(r), error(nil)
	var after uint64
	if q.values.Get("after") != "" {
		if after, err = strconv.ParseUint(q.values.Get("after"), 10, 64); err != nil {
			err = fmt.Errorf("%w: after %.20q is no number", errBody, q.values.Get("after"))
		}
	}
	var list []inventory.Change
	if err == nil {
		list, err = h.options.Inventory.Changes(r.Context(), after, q.limit)
	}
	h.answer(w, r, showChanges(list), err)
}

// unitStatus tells how current the inventory of a cluster is.
type unitStatus struct {
	Cluster     string                    `json:"cluster"`
	Server      string                    `json:"server"`
	Following   bool                      `json:"following"`
	ScannedAt   time.Time                 `json:"scanned_at"`
	ScanSeconds float64                   `json:"scan_seconds"`
	ScanReason  string                    `json:"scan_reason"`
	Scans       int                       `json:"scans"`
	Events      int                       `json:"events"`
	Pending     int                       `json:"pending"`
	Skipped     map[inventory.Kind]string `json:"skipped"`
	Failure     string                    `json:"failure"`
	FailedAt    time.Time                 `json:"failed_at"`
	NextRetry   time.Time                 `json:"next_retry"`
}

func (h *Handler) getInventoryStatus(w http.ResponseWriter, r *http.Request) {
	list, err := h.options.Inventory.Status(r.Context())
	if err != nil {
		h.fail(w, r, err)
		return
	}
	out := make([]unitStatus, 0, len(list))
	for _, s := range list {
		out = append(out, unitStatus{Cluster: s.Cluster, Server: s.Server, Following: s.Following, ScannedAt: s.ScannedAt, ScanSeconds: s.ScanTook.Seconds(), ScanReason: s.ScanReason,
			Scans: s.Scans, Events: s.Events, Pending: s.Pending, Skipped: s.Skipped, Failure: s.Failure, FailedAt: s.FailedAt, NextRetry: s.NextRetry})
	}
	respond(w, out)
}

// kindsOf returns the kinds that a query names, in the singular or the plural.
func kindsOf(values []string) (out []inventory.Kind) {
	for _, text := range values {
		kind := inventory.Kind(text)
		for _, known := range inventory.Kinds {
			if text == known.Plural() {
				kind = known
			}
		}
		out = append(out, kind)
	}
	return out
}

// counts are numbers of objects.
type counts struct {
	Total     int                    `json:"total"`
	ByKind    map[inventory.Kind]int `json:"by_kind"`
	ByCluster map[string]int         `json:"by_cluster"`
	ByProject map[string]int         `json:"by_project"`
}

func (h *Handler) getCounts(w http.ResponseWriter, r *http.Request) {
	q := queryOf(r)
	asked, err := q.objects(kindsOf(q.values["kind"])...)
	var found inventory.Counts
	if err == nil {
		found, err = h.options.Inventory.Count(r.Context(), asked)
	}
	h.answer(w, r, counts{found.Total, found.ByKind, found.ByCluster, found.ByProject}, err)
}

// queryInventory answers with the objects that match, cluster by cluster, in Operations Center's shape.
func (h *Handler) queryInventory(w http.ResponseWriter, r *http.Request) {
	q := queryOf(r)
	kinds := kindsOf(q.values["kind"])
	if len(kinds) == 0 {
		kinds = slices.Clone(inventory.Kinds)
	}
	slices.Sort(kinds)
	asked, err := q.objects(slices.Compact(kinds)...)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	out := &aggregates{list: newList(w, h), kinds: asked.Kinds}
	asked.Limit = objectStep
	for err == nil {
		var page inventory.Page
		if page, err = h.options.Inventory.List(r.Context(), asked); err != nil {
			break
		}
		for _, o := range page.Objects {
			out.object(o)
		}
		if asked.Cursor = page.Next; asked.Cursor == "" {
			out.close()
			break
		}
	}
	out.end(r, "", err)
}

// aggregates writes objects while they are read: cluster by cluster, and in each kind by kind.
type aggregates struct {
	*list
	kinds   []inventory.Kind
	cluster string // its ID
	open    bool
	next    int // index in kinds of the kind after the one that is written
	servers map[string]bool
	count   int // objects of the kind that is written
}

func (a *aggregates) object(o *inventory.Object) {
	if !a.open || o.ClusterID != a.cluster {
		a.close()
		name, _ := json.Marshal(o.Cluster)
		a.part([]byte(`{"cluster":`), name)
		a.open, a.cluster, a.next, a.servers = true, o.ClusterID, 0, map[string]bool{}
	}
	for a.next == 0 || a.kinds[a.next-1] != o.Kind {
		a.kind()
	}
	data, err := json.Marshal(showObject(o))
	if err != nil {
		a.failed = err
		return
	}
	if a.count++; a.count > 1 {
		a.write([]byte(","))
	}
	a.write(data)
	if o.Server != "" {
		a.servers[o.Server] = true
	}
}

// kind ends the list of a kind, and begins that of the next one.
func (a *aggregates) kind() {
	if a.next > 0 {
		a.write([]byte("]"))
	}
	if a.next < len(a.kinds) {
		a.write([]byte(`,"` + a.kinds[a.next].Plural() + `":[`))
	}
	a.next, a.count = a.next+1, 0
}

// close ends a cluster.
func (a *aggregates) close() {
	if !a.open {
		return
	}
	for a.next <= len(a.kinds) {
		a.kind()
	}
	servers := slices.Sorted(maps.Keys(a.servers))
	if servers == nil {
		servers = []string{}
	}
	data, _ := json.Marshal(servers)
	a.write([]byte(`,"servers":`), data, []byte("}"))
	a.open = false
}

// adopt takes in an Incus server, or a cluster, that does not register itself.
func (h *Handler) adopt(w http.ResponseWriter, r *http.Request) {
	var body Adopting
	err := decode(r, &body)
	if err == nil && body.TrustToken == "" {
		err = fmt.Errorf("%w: field trust_token: it is wanted", errBody)
	}
	var names []string
	if err == nil {
		h.patient(w, func() { names, err = h.options.Adopt(r.Context(), body) })
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	paths := make([]string, 0, len(names))
	for _, name := range names {
		paths = append(paths, serverPath(name))
	}
	respondStatus(w, http.StatusCreated, paths)
}
