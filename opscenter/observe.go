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

// Limits of one transaction of Observer.Record. A transaction stores all of its observations, or none. More observations,
// or two of one server, take several transactions.
const (
	// MaxObservations is the number of observations. A store with small limits gets fewer in one transaction.
	MaxObservations = 50
	// MaxObservationsSize is the size of their facts in bytes. The first observation may have more.
	MaxObservationsSize = 1 << 20
)

// plausible reports whether a time that a server told can be stored and compared.
func plausible(t time.Time) bool { return t.Year() >= 1970 && t.Year() <= 2200 }

// fit reduces the facts of an observation to their limits, and adds a note of the parts left out. It drops implausible
// times.
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

// RecordUnchanged records an observation that finds exactly the values of the last one of a steady server, and returns
// true. It stores nothing and does not read the store. For all other observations it does nothing and returns false: the
// caller passes them to Record.
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

// Record stores the new values that polls found. An observation without news writes nothing durable. Observations of one
// server must come in order. Record drops these observations:
//
//   - those of servers that were removed;
//   - those that began before newer knowledge of the server, as a self update;
//   - those that failed for a reason of the control plane's own (lifecycle.FailureLocal), which raise a warning.
//
// Each transaction stores up to MaxObservations, or none of them. For a store with small limits it stores fewer. A caller
// that repeats failed calls should pass at most MaxObservations at a time.
func (h Observer) Record(ctx context.Context, observations ...lifecycle.Observation) error {
	if err := h.registry.checkClock(ctx); err != nil {
		return fmt.Errorf("storing a jump of the clock: %w", err)
	}
	observations = h.registry.withoutLocal(observations)
	h.registry.follow(ctx)
	for len(observations) > 0 {
		step := observations[:stepLength(observations, storage.LimitsOf(h.registry.store))]
		observations = observations[len(step):]
		if len(step) == 1 && h.registry.Observer().RecordUnchanged(&step[0]) {
			continue
		}
		err := h.registry.recordStep(ctx, step)
		if errors.Is(err, storage.ErrTooLarge) && len(step) > 1 {
			// Together with the stored facts they may be too large for one transaction.
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
		// The observations are stored. A later flush stores the times.
		h.registry.log.ErrorContext(ctx, "the times when servers were last seen could not be stored, and are kept", "error", err)
	}
	return nil
}

// RequestPoll asks the poller for a poll of servers out of turn. It ignores servers that do not exist.
func (h Observer) RequestPoll(ctx context.Context, names ...string) error {
	at := h.registry.now()
	return h.registry.Write(ctx, func(tx *Tx) error {
		for _, name := range names {
			if err := tx.requestPoll(name, at, false); err != nil && !isNotFound(err) {
				return err
			}
		}
		return nil
	})
}

// Maintain flushes if Options.LastSeenInterval has passed since the last flush, and removes spent tokens then. It raises
// and clears the warnings that the fleet is unreachable and that polls fail locally. Record calls it. A program that
// mostly calls RecordUnchanged calls it every few seconds.
func (h Observer) Maintain(ctx context.Context) error {
	h.registry.followSometimes(ctx)
	if err := errors.Join(h.registry.checkClock(ctx), h.registry.warnFleet(ctx), h.registry.warnLocal(ctx)); err != nil {
		return err
	}
	if h.registry.Observer().FleetUnreachable() {
		h.registry.presence.Warnings.Repeat(h.registry.subject(warning.Fleet, ""), "", h.registry.now())
	}
	if h.registry.presence.Flush.Due(h.registry.options.LastSeenInterval) && len(h.registry.flushing) == 0 { // a running flush is enough
		_, err := h.registry.removeSpentTokens(ctx)
		return errors.Join(err, h.Flush(ctx))
	}
	return nil
}

// writesOfObservation is how many rows and index entries an observation with much news writes. Record repeats the few with
// more in transactions of their own.
const writesOfObservation = 16

// stepLength returns how many observations the next transaction stores. It stores at most one of each server, so that
// each builds on the one before, and a limited size of facts.
func stepLength(observations []lifecycle.Observation, limits storage.Limits) int {
	if len(observations) == 1 {
		return 1
	}
	seen := map[string]bool{}
	size := 0
	most, within := limits.Rows(MaxObservations, writesOfObservation), min(MaxObservationsSize, limits.MaxTxSize/4)
	for i, o := range observations {
		if o.Facts != nil {
			size += o.Facts.Size()
		}
		if i > 0 && (i == most || seen[o.ID] || size > within) {
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
	hash       string // of the facts, together with the stored parts
	known      bool
	state      lifecycle.ServerState // as it is stored, without times in the future
	rewound    bool                  // the stored state had some
	name       string                // present name of the server
	mark       presence.Mark         // of the server, before the store was read
	prepared   *preparedFacts
	follow     string           // the certificate of its cluster, which it presents now
	adopt      string           // the cluster it is found to be a member of
	learned    string           // the machine ID, which was not recorded so far
	verdict    presence.Verdict // of the guard
}

// recordStep stores observations in one transaction. Most polls find nothing new: then it only reads.
func (r *Registry) recordStep(ctx context.Context, step []lifecycle.Observation) error {
	list := make([]observed, len(step))
	for i, o := range step {
		o.At = r.notInFuture(o.At)
		list[i] = newObserved(o, r.options.KeepSecrets)
	}
	changed, err := r.observeStep(ctx, list)
	if err != nil {
		return err
	}
	if changed {
		r.prepareFacts(list)
		if err := r.storeStep(ctx, list); err != nil {
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
		// The observations are stored. The next ones raise or clear the warning.
		r.log.ErrorContext(ctx, "a warning could not be stored", "kind", warning.Fleet, "error", err)
	}
	return nil
}

// newObserved returns an observation within its limits, and the sums of its facts. Parts that are not JSON count as unread.
// The rest of the observation counts.
func newObserved(o lifecycle.Observation, keepSecrets bool) observed {
	fit(&o)
	out := observed{Observation: o, found: facts.DigestOf(&o, keepSecrets)}
	if o.Facts == nil {
		return out
	}
	var err error
	if out.parts, err = facts.SumsOf(o.Facts, keepSecrets); err == nil {
		return out
	}
	var unread []string
	out.Facts, unread = facts.Readable(o.Facts)
	out.Unread = append(slices.Clip(out.Unread), unread...)
	if out.parts, err = facts.SumsOf(out.Facts, keepSecrets); err != nil {
		out.Facts, out.parts = nil, facts.Sums{}
		out.Unread = append(out.Unread, err.Error())
	}
	return out
}

// observeStep computes the transitions that observations cause, in a View that delays no writer. changed: there is
// anything to store.
func (r *Registry) observeStep(ctx context.Context, list []observed) (changed bool, err error) {
	// Rows that are written after this are newer than the rows that are read below.
	for i := range list {
		list[i].mark = r.presence.Mark(list[i].ID)
	}
	err = r.store.View(ctx, func(tx storage.ReadTx) error {
		for i := range list {
			o := &list[i]
			if err := r.find(tx, o); err != nil {
				return err
			}
			if !o.known {
				continue
			}
			o.verdict = r.presence.Guard.Judge(o.ID, o.state.Status == lifecycle.StatusReady, o.Failure != nil, max(0, r.now().Sub(o.At)))
			if err := r.observe(tx, o); err != nil {
				return err
			}
			changed = changed || o.changes(r.presence)
		}
		return nil
	})
	return changed, err
}

// storeStep computes the transitions again, on the rows that its transaction reads, and stores them.
func (r *Registry) storeStep(ctx context.Context, list []observed) error {
	return r.Write(ctx, func(tx *Tx) error {
		for i := range list {
			o := &list[i]
			if err := r.find(tx, o); err != nil {
				return err
			}
			if !o.known {
				continue
			}
			o.verdict = r.presence.Guard.Verdict()
			if err := r.observe(tx, o); err != nil {
				return err
			}
			if err := r.storeObserved(ctx, tx, o); err != nil {
				return err
			}
		}
		return nil
	})
}

// find reads the state of the server of an observation, also if the server was renamed.
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
	// A time in the future only shows that the clock was set back.
	if o.At.Before(state.NotBefore) && !r.now().Before(state.NotBefore) {
		return nil
	}
	o.known = true
	o.state, o.rewound = lifecycle.Rewind(*state, r.now(), o.At)
	return nil
}

// notInFuture returns at, or the present if at is in the future because the clock was set back.
func (r *Registry) notInFuture(at time.Time) time.Time {
	if now := r.now(); at.After(now) {
		return now
	}
	return at
}

// observe computes the transition that an observation causes.
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
		// The server is polled again at once. This was not its failure.
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

// changes reports whether the observation has anything to store.
func (o *observed) changes(p *presence.Presence) bool {
	return o.transition.Changed || o.follow != "" || o.adopt != "" || o.learned != "" || p.Warnings.Needs(o.ID, &o.transition)
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
	if o.Facts != nil && o.transition.State.FactsHash != o.state.FactsHash {
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
