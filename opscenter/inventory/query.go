package inventory

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/internal/page"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/expression"
	"github.com/opscenter-go/sdk/storage"
)

// ErrInvalidQuery: the query has an unknown kind, or an invalid filter.
var ErrInvalidQuery = errors.New("invalid query")

// Query selects the objects that match all its set fields. The zero value selects all.
type Query struct {
	// Kinds selects these kinds. Empty: all.
	Kinds []Kind
	// Cluster selects a cluster by its name. A server in no cluster counts as a cluster with its own name.
	Cluster string
	// Server selects the objects on a server, by its name. Project, Parent, Type and Name select equal values.
	Server  string
	Project string
	Parent  string
	Type    string
	Name    string
	// Clusters, Servers, Projects and Parents select objects with any of these values, or with the single
	// value above.
	Clusters []string
	Servers  []string
	Projects []string
	Parents  []string
	// ServerOrNone, ProjectOrNone and ParentOrNone also select objects without a server, project or parent. They
	// have an effect only if servers, projects or parents are given.
	ServerOrNone, ProjectOrNone, ParentOrNone bool
	// Search selects names that contain all its words, in any order, regardless of case.
	Search string
	// Filter is an expression in the language of package expression. It may name uuid, kind, cluster, server, project_name
	// (or project), parent_name (or parent, network_name, storage_pool_name), type, name, first_seen and last_updated. object
	// has the members of the Incus API. An object without a member that the expression needs does not match.
	Filter string
	// Limit bounds a page. Default 100, at most MaxPageSize. Cursor is the Page.Next of the
	// page before. It stays valid while objects come and go, and clusters are renamed.
	Limit  int
	Cursor string
}

// schema lists the names that filters may use.
var schema = &expression.Schema{Fields: map[string]any{
	"uuid": "", "kind": "", "cluster": "", "server": "", "project": "", "project_name": "", "parent": "", "parent_name": "",
	"network_name": "", "storage_pool_name": "", "type": "", "name": "", "first_seen": time.Time{}, "last_updated": time.Time{},
}, Documents: []string{"object"}}

// Page is a page of objects in a stable order: by cluster, kind, project, parent, type and name.
type Page struct {
	Objects []*Object
	// Next is the Query.Cursor of the next page. Empty: this page is the last.
	Next string
}

// List returns a page of the objects that match. Errors: ErrInvalidQuery, for a filter with the position of the
// mistake; opscenter.ErrInvalidCursor.
func (m *Manager) List(ctx context.Context, q Query) (out Page, err error) {
	limit := page.Size(q.Limit)
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		out = Page{}
		var last *row
		return m.scan(ctx, s, q, func(o *Object, r *row) error {
			if len(out.Objects) == limit {
				out.Next = page.Encode(string(last.key()))
				return errStop
			}
			out.Objects, last = append(out.Objects, o), r
			return nil
		})
	})
	return out, err
}

// Objects yields all objects that match, from one snapshot, in the order of List. It ignores Limit. The snapshot stays
// in memory or on disk until the loop ends, so the loop should be short. Errors are those of List.
func (m *Manager) Objects(ctx context.Context, q Query) iter.Seq2[*Object, error] {
	return func(yield func(*Object, error) bool) {
		err := m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
			return m.scan(ctx, s, q, func(o *Object, _ *row) error {
				if !yield(o, nil) {
					return errStop
				}
				return nil
			})
		})
		if err != nil {
			yield(nil, err)
		}
	}
}

// Counts is the result of Count.
type Counts struct {
	// Total is the number of all objects that match.
	Total int
	// ByKind and ByCluster have only kinds and clusters with objects. The keys of ByCluster are names.
	ByKind    map[Kind]int
	ByCluster map[string]int
	// ByProject counts the objects in each project, over all clusters.
	ByProject map[string]int
}

// Count counts the objects that match. Errors are those of List.
func (m *Manager) Count(ctx context.Context, q Query) (out Counts, err error) {
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		out = Counts{ByKind: map[Kind]int{}, ByCluster: map[string]int{}, ByProject: map[string]int{}}
		return m.scan(ctx, s, q, func(o *Object, _ *row) error {
			out.Total++
			out.ByKind[o.Kind]++
			out.ByCluster[o.Cluster]++
			if o.Project != "" {
				out.ByProject[o.Project]++
			}
			return nil
		})
	})
	return out, err
}

// Get returns the object with a UUID. Errors: opscenter.ErrNotFound.
func (m *Manager) Get(ctx context.Context, uuid string) (out *Object, err error) {
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		r, err := objectOf(s, uuid)
		if err != nil {
			return err
		}
		names := newNames(s)
		u, err := names.unit(r.Unit)
		if err != nil {
			return err
		}
		if u == nil {
			return fmt.Errorf("object %.80q: %w", uuid, opscenter.ErrNotFound)
		}
		server, err := names.server(u, r)
		if err == nil {
			out, err = r.show(u, server)
		}
		return err
	})
	return out, err
}

// objectOf returns an object by its UUID, or opscenter.ErrNotFound.
func objectOf(s *opscenter.Snapshot, uuid string) (*row, error) {
	r, err := byUUID.Find(s, storage.StringKey(uuid))
	if err == nil && r == nil {
		err = fmt.Errorf("object %.80q: %w", uuid, opscenter.ErrNotFound)
	}
	return r, err
}

// show returns the object of the row.
func (r *row) show(u *unitInfo, server string) (*Object, error) {
	r, err := r.unpack()
	if err != nil {
		return nil, err
	}
	return &Object{UUID: r.UUID, Kind: r.Kind, Cluster: u.name, ClusterID: u.id, Server: server, Project: r.Project, Parent: r.Parent, Type: r.Type, Name: r.Name,
		FirstSeen: r.FirstSeen, LastUpdated: r.LastUpdated, Truncated: r.Truncated, Object: r.Object}, nil
}

// errStop ends a scan early.
var errStop = errors.New("enough")

// chunk bounds the objects that each processor evaluates at a time.
const chunk = 1024

// scan calls use with each object that matches. use returns errStop to end the scan.
func (m *Manager) scan(ctx context.Context, s *opscenter.Snapshot, q Query, use func(*Object, *row) error) error {
	run, err := q.compile(s)
	if err != nil {
		return err
	}
	err = run.units(ctx, func(u *unitInfo, r storage.Range) error {
		for found, err := range objects.Scan(s, r) {
			if err != nil {
				return err
			}
			if err := run.consider(ctx, u, found, use); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = run.flush(ctx, use)
	}
	switch {
	case errors.Is(err, errStop):
		return nil
	case err == nil && run.matcher != nil && (q.Cursor == "" || run.matcher.Spent()) && run.matcher.Err() != nil:
		return fmt.Errorf("%w: filter: %w", ErrInvalidQuery, run.matcher.Err())
	}
	return err
}

// running is the state of a query that is being answered.
type running struct {
	q     Query
	s     *opscenter.Snapshot
	names *names
	kinds []Kind
	words []string
	after storage.Key

	clusters, servers, projects, parents []string

	matcher *expression.Matcher
	others  []*expression.Matcher // of the other processors
	waiting []candidate
	// step is the number of objects that are evaluated together. It grows, which suits short pages and long scans.
	step int
}

// candidate is an object that matches all but the filter, which is not evaluated so far.
type candidate struct {
	unit    *unitInfo
	row     *row
	server  string
	matches bool
	failed  error // the row can't be read
}

func (q Query) compile(s *opscenter.Snapshot) (*running, error) {
	run := &running{q: q, s: s, names: newNames(s), kinds: slices.Clone(q.Kinds), words: strings.Fields(strings.ToLower(q.Search)), step: 64,
		clusters: all(q.Cluster, q.Clusters), servers: all(q.Server, q.Servers), projects: all(q.Project, q.Projects), parents: all(q.Parent, q.Parents)}
	for _, kind := range q.Kinds {
		if err := kind.check(); err != nil {
			return nil, err
		}
	}
	slices.Sort(run.kinds)
	run.kinds = slices.Compact(run.kinds)
	if q.Cursor != "" {
		last, err := page.Decode(q.Cursor, storage.MaxKeySize)
		if err != nil {
			return nil, err
		}
		run.after = storage.Key(last)
		if _, ok := run.after.FirstString(); !ok {
			return nil, page.Invalid(q.Cursor)
		}
	}
	if q.Filter != "" {
		program, err := expression.Compile(q.Filter, schema)
		if err != nil {
			return nil, fmt.Errorf("%w: filter: %w", ErrInvalidQuery, err)
		}
		run.matcher = program.Matcher()
		for range runtime.GOMAXPROCS(0) - 1 {
			run.others = append(run.others, program.Matcher())
		}
	}
	return run, nil
}

// all joins a single value, if set, with more values.
func all(single string, more []string) []string {
	if single == "" {
		return more
	}
	return append([]string{single}, more...)
}

// among reports whether a value is in a list. An empty list has all values.
func among(list []string, value string, orNone bool) bool {
	return len(list) == 0 || value == "" && orNone || slices.Contains(list, value)
}

// units calls use with the ranges of objects that may match, in order.
func (run *running) units(ctx context.Context, use func(*unitInfo, storage.Range) error) error {
	if len(run.clusters) > 0 {
		var list []*unitInfo
		for _, name := range run.clusters {
			named, err := run.names.named(name)
			if err != nil {
				return err
			}
			list = append(list, named...)
		}
		slices.SortFunc(list, func(a, b *unitInfo) int { return strings.Compare(a.id, b.id) })
		list = slices.CompactFunc(list, func(a, b *unitInfo) bool { return a.id == b.id })
		for _, u := range list {
			if err := run.ranges(u, use); err != nil {
				return err
			}
		}
		return nil
	}
	within := storage.Range{}
	if first, ok := run.after.FirstString(); ok {
		u, err := run.names.unit(first)
		if err != nil {
			return err
		}
		if u != nil {
			if err := run.ranges(u, use); err != nil {
				return err
			}
		}
		within.After = storage.StringKey(first)
	}
	for row, err := range units.Scan(run.s, within) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		u, err := run.names.unit(row.ID)
		if err != nil {
			return err
		}
		if u == nil {
			continue // the unit is being removed
		}
		if err := run.ranges(u, use); err != nil {
			return err
		}
	}
	return nil
}

func (run *running) ranges(u *unitInfo, use func(*unitInfo, storage.Range) error) error {
	unit := storage.StringKey(u.id)
	prefixes := []storage.Key{unit}
	if len(run.kinds) > 0 {
		prefixes = nil
		for _, kind := range run.kinds {
			prefix := unit.Str(string(kind))
			if len(run.projects) == 1 && !run.q.ProjectOrNone {
				prefix = prefix.Str(run.projects[0])
			}
			prefixes = append(prefixes, prefix)
		}
	}
	for _, prefix := range prefixes {
		r := storage.Range{Prefix: prefix, After: run.after}
		if run.after != nil && run.after.Compare(prefix) < 0 {
			r.After = nil
		}
		if run.after != nil && !run.after.HasPrefix(prefix) && run.after.Compare(prefix) > 0 {
			continue // on an earlier page
		}
		if err := use(u, r); err != nil {
			return err
		}
	}
	return nil
}

// consider passes a matching object to use. With a filter, it adds the object to the candidates instead.
func (run *running) consider(ctx context.Context, u *unitInfo, r *row, use func(*Object, *row) error) error {
	q := &run.q
	switch {
	case !among(run.projects, r.Project, q.ProjectOrNone), !among(run.parents, r.Parent, q.ParentOrNone), q.Type != "" && r.Type != q.Type, q.Name != "" && r.Name != q.Name:
		return nil
	}
	if len(run.words) > 0 {
		name := strings.ToLower(r.Name)
		for _, word := range run.words {
			if !strings.Contains(name, word) {
				return nil
			}
		}
	}
	server, err := run.names.server(u, r)
	if err != nil || !among(run.servers, server, q.ServerOrNone) {
		return err
	}
	if run.matcher == nil {
		object, err := r.show(u, server)
		if err != nil {
			return err
		}
		return use(object, r)
	}
	run.waiting = append(run.waiting, candidate{unit: u, row: r, server: server})
	if len(run.waiting) < run.step {
		return nil
	}
	run.step = min(2*run.step, chunk*(1+len(run.others)))
	return run.flush(ctx, use)
}

// flush evaluates the filter for the waiting candidates, on all processors.
func (run *running) flush(ctx context.Context, use func(*Object, *row) error) error {
	if len(run.waiting) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	parts := 1 + len(run.others)
	if len(run.waiting) < 4*parts {
		parts = 1
	}
	each := (len(run.waiting) + parts - 1) / parts
	var group sync.WaitGroup
	for i := 1; i < parts; i++ {
		from, to := min(i*each, len(run.waiting)), min((i+1)*each, len(run.waiting))
		group.Go(func() { evaluate(ctx, run.others[i-1], run.waiting[from:to]) })
	}
	evaluate(ctx, run.matcher, run.waiting[:min(each, len(run.waiting))])
	group.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, other := range run.others {
		run.matcher.Merge(other)
	}
	if run.matcher.Spent() {
		return fmt.Errorf("%w: filter: %w", ErrInvalidQuery, run.matcher.Err())
	}
	list := run.waiting
	run.waiting = run.waiting[:0]
	for i := range list {
		if list[i].failed != nil {
			return list[i].failed
		}
		if !list[i].matches {
			continue
		}
		object, err := list[i].row.show(list[i].unit, list[i].server)
		if err == nil {
			err = use(object, list[i].row)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func evaluate(ctx context.Context, m *expression.Matcher, list []candidate) {
	uses := func(names ...string) bool { return slices.ContainsFunc(names, m.Uses) }
	uuid, kind, cluster, server := uses("uuid"), uses("kind"), uses("cluster"), uses("server")
	project, parent, typ, name := uses("project", "project_name"), uses("parent", "parent_name", "network_name", "storage_pool_name"), uses("type"), uses("name")
	first, last := uses("first_seen"), uses("last_updated")
	for i := range list {
		c := &list[i]
		if i%16 == 0 && ctx.Err() != nil {
			return
		}
		if uuid {
			m.Set("uuid", c.row.UUID)
		}
		if kind {
			m.Set("kind", string(c.row.Kind))
		}
		if cluster {
			m.Set("cluster", c.unit.name)
		}
		if server {
			m.Set("server", c.server)
		}
		if project {
			m.Set("project", c.row.Project)
			m.Set("project_name", c.row.Project)
		}
		if parent {
			m.Set("parent", c.row.Parent)
			m.Set("parent_name", c.row.Parent)
			m.Set("network_name", c.row.Parent)
			m.Set("storage_pool_name", c.row.Parent)
		}
		if typ {
			m.Set("type", c.row.Type)
		}
		if name {
			m.Set("name", c.row.Name)
		}
		if first {
			m.Set("first_seen", c.row.FirstSeen)
		}
		if last {
			m.Set("last_updated", c.row.LastUpdated)
		}
		whole, err := c.row.unpack()
		if err != nil {
			c.failed = err
			continue
		}
		m.SetDocument("object", whole.Object)
		c.matches = m.Matches()
	}
}
