package opscenter

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/internal/page"
	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/internal/presence"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
)

// subjectKey is the key of warningsBySubject. It has a third part for a controller with a name only, because warnings of
// earlier releases have none.
func subjectKey(s presence.Subject) storage.Key {
	key := storage.StringKey(s.ServerID).Str(string(s.Kind))
	if s.Controller != "" {
		key = key.Str(s.Controller)
	}
	return key
}

// subject returns the subject of a warning about a server, or about the fleet or this controller if the ID is empty.
func (r *Registry) subject(kind warning.Kind, id string) presence.Subject {
	out := presence.Subject{Kind: kind, ServerID: id}
	if id == "" && kind.OfController() {
		out.Controller = r.options.Controller
	}
	return out
}

// reason is the reason of an event about a warning.
func (r *Registry) reason(of presence.Subject, text string) string {
	if of.Controller != "" {
		return fmt.Sprintf("%s (controller %s): %s", of.Kind, of.Controller, text)
	}
	return fmt.Sprintf("%s: %s", of.Kind, text)
}

// raise stores a warning, unless it is open. A warning about the fleet or the controller has no server.
func (t *Tx) raise(server, id string, w warning.Input, at time.Time) error {
	of := t.registry.subject(w.Kind, id)
	known, err := warningsBySubject.Find(t, subjectKey(of))
	if err != nil || known != nil {
		return err
	}
	row := warning.Warning{UUID: newUUID(), Kind: w.Kind, ServerID: id, Controller: of.Controller, Message: w.Message, FirstSeen: at, LastSeen: at, LastUpdated: at, Count: 1}
	if err := warnings.Put(t, &row); err != nil {
		return err
	}
	return t.Record(event.Event{At: at, Kind: event.WarningRaised, Server: server, Reason: truncate.Text(t.registry.reason(of, w.Message), lifecycle.MaxReason)})
}

// clear removes an open warning.
func (t *Tx) clear(server, id string, kind warning.Kind, at time.Time, why string) error {
	of := t.registry.subject(kind, id)
	known, err := warningsBySubject.Find(t, subjectKey(of))
	if err != nil || known == nil {
		return err
	}
	if err := warnings.Delete(t, storage.StringKey(known.UUID)); err != nil {
		return err
	}
	return t.Record(event.Event{At: at, Kind: event.WarningCleared, Server: server, Reason: t.registry.reason(of, why)})
}

// clearAll removes all warnings of a server that is removed.
func (t *Tx) clearAll(server, id string, at time.Time) error {
	var kinds []warning.Kind
	for w, err := range warningsBySubject.Scan(t, storage.Range{Prefix: storage.StringKey(id)}) {
		if err != nil {
			return err
		}
		kinds = append(kinds, w.Kind)
	}
	for _, kind := range kinds {
		if err := t.clear(server, id, kind, at, "the server was removed"); err != nil {
			return err
		}
	}
	return nil
}

// newUUID returns a UUID that sorts by its time of creation.
func newUUID() string { return uuid.Must(uuid.NewV7()).String() }

// Raise raises a warning about a server, or about the fleet if the name is empty. If a warning of that kind is open,
// Raise counts one more cause. A warning of a program's own kind stays until Clear. Package warning tells when the other
// kinds are cleared. Errors: ErrNotFound, ErrInvalidName for an empty kind, ErrTooLong.
func (h Warnings) Raise(ctx context.Context, server string, w warning.Input) error {
	if err := checkLength("kind of warning", string(w.Kind), MaxLabelLength); err != nil {
		return err
	}
	if w.Kind == "" {
		return fmt.Errorf("warning: a kind is required: %w", ErrInvalidName)
	}
	w.Message = truncate.Text(w.Message, lifecycle.MaxReason)
	at := h.registry.now()
	var id string
	raised := false
	err := h.registry.Write(ctx, func(tx *Tx) (err error) {
		if id, err = serverID(tx, server); err != nil {
			return err
		}
		err = tx.raise(server, id, w, at)
		raised = len(tx.events) > 0
		return err
	})
	if err == nil && !raised {
		h.registry.presence.Warnings.Repeat(h.registry.subject(w.Kind, id), w.Message, at)
	}
	return err
}

// Clear removes the warning of a kind about a server, or about the fleet if the name is empty. Of a kind that tells of the
// control plane itself, it is the warning of this controller. A missing warning is no
// error. Errors: ErrNotFound if there is no such server.
func (h Warnings) Clear(ctx context.Context, server string, kind warning.Kind) error {
	at := h.registry.now()
	return h.registry.Write(ctx, func(tx *Tx) error {
		id, err := serverID(tx, server)
		if err != nil {
			return err
		}
		return tx.clear(server, id, kind, at, "its cause is gone")
	})
}

func serverID(tx storage.ReadTx, name string) (string, error) {
	if name == "" {
		return "", nil
	}
	server, err := servers.Get(tx, nameKey(name))
	if err != nil {
		return "", notFound("server", name, err)
	}
	return server.ID, nil
}

// Acknowledge records that an operator knows the warning, or takes that back. check, unless nil, gets the warning as it
// is: its error ends the change. Callers use it for optimistic locking. Errors: ErrNotFound, those of check.
func (h Warnings) Acknowledge(ctx context.Context, id string, acknowledged bool, check func(*warning.Warning) error) error {
	at := h.registry.now()
	return h.registry.Write(ctx, func(tx *Tx) error {
		known, err := warnings.Get(tx, storage.StringKey(id))
		if err != nil {
			return notFound("warning", id, err)
		}
		shown, err := h.registry.showWarning(tx, known)
		if err != nil {
			return err
		}
		if check != nil {
			if err := check(shown); err != nil {
				return err
			}
		}
		if known.Acknowledged == acknowledged {
			return nil
		}
		changed := *known
		changed.Acknowledged, changed.LastUpdated = acknowledged, at
		if err := warnings.Put(tx, &changed); err != nil {
			return err
		}
		return tx.Record(event.Event{At: at, Kind: event.WarningAcknowledged, Server: shown.Server, Reason: fmt.Sprintf("%s: %t", known.Kind, acknowledged)})
	})
}

// showWarning adds the name of its server to a stored warning, and the causes that are not flushed.
func (r *Registry) showWarning(tx storage.ReadTx, stored *warning.Warning) (*warning.Warning, error) {
	out := *stored
	if out.ServerID != "" {
		server, err := byID.Find(tx, storage.StringKey(out.ServerID))
		if err != nil {
			return nil, err
		}
		if server != nil {
			out.Server = server.Name
		}
		if server != nil && out.Kind == warning.SharedUUID { // servers may have new names
			var sharing []*Server
			for other, err := range withSystemUUID(tx, server.SystemUUID) {
				if err != nil {
					return nil, err
				}
				if other.ID != server.ID {
					sharing = append(sharing, other)
				}
				if len(sharing) > maxNamed {
					break // the message names no more
				}
			}
			if len(sharing) > 0 {
				out.Message = truncate.Text(sharedMessage(server, sharing), lifecycle.MaxReason)
			}
		}
	}
	r.presence.Warnings.Show(&out)
	return &out, nil
}

// Get returns a warning by its UUID. Errors: ErrNotFound.
func (h Warnings) Get(ctx context.Context, id string) (out *warning.Warning, err error) {
	err = h.registry.store.View(ctx, func(tx storage.ReadTx) error {
		known, err := warnings.Get(tx, storage.StringKey(id))
		if err != nil {
			return notFound("warning", id, err)
		}
		out, err = h.registry.showWarning(tx, known)
		return err
	})
	return out, err
}

// WarningFilter selects the warnings that match all fields that are set. The zero value selects all.
type WarningFilter struct {
	Kind warning.Kind
	// Server selects the warnings about the server of that name. Without such a server List returns ErrNotFound.
	Server       string
	Acknowledged *bool
}

// WarningPage is a page of warnings.
type WarningPage struct {
	Warnings []*warning.Warning
	// Next is the cursor of the next page. Empty: this page is the last.
	Next string
}

// List returns a page of the warnings that match, the oldest first. Errors: ErrInvalidCursor, ErrNotFound.
func (h Warnings) List(ctx context.Context, filter WarningFilter, from Page) (out WarningPage, err error) {
	limit := page.Size(from.Limit)
	err = h.registry.store.View(ctx, func(tx storage.ReadTx) error {
		out = WarningPage{}
		id, err := serverID(tx, filter.Server)
		if err != nil {
			return err
		}
		within, err := from.within(nil)
		if err != nil {
			return err
		}
		found := warnings.Scan(tx, within)
		if id != "" {
			found = h.registry.warningsOf(tx, id, from)
		}
		for w, err := range found {
			if err != nil {
				return err
			}
			if filter.Kind != "" && w.Kind != filter.Kind || filter.Acknowledged != nil && w.Acknowledged != *filter.Acknowledged {
				continue
			}
			if len(out.Warnings) == limit {
				out.Next = page.Encode(out.Warnings[limit-1].UUID)
				break
			}
			shown, err := h.registry.showWarning(tx, w)
			if err != nil {
				return err
			}
			out.Warnings = append(out.Warnings, shown)
		}
		return nil
	})
	return out, err
}

// warningsOf yields the warnings about a server, the oldest first. It sorts them in memory, because they are few.
func (r *Registry) warningsOf(tx storage.ReadTx, id string, from Page) iter.Seq2[*warning.Warning, error] {
	return func(yield func(*warning.Warning, error) bool) {
		after := ""
		if from.Cursor != "" {
			var err error
			if after, err = page.Decode(from.Cursor, MaxNameLength); err != nil {
				yield(nil, err)
				return
			}
		}
		var list []*warning.Warning
		for w, err := range warningsBySubject.Scan(tx, storage.Range{Prefix: storage.StringKey(id)}) {
			if err != nil {
				yield(nil, err)
				return
			}
			if w.UUID > after {
				list = append(list, w)
			}
		}
		slices.SortFunc(list, func(a, b *warning.Warning) int { return strings.Compare(a.UUID, b.UUID) })
		for _, w := range list {
			if !yield(w, nil) {
				return
			}
		}
	}
}
