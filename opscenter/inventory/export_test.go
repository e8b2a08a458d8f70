package inventory

import (
	"context"
	"encoding/json"
	"time"

	"github.com/opscenter-go/sdk/internal/phase"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// Interpret returns the effect of an event: the reason of a scan, the objects to read, the lists to read, and the former
// name of a renamed object.
func Interpret(e *Event) (scan string, names []string, lists []string, renamed string) {
	out := interpret(e)
	for _, r := range out.refs {
		names = append(names, string(r.kind)+"|"+r.project+"|"+r.parent+"|"+r.typ+"|"+r.name)
	}
	for _, s := range out.scopes {
		lists = append(lists, string(s.kind)+"|"+s.parent)
	}
	if out.renamed != nil {
		renamed = out.renamed.name
	}
	return out.scan, names, lists, renamed
}

// Trim deletes the surplus changes, as is done now and then.
func (m *Manager) Trim(ctx context.Context) error { return m.trim(ctx) }

// Phased is how long it is to a unit's next scan.
func Phased(id string, interval time.Duration) time.Duration {
	return phase.Until(id, interval, time.Now())
}

// IsSecret reports whether a configuration key's value is left out.
func IsSecret(key string) bool { return isSecret([]byte(key)) }

// Rename renames an object of a unit, as for an event that came at the time learned.
func (m *Manager) Rename(ctx context.Context, unit string, kind Kind, from, to string, learned time.Time) error {
	of := func(name string) ref { return ref{kind: kind, project: "default", parent: parentIn(kind), name: name} }
	return newWorker(m, unit, false).batch(origin{source: SourceEvent}).rename(ctx, of(from), of(to), learned)
}

// Follow takes in changes of the registry, and returns the number of units after it.
func (m *Manager) Follow(ctx context.Context, changed *opscenter.Changes) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	r := newRoster()
	err := m.follow(ctx, r, changed)
	cancel()
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, w := range m.workers {
		<-w.ended
		delete(m.workers, id)
	}
	return len(r.members), err
}

// Rest returns the pause after a scan.
func Rest(o Options, took time.Duration) time.Duration { return o.rest(took) }

// Normalize returns the stored form of a document.
func Normalize(kind Kind, data []byte) (object json.RawMessage, name string, truncated []string, err error) {
	r, err := normalize(ref{kind: kind, project: "default"}, data, false, &scratch{})
	if err != nil {
		return nil, "", nil, err
	}
	return r.Object, r.Name, r.Truncated, nil
}

// Diff returns the changed fields between two documents.
func Diff(from, to json.RawMessage) ([]FieldChange, bool) { return diff(from, to) }

// Pending counts the tasks and lists that events cause.
func Pending(limit int, list ...*Event) (tasks, lists int, scan string) {
	p := newPending(limit)
	for _, e := range list {
		p.add(e, time.Now())
	}
	return len(p.tasks), len(p.scopes), p.scan
}

// Fill stores objects of a unit as a scan does, for benchmarks.
func (m *Manager) Fill(ctx context.Context, unit string, documents map[Kind][]json.RawMessage) error {
	err := m.registry.Store().Update(ctx, func(tx storage.WriteTx) error {
		return units.Put(tx, &unitRow{ID: unit, ScannedAt: m.now()})
	})
	if err != nil {
		return err
	}
	b := newWorker(m, unit, false).batch(origin{source: SourceScan, silent: true})
	for kind, list := range documents {
		for _, data := range list {
			r, err := normalize(ref{kind: kind, project: "default", parent: parentIn(kind)}, data, false, &scratch{})
			if err != nil {
				return err
			}
			if err := b.compare(ctx, known{}, r); err != nil {
				return err
			}
		}
	}
	return b.flush(ctx)
}

func parentIn(kind Kind) string {
	switch kind.info().parent {
	case KindNetwork:
		return "net0"
	case KindStoragePool:
		return "local"
	}
	return ""
}

// Purge removes all objects of a unit.
func (m *Manager) Purge(ctx context.Context, unit string) error { return m.purge(ctx, unit) }

// Stored counts the objects of all units, also of removed ones.
func Stored(s *opscenter.Snapshot) (n int) {
	for _, err := range objects.Scan(s, storage.Range{}) {
		if err == nil {
			n++
		}
	}
	return n
}

// Fits reports whether an object of size next fits. It replaces one of size old, or none if old is below 0. objects and
// size are the amounts stored before.
func Fits(maxObjects, maxSize, objects, size, old, next int) bool {
	sized := func(n int) *row { return &row{Object: make([]byte, n)} }
	var before *row
	if old >= 0 {
		before = sized(old)
	}
	return budget{1, maxObjects, maxSize}.fits(usage{objects, size}, before, sized(next))
}
