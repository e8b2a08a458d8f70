package rolling

import "fmt"

// Selector selects what is rolled: whatever matches any of it. The zero value selects
// nothing, and is refused.
type Selector struct {
	// All servers and clusters.
	All bool `json:"all,omitempty"`
	// Clusters and Servers by name. A member of a cluster is rolled with its cluster: it can
	// be named only for a single action.
	Clusters []string `json:"clusters,omitempty"`
	Servers  []string `json:"servers,omitempty"`
	// Channel selects what follows that channel.
	Channel string `json:"channel,omitempty"`
	// Properties selects clusters, and servers in none, that have all of them.
	Properties map[string]string `json:"properties,omitempty"`
}

// MaxSelected bounds the names in a Selector.
const MaxSelected = 10_000

// Check returns ErrInvalid for a selector that selects nothing, or too much by name.
func (s Selector) Check() error {
	if !s.All && len(s.Clusters) == 0 && len(s.Servers) == 0 && s.Channel == "" && len(s.Properties) == 0 {
		return fmt.Errorf("%w: the selector selects nothing; All selects everything", ErrInvalid)
	}
	if n := len(s.Clusters) + len(s.Servers); n > MaxSelected {
		return fmt.Errorf("%w: the selector has %d names, at most %d are allowed", ErrInvalid, n, MaxSelected)
	}
	return nil
}

// matches reports whether properties has all of want.
func matches(properties, want map[string]string) bool {
	for key, value := range want {
		if have, ok := properties[key]; !ok || have != value {
			return false
		}
	}
	return true
}
