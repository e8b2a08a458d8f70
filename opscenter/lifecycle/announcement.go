package lifecycle

import "time"

// Announcement tells that a server goes down, or is sent down, on purpose.
type Announcement struct {
	At time.Time
	// Deadline by which it should be back; zero: none.
	Deadline time.Time
	// WentDown is set once a poll failed since.
	WentDown bool
	// Unasked: the server said so by itself, and not because an action of ours made it. Then a poll
	// that finds it ready makes it ready; Answered is when. Should it go down after all, it is shut down.
	Unasked  bool      `json:",omitempty"`
	Answered time.Time `json:",omitzero"`
}

// deadline is when a server that still answers counts as not having gone down.
func (a Announcement) deadline(policy Policy) time.Time {
	if a.Deadline.IsZero() {
		return a.At.Add(policy.RebootTimeout)
	}
	return a.Deadline
}

// cameBack reports whether an answering server has been down since it was announced.
func cameBack(a Announcement, o Observation) bool {
	if !o.BootedAt.IsZero() && o.BootedAt.After(a.At.Add(-bootSlack)) {
		return true
	}
	// Suspended servers come back without a boot; others may not tell when they booted.
	return a.WentDown && (o.BootedAt.IsZero() || a.Deadline.IsZero())
}
