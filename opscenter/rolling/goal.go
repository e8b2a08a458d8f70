package rolling

import "github.com/opscenter-go/sdk/opscenter/lifecycle"

// Goal is what a rollout is to reach.
type Goal string

const (
	// GoalUpdate updates what needs it, and reboots what needs that then. The default.
	GoalUpdate Goal = "update"
	// GoalStage updates, and leaves the reboots for later.
	GoalStage Goal = "stage"
	// GoalReboot reboots every server, whether it needs it or not.
	GoalReboot Goal = "reboot"
	// The others carry out one action on the servers that are named, members of clusters or not.
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

// single returns the one action of a goal that has one.
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

// GoalOf returns the goal that carries out one action on one server.
func GoalOf(action lifecycle.Action) (Goal, bool) {
	for _, g := range Goals {
		if action != lifecycle.ActionNone && g.single() == action {
			return g, true
		}
	}
	return "", false
}
