package opscenter

import (
	"context"
	"iter"

	"github.com/opscenter-go/sdk/internal/boundedlog"
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

// eventLog keeps events within Options.MaxEvents and MaxServerEvents.
var eventLog = boundedlog.New("events", func(tx storage.WriteTx, class string, sequence uint64) (bool, error) {
	found, err := events.Find(tx, storage.UintKey(sequence))
	if err != nil || found == nil || classOf(found) != class {
		return false, err
	}
	return true, events.Delete(tx, storage.UintKey(sequence))
})

// Record stores events with the transaction. They are logged when it is committed. Reasons are cut to
// lifecycle.MaxReason bytes. Events over Options.MaxEvents and MaxServerEvents are dropped.
func (t *Tx) Record(list ...event.Event) error {
	if len(list) == 0 {
		return nil
	}
	last, err := lastEvent(t)
	if err != nil {
		return err
	}
	options := &t.registry.options
	next := counter{Name: "events", Value: last}
	for _, e := range list {
		e.Reason = truncate.Text(e.Reason, lifecycle.MaxReason)
		next.Value++
		e.Sequence = next.Value
		if err := events.Put(t, &e); err != nil {
			return err
		}
		limits := boundedlog.Limits{Class: classOf(&e), Max: uint64(options.MaxEvents), Owner: ownerOf(&e), Share: uint64(options.MaxServerEvents)}
		if err := eventLog.Added(t, e.Sequence, limits); err != nil {
			return err
		}
		t.events = append(t.events, e)
	}
	return counters.Put(t, &next)
}

// lastEvent is the number of the last event; 0: there was none.
func lastEvent(tx storage.ReadTx) (uint64, error) {
	last, err := counters.Find(tx, storage.StringKey("events"))
	if err != nil || last == nil {
		return 0, err
	}
	return last.Value, nil
}

// pruneEvents drops what is over a limit that was lowered since the events were recorded, and counts those that an
// earlier release has recorded.
func (r *Registry) pruneEvents(ctx context.Context) error {
	type count struct{ kept, floor uint64 }
	counts := map[string]*count{}
	err := r.store.View(ctx, func(tx storage.ReadTx) error {
		clear(counts)
		for _, class := range []string{classServers, classOperators} {
			counted, err := eventLog.Counted(tx, class)
			if err != nil {
				return err
			}
			if !counted {
				counts[class] = &count{}
			}
		}
		if len(counts) == 0 {
			return nil
		}
		for e, err := range events.Scan(tx, rangeAll) {
			if err != nil {
				return err
			}
			if c := counts[classOf(e)]; c != nil {
				if c.kept++; c.kept == 1 {
					c.floor = e.Sequence - 1
				}
			}
		}
		return nil
	})
	for more := true; more && err == nil; {
		err = r.Write(ctx, func(tx *Tx) error {
			for class, c := range counts {
				if c.kept == 0 {
					continue // the first of them will count
				}
				if err := eventLog.Recount(tx, class, c.kept, c.floor); err != nil {
					return err
				}
			}
			last, err := lastEvent(tx)
			if err != nil {
				return err
			}
			more = false
			for _, class := range []string{classServers, classOperators} {
				left, err := eventLog.Shrink(tx, class, uint64(r.options.MaxEvents), last)
				if err != nil {
					return err
				}
				more = more || left
			}
			return nil
		})
		if err == nil {
			clear(counts)
		}
	}
	return err
}

// EventFilter selects events. The zero value selects all.
type EventFilter struct {
	// After selects events with a greater sequence number.
	After uint64
	// Server selects the events of that server, under the name it had.
	Server string
	// Limit bounds how many are returned; default DefaultPageSize, at most MaxPageSize.
	Limit int
	// Newest returns the newest first; After is then the exclusive lower end still.
	Newest bool
}

// Events returns events, the oldest first unless told otherwise.
func (r *Registry) Events(ctx context.Context, filter EventFilter) (out []event.Event, err error) {
	limit := pageSize(filter.Limit)
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
				page, err := r.Events(ctx, EventFilter{After: after, Limit: MaxPageSize})
				if err != nil {
					yield(event.Event{}, err)
					return false
				}
				for _, e := range page {
					after = e.Sequence
					if !yield(e, nil) {
						return false
					}
				}
				if len(page) < MaxPageSize {
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

// pageSize applies the limits of list methods.
func pageSize(limit int) int {
	if limit <= 0 {
		return DefaultPageSize
	}
	return min(limit, MaxPageSize)
}

// forgetShare ends the share of the log of a name that its server does not have any more: the events stay.
func forgetShare(tx storage.WriteTx, name string) error {
	for {
		if more, err := eventLog.Forget(tx, name); err != nil || !more {
			return err
		}
	}
}
