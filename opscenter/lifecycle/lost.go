package lifecycle

import "time"

// Lose makes a server unresponsive that was looked for, and not seen. It stays so until it answers.
func MarkLost(state ServerState, at time.Time, why string) Transition {
	t := Transition{State: state}
	t.State.Announced = nil
	t.setStatus(at, StatusOffline, DetailUnresponsive, why)
	t.State.LastUpdated = at
	return t
}
