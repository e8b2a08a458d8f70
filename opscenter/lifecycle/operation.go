package lifecycle

import "time"

// Operation is an action under way. It is stored before the action is carried out.
type Operation struct {
	ID     string
	Action Action
	// Mode of an evacuation or a restore, as Incus names it.
	Mode string
	// Owner is the ID of the rollout or the change of configuration that this is a step of; empty: none.
	Owner     string
	StartedAt time.Time
	// Deadline is when the operation counts as failed.
	Deadline time.Time
	// Targets are the versions that an update should reach, by component.
	Targets map[string]string
	// Before is the server's UpdateStatus when an update began; nil: not known.
	Before *UpdateStatus `json:",omitempty"`
	// Keys: the update may begin with a Secure Boot key, which takes a reboot. The server needed no reboot before.
	Keys bool `json:",omitempty"`
	// Was and WasDetail are the status that the server had when the operation was forced upon it. The server gets it back
	// if the operation fails. Empty: the server was ready.
	Was       Status       `json:",omitempty"`
	WasDetail StatusDetail `json:",omitempty"`
}

// staysDown reports whether the server goes down with the action, and stays down until an operator starts or wakes it.
func (op *Operation) staysDown() bool {
	return op.Action == ActionPowerOff || op.Action == ActionSuspend
}

// keepsPending reports whether the server is pending during the action, and not ready or offline: it may not answer for a
// while, or have another address.
func (op *Operation) keepsPending() bool {
	return op.Action == ActionReconfigure || op.Action == ActionFactoryReset
}

// detail returns the detail of the server's status during the action.
func (op *Operation) detail() StatusDetail {
	switch op.Action {
	case ActionUpdate:
		if _, ok := op.Targets[ComponentOS]; !ok && len(op.Targets) > 0 {
			return DetailUpdatingApplication
		}
		return DetailUpdating
	case ActionEvacuate:
		return DetailEvacuating
	case ActionRestore:
		return DetailRestoring
	case ActionPowerOff, ActionSuspend:
		return DetailShutDown
	case ActionReconfigure:
		return DetailReconfiguring
	case ActionFactoryReset:
		return DetailRegistering
	}
	return DetailRebooting
}

// Outcome is how an action ended.
type Outcome struct {
	ID        string // of the Operation
	Action    Action
	Owner     string
	StartedAt time.Time
	EndedAt   time.Time
	// Failed tells why it failed; empty: it succeeded.
	Failed string
}
