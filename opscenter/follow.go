package opscenter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opscenter-go/sdk/opscenter/internal/presence"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
)

// The presence follows the store's Watch of states and warnings. This Registry may have written them, or another one over
// the same store. The Registry catches up after its own writes to these tables, before it records observations, and when it
// counts. It needs no goroutine for that.

// following is the revision up to which the presence has followed the store.
type following struct {
	mu       sync.Mutex // held by the goroutine that catches up
	revision uint64
	// sometimes is when followSometimes last followed, by presence.Elapsed.
	sometimes atomic.Int64
}

// followInterval is the least time between two looks at the store for the sake of changes of another Registry. A program
// that calls Maintain after each poll pays for no more.
const followInterval = 15 * time.Second

// followSometimes is follow, at most once in followInterval.
func (r *Registry) followSometimes(ctx context.Context) {
	now, last := int64(r.presence.Elapsed()), r.following.sometimes.Load()
	if now-last >= int64(followInterval) && r.following.sometimes.CompareAndSwap(last, now) {
		r.follow(ctx)
	}
}

// isFollowed reports whether the presence follows a table.
func isFollowed(table string) bool { return table == states.Name() || table == warnings.Name() }

// ended is a context for a Watch that does not wait: it yields the changes that exist, and ends.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// follow lets the presence catch up with the store. It logs a failure; the next call catches up.
func (r *Registry) follow(ctx context.Context) {
	if err := r.catchUp(context.WithoutCancel(ctx)); err != nil && !errors.Is(err, storage.ErrClosed) {
		r.log.ErrorContext(ctx, "counts and contacts are behind the store until the next write or poll", "error", err)
	}
}

func (r *Registry) catchUp(ctx context.Context) error {
	head, err := r.Revision(ctx)
	if err != nil {
		return err
	}
	f := &r.following
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.revision < head {
		told := false
		for batch, err := range r.store.Watch(ended, f.revision, states.Name(), warnings.Name()) {
			if errors.Is(err, context.Canceled) {
				break
			}
			if err == nil {
				err = r.store.View(ctx, func(tx storage.ReadTx) error { return r.applyBatch(tx, batch) })
			}
			if err != nil {
				return err
			}
			f.revision, told = batch.Revision, true
		}
		if !told {
			f.revision = head // no followed table changed up to it
		}
	}
	return nil
}

// applyBatch reads the rows that a batch names, and applies them.
func (r *Registry) applyBatch(tx storage.ReadTx, batch storage.Batch) error {
	if batch.Reset {
		return r.applyAll(tx)
	}
	var changes presence.Changes
	for _, change := range batch.Changes {
		name, _ := change.Key.FirstString()
		if change.Table == states.Name() {
			state, err := states.Find(tx, change.Key)
			switch {
			case err != nil:
				return err
			case state == nil:
				changes.GoneStates = append(changes.GoneStates, name)
			default:
				changes.States = append(changes.States, presence.StateOf(state))
			}
			continue
		}
		found, err := warnings.Find(tx, change.Key)
		switch {
		case err != nil:
			return err
		case found == nil:
			changes.GoneWarnings = append(changes.GoneWarnings, name)
		default:
			changes.Warnings = append(changes.Warnings, found)
		}
	}
	// A batch may name the old name of a server that was renamed, and the next one its new name: it is not gone.
	for _, id := range r.presence.IDs(changes.GoneStates) {
		server, err := byID.Find(tx, storage.StringKey(id))
		if err != nil {
			return err
		}
		if server == nil {
			continue
		}
		state, err := states.Find(tx, nameKey(server.Name))
		if err != nil {
			return err
		}
		if state != nil && state.ID == id {
			changes.States = append(changes.States, presence.StateOf(state))
		}
	}
	r.presence.Apply(changes)
	return nil
}

// applyAll reads all rows, and applies them.
func (r *Registry) applyAll(tx storage.ReadTx) error {
	changes := presence.Changes{All: true}
	for state, err := range states.Scan(tx, rangeAll) {
		if err != nil {
			return err
		}
		changes.States = append(changes.States, presence.StateOf(state))
	}
	for w, err := range warnings.Scan(tx, rangeAll) {
		if err != nil {
			return err
		}
		changes.Warnings = append(changes.Warnings, w)
	}
	r.presence.Apply(changes)
	return nil
}

// loadPresence reads the rows with which the presence begins.
func (r *Registry) loadPresence(ctx context.Context) error {
	r.following.mu.Lock()
	defer r.following.mu.Unlock()
	return r.store.View(ctx, func(tx storage.ReadTx) error {
		r.following.revision = tx.Revision()
		if err := r.applyAll(tx); err != nil {
			return err
		}
		if r.presence.Warnings.IsOpen(r.subject(warning.Fleet, "")) {
			r.presence.Guard.Trip()
		}
		for members, err := range seenMembersTable.Scan(tx, rangeAll) {
			if err != nil {
				return err
			}
			times, err := seenTimesTable.Find(tx, storage.UintKey(members.Bucket))
			if err != nil {
				return err
			}
			r.presence.Flush.LoadSeen(members, times)
		}
		return nil
	})
}

// Counts returns the number of servers by status, detail and type, in no order. It does not scan the store.
func (r *Registry) Counts() []ServerCount {
	r.follow(context.Background())
	servers, _ := r.presence.Counts()
	out := make([]ServerCount, 0, len(servers))
	for c, n := range servers {
		out = append(out, ServerCount{Status: c.Status, StatusDetail: c.Detail, Type: c.Type, Count: n})
	}
	return out
}

// ServerCount is the number of servers with a status, a detail and a type.
type ServerCount struct {
	Status       lifecycle.Status
	StatusDetail lifecycle.StatusDetail
	Type         lifecycle.ServerType
	Count        int
}

// Counts returns the number of open warnings by kind. It does not scan the store.
func (h Warnings) Counts() map[warning.Kind]int {
	h.registry.follow(context.Background())
	_, warnings := h.registry.presence.Counts()
	return warnings
}

// flushStep is how many buckets of last seen times, or 8 times as many warnings, one transaction of a flush writes. The
// store's limits may allow fewer.
const flushStep = 64

// flushSize is how many bytes of last seen times one transaction of a flush writes, apart from the last bucket. It is a
// quarter of the store's limit at most.
const flushSize = 1 << 20

// Flush stores the knowledge that is only in memory: when servers were last seen, and how often each warning had cause.
// It also deletes events over Options.MaxEvents and MaxServerEvents. The Registry flushes by itself, each
// Options.LastSeenInterval while observations arrive, and at Close. One call flushes at a time; others wait for it or for
// ctx.
func (h Observer) Flush(ctx context.Context) error {
	r := h.registry
	select { // one at a time
	case r.flushing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-r.flushing }()
	if r.eventsDue.Any() {
		if err := r.trimEvents(ctx); err != nil {
			return fmt.Errorf("deleting surplus events: %w", err)
		}
	}
	limits := storage.LimitsOf(r.store)
	left := r.presence.Flush.Take()
	for len(left.Seen) > 0 {
		n := seenStep(left.Seen, limits)
		if err := r.writeSeen(ctx, left.Seen[:n]); err != nil {
			r.presence.Flush.Return(left)
			return fmt.Errorf("storing when servers were last seen: %w", err)
		}
		left.Seen = left.Seen[n:]
	}
	for step := range slices.Chunk(left.Warnings, limits.Rows(8*flushStep, 2)) {
		if err := r.writeRepeated(ctx, step); err != nil {
			if errors.Is(err, storage.ErrUnknown) { // they may have been counted
				left.Warnings = left.Warnings[len(step):]
			}
			r.presence.Flush.Return(left)
			return fmt.Errorf("storing how often warnings were seen: %w", err)
		}
		left.Warnings = left.Warnings[len(step):]
	}
	return nil
}

// seenStep returns how many of the buckets go into the next transaction.
func seenStep(list []presence.Seen, limits storage.Limits) (n int) {
	most, within := min(len(list), limits.Rows(flushStep, 2)), min(flushSize, limits.MaxTxSize/4)
	for size := 0; n < most && size < within; n++ {
		size += 2 * len(list[n].Times.Ages)
		if members := list[n].Members; members != nil {
			size += 50 * len(members.IDs)
		}
	}
	return n
}

func (r *Registry) writeSeen(ctx context.Context, list []presence.Seen) error {
	return r.Write(ctx, func(tx *Tx) error {
		for _, seen := range list {
			if seen.Members != nil {
				if err := seenMembersTable.Put(tx, seen.Members); err != nil {
					return err
				}
			}
			if err := seenTimesTable.Put(tx, seen.Times); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *Registry) writeRepeated(ctx context.Context, list []presence.Repeated) error {
	return r.Write(ctx, func(tx *Tx) error {
		for _, repeated := range list {
			known, err := warnings.Find(tx, storage.StringKey(repeated.UUID))
			if err != nil {
				return err
			}
			if known == nil {
				continue // it was cleared meanwhile
			}
			changed := *known
			changed.Count += repeated.Count
			changed.LastSeen, changed.Message = repeated.Last, repeated.Message
			if err := warnings.Put(tx, &changed); err != nil {
				return err
			}
		}
		return nil
	})
}
