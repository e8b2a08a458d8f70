package rolling

import "github.com/opscenter-go/sdk/opscenter/lifecycle"

// Goal is the aim of a rollout.
type Goal string

const (
	// GoalUpdate updates the servers that need it, and reboots those that need it then. It is the default.
	GoalUpdate Goal = "update"
	// GoalStage updates, and leaves the reboots for later.
	GoalStage Goal = "stage"
	// GoalReboot reboots every server, whether it needs a reboot or not.
	GoalReboot Goal = "reboot"
	// The others carry out a single action on the named servers. These may be members of clusters.
	GoalEvacuate   Goal = "evacuate-server"
	GoalRestore    Goal = "restore-server"
	GoalPowerOff   Goal = "poweroff-server"
	GoalRebootOnly Goal = "reboot-server"
	GoalUpdateOnly Goal = "update-server"
)

// Goals lists all goals.
var Goals = []Goal{GoalUpdate, GoalStage, GoalReboot, GoalEvacuate, GoalRestore, GoalPowerOff, GoalRebootOnly, GoalUpdateOnly}

// needsOS reports whether the goal needs IncusOS.
func (g Goal) needsOS() bool { return g != GoalEvacuate && g != GoalRestore }

// single returns the action of a goal that is a single action, and ActionNone for the others.
func (g Goal) single() lifecycle.Action {
	switch g {
	case GoalEvacuate:
		return lifecycle.ActionEvacuate
	case GoalRestore:
		return lifecycle.ActionRestore
	case GoalPowerOff:
		return lifecycle.ActionPowerOff
	case GoalRebootOnly:
		return lifecycle.ActionReboot
	case GoalUpdateOnly:
		return lifecycle.ActionUpdate
	}
	return lifecycle.ActionNone
}

// GoalOf returns the goal that carries out only that action.
func GoalOf(action lifecycle.Action) (Goal, bool) {
	for _, g := range Goals {
		if action != lifecycle.ActionNone && g.single() == action {
			return g, true
		}
	}
	return "", false
}
