package opscenter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/storage"
)

// clockJump is by how much the time of day must differ from the time that has passed for the clock to have been set,
// or the machine to have slept.
const clockJump = time.Minute

// clockSeen is what both clocks showed when they were last compared.
type clockSeen struct {
	wall    time.Time
	elapsed time.Duration
}

// jumped returns by how much the time of day has moved beside the time that has passed, since the last call; 0 for
// less than clockJump, which is not forgotten.
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

// checkClock notices that the clock was set, or that the machine has slept. It is named as that, and what servers are
// given time for is not over because of it.
func (r *Registry) checkClock(ctx context.Context) error {
	m := &r.memory
	m.mu.Lock()
	by := m.clock.jumped(r.now(), m.elapsed())
	m.mu.Unlock()
	if by == 0 {
		return nil
	}
	at := r.now()
	way := "forward"
	if by < 0 {
		way = "back"
	}
	event := Event{At: at, Kind: EventClockJumped, Reason: fmt.Sprintf("the control plane's clock went %s by %s, or it slept: what servers have time for is counted on from here", way, by.Abs().Round(time.Second))}
	r.log.WarnContext(ctx, string(event.Kind), "by", by)
	var waiting []string
	err := r.store.View(ctx, func(tx storage.ReadTx) error {
		waiting = nil
		for state, err := range states.Scan(tx, rangeAll) {
			if err != nil {
				return err
			}
			if by > 0 && (state.Announced != nil || state.Operation != nil) {
				waiting = append(waiting, state.Name)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = r.update(ctx, func(tx *writing) error { return r.record(tx, event) })
	for len(waiting) > 0 && err == nil {
		step := waiting[:min(len(waiting), MaxObservations)]
		waiting = waiting[len(step):]
		err = r.update(ctx, func(tx *writing) error {
			for _, name := range step {
				err := tx.modifyState(name, func(s *ServerState) error {
					s.postpone(by, at)
					return nil
				})
				if err != nil && !errors.Is(err, storage.ErrNotFound) {
					return err
				}
			}
			return nil
		})
	}
	return err
}

// postpone moves what a server has time for, where that began before.
func (s *ServerState) postpone(by time.Duration, at time.Time) {
	if a := s.Announced; a != nil && !a.Deadline.IsZero() && a.At.Before(at) {
		moved := *a
		moved.Deadline = moved.Deadline.Add(by)
		s.Announced = &moved
	}
	if op := s.Operation; op != nil && op.StartedAt.Before(at) {
		moved := *op
		moved.Deadline = moved.Deadline.Add(by)
		s.Operation = &moved
	}
}
