package lifecycle

import "time"

// Operation is an action under way: the intent, stored before the effect.
type Operation struct {
	ID     string
	Action Action
	// Mode of an evacuation or a restore, as Incus names it.
	Mode string
	// Owner is the rollout, or the change, it is a step of; empty: none.
	Owner     string
	StartedAt time.Time
	Deadline  time.Time
	// Targets are the versions an update is to reach, per component.
	Targets map[string]string
	// Before is what the server said of its checks for updates when an update was begun; nil: not known.
	Before *UpdateStatus `json:",omitempty"`
	// Keys: the update may come to a Secure Boot key first, which takes a reboot; the server needed none before.
	Keys bool `json:",omitempty"`
	// Was is the status the server had when it was forced upon it, and WasDetail its detail: it has
	// them again if the operation fails. Empty: it was ready.
	Was       Status       `json:",omitempty"`
	WasDetail StatusDetail `json:",omitempty"`
}

// staysDown reports whether the server goes down with the action, and stays so until somebody wakes it.
func (op *Operation) staysDown() bool { return op.Action == ActionPowerOff || op.Action == ActionSuspend }

// keepsPending reports whether the server is neither ready nor offline meanwhile: it may be away for
// a while, and at another address.
func (op *Operation) keepsPending() bool {
	return op.Action == ActionReconfigure || op.Action == ActionFactoryReset
}

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
	// Failed says why it failed; empty: it did not.
	Failed string
}
