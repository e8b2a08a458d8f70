package inventory

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/internal/jsonfilter"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// Limits of one transaction.
const (
	batchRows = 200
	batchSize = 1 << 20
)

// origin is how the changes of a batch were found.
type origin struct {
	source Source
	cause  cause
	// silent: nothing is a change, as the inventory of the unit only begins.
	silent bool
}

// batch collects what is to be written of a unit, and writes it in steps. Only the worker of
// the unit writes its objects.
type batch struct {
	m      *Manager
	unit   string
	origin origin
	put    []*row
	gone   []storage.Key
	size   int
	wrote  int // rows, so far
	// budget is what may be kept of the unit, used what is kept, and excess what was too much.
	budget budget
	used   *usage
	excess *excess
}

func (w *worker) batch(origin origin) *batch {
	return &batch{m: w.m, unit: w.id, origin: origin, budget: w.budget(), used: &w.used, excess: &w.excess}
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
	if len(b.put)+len(b.gone) < batchRows && b.size < batchSize {
		return nil
	}
	return b.flush(ctx)
}

func now() time.Time { return time.Now().UTC().Round(0) }

// flush writes what was collected, if there is any. What is too much for one transaction goes
// in several; an object that is too much for one is left out.
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
	at := now()
	var used usage
	var left int
	err := b.m.registry.Store().Update(ctx, func(tx storage.WriteTx) error {
		used, left = *b.used, 0
		var list []changeRow
		for _, r := range putting {
			c, whole, err := b.keep(tx, r, at, &used)
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
		return b.m.record(tx, list)
	})
	if err == nil {
		err = b.m.trimIfDue(ctx)
		b.wrote += len(putting) + len(gone)
		*b.used = used
		b.excess.objects += left
	}
	return err
}

func (o *origin) mark(c *changeRow) {
	c.Source, c.Event, c.Requestor = o.source, o.cause.action, o.cause.requestor
}

// keep stores an object as it is found to be, as far as that is within the budget, and tells what changed of it;
// nil: nothing that counts. whole: all is kept of it that is found.
func (b *batch) keep(tx storage.WriteTx, found *row, at time.Time, used *usage) (c *changeRow, whole bool, err error) {
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
	if old != nil && !b.m.options.KeepSecrets { // they may have been kept before, and are nothing to tell of, or to keep
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
		if found, err = found.over(shown); err != nil || old != nil && old.Away == found.Away && !secrets {
			return nil, true, err // Incus lists one that can't be read twice
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
		next.LastUpdated = old.LastUpdated // another way to write the same
	}
	if err := objects.Put(tx, &next); err != nil || len(fields) == 0 || old.Stub && !next.Stub || old.isNameOnly() || next.isNameOnly() {
		return nil, whole, err // what was not known is no difference
	}
	change := next.change(ChangeUpdated, at)
	change.Fields = fields
	return &change, whole, nil
}

// withoutSecrets returns the row without them, and reports whether it had any.
func (r *row) withoutSecrets() (*row, bool, error) {
	object, removed, err := jsonfilter.Append(nil, r.Object, isSecret)
	if err != nil {
		return nil, false, err
	}
	out := *r
	out.Object = object
	return &out, removed, nil
}

// change is one of a whole unit.
func (u *unitRow) change(action ChangeAction, at time.Time) changeRow {
	return changeRow{Unit: u.ID, Change: Change{At: at, Action: action, Source: SourceScan, Name: u.Name}}
}

func newUUID() string { return uuid.Must(uuid.NewV7()).String() }

func (r *row) change(action ChangeAction, at time.Time) changeRow {
	return changeRow{Unit: r.Unit, Change: Change{At: at, Action: action, UUID: r.UUID, Kind: r.Kind, Project: r.Project, Parent: r.Parent, Type: r.Type, Name: r.Name}}
}

// errManyRows: a renaming moves more, or longer, than is moved in one transaction; a scan finds the outcome.
var errManyRows = errors.New("more is renamed than is moved at once")

// rename gives an object its new name; what it is otherwise is looked at later. Whatever had
// that name is gone; but if that was first seen after the renaming was learned of, a scan has
// seen the outcome already.
func (b *batch) rename(ctx context.Context, from, to ref, learned time.Time) error {
	if from == to {
		return nil
	}
	at := now()
	var used usage
	err := b.m.registry.Store().Update(ctx, func(tx storage.WriteTx) error {
		used = *b.used
		olds, err := rowsOf(tx, b.unit, from)
		if err == nil && from.kind == KindStorageVolume && len(olds) > 0 { // its snapshots are renamed with it, without a word
			var snapshots []*row
			snapshots, err = scanRows(tx, from.snapshots(b.unit))
			olds = append(olds, snapshots...)
		}
		if err != nil {
			return err
		}
		if len(olds) > batchRows {
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
		return b.m.record(tx, list)
	})
	if err == nil {
		*b.used = used
	}
	return err
}

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

// known is what is stored of a part of a unit: a sum of each object, by its key.
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
					sum = 0 // it is written anew
				}
			}
			out[string(r.key())] = sum
		}
		return nil
	})
	return out, err
}

// sum is of all that a listing can change.
func (r *row) sum() uint64 {
	if r.Away != 0 {
		return r.Away
	}
	if r.Packed != nil {
		return r.Sum
	}
	return max(1, xxhash.Sum64(r.Object)+xxhash.Sum64String(r.Location))
}

// compare takes an object out of what is known, and writes it if it is another than it was.
func (b *batch) compare(ctx context.Context, have known, found *row) error {
	found.Unit = b.unit
	key := found.key()
	if err := storage.CheckKey(key); err != nil {
		b.m.log.WarnContext(ctx, "an object can't be kept", "kind", found.Kind, "name", limited(found.Name), "error", err)
		return nil
	}
	sum, there := have[string(key)]
	delete(have, string(key))
	if there && sum == found.sum() {
		return nil
	}
	return b.add(ctx, found.pack())
}
