package opscenter

import (
	"context"
	"iter"
	"slices"

	"github.com/opscenter-go/sdk/internal/boundedlog"
	"github.com/opscenter-go/sdk/internal/page"
	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// The log keeps events that servers cause apart from those of operators and the control plane. However many events servers
// cause, the events of operators stay.
const (
	classServers   = "servers"
	classOperators = "operators"
)

// ofServers are the kinds of events that a server, or a stranger, can cause without limit.
var ofServers = map[event.Kind]bool{event.ServerRegistered: true, event.ServerReinstalled: true, event.RegistrationRefused: true, event.ConnectionURLChanged: true,
	event.SelfUpdate: true, event.StatusChanged: true, event.TypeChanged: true, event.ServerRebooted: true, event.UpdateSettings: true, event.CertificateChanged: true,
	event.Flapping: true, event.Steady: true, event.WarningRaised: true, event.WarningCleared: true, event.ClusterDiscovered: true}

// classOf returns the class of an event. Each class keeps at most Options.MaxEvents events.
func classOf(e *event.Event) string {
	if ofServers[e.Kind] {
		return classServers
	}
	return classOperators
}

// ownerOf returns the owner of an event. Each owner keeps at most Options.MaxServerEvents events. Empty: the event has no
// owner.
func ownerOf(e *event.Event) string {
	switch {
	case e.Kind == event.RegistrationRefused: // under any name
		return "\x00" + string(e.Kind)
	case ofServers[e.Kind]:
		return e.Server
	default:
		return ""
	}
}

// retiredEvents is where earlier releases counted events.
var retiredEvents = boundedlog.NewRetired("events", "counters")

// Record stores events with the transaction, and logs them after the commit. It cuts reasons to lifecycle.MaxReason
// bytes. The store sets the Sequence of each event.
func (t *Tx) Record(list ...event.Event) error {
	for _, e := range list {
		e.Sequence, e.Reason = 0, truncate.Text(e.Reason, lifecycle.MaxReason)
		if err := events.Append(t, &e); err != nil {
			return err
		}
		t.events = append(t.events, e)
	}
	return nil
}

// trimStep is how many events one transaction deletes.
const trimStep = 500

// trimEvents deletes the events over Options.MaxEvents and MaxServerEvents. A call during another one returns at once.
func (r *Registry) trimEvents(ctx context.Context) (err error) {
	if !r.trimming.TryLock() {
		return nil
	}
	defer r.trimming.Unlock()
	failed := r.eventsDue.Look()
	defer func() {
		if err != nil {
			failed()
		}
	}()
	var surplus []uint64
	err = r.store.View(ctx, func(tx storage.ReadTx) (err error) {
		surplus, err = boundedlog.Surplus(events.Scan(tx, storage.Range{Reverse: true}), func(e *event.Event) (uint64, []boundedlog.Share) {
			shares := []boundedlog.Share{{Name: classOf(e), Max: r.options.MaxEvents}}
			if owner := ownerOf(e); owner != "" {
				shares = append(shares, boundedlog.Share{Name: "of " + owner, Max: r.options.MaxServerEvents})
			}
			return e.Sequence, shares
		})
		return err
	})
	if err != nil {
		return err
	}
	for step := range slices.Chunk(surplus, storage.LimitsOf(r.store).Rows(trimStep, 2)) {
		err := r.Write(ctx, func(tx *Tx) error {
			for _, sequence := range step {
				if err := events.Delete(tx, storage.UintKey(sequence)); err != nil && !isNotFound(err) {
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

// EventFilter selects events. The zero value selects all.
type EventFilter struct {
	// After selects events with a greater sequence number.
	After uint64
	// Before selects events with a lesser sequence number. 0: all.
	Before uint64
	// Server selects the events of the server that had this name at the time.
	Server string
	// Limit is how many events are returned at most. Default 100, at most MaxPageSize.
	Limit int
	// Newest returns the newest events first. After is still the exclusive lower end.
	Newest bool
}

// ListEvents returns events, the oldest first by default.
func (r *Registry) ListEvents(ctx context.Context, filter EventFilter) (out []event.Event, err error) {
	limit := page.Size(filter.Limit)
	err = r.store.View(ctx, func(tx storage.ReadTx) error {
		out = nil
		scan, prefix := events.Scan, storage.Key(nil)
		if filter.Server != "" {
			scan, prefix = eventsByServer.Scan, storage.StringKey(filter.Server)
		}
		within := storage.Range{Prefix: prefix, Reverse: filter.Newest}
		switch {
		case !filter.Newest:
			within.After = prefix.Uint(filter.After)
		case filter.Before > 0:
			within.After = prefix.Uint(filter.Before)
		}
		for e, err := range scan(tx, within) {
			if err != nil {
				return err
			}
			if e.Sequence <= filter.After || len(out) == limit || !filter.Newest && filter.Before > 0 && e.Sequence >= filter.Before {
				break
			}
			out = append(out, *e)
		}
		return nil
	})
	return out, err
}

// WatchEvents yields the events after a sequence number, then each new event as it is stored, in order. Sequence numbers have gaps.
// Events that were deleted before are not yielded. It ends with ctx's error.
func (r *Registry) WatchEvents(ctx context.Context, after uint64) iter.Seq2[event.Event, error] {
	return func(yield func(event.Event, error) bool) {
		revision, err := r.Revision(ctx)
		if err != nil {
			yield(event.Event{}, err)
			return
		}
		catchUp := func() bool {
			for {
				found, err := r.ListEvents(ctx, EventFilter{After: after, Limit: MaxPageSize})
				if err != nil {
					yield(event.Event{}, err)
					return false
				}
				for _, e := range found {
					after = e.Sequence
					if !yield(e, nil) {
						return false
					}
				}
				if len(found) < MaxPageSize {
					return true
				}
			}
		}
		if !catchUp() {
			return
		}
		for _, err := range r.store.Watch(ctx, revision, events.Name()) {
			if err != nil {
				yield(event.Event{}, err)
				return
			}
			if !catchUp() {
				return
			}
		}
	}
}
