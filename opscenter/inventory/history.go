package inventory

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/opscenter-go/sdk/internal/boundedlog"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// ChangeAction is what happened to an object.
type ChangeAction string

const (
	ChangeCreated ChangeAction = "created"
	ChangeUpdated ChangeAction = "updated"
	ChangeRenamed ChangeAction = "renamed"
	ChangeDeleted ChangeAction = "deleted"
	// ChangeClusterAdded: the inventory of a cluster, or of a server in none, was read for the first time, and
	// again where some kinds could only be read later. What is in it was there before, and is no change; to mirror
	// it, list it each time.
	ChangeClusterAdded ChangeAction = "cluster-added"
	// ChangeClusterRemoved: it is no more, or the server is a member of a cluster now; its objects
	// are gone with it.
	ChangeClusterRemoved ChangeAction = "cluster-removed"
)

// Source is how a change was found out.
type Source string

const (
	// SourceEvent: Incus said that something had happened to the object, or to what it has to do with.
	SourceEvent Source = "event"
	// SourceScan: it was different when all was listed.
	SourceScan Source = "scan"
)

// Change is what happened to an object, and when. What was there when the inventory of a
// cluster began is no change, and neither is what only follows from other objects, as who uses it.
type Change struct {
	// Sequence numbers grow for the life of the store.
	Sequence uint64
	At       time.Time
	Action   ChangeAction
	Source   Source
	// Event is the lifecycle event's name, and Requestor who caused it, as far as that is known.
	Event     string
	Requestor string
	// Object it happened to, as it was called then. What happened to a whole cluster has its
	// name, and neither UUID nor Kind.
	UUID    string
	Kind    Kind
	Cluster string // name, empty if it is gone
	// ClusterID names the cluster's record, or that of the server in none, and outlives renames.
	ClusterID string
	Project   string
	Parent    string
	Type      string
	Name      string
	// Fields that changed; of renamed objects the name.
	Fields []FieldChange
}

// changeRow is a change as it is stored.
type changeRow struct {
	Change
	Unit string
}

// changeLog keeps changes within Options.MaxChanges and MaxUnitChanges.
var changeLog = boundedlog.New("inventory_changes", func(tx storage.WriteTx, _ string, sequence uint64) (bool, error) { return drop(tx, sequence) })

// changeClass is the only class of changes there is.
const changeClass = "changes"

// record stores changes of a unit of so many servers, and drops what is over the limits.
func (m *Manager) record(tx storage.WriteTx, servers int, list []changeRow) error {
	if len(list) == 0 {
		return nil
	}
	last, err := lastChange(tx)
	if err != nil {
		return err
	}
	next := counter{Name: "changes", Value: last}
	for i := range list {
		next.Value++
		c := list[i]
		c.Sequence = next.Value
		if err := changes.Put(tx, &c); err != nil {
			return err
		}
		limits := boundedlog.Limits{Class: changeClass, Max: uint64(m.options.MaxChanges), Owner: c.Unit, Share: uint64(m.options.MaxUnitChanges * max(1, servers))}
		if err := changeLog.Added(tx, c.Sequence, limits); err != nil {
			return err
		}
		if c.UUID == "" {
			continue
		}
		if err := m.dropOf(tx, c.UUID); err != nil {
			return err
		}
	}
	return counters.Put(tx, &next)
}

// lastChange is the number of the last change; 0: there was none.
func lastChange(tx storage.ReadTx) (uint64, error) {
	last, err := counters.Find(tx, storage.StringKey("changes"))
	if err != nil || last == nil {
		return 0, err
	}
	return last.Value, nil
}

func drop(tx storage.WriteTx, sequence uint64) (bool, error) {
	found, err := changes.Find(tx, storage.UintKey(sequence))
	if err != nil || found == nil {
		return false, err
	}
	return true, changes.Delete(tx, storage.UintKey(sequence))
}

// prune drops what is over a limit that was lowered since it was recorded, and counts what an earlier release has
// recorded.
func (m *Manager) prune(ctx context.Context) error {
	counted := false
	var kept, floor uint64
	err := m.registry.Read(ctx, func(s *opscenter.Snapshot) (err error) {
		kept, floor = 0, 0
		if counted, err = changeLog.Counted(s, changeClass); err != nil || counted {
			return err
		}
		for c, err := range changes.Scan(s, storage.Range{}) {
			if err != nil {
				return err
			}
			if kept++; kept == 1 {
				floor = c.Sequence - 1
			}
		}
		return nil
	})
	for more := true; more && err == nil; {
		err = m.registry.Store().Update(ctx, func(tx storage.WriteTx) error {
			if !counted {
				if err := changeLog.Recount(tx, changeClass, kept, floor); err != nil {
					return err
				}
			}
			last, err := lastChange(tx)
			if err == nil {
				more, err = changeLog.Shrink(tx, changeClass, uint64(m.options.MaxChanges), last)
			}
			return err
		})
		counted = counted || err == nil
	}
	return err
}

// dropOf keeps the last changes of an object.
func (m *Manager) dropOf(tx storage.WriteTx, uuid string) error {
	// From the newest on: before the oldest lies whatever was deleted.
	var old []uint64
	n := 0
	for c, err := range changesByObject.Scan(tx, storage.Range{Prefix: storage.StringKey(uuid), Reverse: true}) {
		if err != nil {
			return err
		}
		if n++; n > m.options.MaxHistory {
			old = append(old, c.Sequence)
			break
		}
	}
	removed := uint64(0)
	for _, sequence := range old {
		was, err := drop(tx, sequence)
		if err != nil {
			return err
		}
		if was {
			removed++
		}
	}
	if removed == 0 {
		return nil
	}
	return changeLog.Removed(tx, changeClass, removed)
}

// History returns the last changes of an object, the newest first, at most Options.MaxHistory;
// of one that was deleted, too, as long as they are kept. Errors: opscenter.ErrNotFound for an
// object that is not there, and of which nothing is kept.
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

// show hides secrets that an earlier release has recorded, or one that was told to keep them.
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

// Changes returns changes after a sequence number, the oldest first; limit is
// opscenter.DefaultPageSize by default, at most MaxPageSize. Those that were dropped meanwhile
// show as a gap in the numbers.
func (m *Manager) Changes(ctx context.Context, after uint64, limit int) (out []Change, err error) {
	limit = pageSize(limit)
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

// LastChange returns the sequence number of the last change: where a WatchChanges goes on
// from what is listed now.
func (m *Manager) LastChange(ctx context.Context) (out uint64, err error) {
	err = m.registry.Read(ctx, func(s *opscenter.Snapshot) (err error) {
		out, err = lastChange(s)
		return err
	})
	return out, err
}

// WatchChanges yields the changes after a sequence number, then each new one as it is found,
// in order. It ends with ctx's error.
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

func pageSize(limit int) int {
	if limit <= 0 {
		return opscenter.DefaultPageSize
	}
	return min(limit, opscenter.MaxPageSize)
}
