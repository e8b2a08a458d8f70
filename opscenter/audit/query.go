package audit

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/internal/page"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// Query selects entries. The zero value selects all, the newest first.
type Query struct {
	// Each of these selects entries with exactly that value; empty: any.
	By, Action, Server, Cluster string
	Outcome                     Outcome
	// Since and Until bound Entry.At; zero: no bound. Since is inclusive, Until is exclusive.
	Since, Until time.Time
	// Before selects entries with a smaller sequence number, or with a greater one if Oldest is set. To read
	// the next page, set it to Page.Next. Zero: from the start.
	Before uint64
	// Oldest returns the oldest entries first.
	Oldest bool
	// Limit bounds the entries of a page. Default DefaultPage, at most MaxPage.
	Limit int
}

func (q *Query) matches(e *Entry) bool {
	return (q.By == "" || q.By == e.By) && (q.Action == "" || q.Action == e.Action) && (q.Server == "" || q.Server == e.Server) &&
		(q.Cluster == "" || q.Cluster == e.Cluster) && (q.Outcome == "" || q.Outcome == e.Outcome) &&
		(q.Since.IsZero() || !e.At.Before(q.Since)) && (q.Until.IsZero() || e.At.Before(q.Until))
}

// Page is a page of entries.
type Page struct {
	// Entries is empty if no entry matches.
	Entries []Entry
	// Next is the Query.Before of the next page; 0: this page is the last.
	Next uint64
}

// List returns one page of the entries that match. Errors: opscenter.ErrInvalidFilter for an unknown
// outcome, and those of the store.
func (l *Log) List(ctx context.Context, q Query) (out Page, err error) {
	if q.Outcome != "" && !slices.Contains(Outcomes, q.Outcome) {
		return out, fmt.Errorf("outcome %.40q is not known: %w", q.Outcome, opscenter.ErrInvalidFilter)
	}
	limit := page.Size(q.Limit)
	err = l.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		out = Page{}
		within := storage.Range{Reverse: !q.Oldest}
		if q.Before > 0 {
			within.After = storage.UintKey(q.Before)
		}
		for e, err := range entries.Scan(s, within) {
			switch {
			case err != nil:
				return err
			case !q.matches(e):
				continue
			case len(out.Entries) == limit:
				out.Next = out.Entries[limit-1].Sequence
				return nil
			}
			out.Entries = append(out.Entries, *e)
		}
		return ctx.Err()
	})
	return out, err
}

// Get returns the entry with an ID. Errors: opscenter.ErrNotFound, and those of the store.
func (l *Log) Get(ctx context.Context, id string) (out *Entry, err error) {
	err = l.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		known, err := find(s, id)
		if err == nil && known == nil {
			err = fmt.Errorf("audit entry %.40q: %w", id, opscenter.ErrNotFound)
		}
		if err == nil {
			e := *known
			out = &e
		}
		return err
	})
	return out, err
}

// unfinishedAt returns the entries up to sequence number after, the oldest first, that had not ended when that entry
// was stored.
func (l *Log) unfinishedAt(ctx context.Context, after uint64) (out []Entry, err error) {
	if after == 0 {
		return nil, nil
	}
	err = l.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		out = nil
		last, err := entries.Find(s, storage.UintKey(after))
		if err != nil || last == nil {
			return err // the log dropped this entry, and all entries before it
		}
		for e, err := range entries.Scan(s, storage.Range{}) {
			if err != nil {
				return err
			}
			if e.Sequence > after {
				break
			}
			if e.Outcome == UnderWay || !e.EndedAt.Before(last.At) {
				out = append(out, *e)
			}
		}
		return nil
	})
	return out, err
}

// Watch yields entries and their changes, in this order:
//
//  1. Entries up to sequence number after that had not ended when that entry was stored. Their outcome may have changed.
//  2. All entries after sequence number after.
//  3. Each new entry, and each entry again when its outcome or detail changes.
//
// Several changes of one entry may be yielded as one. A reader that falls far behind gets 1 and 2 again.
// Watch ends when the caller stops reading, or with an error: that of ctx or of the store.
func (l *Log) Watch(ctx context.Context, after uint64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		revision, err := l.registry.Revision(ctx)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		replay := func() bool {
			unfinished, err := l.unfinishedAt(ctx, after)
			if err != nil {
				yield(Entry{}, err)
				return false
			}
			for _, e := range unfinished {
				if !yield(e, nil) {
					return false
				}
			}
			for from := after; ; {
				page, err := l.List(ctx, Query{Oldest: true, Before: from, Limit: MaxPage})
				if err != nil {
					yield(Entry{}, err)
					return false
				}
				for _, e := range page.Entries {
					if !yield(e, nil) {
						return false
					}
				}
				if from = page.Next; from == 0 {
					return true
				}
			}
		}
		if !replay() {
			return
		}
		for batch, err := range l.registry.Store().Watch(ctx, revision, entries.Name()) {
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if batch.Reset {
				if !replay() {
					return
				}
				continue
			}
			for _, change := range batch.Changes {
				var found *Entry
				err := l.registry.Read(ctx, func(s *opscenter.Snapshot) (err error) {
					found, err = entries.Find(s, change.Key)
					return err
				})
				if err != nil {
					yield(Entry{}, err)
					return
				}
				if found != nil && !yield(*found, nil) {
					return
				}
			}
		}
	}
}
