package lifecycle

import "time"

// Postpone moves by that much the deadlines of the announcement and of the operation that began before at. The Registry
// calls it after its clock was set forward, or its machine slept.
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

// Rewind corrects a state after the clock was set back, when its announcement or its operation began in the future, that is
// after now. Both then begin at at, the time of a poll, and keep the time they had left. It reports whether anything
// changed.
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
