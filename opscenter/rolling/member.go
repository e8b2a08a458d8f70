package rolling

import (
	"strings"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Member is a server on its way through a rollout.
type Member struct {
	Server, ID string
	// Left says why nothing is done with it; empty: something is.
	Left string
	// Targets are the versions it is to reach. They don't change, whatever is published meanwhile.
	Targets map[string]string
	// Updated: it has reached them.
	Updated bool
	// Keys is how many Secure Boot keys it may apply on the way there, as planned, and KeysApplied how many it has.
	// KeyWaits: one was applied, and waits for a reboot; the update goes on after that.
	Keys        int  `json:",omitempty"`
	KeysApplied int  `json:",omitempty"`
	KeyWaits    bool `json:",omitempty"`
	// Reboot: it is to be rebooted whether it needs it or not, and was not so far.
	Reboot bool
	// EvacuatedBefore: somebody else evacuated it; it is left so.
	EvacuatedBefore bool
	// Evacuated: this rollout did, and has not restored it.
	Evacuated bool
	// Asked: this rollout asked it to be evacuated. Found evacuated later, that is its doing.
	Asked bool
	// RebootAsked is when it was last asked to reboot.
	RebootAsked time.Time
	// Begun: it was taken out, or is about to be, and is not done.
	Begun bool
	// Rebooted by this rollout.
	Rebooted bool
	// Version of the operating system it must be on after the reboot under way.
	Version string
	// Finished: nothing is left to do.
	Finished bool

	// Step is under way; nil: none.
	Step *Step
	// Attempts of the action that failed last, the next not before NotBefore.
	Attempts  int
	Failing   lifecycle.Action
	NotBefore time.Time
	// Number of the steps so far.
	Number int
	// Done are the steps that ended, the last MaxDone of them.
	Done []Done

	index int // among the members
}

// State says for people where the server is.
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

// needsReboot reports whether a member is to be rebooted for the rollout's sake. After its
// reboot what was staged meanwhile is another rollout's.
func (m *Member) needsReboot(s *Server) bool {
	if !m.Rebooted || !s.NeedsReboot {
		return s.NeedsReboot
	}
	target := m.Targets[lifecycle.ComponentOS]
	return s.Staged == "" || lifecycle.Newer(target, s.Running)
}

// Step is an action under way.
type Step struct {
	// ID is that of the server's Operation.
	ID        string
	Action    lifecycle.Action
	Why       string
	Attempt   int
	StartedAt time.Time
	Deadline  time.Time
	// Epoch of the controller that carries it out.
	Epoch uint64
}

// Done is a step that ended.
type Done struct {
	Action    lifecycle.Action
	Why       string
	Attempt   int
	StartedAt time.Time
	EndedAt   time.Time
	// Failed says why it failed; empty: it did not. Note is what else is to be said.
	Failed string
	Note   string
}

// Limits of what is kept of a unit.
const (
	// MaxDone bounds the ended steps that are kept of a server in one rollout.
	MaxDone = 20
	// MaxText bounds a text that comes from servers, in bytes.
	MaxText = 300
	// MaxMembers bounds the members of a cluster that can be rolled through.
	MaxMembers = 300
)

// shorten bounds a text from elsewhere.
func shorten(text string) string {
	if len(text) > MaxText {
		text = text[:MaxText] + "…"
	}
	return strings.ToValidUTF8(text, "�")
}
