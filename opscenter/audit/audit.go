// Package audit keeps a log of who changed what, when, and how that ended.
//
//	log, err := audit.New(registry, audit.Options{})
//	err = log.Do(ctx, audit.Entry{Action: "network.apply", Server: "server01"}, func(ctx context.Context) error { … })
//
// Who asks is the principal of the context, see opscenter.By. An entry is stored before
// anything is done, and its outcome after: what the control plane did not live to see ended
// has outcome unknown.
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
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// Outcome is how a change ended.
type Outcome string

const (
	// UnderWay: it has not ended.
	UnderWay Outcome = "under way"
	Done     Outcome = "done"
	Failed   Outcome = "failed"
	// Unknown: whether it was carried out is not known.
	Unknown Outcome = "unknown"
)

// Outcomes lists all outcomes.
var Outcomes = []Outcome{UnderWay, Done, Failed, Unknown}

// Entry is a change that somebody asked for. There are no secrets in it.
type Entry struct {
	// Sequence numbers grow, with gaps, for the life of the store, which gives them.
	Sequence uint64 `json:"sequence"`
	ID       string `json:"uuid"`
	// By is the principal, from the authorizer; empty: the embedding program itself.
	By string `json:"by"`
	// Action is what was asked for, Server, Cluster and Object to what, as far as it is about one.
	Action  string `json:"action"`
	Server  string `json:"server,omitempty"`
	Cluster string `json:"cluster,omitempty"`
	Object  string `json:"object,omitempty"`
	// Detail says more, for people.
	Detail  string    `json:"detail,omitempty"`
	At      time.Time `json:"at"`
	Outcome Outcome   `json:"outcome"`
	// Error is why it failed, or why nobody knows.
	Error   string    `json:"error,omitempty"`
	EndedAt time.Time `json:"ended_at,omitzero"`
}

// Limits.
const (
	DefaultMaxEntries = 10_000
	// MaxText bounds each text of an entry, in bytes; longer ones are cut.
	MaxText = 2000
	// MaxPage bounds what one call of List returns, DefaultPage is how much it does.
	MaxPage     = 1000
	DefaultPage = 100
)

// Options of New.
type Options struct {
	// MaxEntries is how many are kept, the newest. Default 10,000.
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

// Log is the log. All methods may be called concurrently.
type Log struct {
	registry *opscenter.Registry
	options  Options
	due      *boundedlog.Due
}

// New returns the log of a registry's store. What an earlier process left under way has outcome unknown from now on.
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
	return l, errors.Join(retired.Clear(ctx, registry.Store()), l.leftovers(ctx), l.trim(ctx))
}

// step is how many entries one transaction changes.
const step = 200

func (l *Log) leftovers(ctx context.Context) error {
	for {
		n := 0
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
				changed.Outcome, changed.Error, changed.EndedAt = Unknown, "the control plane ended before it did", now()
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
func (l *Log) trim(ctx context.Context) error {
	l.due.Looked()
	var surplus []uint64
	err := l.registry.Read(ctx, func(tx *opscenter.Snapshot) (err error) {
		surplus, err = boundedlog.Surplus(entries.Scan(tx, storage.Range{Reverse: true}), func(e *Entry) (uint64, []boundedlog.Share) {
			return e.Sequence, []boundedlog.Share{{Max: l.options.MaxEntries}}
		})
		return err
	})
	if err != nil {
		return err
	}
	for step := range slices.Chunk(surplus, step) {
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

func now() time.Time { return time.Now().UTC().Round(0) }

func limited(text string) string {
	text = strings.ToValidUTF8(text, "�")
	if len(text) > MaxText {
		text = strings.ToValidUTF8(text[:MaxText], "") + "…"
	}
	return text
}

// add stores a new entry.
func (l *Log) add(ctx context.Context, e Entry) (*Entry, error) {
	e.ID, e.By, e.At, e.Outcome = uuid.Must(uuid.NewV7()).String(), limited(opscenter.Principal(ctx)), now(), UnderWay
	for _, text := range []*string{&e.Action, &e.Server, &e.Cluster, &e.Object, &e.Detail} {
		*text = limited(*text)
	}
	err := l.registry.Write(ctx, func(tx *opscenter.Tx) error { return entries.Append(tx, &e) })
	if err == nil && l.due.Appended(1) {
		err = l.trim(context.WithoutCancel(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return &e, nil
}

type entryKey struct{}

// running is an entry whose change is being carried out.
type running struct {
	id    string
	later atomic.Bool
}

// ID returns the entry that what is done in a context belongs to; empty: none.
func ID(ctx context.Context) string {
	if r, ok := ctx.Value(entryKey{}).(*running); ok {
		return r.id
	}
	return ""
}

// Later tells the Do around that what it logs has only begun when it returns without an error:
// somebody else calls End.
func Later(ctx context.Context) {
	if r, ok := ctx.Value(entryKey{}).(*running); ok {
		r.later.Store(true)
	}
}

// With returns a context in which what is done belongs to an entry, as it was taken up after a
// restart, say.
func With(ctx context.Context, id string) context.Context {
	if id == "" {
		return ctx
	}
	return context.WithValue(ctx, entryKey{}, &running{id: id})
}

// endTimeout bounds the wait for the store to take an outcome.
const endTimeout = 10 * time.Second

// Do logs what do does: that it was asked for, before, and how it ended, after. What it calls
// belongs to the same entry: a Do within another adds what it says in its Detail to that one,
// and where that one has no Server, Cluster or Object its own. An entry that can't be stored
// is an error, and nothing is done then. A nil Log does without.
func (l *Log) Do(ctx context.Context, e Entry, do func(context.Context) error) (err error) {
	if l == nil {
		return do(ctx)
	}
	if id := ID(ctx); id != "" {
		if err := l.edit(ctx, id, func(known *Entry) { known.merge(e) }); err != nil {
			return err
		}
		return do(ctx)
	}
	added, err := l.add(ctx, e)
	if err != nil {
		return err
	}
	failure := errAbandoned
	current := &running{id: added.ID}
	defer func() { // also if it panics
		if failure == nil && current.later.Load() {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		if ended := l.End(ctx, added.ID, failure); err == nil {
			err = ended
		}
	}()
	failure = do(context.WithValue(ctx, entryKey{}, current))
	return failure
}

var errAbandoned = fmt.Errorf("it was abandoned: %w", opscenter.ErrOutcomeUnknown)

func (e *Entry) merge(other Entry) {
	for _, pair := range []struct {
		into *string
		text string
	}{{&e.Server, other.Server}, {&e.Cluster, other.Cluster}, {&e.Object, other.Object}} {
		if *pair.into == "" {
			*pair.into = limited(pair.text)
		}
	}
	switch {
	case e.Detail == "":
		e.Detail = limited(other.Detail)
	case other.Detail != "" && !strings.Contains(e.Detail, other.Detail):
		e.Detail = limited(e.Detail + "; " + other.Detail)
	}
}

// Note adds to the detail of the entry that what is done in ctx belongs to; without one it
// does nothing.
func (l *Log) Note(ctx context.Context, detail string) error {
	id := ID(ctx)
	if l == nil || id == "" {
		return nil
	}
	return l.edit(ctx, id, func(e *Entry) { e.merge(Entry{Detail: detail}) })
}

// End notes how the change of an entry ended, once more if somebody knows better by then: one
// that has ended as unknown may still be done. An entry that is dropped, or has an outcome
// that is known, stays as it is. An opscenter.ErrOutcomeUnknown, or the end of a context, is
// outcome unknown.
func (l *Log) End(ctx context.Context, id string, failure error) error {
	if l == nil || id == "" {
		return nil
	}
	return l.edit(ctx, id, func(e *Entry) { e.end(failure) })
}

// EndIn is End in a transaction of the caller's: the outcome is stored with what it is about.
func (l *Log) EndIn(tx storage.WriteTx, id string, failure error) error {
	if l == nil || id == "" {
		return nil
	}
	return editIn(tx, id, func(e *Entry) { e.end(failure) })
}

func (e *Entry) end(failure error) {
	if e.Outcome == Done || e.Outcome == Failed {
		return
	}
	e.Outcome, e.Error, e.EndedAt = Done, "", now()
	if failure == nil {
		return
	}
	e.Outcome, e.Error = Failed, limited(failure.Error())
	if errors.Is(failure, opscenter.ErrOutcomeUnknown) || errors.Is(failure, context.Canceled) || errors.Is(failure, context.DeadlineExceeded) {
		e.Outcome = Unknown
	}
}

func (l *Log) edit(ctx context.Context, id string, change func(*Entry)) error {
	return l.registry.Write(ctx, func(tx *opscenter.Tx) error { return editIn(tx, id, change) })
}

func editIn(tx storage.WriteTx, id string, change func(*Entry)) error {
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
