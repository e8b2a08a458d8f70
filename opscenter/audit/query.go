package audit

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// Query selects entries. The zero value selects all, the newest first.
type Query struct {
	By, Action, Server, Cluster string
	Outcome                     Outcome
	// Since and Until bound when it was asked for; zero: no bound. Until is exclusive.
	Since, Until time.Time
	// Before selects entries with a smaller sequence number: the Next of the page before.
	// Oldest turns the order around, and Before into its opposite.
	Before uint64
	Oldest bool
	// Limit is how many are returned at most. Default 100, at most 1000.
	Limit int
}

func (q *Query) matches(e *Entry) bool {
	return (q.By == "" || q.By == e.By) && (q.Action == "" || q.Action == e.Action) && (q.Server == "" || q.Server == e.Server) &&
		(q.Cluster == "" || q.Cluster == e.Cluster) && (q.Outcome == "" || q.Outcome == e.Outcome) &&
		(q.Since.IsZero() || !e.At.Before(q.Since)) && (q.Until.IsZero() || e.At.Before(q.Until))
}

// Page is a page of entries.
type Page struct {
	Entries []Entry
	// Next goes on, as Query.Before; 0: that was all.
	Next uint64
}

// List returns entries. Errors: opscenter.ErrInvalidFilter.
func (l *Log) List(ctx context.Context, q Query) (out Page, err error) {
	if q.Outcome != "" && !slices.Contains(Outcomes, q.Outcome) {
		return out, fmt.Errorf("outcome %.40q is not known: %w", q.Outcome, opscenter.ErrInvalidFilter)
	}
	limit := q.Limit
	if limit <= 0 {
		limit = DefaultPage
	}
	limit = min(limit, MaxPage)
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

// Get returns an entry, or opscenter.ErrNotFound.
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

// late returns the entries up to a sequence number, the oldest first, whose outcome was not known yet when that
// one was made.
func (l *Log) late(ctx context.Context, after uint64) (out []Entry, err error) {
	if after == 0 {
		return nil, nil
	}
	err = l.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		out = nil
		last, err := entries.Find(s, storage.UintKey(after))
		if err != nil || last == nil {
			return err // it was dropped, and those before it as well
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

// Watch yields the entries after sequence number after, before them those that were under way at the entry of
// that number or have ended since, as who has seen it may not know how they ended; then each new one, and each
// again when its outcome or detail changes. What changed more than once meanwhile is yielded once. It
// ends with ctx's error.
func (l *Log) Watch(ctx context.Context, after uint64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		revision, err := l.registry.Revision(ctx)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		all := func() bool {
			late, err := l.late(ctx, after)
			if err != nil {
				yield(Entry{}, err)
				return false
			}
			for _, e := range late {
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
		if !all() {
			return
		}
		for batch, err := range l.registry.Store().Watch(ctx, revision, entries.Name()) {
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if batch.Reset {
				if !all() {
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
