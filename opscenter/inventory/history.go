package inventory

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/internal/boundedlog"
	"github.com/opscenter-go/sdk/internal/page"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// ChangeAction is the kind of a change.
type ChangeAction string

const (
	// ChangeCreated: an object was created.
	ChangeCreated ChangeAction = "created"
	// ChangeUpdated: fields of an object changed.
	ChangeUpdated ChangeAction = "updated"
	// ChangeRenamed: an object got another name. Its UUID stays.
	ChangeRenamed ChangeAction = "renamed"
	// ChangeDeleted: an object was removed.
	ChangeDeleted ChangeAction = "deleted"
	// ChangeClusterAdded: a cluster, or a server in no cluster, was read for the first time. It is recorded again if some
	// kinds could only be read later. Objects of a first reading are no changes. A program that mirrors the inventory must
	// list the cluster each time.
	ChangeClusterAdded ChangeAction = "cluster-added"
	// ChangeClusterRemoved: the cluster, or the server, was removed, or the server joined a cluster. Its objects
	// are gone.
	ChangeClusterRemoved ChangeAction = "cluster-removed"
)

// Source says how a change was found.
type Source string

const (
	// SourceEvent: an event named the object, or a related one.
	SourceEvent Source = "event"
	// SourceScan: a scan found the difference.
	SourceScan Source = "scan"
)

// Change is a change of an object, or of a whole cluster. Objects that exist when a cluster is first read are no
// changes. Members that follow from other objects, such as used_by, are no changes either.
type Change struct {
	// Sequence numbers grow, with gaps, for the life of the store, which gives them.
	Sequence uint64
	// At is the time, in UTC, at which the change was found.
	At     time.Time
	Action ChangeAction
	Source Source
	// Event is the name of the lifecycle event, Requestor the client that caused it. Both are empty if not known.
	Event     string
	Requestor string
	// UUID, Kind, Project, Parent, Type and Name identify the object at the time of the change. A change of a whole
	// cluster has the name of the cluster, and neither UUID nor Kind.
	UUID string
	Kind Kind
	// Cluster is the name of the cluster now. Empty: the cluster was removed.
	Cluster string
	// ClusterID is the ID of the cluster's record, or of the server in no cluster. It outlives renames.
	ClusterID string
	Project   string
	Parent    string
	Type      string
	Name      string
	// Fields are the changed fields of ChangeUpdated, sorted by path. For ChangeRenamed it is the name.
	Fields []FieldChange
}

// changeRow is the stored form of a change.
type changeRow struct {
	Change
	Unit string
}

// retiredChanges is where earlier releases counted changes.
var retiredChanges = boundedlog.NewRetired("inventory_changes", "inventory_counters")

// record stores changes of a unit of so many servers with a transaction. trimIfDue follows its commit. A run of the
// transaction that is not kept counts, too: then the trim comes earlier.
func (m *Manager) record(tx storage.WriteTx, servers int, list []changeRow) error {
	for i := range list {
		if err := changes.Append(tx, &list[i]); err != nil {
			return err
		}
	}
	m.trims.Lock()
	defer m.trims.Unlock()
	if m.changesDue.Appended(len(list)) {
		m.trimming = true
	}
	for i := range list {
		due := m.unitsDue[list[i].Unit]
		if due == nil {
			due = &unitDue{Due: boundedlog.NewDue(m.options.MaxUnitChanges * max(1, servers))}
			m.unitsDue[list[i].Unit] = due
		}
		due.servers = servers
		if due.Appended(1) {
			m.trimUnits[list[i].Unit] = true
		}
	}
	return nil
}

// unitDue tells when the changes of a unit are to be looked at.
type unitDue struct {
	*boundedlog.Due
	servers int
}

// trimIfDue deletes surplus changes, if many were recorded since the last time. A failure is logged: the changes are stored.
func (m *Manager) trimIfDue(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	m.trims.Lock()
	all, units := m.trimming, m.trimUnits
	m.trimming, m.trimUnits = false, map[string]bool{}
	m.trims.Unlock()
	var failed error
	if all {
		failed = m.trim(ctx)
	}
	for unit := range units {
		failed = errors.Join(failed, m.trimUnit(ctx, unit))
	}
	if failed != nil {
		m.log.ErrorContext(ctx, "surplus changes could not be deleted, and stay for now", "error", failed)
	}
}

// trimUnit deletes the changes of a unit over Options.MaxUnitChanges.
func (m *Manager) trimUnit(ctx context.Context, unit string) error {
	m.trims.Lock()
	due := m.unitsDue[unit]
	m.trims.Unlock()
	if due == nil {
		return nil
	}
	failed := due.Look()
	var surplus []uint64
	err := m.registry.Read(ctx, func(s *opscenter.Snapshot) (err error) {
		of := storage.Range{Prefix: storage.StringKey(unit), Reverse: true}
		surplus, err = boundedlog.Surplus(changesByUnit.Scan(s, of), func(c *changeRow) (uint64, []boundedlog.Share) {
			return c.Sequence, []boundedlog.Share{{Max: m.options.MaxUnitChanges * max(1, due.servers)}}
		})
		return err
	})
	if err == nil {
		err = m.deleteChanges(ctx, surplus)
	}
	if err != nil {
		failed()
	}
	return err
}

// deleteChanges deletes changes by their numbers.
func (m *Manager) deleteChanges(ctx context.Context, numbers []uint64) error {
	for step := range slices.Chunk(numbers, storage.LimitsOf(m.registry.Store()).Rows(trimStep, 3)) {
		err := m.registry.Write(ctx, func(tx *opscenter.Tx) error {
			for _, number := range step {
				if err := changes.Delete(tx, storage.UintKey(number)); err != nil && !errors.Is(err, storage.ErrNotFound) {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// trimStep is how many changes one transaction deletes.
const trimStep = 500

// trim deletes the changes over Options.MaxChanges, MaxUnitChanges and MaxHistory.
func (m *Manager) trim(ctx context.Context) error {
	failed := m.changesDue.Look()
	var surplus []uint64
	err := m.registry.Read(ctx, func(s *opscenter.Snapshot) (err error) {
		names := newNames(s)
		servers := map[string]int{} // by unit
		var failure error
		surplus, err = boundedlog.Surplus(changes.Scan(s, storage.Range{Reverse: true}), func(c *changeRow) (uint64, []boundedlog.Share) {
			n, ok := servers[c.Unit]
			if !ok {
				var err error
				if n, err = serversOf(s, names, c.Unit); err != nil {
					failure = err
				}
				servers[c.Unit] = n
			}
			shares := []boundedlog.Share{{Max: m.options.MaxChanges}, {Name: "unit " + c.Unit, Max: m.options.MaxUnitChanges * max(1, n)}}
			if c.UUID != "" {
				shares = append(shares, boundedlog.Share{Name: "object " + c.UUID, Max: m.options.MaxHistory})
			}
			return c.Sequence, shares
		})
		return errors.Join(err, failure)
	})
	if err == nil {
		err = m.deleteChanges(ctx, surplus)
	}
	if err != nil {
		failed()
	}
	return err
}

// serversOf returns how many servers a unit has; 0 for one that is no more.
func serversOf(s *opscenter.Snapshot, names *names, id string) (n int, err error) {
	unit, err := names.unit(id)
	if err != nil || unit == nil {
		return 0, err
	}
	if !unit.cluster {
		return 1, nil
	}
	for _, err := range s.Servers(opscenter.ServerFilter{Cluster: unit.name}) {
		if err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

// History returns the last changes of an object, the newest first, at most Options.MaxHistory. It also returns those of a
// deleted object, as long as they are kept. Errors: opscenter.ErrNotFound for an object that does not exist, and
// has no kept changes.
func (m *Manager) History(ctx context.Context, uuid string) (out []Change, err error) {
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		out = nil
		names := newNames(s)
		for c, err := range changesByObject.Scan(s, storage.Range{Prefix: storage.StringKey(uuid), Reverse: true}) {
			if err != nil {
				return err
			}
			if len(out) == m.options.MaxHistory {
				break // the limit was lowered since
			}
			shown, err := c.show(names, m.options.KeepSecrets)
			if err != nil {
				return err
			}
			out = append(out, shown)
		}
		if len(out) > 0 {
			return nil
		}
		found, err := byUUID.Find(s, storage.StringKey(uuid))
		if err == nil && found == nil {
			err = fmt.Errorf("object %.80q: %w", uuid, opscenter.ErrNotFound)
		}
		return err
	})
	return out, err
}

// show returns the change with the names of now. It hides secrets that were recorded with KeepSecrets, or by an earlier
// release.
func (c *changeRow) show(names *names, keepSecrets bool) (Change, error) {
	out := c.Change
	if !keepSecrets {
		out.Fields = withoutSecrets(c.Fields)
	}
	out.ClusterID = c.Unit
	unit, err := names.unit(c.Unit)
	if err == nil && unit != nil {
		out.Cluster = unit.name
	}
	return out, err
}

// Changes returns the changes after a sequence number, the oldest first. limit is
// 100 by default, at most MaxPageSize. Dropped changes leave gaps in the numbers.
func (m *Manager) Changes(ctx context.Context, after uint64, limit int) (out []Change, err error) {
	limit = page.Size(limit)
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		out = nil
		names := newNames(s)
		for c, err := range changes.Scan(s, storage.Range{After: storage.UintKey(after)}) {
			if err != nil {
				return err
			}
			if len(out) == limit {
				break
			}
			shown, err := c.show(names, m.options.KeepSecrets)
			if err != nil {
				return err
			}
			out = append(out, shown)
		}
		return nil
	})
	return out, err
}

// LastChange returns the sequence number of the last change; 0: there was none. To follow a listing, call LastChange
// before it, and pass the number to WatchChanges.
func (m *Manager) LastChange(ctx context.Context) (out uint64, err error) {
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		out = 0
		for c, err := range changes.Scan(s, storage.Range{Reverse: true}) {
			if err != nil {
				return err
			}
			out = c.Sequence
			break
		}
		return nil
	})
	return out, err
}

// WatchChanges yields the changes after a sequence number, and then each new change, in order. Changes that were dropped
// before they were read leave gaps in the numbers. It ends with an error: that of ctx or of the store.
func (m *Manager) WatchChanges(ctx context.Context, after uint64) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		revision, err := m.registry.Revision(ctx)
		if err != nil {
			yield(Change{}, err)
			return
		}
		catchUp := func() bool {
			for {
				page, err := m.Changes(ctx, after, opscenter.MaxPageSize)
				if err != nil {
					yield(Change{}, err)
					return false
				}
				for _, c := range page {
					after = c.Sequence
					if !yield(c, nil) {
						return false
					}
				}
				if len(page) < opscenter.MaxPageSize {
					return true
				}
			}
		}
		if !catchUp() {
			return
		}
		for _, err := range m.registry.Store().Watch(ctx, revision, changes.Name()) {
			if err != nil {
				yield(Change{}, err)
				return
			}
			if !catchUp() {
				return
			}
		}
	}
}
