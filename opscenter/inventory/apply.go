package inventory

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/internal/jsonfilter"
	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// Limits of one transaction. The store's limits may allow less.
const (
	batchRows = 200
	batchSize = 1 << 20
)

// origin says how the changes of a batch were found.
type origin struct {
	source Source
	cause  cause
	// silent: the batch records no changes, because it is the first reading.
	silent bool
}

// batch collects the rows of a unit that are to be written, and writes them in several transactions. Only
// the worker of the unit writes its objects.
type batch struct {
	m      *Manager
	unit   string
	origin origin
	put    []*row
	gone   []storage.Key
	size   int
	wrote  int // rows so far
	// limits are those of the store.
	limits storage.Limits
	// budget bounds the rows of the unit, used counts them, and excess counts the objects beyond the budget.
	budget budget
	used   *usage
	excess *excess
}

func (w *worker) batch(origin origin) *batch {
	return &batch{m: w.m, unit: w.id, origin: origin, limits: storage.LimitsOf(w.m.registry.Store()), budget: w.budget(), used: &w.used, excess: &w.excess}
}

func (b *batch) add(ctx context.Context, r *row) error {
	b.put = append(b.put, r)
	b.size += r.size()
	return b.flushIf(ctx)
}

func (b *batch) remove(ctx context.Context, key storage.Key) error {
	b.gone = append(b.gone, key)
	return b.flushIf(ctx)
}

func (b *batch) flushIf(ctx context.Context) error {
	// A row with its index entry may have a change with two. Its fields may be as large as the row.
	if len(b.put)+len(b.gone) < b.limits.Rows(batchRows, 5) && b.size < min(batchSize, b.limits.MaxTxSize/4) {
		return nil
	}
	return b.flush(ctx)
}

// flush writes the collected rows. It splits rows that are too large for one transaction into several, and leaves
// out an object that is too large for any.
func (b *batch) flush(ctx context.Context) error {
	put, gone := b.put, b.gone
	b.put, b.gone, b.size = nil, nil, 0
	return b.write(ctx, put, gone)
}

func (b *batch) write(ctx context.Context, put []*row, gone []storage.Key) error {
	if len(put)+len(gone) == 0 {
		return nil
	}
	err := b.commit(ctx, put, gone)
	if !errors.Is(err, storage.ErrTooLarge) {
		return err
	}
	if len(put)+len(gone) == 1 {
		b.m.log.WarnContext(ctx, "an object can't be kept", "unit", b.unit, "error", err)
		return nil
	}
	i, k := (len(put)+1)/2, len(gone)/2
	if err := b.write(ctx, put[:i], gone[:k]); err != nil {
		return err
	}
	return b.write(ctx, put[i:], gone[k:])
}

func (b *batch) commit(ctx context.Context, putting []*row, gone []storage.Key) error {
	var used usage
	var left int
	err := b.m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		at := tx.Now()
		used, left = *b.used, 0
		var list []changeRow
		for _, r := range putting {
			c, whole, err := b.storeObject(tx, r, at, &used)
			if err != nil {
				return err
			}
			if !whole {
				left++
			}
			if c != nil {
				list = append(list, *c)
			}
		}
		for _, key := range gone {
			old, err := objects.Find(tx, key)
			if err != nil {
				return err
			}
			if old == nil {
				continue
			}
			if err := objects.Delete(tx, key); err != nil {
				return err
			}
			used.remove(old)
			list = append(list, old.change(ChangeDeleted, at))
		}
		if b.origin.silent {
			return nil
		}
		for i := range list {
			b.origin.mark(&list[i])
		}
		return b.m.record(tx, b.budget.servers, list)
	})
	if err == nil {
		b.m.trimIfDue(ctx)
		b.wrote += len(putting) + len(gone)
		*b.used = used
		b.excess.objects += left
	}
	return err
}

// mark notes the origin in a change.
func (o *origin) mark(c *changeRow) {
	c.Source, c.Event, c.Requestor = o.source, o.cause.action, o.cause.requestor
}

// storeObject stores an object as it was found, within the budget, and returns its change. Nil: nothing changed that
// counts. whole: the object is kept as a whole.
func (b *batch) storeObject(tx storage.WriteTx, found *row, at time.Time, used *usage) (c *changeRow, whole bool, err error) {
	stored, err := objects.Find(tx, found.key())
	if err != nil {
		return nil, true, err
	}
	old := stored
	if stored != nil {
		if old, err = stored.unpack(); err != nil {
			return nil, true, err
		}
	}
	shown, secrets := old, false
	if old != nil && !b.m.options.KeepSecrets { // an earlier configuration may have kept secrets; they must not reach the change
		if shown, secrets, err = old.withoutSecrets(); err != nil {
			return nil, true, err
		}
	}
	packed := found
	if stored != nil || found.madeUp {
		if found, err = found.unpack(); err != nil {
			return nil, true, err
		}
	}
	if found.madeUp {
		if found, err = found.mergeMadeUp(shown); err != nil || old != nil && old.Away == found.Away && !secrets {
			return nil, true, err // Incus lists an instance that can't be read twice
		}
		packed = found.pack()
	}
	if whole = b.budget.fits(*used, stored, packed); !whole {
		if old == nil {
			return nil, false, nil
		}
		found = found.nameOnly()
		packed = found
		if old.isNameOnly() && old.sum() == found.sum() {
			return nil, false, nil
		}
	}
	next := *packed
	next.LastUpdated = at
	if old == nil {
		next.UUID, next.FirstSeen = newUUID(), at
		used.add(&next)
		c := next.change(ChangeCreated, at)
		return &c, whole, objects.Put(tx, &next)
	}
	used.remove(stored)
	used.add(&next)
	fields, same := diff(shown.Object, found.Object)
	next.UUID, next.FirstSeen = old.UUID, old.FirstSeen
	if same && old.Location == found.Location {
		next.LastUpdated = old.LastUpdated // only the notation differs
	}
	if err := objects.Put(tx, &next); err != nil || len(fields) == 0 || old.Stub && !next.Stub || old.isNameOnly() || next.isNameOnly() {
		return nil, whole, err // members that were unknown before are no change
	}
	change := next.change(ChangeUpdated, at)
	change.Fields = fields
	return &change, whole, nil
}

// withoutSecrets returns the row without secrets, and reports whether it had any.
func (r *row) withoutSecrets() (*row, bool, error) {
	object, removed, err := jsonfilter.Append(nil, r.Object, isSecret)
	if err != nil {
		return nil, false, err
	}
	out := *r
	out.Object = object
	return &out, removed, nil
}

// change returns a change of the whole unit.
func (u *unitRow) change(action ChangeAction, at time.Time) changeRow {
	return changeRow{Unit: u.ID, Change: Change{At: at, Action: action, Source: SourceScan, Name: u.Name}}
}

func newUUID() string { return uuid.Must(uuid.NewV7()).String() }

// change returns a change of the object, without fields.
func (r *row) change(action ChangeAction, at time.Time) changeRow {
	return changeRow{Unit: r.Unit, Change: Change{At: at, Action: action, UUID: r.UUID, Kind: r.Kind, Project: r.Project, Parent: r.Parent, Type: r.Type, Name: r.Name}}
}

// errManyRows: a rename moves too many rows for one transaction, or makes a name too long. A scan finds the outcome.
var errManyRows = errors.New("a rename moves more rows than one transaction")

// rename gives an object its new name. Its other members are read later. An object that had that name is removed. But
// if that object was first seen after learned, when the event came, it is the renamed object: a scan has found it.
func (b *batch) rename(ctx context.Context, from, to ref, learned time.Time) error {
	if from == to {
		return nil
	}
	var used usage
	err := b.m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		at := tx.Now()
		used = *b.used
		olds, err := rowsOf(tx, b.unit, from)
		if err == nil && from.kind == KindStorageVolume && len(olds) > 0 { // its snapshots are renamed with it, without events
			var snapshots []*row
			snapshots, err = scanRows(tx, from.snapshots(b.unit))
			olds = append(olds, snapshots...)
		}
		if err != nil {
			return err
		}
		if len(olds) > b.limits.Rows(batchRows, 12) { // each may replace a row: 3 rows of 2 writes, and 2 changes of 3
			return errManyRows
		}
		var list []changeRow
		for _, old := range olds {
			next := *old
			next.Name, next.LastUpdated = to.name+strings.TrimPrefix(old.Name, from.name), at
			if !next.named() {
				return errManyRows
			}
			taken, err := objects.Find(tx, next.key())
			if err != nil {
				return err
			}
			if taken != nil && taken.FirstSeen.After(learned) {
				continue
			}
			if taken != nil {
				if err := objects.Delete(tx, taken.key()); err != nil {
					return err
				}
				used.remove(taken)
				list = append(list, taken.change(ChangeDeleted, at))
			}
			if err := objects.Delete(tx, old.key()); err != nil {
				return err
			}
			if err := objects.Put(tx, &next); err != nil {
				return err
			}
			used.remove(old)
			used.add(&next)
			c := next.change(ChangeRenamed, at)
			c.Fields = []FieldChange{{Path: "name", From: encode(old.Name), To: encode(next.Name)}}
			list = append(list, c)
		}
		for i := range list {
			b.origin.mark(&list[i])
		}
		return b.m.record(tx, b.budget.servers, list)
	})
	if err == nil {
		*b.used = used
	}
	return err
}

// rowsOf returns the rows of an object.
func rowsOf(tx storage.ReadTx, unit string, r ref) (out []*row, err error) {
	return scanRows(tx, r.prefix(unit))
}

func scanRows(tx storage.ReadTx, prefix storage.Key) (out []*row, err error) {
	for found, err := range objects.Scan(tx, storage.Range{Prefix: prefix}) {
		if err != nil {
			return nil, err
		}
		out = append(out, found)
	}
	return out, nil
}

// known holds the stored objects of a part of a unit: the sum of each, by its key.
type known map[string]uint64

func (m *Manager) known(ctx context.Context, unit string, prefix storage.Key, holds func(*row) bool) (known, error) {
	out := known{}
	err := m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		clear(out)
		for r, err := range objects.Scan(s, storage.Range{Prefix: prefix}) {
			if err != nil {
				return err
			}
			if !holds(r) {
				continue
			}
			sum := r.sum()
			if r.Away != 0 && !m.options.KeepSecrets {
				if r, err = r.unpack(); err != nil {
					return err
				}
				if _, secrets, err := r.withoutSecrets(); err != nil || secrets {
					sum = 0 // so the object is written again
				}
			}
			out[string(r.key())] = sum
		}
		return nil
	})
	return out, err
}

// sum is a hash of all members that a list can change.
func (r *row) sum() uint64 {
	if r.Away != 0 {
		return r.Away
	}
	if r.Packed != nil {
		return r.Sum
	}
	return max(1, xxhash.Sum64(r.Object)+xxhash.Sum64String(r.Location))
}

// compare removes an object from have, and writes it if it differs.
func (b *batch) compare(ctx context.Context, have known, found *row) error {
	found.Unit = b.unit
	key := found.key()
	if err := storage.CheckKey(key); err != nil {
		b.m.log.WarnContext(ctx, "an object can't be kept", "kind", found.Kind, "name", truncate.Text(found.Name, maxText), "error", err)
		return nil
	}
	sum, there := have[string(key)]
	delete(have, string(key))
	if there && sum == found.sum() {
		return nil
	}
	return b.add(ctx, found.pack())
}
