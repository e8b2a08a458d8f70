package rolling

import "fmt"

// Selector selects the clusters and servers of a rollout: those that match any of its fields. The zero value selects
// nothing, and is refused.
type Selector struct {
	// All selects all servers and clusters.
	All bool `json:"all,omitempty"`
	// Clusters and Servers select by name. A member of a cluster is rolled with its cluster. It can be named only if the
	// goal is a single action.
	Clusters []string `json:"clusters,omitempty"`
	Servers  []string `json:"servers,omitempty"`
	// Channel selects the clusters and servers that follow that channel.
	Channel string `json:"channel,omitempty"`
	// Properties selects the clusters, and the servers in no cluster, that have all of these.
	Properties map[string]string `json:"properties,omitempty"`
}

// MaxSelected is the largest number of names in a Selector.
const MaxSelected = 10_000

// Check returns ErrInvalid for a selector that selects nothing, or has too many names.
func (s Selector) Check() error {
	if !s.All && len(s.Clusters) == 0 && len(s.Servers) == 0 && s.Channel == "" && len(s.Properties) == 0 {
		return fmt.Errorf("%w: the selector selects nothing; All selects everything", ErrInvalid)
	}
	if n := len(s.Clusters) + len(s.Servers); n > MaxSelected {
		return fmt.Errorf("%w: the selector has %d names, at most %d are allowed", ErrInvalid, n, MaxSelected)
	}
	return nil
}

// matches reports whether properties have all of want.
func matches(properties, want map[string]string) bool {
	for key, value := range want {
		if have, ok := properties[key]; !ok || have != value {
			return false
		}
	}
	return true
}
