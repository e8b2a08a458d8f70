package rolling

import (
	"fmt"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
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
