package lifecycle

import "time"

// Announcement tells that a server goes down on purpose: it said so itself, or an action makes it.
type Announcement struct {
	// At is when the server said so, or when the action began.
	At time.Time
	// Deadline is when the server should be back; zero: it may stay down.
	Deadline time.Time
	// WentDown is set by the first poll since At that fails.
	WentDown bool
	// Unasked: the server said by itself that it shuts down or is suspended; no action made it. If a poll then still finds
	// it ready, it counts as ready again, and Answered is the time of that poll. If later polls fail, it is offline
	// (shut down), and not unresponsive.
	Unasked  bool      `json:",omitempty"`
	Answered time.Time `json:",omitzero"`
}

// deadline returns the time from which a server that still answers counts as one that did not go down.
func (a Announcement) deadline(policy Policy) time.Time {
	if a.Deadline.IsZero() {
		return a.At.Add(policy.RebootTimeout)
	}
	return a.Deadline
}

// cameBack reports whether a server that answers has been down since it was announced.
func cameBack(a Announcement, o Observation) bool {
	if !o.BootedAt.IsZero() && o.BootedAt.After(a.At.Add(-bootSlack)) {
		return true
	}
	// A suspended server comes back without a boot, and some releases do not tell the time of their boot.
	return a.WentDown && (o.BootedAt.IsZero() || a.Deadline.IsZero())
}
