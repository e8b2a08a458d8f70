package rolling

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Member is a server in a rollout.
type Member struct {
	Server, ID string
	// Left tells why the rollout leaves the server alone; empty: it does not.
	Left string
	// Targets are the versions that the server should reach. They stay, even if newer versions are published meanwhile.
	Targets map[string]string
	// Updated: the server has reached them.
	Updated bool
	// Keys is how many Secure Boot keys the server may apply during the update, KeysApplied how many it has applied.
	// KeyWaits: the server has applied a key, which takes effect at the next reboot. The update goes on after that.
	Keys        int  `json:",omitempty"`
	KeysApplied int  `json:",omitempty"`
	KeyWaits    bool `json:",omitempty"`
	// Reboot: the rollout still has to reboot the server, whether it needs a reboot or not.
	Reboot bool
	// EvacuatedBefore: the server was evacuated, and not by this rollout. It stays evacuated.
	EvacuatedBefore bool
	// Evacuated: this rollout has evacuated the server, and has not restored it.
	Evacuated bool
	// Asked: this rollout has requested an evacuation. If the server is found evacuated later, the rollout did it.
	Asked bool
	// RebootAsked is when this rollout last requested a reboot.
	RebootAsked time.Time
	// Begun: the rollout is taking the server out, or has done so, and is not finished with it.
	Begun bool
	// Rebooted: this rollout has rebooted the server.
	Rebooted bool
	// Version is the version of the operating system that must run after the reboot under way.
	Version string
	// Finished: nothing is left to do with the server.
	Finished bool

	// Step is the step under way; nil: none.
	Step *Step
	// Attempts is how often the action Failing has failed. NotBefore is when it may be tried again.
	Attempts  int
	Failing   lifecycle.Action
	NotBefore time.Time
	// Number is how many steps have begun.
	Number int
	// Done are the last steps that ended, at most MaxDone of them.
	Done []Done

	index int // of the member in its unit
}

// State describes for operators how far the member is.
func (m *Member) State() string {
	switch {
	case m.Step != nil:
		return string(m.Step.Action) + " under way"
	case m.Left != "":
		return "left alone"
	case m.Finished:
		return "done"
	case m.Evacuated:
		return "evacuated"
	case m.Begun:
		return "begun"
	}
	return "waiting for its turn"
}

// needsReboot reports whether the rollout has to reboot the member. After it has done so, it leaves a newer version that was
// staged meanwhile to another rollout.
func (m *Member) needsReboot(s *Server) bool {
	if !m.Rebooted || !s.NeedsReboot {
		return s.NeedsReboot
	}
	target := m.Targets[lifecycle.ComponentOS]
	return s.Staged == "" || lifecycle.Newer(target, s.Running)
}

// Step is an action under way.
type Step struct {
	// ID is the ID of the server's Operation.
	ID        string
	Action    lifecycle.Action
	Why       string
	Attempt   int
	StartedAt time.Time
	Deadline  time.Time
	// Epoch is that of the controller that began the step, or took it over.
	Epoch uint64
}

// Done is a step that ended.
type Done struct {
	Action    lifecycle.Action
	Why       string
	Attempt   int
	StartedAt time.Time
	EndedAt   time.Time
	// Failed tells why it failed; empty: it succeeded. Note is a remark on its outcome.
	Failed string
	Note   string
}

// Limits of a unit.
const (
	// MaxDone is how many ended steps of a server are kept in one rollout.
	MaxDone = 20
	// MaxText bounds a text that comes from a server, in bytes: a longer one is cut there, and ends with "…".
	MaxText = 300
	// MaxMembers is the largest number of members of a cluster in a rollout.
	MaxMembers = 300
)

// shorten returns a text with at most MaxText bytes, and "…" behind one that was longer.
func shorten(text string) string {
	if len(text) > MaxText {
		text = text[:MaxText] + "…"
	}
	return strings.ToValidUTF8(text, "�")
}

// Equal reports whether two members are the same.
func (m *Member) Equal(other *Member) bool {
	switch {
	case (m.Step == nil) != (other.Step == nil), m.Step != nil && *m.Step != *other.Step:
		return false
	case !maps.Equal(m.Targets, other.Targets), !slices.Equal(m.Done, other.Done):
		return false
	}
	return m.Server == other.Server && m.ID == other.ID && m.Left == other.Left && m.Updated == other.Updated &&
		m.Keys == other.Keys && m.KeysApplied == other.KeysApplied && m.KeyWaits == other.KeyWaits && m.Reboot == other.Reboot &&
		m.EvacuatedBefore == other.EvacuatedBefore && m.Evacuated == other.Evacuated && m.Asked == other.Asked &&
		m.RebootAsked.Equal(other.RebootAsked) && m.Begun == other.Begun && m.Rebooted == other.Rebooted && m.Version == other.Version &&
		m.Finished == other.Finished && m.Attempts == other.Attempts && m.Failing == other.Failing &&
		m.NotBefore.Equal(other.NotBefore) && m.Number == other.Number
}
