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

// look reads a rollout. It reports whether there is something to do for it, and when there will be; zero: only after a change.
// It marks all units as due if the rollout was paused, resumed or cancelled since.
func (e *engine) look(c *activeRollout) (busy bool, again time.Time, err error) {
	err = e.registry.Read(e.ctx, func(s *opscenter.Snapshot) (err error) {
		if s.ReadTx, err = e.rows.over(s.ReadTx); err != nil {
			return err
		}
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

// checkRollout begins the next units of a rollout, or drops them if it is cancelled, and ends the rollout after the
// last one. more: there is more to do at once. An error ends the lease.
func (e *engine) checkRollout(c *activeRollout) (more bool, err error) {
	busy, again, err := e.look(c)
	if err == nil && !busy {
		c.wake = e.localTime(again)
		return false, nil
	}
	var added []*Unit
	ended := false
	idle := errors.New("nothing to do")
	if err == nil {
		err = e.write(func(tx *opscenter.Tx) error {
			added, again, ended, more = nil, time.Time{}, false, false
			stored, err := rollouts.Find(tx, storage.StringKey(c.id))
			if err != nil {
				return err
			}
			if stored == nil || stored.State.Status.Ended() {
				ended = true
				return idle
			}
			r, at, step := stored.clone(), tx.Now(), e.step()
			var list []event.Event
			var taken room
			for more = true; ; {
				cancelling := r.State.Status == rolling.StatusCancelling && r.State.Next < r.State.Units
				ok, wake, _ := r.State.Admit(at)
				if again = wake; !ok && !cancelling {
					more = false
					break
				}
				u, err := getUnit(tx, c.id, r.State.Next)
				if err != nil {
					return err
				}
				if !step.take(&taken, len(u.Members)) {
					break
				}
				next := u.copied()
				if cancelling {
					r.State.Drop(&next.Unit, at)
					if err := tx.Release(c.id, claimName(&next.Unit), next.Cluster); err != nil {
						return err
					}
				} else {
					r.State.Begin(&next.Unit, at)
				}
				if err := step.putUnit(tx, u, next); err != nil {
					return err
				}
				added = append(added, next)
			}
			if r.State.Finish(at) {
				text := string(r.State.Status)
				if r.State.Reason != "" {
					text += ": " + r.State.Reason
				}
				list = append(list, eventOf(tx, r, "", "", event.Rollout, text))
				ended = r.State.Status.Ended()
			} else if len(added) == 0 {
				return idle
			}
			r.LastUpdated = at
			if err := rollouts.Put(tx, r); err != nil {
				return err
			}
			return tx.Record(list...)
		})
	}
	switch {
	case errors.Is(err, idle):
	case err != nil && e.ends(err):
		return false, err
	case err != nil:
		e.log.ErrorContext(e.ctx, "a rollout could not go on, and is tried again", "rollout", c.id, "error", err)
		c.wake = time.Now().Add(retryInterval)
		return false, nil
	}
	c.wake = e.localTime(again)
	for _, u := range added {
		if u.Status == rolling.UnitRunning {
			e.add(c, u)
			more = true
		}
	}
	if ended {
		for _, u := range c.units {
			e.unindexNames(u)
		}
		delete(e.rollouts, c.id)
		if err := e.prune(e.ctx); err != nil {
			e.logFailure(e.ctx, err)
		}
		return false, nil
	}
	if more {
		c.due = true
	}
	return more, nil
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
