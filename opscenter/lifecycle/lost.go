package lifecycle

import "time"

// MarkLost makes a server offline (unresponsive) that the caller looked for and did not find, for example after a change of
// its network. The server stays unresponsive until it answers. why is the reason of the status.
func MarkLost(state ServerState, at time.Time, why string) Transition {
	t := Transition{State: state}
	t.State.Announced = nil
	t.setStatus(at, StatusOffline, DetailUnresponsive, why)
	t.State.LastUpdated = at
	return t
}
