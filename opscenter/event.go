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

// What servers cause is kept apart from what operators and the control plane do: however much is going on there, who
// did what can be read.
const (
	classServers   = "servers"
	classOperators = "operators"
)

// ofServers are the kinds of events that a server, or a stranger, can cause as often as it likes.
var ofServers = map[event.Kind]bool{event.ServerRegistered: true, event.ServerReinstalled: true, event.RegistrationRefused: true, event.ConnectionURLChanged: true,
	event.SelfUpdate: true, event.StatusChanged: true, event.TypeChanged: true, event.ServerRebooted: true, event.UpdateSettings: true, event.CertificateChanged: true,
	event.Flapping: true, event.Steady: true, event.WarningRaised: true, event.WarningCleared: true, event.ClusterDiscovered: true}

// classOf is the class whose room in the log an event takes.
func classOf(e *event.Event) string {
	if ofServers[e.Kind] {
		return classServers
	}
	return classOperators
}

// ownerOf is whose share of the log an event takes.
func ownerOf(e *event.Event) string {
	switch {
	case e.Kind == event.RegistrationRefused: // by whatever name
		return "\x00" + string(e.Kind)
	case ofServers[e.Kind]:
		return e.Server
	default:
		return ""
	}
}

// retiredEvents is where earlier releases counted events.
var retiredEvents = boundedlog.NewRetired("events", "counters")

// Record stores events with the transaction. They are logged when it is committed. Reasons are cut to
// lifecycle.MaxReason bytes. The store gives each event its Sequence.
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

// trimEvents deletes the events over Options.MaxEvents and MaxServerEvents. One call at a time does.
func (r *Registry) trimEvents(ctx context.Context) error {
	if !r.trimming.TryLock() {
		return nil
	}
	defer r.trimming.Unlock()
	r.eventsDue.Looked()
	var surplus []uint64
	err := r.store.View(ctx, func(tx storage.ReadTx) (err error) {
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
	for step := range slices.Chunk(surplus, trimStep) {
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
	// Server selects the events of that server, under the name it had.
	Server string
	// Limit bounds how many are returned; default 100, at most MaxPageSize.
	Limit int
	// Newest returns the newest first; After is then the exclusive lower end still.
	Newest bool
}

// Events returns events, the oldest first unless told otherwise.
func (r *Registry) ListEvents(ctx context.Context, filter EventFilter) (out []event.Event, err error) {
	limit := page.Size(filter.Limit)
	err = r.store.View(ctx, func(tx storage.ReadTx) error {
		out = nil
		scan, prefix := events.Scan, storage.Key(nil)
		if filter.Server != "" {
			scan, prefix = eventsByServer.Scan, storage.StringKey(filter.Server)
		}
		within := storage.Range{Prefix: prefix, Reverse: filter.Newest}
		if !filter.Newest {
			within.After = prefix.Uint(filter.After)
		}
		for e, err := range scan(tx, within) {
			if err != nil {
				return err
			}
			if e.Sequence <= filter.After || len(out) == limit {
				break
			}
			out = append(out, *e)
		}
		return nil
	})
	return out, err
}

// WatchEvents yields the events after sequence number after, then each new one as it is
// recorded, in order. Those that were dropped meanwhile show as a gap in the numbers. It ends with ctx's error.
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
