package opscenter

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/storage"
)

// WarningKind says what a warning is about. Those that Operations Center has are named as there.
type WarningKind string

// The kinds the SDK raises itself; programs may raise others.
const (
	// WarningUnreachable: the server is offline, and did not say that it would be. Cleared when
	// it answers.
	WarningUnreachable WarningKind = "Server unreachable"
	// WarningCertificate: the server presents a certificate that is not the registered one, nor
	// accepted since. Cleared when it presents one that is; see AcceptCertificate.
	WarningCertificate WarningKind = "Server certificate changed"
	// WarningIdentity: at the server's address another machine answers, which may be recorded as another server.
	// Nothing is done to the server meanwhile. Cleared when the server itself answers; if both records are of one
	// machine, remove one of them.
	WarningIdentity WarningKind = "Another machine answers"
	// WarningUntrusted: the server refuses the control plane's client certificate. Cleared when
	// it answers.
	WarningUntrusted WarningKind = "Control plane not trusted"
	// WarningFlapping: the server goes up and down, and is held offline. Cleared when it has
	// been steady for Options.FlapSteady.
	WarningFlapping WarningKind = "Server flapping"
	// WarningUnreadable: the server answers, but not all of it could be read; the old values
	// are kept. Cleared when a poll reads all.
	WarningUnreadable WarningKind = "Server partly unreadable"
	// WarningFacts: a part of the server's facts is larger than its limit, and kept in part: see
	// MaxHardwareSize and the others. Cleared when all parts fit.
	WarningFacts WarningKind = "Server facts too large"
	// WarningBackupImage: the server runs from its backup image, as the version it was updated to
	// did not boot. Cleared when it runs another one.
	WarningBackupImage WarningKind = "Server runs from its backup image"
	// WarningSharedUUID: the server has the system UUID of another one, which is another machine.
	// Cleared when no other server has it; those that know why acknowledge it.
	WarningSharedUUID WarningKind = "System UUID shared"
	// WarningInventory: a server, or its cluster, has more objects than inventory.Options let be kept. Cleared when a
	// scan finds no more than that.
	WarningInventory WarningKind = "Inventory truncated"
	// WarningFleet: so many servers fail at once that the control plane suspects itself: nobody
	// becomes offline. Cleared when most of those that are asked answer.
	WarningFleet WarningKind = "Fleet unreachable"
	// WarningLocal: the control plane could not poll servers for a reason of its own, as that it may open no more
	// files. Nothing is concluded of them. Cleared when that did not happen for a minute.
	WarningLocal WarningKind = "Control plane can't poll"
	// WarningUpdateSettings: the server's update settings are not those of a managed server, and
	// are put back. Cleared when they are.
	WarningUpdateSettings WarningKind = "Server update settings changed"
	// WarningUpdates: the last refresh of the update feed failed, or some updates could not be fetched. Cleared when one
	// ends without that.
	WarningUpdates WarningKind = "Updates not fetched"
	// WarningSigner: the certificate that signs updates ends within 90 days, or has ended. Cleared when an index is signed
	// by one that lasts longer.
	WarningSigner WarningKind = "Update signing certificate ends"
	// WarningUpdateHeld: a new update lacks what servers or tokens of the default channel need, and is not offered there.
	// Cleared when it is, or another one has what is needed.
	WarningUpdateHeld WarningKind = "Update held back"
	// WarningBehind: polls don't keep up with their schedule. Cleared when they do.
	WarningBehind WarningKind = "Polling behind schedule"
)

// Warned is a warning as it is raised.
type Warned struct {
	Kind    WarningKind
	Message string
}

// Warning is something an operator should know, for as long as it holds: it goes away by
// itself when its cause is gone. Its coming and going are events.
type Warning struct {
	// UUID names the warning; later ones sort behind earlier ones.
	UUID string
	Kind WarningKind
	// Server is the name of the server it is about; empty: the fleet.
	Server   string
	ServerID string
	Message  string
	// FirstSeen and LastSeen are when there was cause for it, and Count how often.
	FirstSeen time.Time
	LastSeen  time.Time
	Count     int
	// Acknowledged is for operators to set: somebody knows.
	Acknowledged bool
	LastUpdated  time.Time
}

// warningSubject is what there is one warning of at a time.
type warningSubject struct {
	kind     WarningKind
	serverID string
}

func (s warningSubject) key() storage.Key { return storage.StringKey(s.serverID).Str(string(s.kind)) }

func (w *Warning) subject() warningSubject { return warningSubject{w.Kind, w.ServerID} }

// raise stores a warning, unless it is there. A warning of the fleet has no server.
func (r *Registry) raise(tx *writing, server, id string, w Warned, at time.Time) error {
	known, err := warningsBySubject.Find(tx, warningSubject{w.Kind, id}.key())
	if err != nil || known != nil {
		return err
	}
	row := Warning{UUID: newUUID(), Kind: w.Kind, ServerID: id, Message: w.Message, FirstSeen: at, LastSeen: at, LastUpdated: at, Count: 1}
	if err := warnings.Put(tx, &row); err != nil {
		return err
	}
	tx.raised = append(tx.raised, row)
	return r.record(tx, Event{At: at, Kind: EventWarningRaised, Server: server, Reason: truncate.Text(fmt.Sprintf("%s: %s", w.Kind, w.Message), maxReason)})
}

// clear removes a warning, if it is there.
func (r *Registry) clear(tx *writing, server, id string, kind WarningKind, at time.Time, why string) error {
	known, err := warningsBySubject.Find(tx, warningSubject{kind, id}.key())
	if err != nil || known == nil {
		return err
	}
	if err := warnings.Delete(tx, storage.StringKey(known.UUID)); err != nil {
		return err
	}
	tx.closed = append(tx.closed, known.subject())
	return r.record(tx, Event{At: at, Kind: EventWarningCleared, Server: server, Reason: fmt.Sprintf("%s: %s", kind, why)})
}

// clearAll removes all warnings of a server that is removed itself.
func (r *Registry) clearAll(tx *writing, server, id string, at time.Time) error {
	var kinds []WarningKind
	for w, err := range warningsBySubject.Scan(tx, storage.Range{Prefix: storage.StringKey(id)}) {
		if err != nil {
			return err
		}
		kinds = append(kinds, w.Kind)
	}
	for _, kind := range kinds {
		if err := r.clear(tx, server, id, kind, at, "the server was removed"); err != nil {
			return err
		}
	}
	return nil
}

// newUUID returns one that sorts by when it was made.
func newUUID() string { return uuid.Must(uuid.NewV7()).String() }

// Warn raises a warning about a server, or, with an empty name, about the fleet; if there is
// one of that kind, it is seen once more. It stays until ClearWarning. Errors: ErrNotFound,
// ErrTooLong. Warnings of the kinds above are cleared as it says there.
func (r *Registry) Warn(ctx context.Context, server string, w Warned) error {
	if err := checkLength("kind of warning", string(w.Kind), MaxLabelLength); err != nil {
		return err
	}
	if w.Kind == "" {
		return fmt.Errorf("warning: a kind is wanted: %w", ErrInvalidName)
	}
	w.Message = truncate.Text(w.Message, maxReason)
	at := now()
	var id string
	raised := false
	err := r.update(ctx, func(tx *writing) (err error) {
		if id, err = serverID(tx, server); err != nil {
			return err
		}
		err = r.raise(tx, server, id, w, at)
		raised = len(tx.raised) > 0
		return err
	})
	switch {
	case err != nil:
		return err
	case raised:
		r.log.WarnContext(ctx, string(w.Kind), "server", server, "message", w.Message)
	default:
		r.memory.repeat(id, w, at)
	}
	return nil
}

// ClearWarning removes the warning of that kind about a server, or, with an empty name, about
// the fleet; if there is none, that is no error. Errors: ErrNotFound: there is no such server.
func (r *Registry) ClearWarning(ctx context.Context, server string, kind WarningKind) error {
	at := now()
	return r.update(ctx, func(tx *writing) error {
		id, err := serverID(tx, server)
		if err != nil {
			return err
		}
		return r.clear(tx, server, id, kind, at, "its cause is gone")
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

// AcknowledgeWarning notes that somebody knows, or takes that back. check, unless nil, is
// called with the warning as it is, and an error of it ends the update: for optimistic
// locking. Errors: ErrNotFound.
func (r *Registry) AcknowledgeWarning(ctx context.Context, id string, acknowledged bool, check func(*Warning) error) error {
	at := now()
	return r.update(ctx, func(tx *writing) error {
		known, err := warnings.Get(tx, storage.StringKey(id))
		if err != nil {
			return notFound("warning", id, err)
		}
		shown, err := r.showWarning(tx, known)
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
		return r.record(tx, Event{At: at, Kind: EventWarningAcknowledged, Server: shown.Server, Reason: fmt.Sprintf("%s: %t", known.Kind, acknowledged)})
	})
}

// showWarning adds to a stored warning the name of its server, and what is not flushed.
func (r *Registry) showWarning(tx storage.ReadTx, stored *Warning) (*Warning, error) {
	out := *stored
	if out.ServerID != "" {
		server, err := byID.Find(tx, storage.StringKey(out.ServerID))
		if err != nil {
			return nil, err
		}
		if server != nil {
			out.Server = server.Name
		}
		if server != nil && out.Kind == WarningSharedUUID { // servers may have been renamed since
			var sharing []*Server
			for other, err := range withSystemUUID(tx, server.SystemUUID) {
				if err != nil {
					return nil, err
				}
				if other.ID != server.ID {
					sharing = append(sharing, other)
				}
				if len(sharing) > maxNamed {
					break // no more are named
				}
			}
			if len(sharing) > 0 {
				out.Message = truncate.Text(sharedMessage(server, sharing), maxReason)
			}
		}
	}
	m := &r.memory
	m.mu.RLock()
	defer m.mu.RUnlock()
	if a := m.open[out.subject()]; a != nil && a.uuid == out.UUID && a.unflushed {
		out.Count, out.LastSeen, out.Message = out.Count+a.count, a.last, a.message
	}
	return &out, nil
}

// Warning returns a warning by its UUID, or ErrNotFound.
func (r *Registry) Warning(ctx context.Context, id string) (out *Warning, err error) {
	err = r.store.View(ctx, func(tx storage.ReadTx) error {
		known, err := warnings.Get(tx, storage.StringKey(id))
		if err != nil {
			return notFound("warning", id, err)
		}
		out, err = r.showWarning(tx, known)
		return err
	})
	return out, err
}

// WarningFilter selects warnings: those that match all that is set. The zero value selects all.
type WarningFilter struct {
	Kind WarningKind
	// Server selects the warnings about the server of that name; ErrNotFound if there is none.
	Server       string
	Acknowledged *bool
}

// WarningPage is a page of warnings.
type WarningPage struct {
	Warnings []*Warning
	// Next is the cursor of the next page; empty on the last.
	Next string
}

// ListWarnings returns a page of the warnings that match, the oldest first. Errors:
// ErrInvalidCursor, ErrNotFound.
func (r *Registry) ListWarnings(ctx context.Context, filter WarningFilter, page Page) (out WarningPage, err error) {
	limit := pageSize(page.Limit)
	err = r.store.View(ctx, func(tx storage.ReadTx) error {
		out = WarningPage{}
		id, err := serverID(tx, filter.Server)
		if err != nil {
			return err
		}
		within, err := page.within(nil)
		if err != nil {
			return err
		}
		found := warnings.Scan(tx, within)
		if id != "" {
			found = r.warningsOf(tx, id, page)
		}
		for w, err := range found {
			if err != nil {
				return err
			}
			if filter.Kind != "" && w.Kind != filter.Kind || filter.Acknowledged != nil && w.Acknowledged != *filter.Acknowledged {
				continue
			}
			if len(out.Warnings) == limit {
				out.Next = encodeCursor(out.Warnings[limit-1].UUID)
				break
			}
			shown, err := r.showWarning(tx, w)
			if err != nil {
				return err
			}
			out.Warnings = append(out.Warnings, shown)
		}
		return nil
	})
	return out, err
}

// warningsOf yields the warnings about a server, the oldest first: there are few.
func (r *Registry) warningsOf(tx storage.ReadTx, id string, page Page) iter.Seq2[*Warning, error] {
	return func(yield func(*Warning, error) bool) {
		after := ""
		if page.Cursor != "" {
			var err error
			if after, err = decodeCursor(page.Cursor); err != nil {
				yield(nil, err)
				return
			}
		}
		var list []*Warning
		for w, err := range warningsBySubject.Scan(tx, storage.Range{Prefix: storage.StringKey(id)}) {
			if err != nil {
				yield(nil, err)
				return
			}
			if w.UUID > after {
				list = append(list, w)
			}
		}
		slices.SortFunc(list, func(a, b *Warning) int { return strings.Compare(a.UUID, b.UUID) })
		for _, w := range list {
			if !yield(w, nil) {
				return
			}
		}
	}
}
