package opscenter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/internal/presence"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
)

// Limits of what RecordObservations stores in one transaction: it is all stored, or nothing
// of it. More than that, or two of one server, take several.
const (
	// MaxObservations is how many.
	MaxObservations = 50
	// MaxObservationsSize is how many bytes of facts, beyond the first observation.
	MaxObservationsSize = 1 << 20
)

// plausible reports whether a time that a server told can be stored, and compared.
func plausible(t time.Time) bool { return t.Year() >= 1970 && t.Year() <= 2200 }

// fit reduces the facts of an observation to what fits, and notes what was left out. Times that can't be are not told.
func fit(o *lifecycle.Observation) {
	if s := o.UpdateStatus; s != nil && !s.LastCheck.IsZero() && !plausible(s.LastCheck) {
		o.UpdateStatus = &lifecycle.UpdateStatus{Status: s.Status}
	}
	if !o.BootedAt.IsZero() && !plausible(o.BootedAt) {
		o.BootedAt = time.Time{}
	}
	if o.Facts == nil {
		return
	}
	var notes []string
	o.Facts, notes = facts.Reduced(o.Facts)
	o.Notes = append(slices.Clip(o.Notes), notes...)
}

// RecordUnchanged takes in an observation that finds just what the last one of a steady
// server found, and returns true: nothing is stored, and the store is not asked. All others
// it leaves alone, and returns false: they are for RecordObservations.
func (h Observer) RecordUnchanged(o *lifecycle.Observation) bool {
	if o.Facts != nil && facts.TooLarge(o.Facts) {
		return false
	}
	found := facts.DigestOf(o, h.registry.options.KeepSecrets)
	if found.None() {
		return false
	}
	return h.registry.presence.Unchanged(o.ID, found, h.registry.notInFuture(o.At))
}

// Record takes in what polls found out. What is new is stored; an observation
// that finds nothing new writes nothing durable. Observations of servers that are gone, or
// that began before something newer was learned, are dropped, and so are those that failed for a reason of the
// control plane's own (lifecycle.FailureLocal), but for a warning. Those of one server must come
// in order. Each transaction of MaxObservations takes all it is given, or nothing: who wants to
// give again what failed hands over no more than that at a time.
func (h Observer) Record(ctx context.Context, observations ...lifecycle.Observation) error {
	if err := h.registry.checkClock(ctx); err != nil {
		return fmt.Errorf("after the clock was set: %w", err)
	}
	observations = h.registry.withoutLocal(observations)
	for len(observations) > 0 {
		step := observations[:stepLength(observations)]
		observations = observations[len(step):]
		if len(step) == 1 && h.registry.Observer().RecordUnchanged(&step[0]) {
			continue
		}
		err := h.registry.recordStep(ctx, step)
		if errors.Is(err, storage.ErrTooLarge) && len(step) > 1 {
			// With the facts that are stored already, they may be too many for one transaction.
			err = nil
			for i := range step {
				err = errors.Join(err, h.registry.recordStep(ctx, step[i:i+1]))
			}
		}
		if err != nil {
			return fmt.Errorf("storing %d observations: %w", len(step), err)
		}
	}
	if err := h.registry.Observer().Maintain(ctx); err != nil {
		// The observations are stored; what is flushed is kept, and tried again.
		h.registry.log.ErrorContext(ctx, "when servers were last seen could not be stored, and is kept", "error", err)
	}
	return nil
}

// Maintain flushes if Options.LastSeenInterval has passed since the last time, and sees to the
// warning that the fleet is unreachable. RecordObservations calls it; who takes in most of
// what comes by RecordUnchanged calls it now and then.
func (h Observer) Maintain(ctx context.Context) error {
	if err := errors.Join(h.registry.checkClock(ctx), h.registry.warnFleet(ctx), h.registry.warnLocal(ctx)); err != nil {
		return err
	}
	if h.registry.Observer().FleetUnreachable() {
		h.registry.presence.Repeat(presence.Subject{Kind: warning.Fleet}, "", h.registry.now())
	}
	if h.registry.presence.FlushDue(h.registry.options.LastSeenInterval) && len(h.registry.flushing) == 0 { // who flushes already sees to it
		_, err := h.registry.removeSpentTokens(ctx)
		return errors.Join(err, h.Flush(ctx))
	}
	return nil
}

// stepLength returns how many observations go into the next transaction: of each server one
// at the most, so that each builds on the one before, and of facts not too many.
func stepLength(observations []lifecycle.Observation) int {
	if len(observations) == 1 {
		return 1
	}
	seen := map[string]bool{}
	size := 0
	for i, o := range observations {
		if o.Facts != nil {
			size += o.Facts.Size()
		}
		if i > 0 && (i == MaxObservations || seen[o.ID] || size > MaxObservationsSize) {
			return i
		}
		seen[o.ID] = true
	}
	return len(observations)
}

// observed is an observation on its way into the store.
type observed struct {
	lifecycle.Observation
	parts      facts.Sums
	found      facts.Digest
	transition lifecycle.Transition
	hash       string // of the facts, with what is stored
	known      bool
	state      lifecycle.ServerState // as it is stored, but for beginnings in the future
	rewound    bool                  // there were some
	name       string                // of the server by now
	mark       presence.Mark         // of the server, before the store was read
	prepared   *preparedFacts
	follow     string           // the certificate of its cluster, which it presents now
	adopt      string           // the cluster it is found to be a member of
	learned    string           // the machine ID, which was not recorded so far
	verdict    presence.Verdict // of the guard
}

func (r *Registry) recordStep(ctx context.Context, step []lifecycle.Observation) error {
	list := make([]observed, len(step))
	for i, o := range step {
		o.At = r.notInFuture(o.At)
		fit(&o)
		list[i] = observed{Observation: o, found: facts.DigestOf(&o, r.options.KeepSecrets)}
		if o.Facts == nil {
			continue
		}
		parts, err := facts.SumsOf(o.Facts, r.options.KeepSecrets)
		if err != nil {
			// The rest of what it found counts; what is not JSON was not read.
			var unread []string
			list[i].Facts, unread = facts.Readable(o.Facts)
			list[i].Unread = append(slices.Clip(list[i].Unread), unread...)
			if parts, err = facts.SumsOf(list[i].Facts, r.options.KeepSecrets); err != nil {
				list[i].Facts = nil
				list[i].Unread = append(list[i].Unread, err.Error())
				continue
			}
		}
		list[i].parts = parts
	}
	// Rows that are written after this are newer than those that are read below.
	r.follow(ctx)
	for i := range list {
		list[i].mark = r.presence.Mark(list[i].ID)
	}
	// Most polls find nothing new: look first, without keeping writers waiting.
	changed := false
	err := r.store.View(ctx, func(tx storage.ReadTx) error {
		for i := range list {
			o := &list[i]
			if err := r.find(tx, o); err != nil || !o.known {
				if err != nil {
					return err
				}
				continue
			}
			o.verdict = r.presence.Judge(o.ID, o.state.Status == lifecycle.StatusReady, o.Failure != nil, max(0, r.now().Sub(o.At)))
			if err := r.observe(tx, o); err != nil {
				return err
			}
			changed = changed || o.changes(r.presence)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if changed {
		r.prepareFacts(list)
		err := r.Write(ctx, func(tx *Tx) error {
			for i := range list {
				o := &list[i]
				if err := r.find(tx, o); err != nil || !o.known {
					if err != nil {
						return err
					}
					continue
				}
				o.verdict, _, _ = r.presence.Guard()
				if err := r.observe(tx, o); err != nil {
					return err
				}
				if err := r.storeObserved(ctx, tx, o); err != nil {
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
		if o := &list[i]; o.known {
			r.presence.Observed(o.ID, presence.Outcome{Mark: o.mark, Contact: o.transition.Contact, Failed: o.Failure != nil, Found: o.found,
				Steady: o.transition.Steady(), Stored: changed, At: o.At, Now: r.now(), Warnings: o.transition.Warnings})
		}
	}
	if err := r.warnFleet(ctx); err != nil {
		// The observations are stored; the warning is tried again with the next ones.
		r.log.ErrorContext(ctx, "a warning could not be stored", "kind", warning.Fleet, "error", err)
	}
	return nil
}

// find finds the state of the server of an observation, whatever its name is by now.
func (r *Registry) find(tx storage.ReadTx, o *observed) error {
	o.known, o.name = false, o.Server
	state, err := states.Find(tx, nameKey(o.name))
	if err != nil {
		return err
	}
	if state == nil || state.ID != o.ID {
		server, err := byID.Find(tx, storage.StringKey(o.ID))
		if err != nil || server == nil {
			return err
		}
		o.name = server.Name
		if state, err = states.Get(tx, nameKey(o.name)); err != nil {
			return err
		}
	}
	// A time that is still to come tells that the clock was set back, and nothing else.
	if o.At.Before(state.NotBefore) && !r.now().Before(state.NotBefore) {
		return nil
	}
	o.known = true
	o.state, o.rewound = lifecycle.Rewind(*state, r.now(), o.At)
	return nil
}

// notInFuture returns a time that has come: of one that hasn't, the clock was set back since.
func (r *Registry) notInFuture(at time.Time) time.Time {
	if now := r.now(); at.After(now) {
		return now
	}
	return at
}

// observe computes what an observation makes of the state that was found.
func (r *Registry) observe(tx storage.ReadTx, o *observed) (err error) {
	state := o.state
	policy := r.policy()
	policy.FleetUnreachable, policy.FleetInDoubt = o.verdict.Unreachable, o.verdict.Doubt
	contact := r.presence.Contact(o.ID)
	who, err := r.recognize(tx, o)
	if err != nil {
		return err
	}
	if who.refused != "" {
		o.refuse(who.refused)
	}
	o.learned = who.learned
	if o.follow, err = r.followed(tx, o); err != nil {
		return err
	}
	if o.follow != "" {
		// It is asked again at once: this was no failure of the server.
		o.transition = lifecycle.Transition{State: state, Contact: contact}
		return nil
	}
	if r.options.AdoptMembers && o.Failure == nil && o.MemberName != nil && *o.MemberName != "" {
		server, err := servers.Get(tx, nameKey(o.name))
		if err != nil {
			return err
		}
		if o.adopt, _, err = r.discovered(tx, server, o); err != nil {
			return err
		}
	}
	if o.Facts != nil {
		o.hash = o.parts.Combine(state.FactsHash)
		if o.Architecture == "" && (o.hash != state.FactsHash || state.Architecture == "") {
			o.Architecture = architectureOf(o.Facts)
		}
	}
	o.transition = lifecycle.Apply(state, contact, o.Observation, policy)
	o.transition.Changed = o.transition.Changed || o.rewound
	unproven := state.Unproven
	switch {
	case o.Failure == nil && who.proven:
		unproven = false
	case o.Failure != nil && o.Failure.Kind == lifecycle.FailureIdentity:
		unproven = true
	}
	if unproven != state.Unproven {
		o.transition.State.Unproven, o.transition.Changed = unproven, true
	}
	if o.Facts == nil {
		return nil
	}
	if o.hash != state.FactsHash {
		o.transition.State.FactsHash = o.hash
		o.transition.State.LastUpdated = o.At
		o.transition.Changed = true
	}
	return nil
}

// changes reports whether anything is to be stored.
func (o *observed) changes(p *presence.Presence) bool {
	return o.transition.Changed || o.follow != "" || o.adopt != "" || o.learned != "" || p.NeedsWarning(o.ID, &o.transition)
}

func (r *Registry) storeObserved(ctx context.Context, tx *Tx, o *observed) error {
	if o.transition.Changed {
		if err := r.storeState(ctx, tx, o); err != nil {
			return err
		}
	}
	if o.learned != "" {
		err := servers.Modify(tx, nameKey(o.name), func(s *Server) error {
			s.MachineID, s.LastUpdated = o.learned, o.At
			return nil
		})
		if err != nil {
			return err
		}
	}
	if o.follow != "" {
		if err := r.acceptCertificate(tx, o.name, o.follow, byPoll, o.At); err != nil {
			return err
		}
	}
	if o.adopt != "" {
		cluster, err := clusters.Get(tx, nameKey(o.adopt))
		if err != nil {
			return err
		}
		if err := tx.join(cluster, o.At, "a poll found it to be its member "+o.transition.State.MemberName, o.name); err != nil {
			return err
		}
	}
	for _, w := range o.transition.Warnings {
		if err := tx.raise(o.name, o.ID, w, o.At); err != nil {
			return err
		}
	}
	for _, kind := range o.transition.Judged {
		if !o.transition.Clears(kind) {
			continue
		}
		if err := tx.clear(o.name, o.ID, kind, o.At, "its cause is gone"); err != nil {
			return err
		}
	}
	return nil
}

func (r *Registry) storeState(ctx context.Context, tx *Tx, o *observed) error {
	before, err := states.Get(tx, nameKey(o.name))
	if err != nil {
		return err
	}
	if o.Facts != nil && o.transition.State.FactsHash != before.FactsHash {
		if err := r.storeFacts(tx, o); err != nil {
			return err
		}
	}
	if seen := o.transition.Contact.LastSeen; seen.After(o.transition.State.LastSeen) {
		o.transition.State.LastSeen = seen // it is written anyway
	}
	if err := tx.putState(&o.transition.State); err != nil {
		return err
	}
	return tx.Record(o.transition.Events...)
}
