package opscenter

import (
	"context"
	"errors"

	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// preparedFacts is the facts row to store. It is made before the transaction, because it takes time and a transaction
// delays other writers.
type preparedFacts struct {
	before *factsRow // the stored row it was made from; nil: there was none
	row    *factsRow
	change *factsChangeRow // nil: no change for the history
	err    error
}

// prepareFacts makes the rows of the facts that changed.
func (r *Registry) prepareFacts(list []observed) {
	for i := range list {
		o := &list[i]
		if !o.known || o.Facts == nil || !o.transition.Changed || o.transition.State.FactsHash == o.state.FactsHash {
			continue
		}
		var before *factsRow
		err := r.store.View(context.Background(), func(tx storage.ReadTx) (err error) {
			before, err = factsTable.Find(tx, storage.StringKey(o.ID))
			return err
		})
		if err == nil {
			o.prepared = r.mergeFacts(before, o)
		}
	}
}

// mergeFacts merges the facts that were read into the stored ones. It replaces stored facts that are corrupt.
func (r *Registry) mergeFacts(stored *factsRow, o *observed) *preparedFacts {
	p := &preparedFacts{before: stored}
	read, before, changes := o.Facts, &lifecycle.Facts{}, uint64(0)
	if stored != nil {
		changes = stored.Changes
		if opened, err := stored.open(); err == nil {
			before = opened
		}
	}
	if !r.options.KeepSecrets {
		// The stored facts may have secrets: an earlier Registry may have kept them.
		read, before = facts.Redacted(read), facts.Redacted(before)
	}
	merged, data, err := facts.Merge(before, read)
	if err != nil {
		p.err = err
		return p
	}
	p.row = &factsRow{ID: o.ID, ReadAt: o.At, Data: data, Changes: changes}
	if p.change, p.err = changeOfFacts(o.ID, changes+1, o.At, before, merged, r.options.KeepSecrets); p.change != nil {
		p.row.Changes++
	}
	return p
}

func (r *Registry) storeFacts(tx storage.WriteTx, o *observed) error {
	stored, err := factsTable.Find(tx, storage.StringKey(o.ID))
	if err != nil && !errors.Is(err, storage.ErrCorrupt) {
		return err
	}
	if o.prepared == nil || !stored.same(o.prepared.before) {
		o.prepared = r.mergeFacts(stored, o)
	}
	if err := o.prepared.err; err != nil {
		return err
	}
	if o.prepared.change != nil {
		if err := r.recordFactsChange(tx, o.prepared.change); err != nil {
			return err
		}
	}
	return factsTable.Put(tx, o.prepared.row)
}
