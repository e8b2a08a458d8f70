package rollout

import (
	"context"
	"errors"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/storage"
)

// rolloutSeen is the part of a rollout that decisions on its units depend on. Failed counts, as units are resumed one by one.
type rolloutSeen struct {
	status rolling.Status
	cancel rolling.CancelMode
	failed int
}

// readRollout reads a rollout. It reports whether there is something to do for it, and when there will be; zero: only after a change.
// It marks all units as due if the rollout was paused, resumed or cancelled since.
func (e *engine) readRollout(c *activeRollout) (busy bool, again time.Time, err error) {
	err = e.registry.Read(e.ctx, func(s *opscenter.Snapshot) (err error) {
		r, err := rollouts.Find(s, storage.StringKey(c.id))
		if err != nil {
			return err
		}
		if r == nil || r.State.Status.Ended() {
			busy = true
			return nil
		}
		if seen := (rolloutSeen{r.State.Status, r.State.Cancel, r.State.Failed}); seen != c.seen {
			c.seen = seen
			for _, u := range c.units {
				u.due = true
			}
		}
		state, at := r.State.Clone(), e.now()
		ok, wake, _ := state.Admit(at)
		busy, again = ok || state.Status == rolling.StatusCancelling && state.Next < state.Units || state.Finish(at), wake
		return nil
	})
	return busy, again, err
}

// advanced is what a transaction of advanceRollout did.
type advanced struct {
	added []*Unit   // units that began, or that were dropped
	again time.Time // when there is more to do; zero: only after a change
	more  bool      // there is more to do at once
	ended bool      // the rollout has ended
	idle  bool      // there was nothing to do
}

// checkRollout begins the next units of a rollout, or drops them if it is cancelled, and ends the rollout after the
// last one. more: there is more to do at once. An error ends the lease.
func (e *engine) checkRollout(c *activeRollout) (more bool, err error) {
	busy, again, err := e.readRollout(c)
	if err == nil && !busy {
		c.wake = e.localTime(again)
		return false, nil
	}
	var done advanced
	if err == nil {
		err = e.write(func(tx *opscenter.Tx) (err error) {
			if done, err = e.advanceRollout(tx, c.id); err == nil && done.idle {
				err = errIdle
			}
			return err
		})
	}
	switch {
	case errors.Is(err, errIdle):
	case err != nil && e.ends(err):
		return false, err
	case err != nil:
		e.log.ErrorContext(e.ctx, "a rollout could not go on, and is tried again", "rollout", c.id, "error", err)
		c.wake = time.Now().Add(retryInterval)
		return false, nil
	}
	if done.ended {
		for _, u := range c.units {
			e.unindexNames(u)
		}
		delete(e.rollouts, c.id)
		if err := e.prune(e.ctx); err != nil {
			e.logFailure(e.ctx, err)
		}
		return false, nil
	}
	more = done.more
	c.wake = e.localTime(done.again)
	for _, u := range done.added {
		if u.Status == rolling.UnitRunning {
			e.add(c, u)
			more = true
		}
	}
	c.due = c.due || more
	return more, nil
}

// errIdle ends a transaction that has nothing to store.
var errIdle = errors.New("nothing to do")

// advanceRollout begins or drops as many units of a rollout as one transaction can store, and ends the rollout after the last one.
func (e *engine) advanceRollout(tx *opscenter.Tx, id string) (out advanced, err error) {
	stored, err := rollouts.Find(tx, storage.StringKey(id))
	if err != nil {
		return out, err
	}
	if stored == nil || stored.State.Status.Ended() {
		return advanced{ended: true, idle: true}, nil
	}
	r, at, limits := stored.clone(), tx.Now(), e.limits()
	var taken room
	for {
		cancelling := r.State.Status == rolling.StatusCancelling && r.State.Next < r.State.Units
		ok, wake, _ := r.State.Admit(at)
		if out.again = wake; !ok && !cancelling {
			break
		}
		u, err := getUnit(tx, id, r.State.Next)
		if err != nil {
			return out, err
		}
		if out.more = !limits.take(&taken, len(u.Members)); out.more {
			break
		}
		next := u.copied()
		if cancelling {
			r.State.Drop(&next.Unit, at)
			if err := tx.Release(id, claimName(&next.Unit), next.Cluster); err != nil {
				return out, err
			}
		} else {
			r.State.Begin(&next.Unit, at)
		}
		if err := limits.putUnit(tx, u, next); err != nil {
			return out, err
		}
		out.added = append(out.added, next)
	}
	var list []event.Event
	if r.State.Finish(at) {
		text := string(r.State.Status)
		if r.State.Reason != "" {
			text += ": " + r.State.Reason
		}
		list = append(list, eventOf(tx, r, "", "", event.Rollout, text))
		out.ended = r.State.Status.Ended()
	} else if len(out.added) == 0 {
		out.idle = true
		return out, nil
	}
	r.LastUpdated = at
	if err := rollouts.Put(tx, r); err != nil {
		return out, err
	}
	return out, tx.Record(list...)
}

// prune removes the oldest ended rollouts beyond Options.MaxHistory.
func (m *Manager) prune(ctx context.Context) error {
	var old []string
	err := m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		kept := 0
		for r, err := range byEnd.Scan(s, storage.Range{Prefix: storage.StringKey("ended"), Reverse: true}) {
			if err != nil {
				return err
			}
			if kept++; kept > m.options.MaxHistory {
				old = append(old, r.ID)
			}
		}
		return nil
	})
	for _, id := range old {
		if err == nil {
			err = m.erase(ctx, id)
		}
	}
	return err
}
