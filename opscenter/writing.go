package opscenter

import (
	"context"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
)

// writing is a transaction of the Registry. It notes what of it concerns the memory, which
// learns of it when the transaction is committed.
type writing struct {
	storage.WriteTx
	states []stateChange
	number uint64 // of the transaction: later ones have greater ones
	raised []warning.Warning
	closed []warningSubject
}

// stateChange is what the memory needs to know of a state that was written.
type stateChange struct {
	id            string
	before, after census
}

// update runs fn in a transaction. All that writes states or warnings goes through it.
func (r *Registry) update(ctx context.Context, fn func(tx *writing) error) error {
	r.memory.begin()
	defer r.memory.end()
	var w writing
	err := r.store.Update(ctx, func(tx storage.WriteTx) error {
		w = writing{WriteTx: tx, number: r.writes.Add(1)}
		return fn(&w)
	})
	if err == nil {
		r.memory.committed(&w)
	}
	return err
}

// putState stores a state under its name.
func (w *writing) putState(next *lifecycle.ServerState) error {
	before, err := states.Find(w, nameKey(next.Name))
	if err != nil {
		return err
	}
	w.states = append(w.states, stateChange{id: next.ID, before: censusOf(before), after: censusOf(next)})
	return states.Put(w, next)
}

// modifyState changes a state.
func (w *writing) modifyState(name string, change func(*lifecycle.ServerState) error) error {
	state, err := states.Get(w, nameKey(name))
	if err != nil {
		return err
	}
	changed := *state
	if err := change(&changed); err != nil {
		return err
	}
	return w.putState(&changed)
}

// deleteState removes a state.
func (w *writing) deleteState(name, id string) error {
	before, err := states.Find(w, nameKey(name))
	if err != nil || before == nil {
		return err
	}
	w.states = append(w.states, stateChange{id: id, before: censusOf(before)})
	return states.Delete(w, nameKey(name))
}
