package lifecycle

import "time"

// FactsRevision is how the facts of a server changed from one poll to the next.
type FactsRevision struct {
	// Number grows by one with each change of the server's facts.
	Number  uint64        `json:"number"`
	At      time.Time     `json:"at"`
	Changes []FieldChange `json:"changes"`
	// More is how many further values changed.
	More int `json:"more,omitempty"`
}

// FieldChange is a value that changed.
type FieldChange struct {
	// Path of the value, as "network.state.interfaces.eth0.mtu" or "storage.state.drives[1].id".
	Path string `json:"path"`
	// From and To are the values as JSON, cut to MaxFactValue; empty: there was, or is, none.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// Limits of what is kept of a change of facts.
const (
	// MaxFactChanges bounds the values that are kept of one change; FactsRevision.More counts the others.
	MaxFactChanges = 100
	// MaxFactValue bounds a value that is kept, in bytes; longer ones are cut.
	MaxFactValue = 256
)
