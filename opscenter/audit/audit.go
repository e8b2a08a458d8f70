// Package audit keeps a log of changes: the principal that asked for each change, its time, and its outcome.
//
// The main type is [Log]. New attaches it to the store of a registry. A Log starts no goroutine, so it needs no stop.
//
//	log, err := audit.New(registry, audit.Options{})
//	err = log.Do(ctx, audit.Entry{Action: "network.apply", Server: "server01"}, func(ctx context.Context) error { … })
//
// The principal is that of the context, see opscenter.WithPrincipal. Do stores an entry before the change starts,
// and its outcome after the change ends. Entries persist in the store, up to Options.MaxEntries. New gives
// outcome [Unknown] to the entries that an earlier process left under way.
package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/internal/boundedlog"
	"github.com/opscenter-go/sdk/internal/defaults"
	"github.com/opscenter-go/sdk/internal/page"
	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// Outcome is how a change ended.
type Outcome string

const (
	// UnderWay: the change has not ended.
	UnderWay Outcome = "under way"
	// Done: the change was carried out.
	Done Outcome = "done"
	// Failed: the change was not carried out as a whole. Entry.Error is the reason.
	Failed Outcome = "failed"
	// Unknown: the control plane does not know whether the change was carried out.
	Unknown Outcome = "unknown"
)

// Outcomes lists all outcomes. Read it, never modify it.
var Outcomes = []Outcome{UnderWay, Done, Failed, Unknown}

// Entry is one change. Its texts are stored as the caller gives them, up to MaxText bytes each.
// The caller must leave out secrets.
type Entry struct {
	// Sequence numbers grow, with gaps, for the life of the store, which gives them.
	Sequence uint64 `json:"sequence"`
	// ID is a UUID, version 7.
	ID string `json:"uuid"`
	// By is the principal that asked for the change, see opscenter.Principal. Empty: the embedding program itself.
	By string `json:"by"`
	// Action names the kind of change, such as "network.apply". Server, Cluster and Object name its subject.
	// They are empty for a change without such a subject.
	Action  string `json:"action"`
	Server  string `json:"server,omitempty"`
	Cluster string `json:"cluster,omitempty"`
	Object  string `json:"object,omitempty"`
	// Detail is a text for people.
	Detail string `json:"detail,omitempty"`
	// At is the time, in UTC, at which the entry was stored.
	At      time.Time `json:"at"`
	Outcome Outcome   `json:"outcome"`
	// Error is the reason for outcome Failed or Unknown. It is empty for the other outcomes.
	Error string `json:"error,omitempty"`
	// EndedAt is the time, in UTC, at which the outcome was stored. Zero: the change is under way.
	EndedAt time.Time `json:"ended_at,omitzero"`
}

// Limits.
const (
	// DefaultMaxEntries is the default of Options.MaxEntries.
	DefaultMaxEntries = 10_000
	// MaxText bounds each text of an entry, in bytes. A longer text is cut to that length, and "…" is appended.
	MaxText = 2000
	// MaxPage bounds the entries that one call of List returns. DefaultPage is the default of Query.Limit.
	MaxPage     = page.MaxSize
	DefaultPage = page.DefaultSize
)

// Options of New.
type Options struct {
	// MaxEntries bounds the stored entries: the newest are kept. Default 10,000. A negative value is invalid.
	MaxEntries int
}

var (
	entries = storage.NewLog("audit", func(e *Entry) *uint64 { return &e.Sequence })
	byID    = entries.Index("id", func(e *Entry) []storage.Key { return []storage.Key{storage.StringKey(e.ID)} })
	open    = entries.Index("open", func(e *Entry) []storage.Key {
		if e.Outcome != UnderWay {
			return nil
		}
		return []storage.Key{storage.StringKey("")}
	})
)

// retired is where earlier releases counted entries.
var retired = boundedlog.NewRetired("audit", "audit_counters")

// Log is the audit log of a registry. All methods may be called concurrently.
// Do, Note, End and EndIn of a nil Log store nothing.
type Log struct {
	registry *opscenter.Registry
	options  Options
	due      *boundedlog.Due
}

// New returns the log of a registry's store. It gives outcome Unknown to all entries that are under way,
// so one process at a time may use the log of a store. It also deletes the entries beyond options.MaxEntries.
// Errors: opscenter.ErrInvalidOptions, and those of the store.
func New(registry *opscenter.Registry, options Options) (*Log, error) {
	if err := defaults.Fill(opscenter.ErrInvalidOptions, defaults.Of("MaxEntries", &options.MaxEntries, DefaultMaxEntries)); err != nil {
		return nil, err
	}
	l := &Log{registry: registry, options: options, due: boundedlog.NewDue(options.MaxEntries)}
	ctx := context.Background()
	if err := registry.Store().Attach(ctx, entries.Schema()); err != nil {
		return nil, err
	}
	return l, errors.Join(retired.Clear(ctx, registry.Store()), l.endUnfinished(ctx), l.trim(ctx))
}

// entriesPerTransaction bounds the entries that one transaction changes.
const entriesPerTransaction = 200

// step is how many entries one transaction may change, each with two index entries.
func (l *Log) step() int { return storage.LimitsOf(l.registry.Store()).Rows(entriesPerTransaction, 3) }

// endUnfinished gives outcome Unknown to the entries that are under way.
func (l *Log) endUnfinished(ctx context.Context) error {
	for {
		n, step := 0, l.step()
		err := l.registry.Write(ctx, func(tx *opscenter.Tx) error {
			n = 0
			var list []*Entry
			for e, err := range open.Scan(tx, storage.Range{}) {
				if err != nil {
					return err
				}
				if list = append(list, e); len(list) == step {
					break
				}
			}
			for _, e := range list {
				changed := *e
				changed.Outcome, changed.Error, changed.EndedAt = Unknown, "the control plane stopped before the change ended", tx.Now()
				if err := entries.Put(tx, &changed); err != nil {
					return err
				}
			}
			n = len(list)
			return nil
		})
		if err != nil || n < step {
			return err
		}
	}
}

// trim deletes the entries over Options.MaxEntries.
func (l *Log) trim(ctx context.Context) (err error) {
	failed := l.due.Look()
	defer func() {
		if err != nil {
			failed()
		}
	}()
	var surplus []uint64
	err = l.registry.Read(ctx, func(tx *opscenter.Snapshot) (err error) {
		surplus, err = boundedlog.Surplus(entries.Scan(tx, storage.Range{Reverse: true}), func(e *Entry) (uint64, []boundedlog.Share) {
			return e.Sequence, []boundedlog.Share{{Max: l.options.MaxEntries}}
		})
		return err
	})
	if err != nil {
		return err
	}
	for step := range slices.Chunk(surplus, l.step()) {
		err := l.registry.Write(ctx, func(tx *opscenter.Tx) error {
			for _, sequence := range step {
				if err := entries.Delete(tx, storage.UintKey(sequence)); err != nil && !errors.Is(err, storage.ErrNotFound) {
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

// add stores a new entry.
func (l *Log) add(ctx context.Context, e Entry) (*Entry, error) {
	e.ID, e.By, e.Outcome = uuid.Must(uuid.NewV7()).String(), truncate.Text(opscenter.Principal(ctx), MaxText), UnderWay
	for _, text := range []*string{&e.Action, &e.Server, &e.Cluster, &e.Object, &e.Detail} {
		*text = truncate.Text(*text, MaxText)
	}
	err := l.registry.Write(ctx, func(tx *opscenter.Tx) error {
		e.At = tx.Now()
		return entries.Append(tx, &e)
	})
	if err == nil && l.due.Appended(1) {
		if err := l.trim(context.WithoutCancel(ctx)); err != nil {
			l.registry.Options().Logger.ErrorContext(ctx, "surplus audit entries could not be deleted, and stay until the next entry", "error", err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return &e, nil
}

type entryKey struct{}

// running is an entry whose change is being carried out.
type running struct {
	id string
	// endsLater: the change goes on after Do returns.
	endsLater atomic.Bool
}

// ID returns the ID of the entry to which changes in this context belong. Empty: there is none.
func ID(ctx context.Context) string {
	if r, ok := ctx.Value(entryKey{}).(*running); ok {
		return r.id
	}
	return ""
}

// Later marks a change that goes on after the function of Do has returned. If that function returns nil,
// Do leaves the entry under way, and the caller must call End when the change ends. ctx is the
// context that Do passed to the function; Later does nothing in any other context.
func Later(ctx context.Context) {
	if r, ok := ctx.Value(entryKey{}).(*running); ok {
		r.endsLater.Store(true)
	}
}

// With returns a context in which changes belong to the entry with that ID. A caller that resumes a change
// after a restart uses it. An empty ID returns ctx as it is.
func With(ctx context.Context, id string) context.Context {
	if id == "" {
		return ctx
	}
	return context.WithValue(ctx, entryKey{}, &running{id: id})
}

// endTimeout bounds the time that storing an outcome may take.
const endTimeout = 10 * time.Second

// Do records an entry, runs fn, and records its outcome. The caller sets Action, Server, Cluster, Object and Detail
// of the entry; Do sets the other fields. The outcome follows from fn's error as End describes; a panic of
// fn is outcome Unknown.
//
// fn's context carries the entry. A Do within fn adds to that entry and stores none of its own:
// it appends its Detail, and fills in Server, Cluster and Object where they are empty.
//
// Do returns fn's error. If the entry can't be stored, Do returns the store's error, and fn does not run.
// If the outcome can't be stored and fn succeeded, Do returns the store's error. On a nil Log, Do only runs fn.
func (l *Log) Do(ctx context.Context, e Entry, fn func(context.Context) error) (err error) {
	if l == nil {
		return fn(ctx)
	}
	if id := ID(ctx); id != "" {
		if err := l.edit(ctx, id, func(known *Entry) { known.merge(e) }); err != nil {
			return err
		}
		return fn(ctx)
	}
	added, err := l.add(ctx, e)
	if err != nil {
		return err
	}
	failure := errAbandoned
	current := &running{id: added.ID}
	defer func() { // also if fn panics
		if failure == nil && current.endsLater.Load() {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		if ended := l.End(ctx, added.ID, failure); err == nil {
			err = ended
		}
	}()
	failure = fn(context.WithValue(ctx, entryKey{}, current))
	return failure
}

// errAbandoned is the outcome of a change that panicked.
var errAbandoned = fmt.Errorf("the change was abandoned: %w", opscenter.ErrOutcomeUnknown)

// merge fills in the empty subjects of e from other, and appends its detail.
func (e *Entry) merge(other Entry) {
	for _, pair := range []struct {
		into *string
		text string
	}{{&e.Server, other.Server}, {&e.Cluster, other.Cluster}, {&e.Object, other.Object}} {
		if *pair.into == "" {
			*pair.into = truncate.Text(pair.text, MaxText)
		}
	}
	switch {
	case e.Detail == "":
		e.Detail = truncate.Text(other.Detail, MaxText)
	case other.Detail != "" && !strings.Contains(e.Detail, other.Detail):
		e.Detail = truncate.Text(e.Detail+"; "+other.Detail, MaxText)
	}
}

// Note appends to the detail of the entry that ctx carries, see ID. Without such an entry it does nothing.
func (l *Log) Note(ctx context.Context, detail string) error {
	id := ID(ctx)
	if l == nil || id == "" {
		return nil
	}
	return l.edit(ctx, id, func(e *Entry) { e.merge(Entry{Detail: detail}) })
}

// End records the outcome of an entry's change: Done if failure is nil, else Failed with its text. If failure is
// opscenter.ErrOutcomeUnknown, or the error of a context that ended, the outcome is Unknown.
//
// A later call replaces outcome Unknown. Outcomes Done and Failed stay. An ID that is empty or
// no longer in the log is no error.
func (l *Log) End(ctx context.Context, id string, failure error) error {
	if l == nil || id == "" {
		return nil
	}
	return l.registry.Write(ctx, func(tx *opscenter.Tx) error { return l.EndIn(tx, id, failure) })
}

// EndIn is End in the caller's transaction, which stores the outcome together with the change itself.
func (l *Log) EndIn(tx *opscenter.Tx, id string, failure error) error {
	if l == nil || id == "" {
		return nil
	}
	return editIn(tx, id, func(e *Entry) { e.end(tx.Now(), failure) })
}

func (e *Entry) end(at time.Time, failure error) {
	if e.Outcome == Done || e.Outcome == Failed {
		return
	}
	e.Outcome, e.Error, e.EndedAt = Done, "", at
	if failure == nil {
		return
	}
	e.Outcome, e.Error = Failed, truncate.Text(failure.Error(), MaxText)
	if errors.Is(failure, opscenter.ErrOutcomeUnknown) || errors.Is(failure, context.Canceled) || errors.Is(failure, context.DeadlineExceeded) {
		e.Outcome = Unknown
	}
}

func (l *Log) edit(ctx context.Context, id string, change func(*Entry)) error {
	return l.registry.Write(ctx, func(tx *opscenter.Tx) error { return editIn(tx, id, change) })
}

func editIn(tx *opscenter.Tx, id string, change func(*Entry)) error {
	known, err := find(tx, id)
	if err == nil && known != nil {
		changed := *known
		if change(&changed); changed != *known {
			err = entries.Put(tx, &changed)
		}
	}
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	return nil
}

// find returns the entry with an ID; nil: there is none.
func find(tx storage.ReadTx, id string) (*Entry, error) {
	for e, err := range byID.Scan(tx, storage.Range{Prefix: storage.StringKey(id)}) {
		return e, err
	}
	return nil, nil
}
