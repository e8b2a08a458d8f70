package lifecycle

import "time"

// Postpone moves what a server has time for, where that began before.
func (s *ServerState) Postpone(by time.Duration, at time.Time) {
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

// Rewind returns a state whose beginnings are not in the future, as they are once the clock
// was set back: what is to take its time takes it from the poll on. It tells if that was needed.
func Rewind(state ServerState, now, at time.Time) (ServerState, bool) {
	before := state
	if a := state.Announced; a != nil && a.At.After(now) {
		moved := *a
		moved.At = at
		if !a.Deadline.IsZero() {
			moved.Deadline = at.Add(a.Deadline.Sub(a.At))
		}
		state.Announced = &moved
	}
	if op := state.Operation; op != nil && op.StartedAt.After(now) {
		moved := *op
		moved.StartedAt, moved.Deadline = at, at.Add(op.Deadline.Sub(op.StartedAt))
		state.Operation = &moved
	}
	return state, state.Announced != before.Announced || state.Operation != before.Operation
}
