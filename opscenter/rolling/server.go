package rolling

import (
	"fmt"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Server is the state of a server at one moment, as far as a rollout depends on it.
type Server struct {
	// Name may change; ID never does.
	Name, ID   string
	Cluster    string // the name of its cluster; empty: none
	Channel    string
	Properties map[string]string

	// Plain: the server runs Incus on another operating system than IncusOS. Its updates and reboots are not managed.
	Plain bool
	// Incus: the server runs instances. It is evacuated before a reboot, and restored after it.
	Incus bool
	// Ready: the server answers and says that it is ready, and no action is under way on it.
	Ready bool
	// Online: the server answers, and has not gone down on purpose.
	Online bool
	// Condition describes its status for operators, as "offline (rebooting)".
	Condition string

	// Versions are those of all components that can be updated: the staged version, or if there is none, the running one.
	// Empty: not known.
	Versions map[string]string
	// Running is the version of the operating system that runs now.
	Running string
	// Staged is the version that the next reboot makes active; empty: the running one.
	Staged      string
	NeedsReboot bool
	// Skipped is a version of the operating system that did not boot, and that the server does not install again. It then
	// runs from its backup image. Empty: there is none.
	Skipped string
	// BootedAt is when the server last booted; zero: not known.
	BootedAt time.Time
	// Available is the newest version of each component in its channel.
	Available map[string]string

	// SecureBootKeys is how many Secure Boot keys the available update brings. The server applies the keys that it does not
	// have yet before the rest of the update, one at a time. Each takes a reboot.
	SecureBootKeys int

	// Evacuated: its instances have been moved away or stopped. Moving: it is being evacuated or restored.
	Evacuated, Moving bool
	// Voter: the server votes in its cluster's database. It is valid only if RolesKnown is set.
	Voter, RolesKnown bool

	// Operation is under way, Last is the outcome of the last one; nil: none.
	Operation *Operation
	Last      *Outcome
	// Took is how long its last successful action of each kind took.
	Took map[lifecycle.Action]time.Duration
	// Good is how many polls in a row found the server ready.
	Good int
}

// Operation is an action under way.
type Operation struct {
	ID       string
	Action   lifecycle.Action
	Deadline time.Time
}

// Outcome tells how an action ended.
type Outcome struct {
	ID      string
	Action  lifecycle.Action
	EndedAt time.Time
	// Failed tells why it failed; empty: it succeeded.
	Failed string
}

// Outdated returns the target versions of those components of the server that are older than their target.
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

// skips tells why the server can't reach its targets; empty: it can.
func (s *Server) skips(targets map[string]string) string {
	if s.Skipped == "" || targets[lifecycle.ComponentOS] != s.Skipped {
		return ""
	}
	return fmt.Sprintf("it runs os %s from its backup image: os %s did not boot, and IncusOS does not install it again", orUnknown(s.Running), s.Skipped)
}

// describe names the components to update, with their versions, as "incus, os 1 → 2".
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

// Cluster is the part of a cluster's record that a rollout depends on.
type Cluster struct {
	Name       string
	Properties map[string]string
	// PostRestoreDelay and RestoreMode are the cluster's own settings; if zero, those of the Policy apply.
	PostRestoreDelay time.Duration
	RestoreMode      string
}
