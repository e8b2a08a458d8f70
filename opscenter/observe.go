package opscenter

import (
	"context"
	"errors"
	"fmt"

	"github.com/opscenter-go/sdk/storage"
)

// observeStep is how many observations one transaction stores.
const observeStep = 50

// observeSize is how many bytes of facts one transaction takes, beyond its first observation.
const observeSize = 1 << 20

// RecordObservations takes in what polls found out. What is new is stored; an observation
// that finds nothing new writes nothing durable. Observations of servers that are gone, or
// whose name is another's by now, are dropped. Those of one server must come in order.
func (r *Registry) RecordObservations(ctx context.Context, observations ...Observation) error {
	for len(observations) > 0 {
		step := observations[:stepLength(observations)]
		observations = observations[len(step):]
		if err := r.recordStep(ctx, step); err != nil {
			return fmt.Errorf("storing %d observations: %w", len(step), err)
		}
	}
	if r.flushDue() {
		return r.Flush(ctx)
	}
	return nil
}

// stepLength returns how many observations go into the next transaction: of each server one
// at the most, so that each builds on the one before, and of facts not too many.
func stepLength(observations []Observation) int {
	seen := map[string]bool{}
	size := 0
	for i, o := range observations {
		if o.Facts != nil {
			size += o.Facts.size()
		}
		if i > 0 && (i == observeStep || seen[o.ID] || size > observeSize) {
			return i
		}
		seen[o.ID] = true
	}
	return len(observations)
}

// observed is an observation on its way into the store.
type observed struct {
	Observation
	facts      *preparedFacts
	transition Transition
	plain      Transition // without the facts
	hash       string     // of the facts, with what is stored
	known      bool
}

func (r *Registry) recordStep(ctx context.Context, step []Observation) error {
	list := make([]observed, len(step))
	for i, o := range step {
		list[i] = observed{Observation: o}
		if o.Facts == nil {
			continue
		}
		prepared, err := prepareFacts(o.Facts, r.options.KeepSecrets)
		if err != nil {
			r.log.WarnContext(ctx, "facts could not be read", "server", o.Server, "error", err)
			continue
		}
		list[i].facts = prepared
	}
	// Most polls find nothing new: look first, without keeping writers waiting.
	changed := false
	err := r.store.View(ctx, func(tx storage.ReadTx) error {
		for i := range list {
			if err := r.observe(tx, &list[i]); err != nil {
				return err
			}
			changed = changed || list[i].known && list[i].transition.Changed
		}
		return nil
	})
	if err != nil {
		return err
	}
	if changed {
		err := r.store.Update(ctx, func(tx storage.WriteTx) error {
			for i := range list {
				if err := r.observe(tx, &list[i]); err != nil {
					return err
				}
				if err := r.storeObserved(ctx, tx, &list[i]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for i := range list {
		o := &list[i]
		if !o.known {
			continue
		}
		r.setContact(o.ID, func(c *Contact) {
			acting, seen := c.Acting, c.LastSeen
			*c = o.transition.Contact
			c.Acting = acting
			if seen.After(c.LastSeen) {
				c.LastSeen = seen
			}
		})
		r.logEvents(ctx, o.transition.Events)
	}
	return nil
}

// observe computes what an observation makes of the stored state.
func (r *Registry) observe(tx storage.ReadTx, o *observed) error {
	state, err := states.Find(tx, nameKey(o.Server))
	if err != nil {
		return err
	}
	if o.known = state != nil && state.ID == o.ID && !o.At.Before(state.NotBefore); !o.known {
		return nil
	}
	o.plain = Apply(*state, r.contact(o.ID), o.Observation, r.policy())
	o.transition = o.plain
	if o.facts != nil {
		o.hash = o.facts.combineHash(state.FactsHash)
		if o.hash != state.FactsHash && o.hash != o.plain.Contact.RefusedFacts {
			o.transition.State.FactsHash = o.hash
			o.transition.State.LastUpdated = o.At
			o.transition.Changed = true
		}
	}
	return nil
}

func (r *Registry) storeObserved(ctx context.Context, tx storage.WriteTx, o *observed) error {
	if !o.known || !o.transition.Changed {
		return nil
	}
	before, err := states.Get(tx, nameKey(o.Server))
	if err != nil {
		return err
	}
	if o.facts != nil && o.transition.State.FactsHash != before.FactsHash {
		switch err := r.storeFacts(tx, o); {
		case errors.Is(err, ErrTooLong):
			// Once is enough: the same facts are not tried again, and nothing else is lost.
			r.log.WarnContext(ctx, "facts are not stored", "server", o.Server, "error", err)
			o.transition = o.plain
			o.transition.Contact.RefusedFacts = o.hash
			if !o.transition.Changed {
				return nil
			}
		case err != nil:
			return err
		}
	}
	if seen := o.transition.Contact.LastSeen; seen.After(o.transition.State.LastSeen) {
		o.transition.State.LastSeen = seen // it is written anyway
	}
	if err := states.Put(tx, &o.transition.State); err != nil {
		return err
	}
	return r.record(tx, o.transition.Events...)
}

func (r *Registry) storeFacts(tx storage.WriteTx, o *observed) error {
	old, err := facts.Find(tx, storage.StringKey(o.ID))
	if err != nil && !errors.Is(err, storage.ErrCorrupt) {
		return err
	}
	row, err := o.facts.merge(old, o.ID, o.At)
	if errors.Is(err, storage.ErrCorrupt) {
		row, err = o.facts.merge(nil, o.ID, o.At) // what can't be read is replaced
	}
	if err != nil {
		return err
	}
	return facts.Put(tx, row)
}
