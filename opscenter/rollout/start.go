package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/storage"
)

// Limits of one transaction: units, and members of all units but the first. The store's limits may allow fewer.
const (
	unitsPerStep   = 200
	membersPerStep = 1500
	// memberSize is about the size of a stored member, in bytes.
	memberSize = 2 << 10
)

// txLimits bound one transaction.
type txLimits struct {
	units, members int
	// rows is how many rows of units, claims and members it writes.
	rows int
	// size is how many bytes the decisions of a transaction write, apart from the first.
	size int
	// apart is how many members of a unit have rows of their own. A larger unit keeps them in its own row.
	apart int
}

// rowsPerUnit is how many rows of a unit a transaction writes, beside those of its members: its own and its claim.
const rowsPerUnit = 2

// limits returns the bounds of one transaction. A third of the store's limits leaves room for the rollout and its event.
func (m *Manager) limits() txLimits {
	limits := storage.LimitsOf(m.registry.Store())
	return txLimits{units: unitsPerStep, members: max(1, min(membersPerStep, limits.MaxTxSize/memberSize)),
		rows: max(1, limits.MaxTxWrites-limits.MaxTxWrites/3), size: limits.MaxTxSize / 2, apart: limits.MaxTxWrites / 8}
}

// rowsOf returns how many rows a unit with so many members has, together with its claim.
func (s txLimits) rowsOf(members int) int {
	if members > s.apart {
		members = 0
	}
	return rowsPerUnit + members
}

// room is what a transaction has taken of its limits.
type room struct{ units, members, rows int }

// take adds a unit with so many members, if there is room for it. The first unit always has room.
func (s txLimits) take(r *room, members int) bool {
	next := room{r.units + 1, r.members + members, r.rows + s.rowsOf(members)}
	if r.units > 0 && (next.units > s.units || next.members > s.members || next.rows > s.rows) {
		return false
	}
	*r = next
	return true
}

// nextBatch returns the number of units for the next transaction.
func (s txLimits) nextBatch(list []*rolling.Unit) int {
	var taken room
	for i, u := range list {
		if !s.take(&taken, len(u.Members)) {
			return i
		}
	}
	return len(list)
}

// startTimeout is the time after which an incompletely stored rollout is removed: its controller has died.
const startTimeout = time.Minute

// Start starts a rollout of the selected servers and clusters. The target versions are those available now, even if newer
// ones are published meanwhile. Run carries it out, in this or any other Manager of the store. If there is nothing to do,
// the returned rollout has already ended.
//
// Errors: rolling.ErrInvalid; opscenter.ErrBlocked with the reasons, see rolling.Plan.Blocked; opscenter.ErrBusy if another
// operation has reserved a server or cluster; ErrStale if the members of a cluster changed meanwhile.
func (m *Manager) Start(ctx context.Context, selector rolling.Selector, policy rolling.Policy) (*Rollout, error) {
	return m.start(ctx, selector, policy, nil)
}

// StartPlan starts a rollout that does the steps of a plan. If the fleet has changed so that the steps would differ, it
// returns ErrStale with the difference. Other errors are those of Start.
func (m *Manager) StartPlan(ctx context.Context, plan *rolling.Plan) (*Rollout, error) {
	return m.start(ctx, plan.Selector, plan.Policy, plan)
}

func (m *Manager) start(ctx context.Context, selector rolling.Selector, policy rolling.Policy, wanted *rolling.Plan) (*Rollout, error) {
	plan, selected, err := m.planner.Prepare(ctx, selector, policy)
	if err != nil {
		return nil, err
	}
	if wanted != nil {
		if difference := wanted.Difference(plan); difference != "" {
			return nil, fmt.Errorf("%w: %s", ErrStale, difference)
		}
	}
	if blocked := plan.Blocked(); len(blocked) > 0 && !plan.Policy.SkipBlocked {
		return nil, blockedError(blocked)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	r := &Rollout{ID: id.String(), Selector: selector, State: *selected.State, RequestedBy: opscenter.Principal(ctx), ExpectedEnd: plan.End}
	r.State.Status = rolling.StatusStarting
	for _, u := range selected.Units {
		r.Servers += len(u.Members)
	}
	if err := m.storeNew(ctx, r, selected.Units); err != nil {
		return nil, err
	}
	m.wake()
	return m.Get(ctx, r.ID)
}

// blockedError names up to five blockers.
func blockedError(list []rolling.Blocker) error {
	var texts []string
	for i, b := range list {
		if i == 5 {
			texts = append(texts, fmt.Sprintf("and %d more", len(list)-i))
			break
		}
		text := b.Unit
		if b.Server != "" && b.Server != b.Unit {
			text += ", server " + b.Server
		}
		texts = append(texts, text+": "+b.Reason)
	}
	return fmt.Errorf("%w: %s", opscenter.ErrBlocked, strings.Join(texts, "; "))
}

// storeNew stores a rollout with its units, in several transactions if there are many. Until the last one its status is
// StatusStarting, and Run does not begin it.
func (m *Manager) storeNew(ctx context.Context, r *Rollout, list []*rolling.Unit) error {
	limits := m.limits()
	for from, to := 0, 0; ; from = to {
		to = from + limits.nextBatch(list[from:])
		err := m.registry.Write(ctx, func(tx *opscenter.Tx) error {
			if from == 0 {
				r.CreatedAt, r.State.StartedAt, r.LastUpdated = tx.Now(), tx.Now(), tx.Now()
				if err := rollouts.Insert(tx, r); err != nil {
					return err
				}
			}
			stored, err := find(tx, r.ID) // it may have been cancelled, or removed after startTimeout
			if err != nil {
				return err
			}
			for i, u := range list[from:to] {
				if err := limits.putUnit(tx, nil, &Unit{Rollout: r.ID, Index: from + i, Unit: *u}); err != nil {
					return err
				}
				if err := checkMembers(tx, u); err != nil {
					return err
				}
				if err := tx.Claim(opscenter.Claim{Unit: claimName(u), Cluster: u.Cluster, Owner: r.ID, What: r.What(), Since: r.CreatedAt}); err != nil {
					return err
				}
			}
			begun := stored.clone()
			begun.LastUpdated = tx.Now()
			if to < len(list) {
				return rollouts.Put(tx, begun)
			}
			begun.State.Status = rolling.StatusRunning
			text := fmt.Sprintf("begun, with %d clusters and servers, %d steps expected", len(list), begun.State.Steps)
			if len(list) == 0 {
				begun.State.Reason = "there is nothing to do"
				begun.State.Status, begun.State.EndedAt = rolling.StatusDone, begun.LastUpdated
				text = begun.State.Reason
			}
			if err := rollouts.Put(tx, begun); err != nil {
				return err
			}
			return tx.Record(eventOf(tx, begun, "", "", event.Rollout, text))
		})
		if err != nil {
			if from > 0 {
				err = errors.Join(err, m.erase(context.WithoutCancel(ctx), r.ID))
			}
			return err
		}
		if to == len(list) {
			if len(list) == 0 {
				err = m.prune(ctx) // Run does not see rollouts that end at once
			}
			return err
		}
	}
}

// checkMembers returns ErrStale if the members of a cluster have changed since the plan.
func checkMembers(tx *opscenter.Tx, u *rolling.Unit) error {
	if !u.Cluster {
		return nil
	}
	known := map[string]bool{}
	for i := range u.Members {
		known[u.Members[i].ID] = true
	}
	for info, err := range tx.Snapshot().Servers(opscenter.ServerFilter{Cluster: u.Name}) {
		if err != nil {
			return err
		}
		if !known[info.ID] {
			return fmt.Errorf("%w: server %q joined cluster %q meanwhile", ErrStale, info.Name, u.Name)
		}
		delete(known, info.ID)
	}
	if len(known) > 0 {
		return fmt.Errorf("%w: a server left cluster %q meanwhile", ErrStale, u.Name)
	}
	return nil
}

// claimName returns the key of a unit's claim: the name of the cluster, or the ID of the server, which may be renamed.
func claimName(u *rolling.Unit) string {
	if u.Cluster {
		return u.Name
	}
	return u.Members[0].ID
}

func eventOf(tx *opscenter.Tx, r *Rollout, server, cluster string, kind event.Kind, reason string) event.Event {
	return event.Event{At: tx.Now(), Kind: kind, Server: server, Cluster: cluster, Rollout: r.ID, Reason: reason}
}

// erase removes a rollout with its units, their members and claims, in several transactions. The units go first, as each is
// read with its members, and the rollout itself goes last: after a crash, it is found and erased again.
func (m *Manager) erase(ctx context.Context, id string) error {
	limits := m.limits()
	for more := true; more; {
		err := m.registry.Write(ctx, func(tx *opscenter.Tx) error {
			var list []*unitRow
			var rest []*memberRow
			left, within := max(limits.rows, rowsPerUnit), storage.Range{Prefix: storage.StringKey(id)}
			more = false
			for u, err := range units.Scan(tx, within) {
				if err != nil {
					return err
				}
				if more = left < rowsPerUnit; more {
					break
				}
				list, left = append(list, u), left-rowsPerUnit
			}
			for u, err := range members.Scan(tx, within) {
				if err != nil {
					return err
				}
				if more = more || left == 0; more {
					break
				}
				rest, left = append(rest, u), left-1
			}
			for _, u := range list {
				if err := eraseUnit(tx, u); err != nil {
					return err
				}
			}
			for _, u := range rest {
				if err := members.Delete(tx, unitKey(u.Rollout, u.Unit).Uint(uint64(u.Position))); err != nil {
					return err
				}
			}
			if more {
				return nil
			}
			if err := rollouts.Delete(tx, storage.StringKey(id)); err != nil && !errors.Is(err, opscenter.ErrNotFound) {
				return err
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eraseUnit removes the row of a unit, and its claim.
func eraseUnit(tx *opscenter.Tx, row *unitRow) error {
	key := row.Name
	if !row.Cluster {
		u, err := join(tx, row)
		if err != nil {
			return err
		}
		key = claimName(&u.Unit.Unit)
	}
	if err := tx.Release(row.Rollout, key, row.Cluster); err != nil {
		return err
	}
	return units.Delete(tx, unitKey(row.Rollout, row.Index))
}

// Pause pauses a rollout until Resume. Steps that are under way end, and no new one begins. An empty reason is
// "by an operator". Errors: opscenter.ErrNotFound; rolling.ErrState if the rollout is neither running nor cancelling.
func (m *Manager) Pause(ctx context.Context, id, reason string) error {
	if reason == "" {
		reason = "by an operator"
	}
	return m.change(ctx, id, func(tx *opscenter.Tx, r *Rollout) (string, error) {
		return "paused: " + reason, r.State.Pause(reason)
	})
}

// Resume continues a rollout that an operator or a failure has paused. Failed steps are tried again. Errors:
// opscenter.ErrNotFound; rolling.ErrState if the rollout is not paused.
func (m *Manager) Resume(ctx context.Context, id string) error {
	r, err := m.Get(ctx, id)
	if err == nil {
		err = r.State.Resume() // only checks that Resume is possible
	}
	if err == nil {
		err = m.resumeUnits(ctx, id) // no step begins while the rollout is still paused
	}
	if err != nil {
		return err
	}
	return m.change(ctx, id, func(_ *opscenter.Tx, r *Rollout) (string, error) { return "resumed", r.State.Resume() })
}

// Cancel ends a rollout early, in one of the rolling.CancelModes. It may be called again with another mode. The rollout has
// ended when its running steps have ended. A rollout that is still being stored is removed. Errors:
// opscenter.ErrNotFound; rolling.ErrState if the rollout has ended; rolling.ErrInvalid for an unknown mode.
func (m *Manager) Cancel(ctx context.Context, id string, mode rolling.CancelMode) error {
	r, err := m.Get(ctx, id)
	if err == nil && r.State.Status == rolling.StatusStarting && slices.Contains(rolling.CancelModes, mode) {
		return m.erase(ctx, id)
	}
	if err == nil {
		err = m.change(ctx, id, func(_ *opscenter.Tx, r *Rollout) (string, error) {
			return "cancelled: " + string(mode), r.State.Abandon(mode)
		})
	}
	if err == nil {
		err = m.resumeUnits(ctx, id) // failed units continue with the steps of the mode
	}
	return err
}

// resumesPerStep bounds the units that one transaction resumes. The rows of their members are large: they hold the steps of
// each server. The store's limits may allow fewer.
const resumesPerStep = 10

// resumeUnits resumes the failed units, in several transactions.
func (m *Manager) resumeUnits(ctx context.Context, id string) error {
	limits := m.limits()
	for more := true; more; {
		err := m.registry.Write(ctx, func(tx *opscenter.Tx) error {
			more = false
			stored, err := find(tx, id)
			if err != nil || stored.State.Failed == 0 {
				return err
			}
			var failed []*storedUnit
			var taken room
			for row, err := range units.Scan(tx, storage.Range{Prefix: storage.StringKey(id)}) {
				if err != nil {
					return err
				}
				if row.Status != rolling.UnitFailed {
					continue
				}
				u, err := join(tx, row)
				if err != nil {
					return err
				}
				if more = taken.units == resumesPerStep || !limits.take(&taken, len(u.Members)); more {
					break
				}
				failed = append(failed, u)
			}
			r := stored.clone()
			for _, u := range failed {
				servers, err := serversOf(tx.Snapshot(), &u.Unit.Unit)
				if err != nil {
					return err
				}
				next := u.copied()
				next.Resume(servers)
				r.State.Moved(&next.Unit, u.Index, rolling.UnitFailed, tx.Now())
				if err := limits.putUnit(tx, u, next); err != nil {
					return err
				}
			}
			return rollouts.Put(tx, r)
		})
		if err != nil {
			return err
		}
	}
	m.wake()
	return nil
}

// change changes a rollout, with an event that has the returned text.
func (m *Manager) change(ctx context.Context, id string, change func(*opscenter.Tx, *Rollout) (string, error)) error {
	err := m.registry.Write(ctx, func(tx *opscenter.Tx) error {
		r, err := find(tx, id)
		if err != nil {
			return err
		}
		next := r.clone()
		text, err := change(tx, next)
		if err != nil {
			return err
		}
		if principal := opscenter.Principal(ctx); principal != "" {
			text += ", by " + principal
		}
		next.LastUpdated = tx.Now()
		if err := rollouts.Put(tx, next); err != nil {
			return err
		}
		return tx.Record(eventOf(tx, next, "", "", event.Rollout, text))
	})
	if err == nil {
		m.wake()
	}
	return err
}
