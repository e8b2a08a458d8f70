package opscenter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// clockJump is the smallest jump of the clock. A jump is a difference between the time of day and the elapsed time: the
// clock was set, or the machine slept.
const clockJump = time.Minute

// clockSeen is the reading of both clocks at the last comparison.
type clockSeen struct {
	wall    time.Time
	elapsed time.Duration
}

// clockJumping is a jump of the clock whose effects are not all stored yet. After an error, the next call goes on with
// the rest.
type clockJumping struct {
	mu      sync.Mutex
	seen    clockSeen
	by      time.Duration // 0: none
	at      time.Time
	told    bool
	waiting []string // servers whose deadlines are not moved yet
}

// jumped returns by how much the time of day has moved, beside the elapsed time, since the last comparison. It returns 0
// for less than clockJump, and remembers that difference.
func (c *clockSeen) jumped(wall time.Time, elapsed time.Duration) time.Duration {
	if c.wall.IsZero() {
		*c = clockSeen{wall, elapsed}
		return 0
	}
	by := wall.Sub(c.wall) - (elapsed - c.elapsed)
	if by.Abs() < clockJump {
		return 0
	}
	*c = clockSeen{wall, elapsed}
	return by
}

// checkClock records an event when the clock was set or the machine slept. If the clock went forward, it moves the
// deadlines of servers. Other observations wait until that is stored.
func (r *Registry) checkClock(ctx context.Context) error {
	j := &r.jump
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.by == 0 {
		if j.by = j.seen.jumped(r.now(), r.presence.Elapsed()); j.by == 0 {
			return nil
		}
		j.at, j.told, j.waiting = r.now(), false, nil
	}
	if !j.told {
		if err := r.tellJump(ctx, j); err != nil {
			return err
		}
		j.told = true
	}
	for len(j.waiting) > 0 {
		step := j.waiting[:storage.LimitsOf(r.store).Rows(min(len(j.waiting), MaxObservations), 2)]
		err := r.Write(ctx, func(tx *Tx) error {
			for _, name := range step {
				err := tx.modifyState(name, func(s *lifecycle.ServerState) error {
					s.Postpone(j.by, j.at)
					return nil
				})
				if err != nil && !errors.Is(err, storage.ErrNotFound) {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		j.waiting = j.waiting[len(step):]
	}
	j.by = 0
	return nil
}

// tellJump records the event, and lists the servers whose deadlines move.
func (r *Registry) tellJump(ctx context.Context, j *clockJumping) error {
	way := "forward"
	if j.by < 0 {
		way = "back"
	}
	entry := event.Event{At: j.at, Kind: event.ClockJumped, Reason: fmt.Sprintf("the control plane's clock went %s by %s (it was set, or the machine slept)", way, j.by.Abs().Round(time.Second))}
	var waiting []string
	err := r.store.View(ctx, func(tx storage.ReadTx) error {
		waiting = nil
		for state, err := range states.Scan(tx, rangeAll) {
			if err != nil {
				return err
			}
			if j.by > 0 && (state.Announced != nil || state.Operation != nil) {
				waiting = append(waiting, state.Name)
			}
		}
		return nil
	})
	if err == nil {
		err = r.Write(ctx, func(tx *Tx) error { return tx.Record(entry) })
	}
	if err != nil {
		return err
	}
	j.waiting = waiting
	return nil
}
