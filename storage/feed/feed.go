// Package feed is the change feed of storage backends, of which both of the SDK make use: a bounded
// log of what was committed, from which any number of readers follow at their own pace. A backend
// of your own calls New when it opens, Publish at each commit, Close at its end, and has Watch as
// its Store.Watch. All methods may be called concurrently.
package feed

import (
	"context"
	"iter"
	"slices"
	"sync"

	"github.com/opscenter-go/sdk/storage"
)

const (
	// DefaultKeep is how many changes a Feed remembers, at least; a reader further behind is reset.
	DefaultKeep = 64 << 10
	// maxBatch is how many changes one batch looks at.
	maxBatch = 4096
)

// Feed keeps the last changes of a store. The zero value is not usable; see New.
type Feed struct {
	mu     sync.Mutex
	keep   int
	log    []entry       // ascending by revision
	floor  uint64        // all changes after this revision are in log
	head   uint64        // the last published revision
	wake   chan struct{} // closed at the next publication
	closed bool
	// readers are the positions of those who watch.
	readers map[*uint64]bool
}

type entry struct {
	revision uint64
	change   storage.Change
}

// New returns a feed that begins at revision. keep 0 means DefaultKeep.
func New(revision uint64, keep int) *Feed {
	if keep <= 0 {
		keep = DefaultKeep
	}
	return &Feed{keep: keep, floor: revision, head: revision, wake: make(chan struct{}), readers: map[*uint64]bool{}}
}

// Publish appends the changes of a commit, and calls visible, which makes the commit visible. So a reader that has seen a
// revision can watch from it, and a revision that a Watch names can be read. Calls must come in commit order: the backend
// calls Publish under the lock that orders its commits. Publish never waits for a reader.
func (f *Feed) Publish(revision uint64, changes []storage.Change, visible func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	visible()
	if f.closed {
		return
	}
	for _, change := range changes {
		f.log = append(f.log, entry{revision, change})
	}
	f.head = revision
	// Forget in large steps, and whole revisions only.
	if len(f.log) > 2*f.keep {
		cut := len(f.log) - f.keep
		for cut < len(f.log) && f.log[cut].revision == f.log[cut-1].revision {
			cut++
		}
		f.floor = f.log[cut-1].revision
		f.log = slices.Clone(f.log[cut:])
	}
	close(f.wake)
	f.wake = make(chan struct{})
}

// Close ends every reader with storage.ErrClosed, after what was published before.
func (f *Feed) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.closed = true
		close(f.wake)
	}
}

// Readers returns how many watch, and how many revisions the slowest of them is behind.
func (f *Feed) Readers() (n int, lag uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for reached := range f.readers {
		if f.head > *reached {
			lag = max(lag, f.head-*reached)
		}
	}
	return len(f.readers), lag
}

// Watch implements storage.Store.Watch.
func (f *Feed) Watch(ctx context.Context, since uint64, tables ...string) iter.Seq2[storage.Batch, error] {
	return f.WatchUntil(ctx, nil, since, tables...)
}

// WatchUntil is Watch for one of several stores that share a feed: when end is closed, it ends with
// storage.ErrClosed, after all that was published before. A nil end is never closed.
func (f *Feed) WatchUntil(ctx context.Context, end <-chan struct{}, since uint64, tables ...string) iter.Seq2[storage.Batch, error] {
	return func(yield func(storage.Batch, error) bool) {
		position := since
		reached := new(uint64)
		defer func() {
			f.mu.Lock()
			delete(f.readers, reached)
			f.mu.Unlock()
		}()
		for {
			ended := false
			select {
			case <-end:
				ended = true
			default:
			}
			batch, wake, closed := f.next(position, tables, reached)
			if batch.Revision != position || batch.Reset {
				position = batch.Revision
				if !batch.Reset && len(batch.Changes) == 0 {
					continue // nothing in these tables; a context that has ended ends it behind the last change
				}
				if !yield(batch, nil) {
					return
				}
				if err := ctx.Err(); err != nil {
					yield(storage.Batch{}, err)
					return
				}
				continue
			}
			if closed || ended {
				yield(storage.Batch{}, storage.ErrClosed)
				return
			}
			select {
			case <-wake:
			case <-end:
			case <-ctx.Done():
				yield(storage.Batch{}, ctx.Err())
				return
			}
		}
	}
}

// next returns what comes after position, at most maxBatch changes and never half a revision.
func (f *Feed) next(position uint64, tables []string, reached *uint64) (batch storage.Batch, wake <-chan struct{}, closed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*reached = position
	f.readers[reached] = true
	if position < f.floor || position > f.head {
		return storage.Batch{Revision: f.head, Reset: true}, f.wake, f.closed
	}
	first, _ := slices.BinarySearchFunc(f.log, position+1, func(e entry, revision uint64) int {
		if e.revision < revision {
			return -1
		}
		return 1
	})
	end := min(first+maxBatch, len(f.log))
	for end < len(f.log) && f.log[end].revision == f.log[end-1].revision {
		end++
	}
	batch.Revision = f.head
	if end < len(f.log) {
		batch.Revision = f.log[end-1].revision
	}
	// From the newest to the oldest, so that each key stands where it changed last.
	seen := make(map[string]bool)
	for i := end - 1; i >= first; i-- {
		change := f.log[i].change
		if len(tables) > 0 && !slices.Contains(tables, change.Table) {
			continue
		}
		id := change.Table + "\x00" + string(change.Key)
		if !seen[id] {
			seen[id] = true
			batch.Changes = append(batch.Changes, change)
		}
	}
	slices.Reverse(batch.Changes)
	return batch, f.wake, f.closed
}
