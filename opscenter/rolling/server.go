// Package rolling decides what a rolling operation over servers and clusters does next. It is
// pure: time, servers and what is under way come in as values, decisions go out as values.
// The same functions make a plan, run forward on a model of the servers, and carry out a
// rollout, step by step, on what polls tell of the real ones. Package opscenter makes plans of
// it (UpdatePlanner.Plan), package opscenter/rollout carries them out.
//
// A [Unit] is what is rolled through one server after the other: an Incus cluster, or a server
// that is in none. A [State] is how far all units of one rollout are, wave by wave.
package rolling

import (
	"fmt"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"slices"
	"time"
)

// Server is what is known of a server at one moment, as far as it matters here.
type Server struct {
	// Name may change; ID never does.
	Name, ID   string
	Cluster    string // its record; empty: none
	Channel    string
	Properties map[string]string

	// Plain: it is an Incus server that is not on IncusOS. Its updates and reboots are not managed.
	Plain bool
	// Incus tells that it runs instances: it is evacuated before a reboot, and restored after.
	Incus bool
	// Ready: it answers, says that it is ready, and nothing is under way.
	Ready bool
	// Online: it answers, and has not gone down on purpose.
	Online bool
	// Condition says for people how it is, as "offline (rebooting)".
	Condition string

	// Versions of all components that can be updated: the staged, else the running one. Empty: not known.
	Versions map[string]string
	// Running is the version of the operating system that runs now.
	Running string
	// Staged is the one that is active after the next reboot, if that differs.
	Staged      string
	NeedsReboot bool
	// Skipped is a version of the operating system that it does not install again, because that
	// did not boot: it runs from its backup image. Empty: there is none.
	Skipped string
	// BootedAt is when it last booted, as far as that is known.
	BootedAt time.Time
	// Available is the newest version of each component in its channel.
	Available map[string]string

	// SecureBootKeys is how many Secure Boot keys the update that is available brings: the server applies those that it has
	// not yet, one at a time, before everything else, and each takes a reboot.
	SecureBootKeys int

	// Evacuated: its instances have been moved away or stopped. Moving: they are on the way, either way.
	Evacuated, Moving bool
	// Voter tells that it votes in its cluster's database, if RolesKnown.
	Voter, RolesKnown bool

	// Operation is under way, Last is how the last one ended; nil: none.
	Operation *Operation
	Last      *Outcome
	// Took is how long its last successful action of each kind took.
	Took map[lifecycle.Action]time.Duration
	// Good is how many polls in a row found it ready.
	Good int
}

// Operation is an action under way.
type Operation struct {
	ID       string
	Action   lifecycle.Action
	Deadline time.Time
}

// Outcome is how an action ended.
type Outcome struct {
	ID      string
	Action  lifecycle.Action
	EndedAt time.Time
	// Failed says why it failed; empty: it did not.
	Failed string
}

// Outdated returns, per component of the server that is older, the version to update to.
func (s *Server) Outdated(targets map[string]string) map[string]string {
	var out map[string]string
	for component, target := range targets {
		if s.older(component, target) {
			if out == nil {
				out = map[string]string{}
			}
			out[component] = target
		}
	}
	return out
}

// behind reports whether any component is older than its target.
func (s *Server) behind(targets map[string]string) bool {
	for component, target := range targets {
		if s.older(component, target) {
			return true
		}
	}
	return false
}

// older reports whether the server has the component, older than the target.
func (s *Server) older(component, target string) bool {
	have, ok := s.Versions[component]
	return ok && lifecycle.Newer(target, have)
}

// skips says why the server can't be brought to its targets; empty: it can.
func (s *Server) skips(targets map[string]string) string {
	if s.Skipped == "" || targets[lifecycle.ComponentOS] != s.Skipped {
		return ""
	}
	return fmt.Sprintf("it runs os %s from its backup image: os %s did not boot, and IncusOS does not install it again", orUnknown(s.Running), s.Skipped)
}

// describe names the components to update with their versions, as "incus, os 1 → 2".
func (s *Server) describe(outdated map[string]string) string {
	type move struct{ from, to string }
	names := make([]string, 0, len(outdated))
	for name := range outdated {
		names = append(names, name)
	}
	slices.Sort(names)
	var steps []move
	by := map[move]string{}
	for _, name := range names {
		m := move{s.Versions[name], outdated[name]}
		if by[m] == "" {
			steps = append(steps, m)
			by[m] = name
		} else {
			by[m] += ", " + name
		}
	}
	out := ""
	for i, m := range steps {
		if i > 0 {
			out += "; "
		}
		out += by[m] + " " + m.from + " → " + m.to
	}
	return out
}

// Cluster is what is known of a cluster's record.
type Cluster struct {
	Name       string
	Properties map[string]string
	// PostRestoreDelay and RestoreMode are its own; the zero values leave it to the Policy.
	PostRestoreDelay time.Duration
	RestoreMode      string
}

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
