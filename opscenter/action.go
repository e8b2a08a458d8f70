package opscenter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// Intent is an action that Tx.Begin is to begin.
type Intent struct {
	// Server is the name of the server. ServerID, if set, goes before it.
	Server   string
	ServerID string
	Action   lifecycle.Action
	// ID of the Operation. Default: a random one.
	ID string
	// Mode of an evacuation or a restore, as Incus names it.
	Mode string
	// Owner is the Owner of the Claim on the server or its cluster. See Tx.Claim.
	Owner string
	// Targets are the versions that an update is to reach, by component. Default: the newest in its channel.
	Targets map[string]string
	// Timeout after which the action counts as failed. Default: Options.RebootTimeout for a reboot, else
	// Options.ActionTimeout.
	Timeout time.Duration
	// Force begins the action although the server is not ready, or is busy with another action. It also ignores a Claim.
	// The action takes the place of an earlier one, which counts as failed. A factory reset keeps its place.
	Force bool
	// Note is added to the event.
	Note string
}

func (r *Registry) end(ctx context.Context, server *ServerInfo, operation *lifecycle.Operation, failure error) error {
	defer r.doubt(server.ID)
	defer r.endActing(server.ID)
	return r.Write(ctx, func(tx *Tx) error { return tx.End(server, operation.ID, failure) })
}

func (r *Registry) begin(ctx context.Context, intent Intent) (operation *lifecycle.Operation, info *ServerInfo, err error) {
	if intent.ID == "" {
		intent.ID = uuid.NewString()
	}
	err = r.Write(ctx, func(tx *Tx) (err error) {
		operation, info, err = tx.Begin(intent)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return operation, info, nil
}

// Begin stores the intent to act on a server, before anything is done to the server. The server counts as busy from then
// on, for every control plane on the store. It is busy until Tx.End, until a poll finds the action done, or until its
// deadline. Begin returns the operation, and the server as it was before.
//
// Errors: ErrNotFound; ErrNotReady if the server is not ready or another action is under way; ErrBusy if another owner
// has a Claim. ErrNotApplicable for evacuate and restore on a type other than incus, and for all other actions on a
// server without IncusOS.
//
// After the commit, the caller carries out the action with UpdatePlanner.CarryOut.
func (t *Tx) Begin(intent Intent) (*lifecycle.Operation, *ServerInfo, error) {
	r, at := t.registry, t.Now()
	info, err := t.Snapshot().find(intent.Server, intent.ServerID)
	if err != nil {
		return nil, nil, err
	}
	timeout := intent.Timeout
	if timeout <= 0 {
		timeout = r.options.ActionTimeout
		if intent.Action == lifecycle.ActionReboot {
			timeout = r.options.RebootTimeout
		}
	}
	if intent.ID == "" {
		intent.ID = uuid.NewString()
	}
	if !intent.Force {
		if err := t.claimed(info, intent.Owner); err != nil {
			return nil, nil, err
		}
	}
	if err := applicable(info, intent.Action, intent.Force); err != nil {
		return nil, nil, err
	}
	// Acting begins before the intent is visible. Otherwise a poll could take the intent for a leftover.
	t.act(info.ID)
	operation := &lifecycle.Operation{ID: intent.ID, Action: intent.Action, Mode: intent.Mode, Owner: intent.Owner, StartedAt: at, Deadline: at.Add(timeout)}
	if intent.Action == lifecycle.ActionUpdate {
		if operation.Targets = intent.Targets; operation.Targets == nil {
			operation.Targets = info.Outdated()
		}
		operation.Before = info.State.UpdateStatus
		operation.Keys = info.SecureBootKeys > 0 && !info.NeedsReboot()
	}
	text := string(intent.Action)
	switch {
	case intent.Note != "":
		text += ": " + intent.Note
	case intent.Owner != "":
		text += ", a step of rollout " + intent.Owner
	}
	if intent.Force {
		text += ", forced"
	}
	change := lifecycle.Begin(info.State, operation, text)
	if err := t.putState(&change.State); err != nil {
		return nil, nil, err
	}
	return operation, info, t.Record(change.Events...)
}

func applicable(info *ServerInfo, action lifecycle.Action, force bool) error {
	s := &info.State
	switch {
	case s.Versions.OS.Plain && action != lifecycle.ActionEvacuate && action != lifecycle.ActionRestore:
		return info.notOnIncusOS()
	case s.Operation != nil && s.Operation.Action == lifecycle.ActionFactoryReset && action != lifecycle.ActionFactoryReset:
		// Another action in its place would undo the leave to register again.
		return fmt.Errorf("server %q: its factory reset is under way since %s: %w", info.Name, s.Operation.StartedAt.Format(time.RFC3339), ErrBusy)
	case force && info.Fingerprint == "":
		return fmt.Errorf("server %q has not registered: %w", info.Name, ErrNotReady)
	case force:
	case s.Operation != nil:
		return fmt.Errorf("server %q: %s is under way since %s: %w", info.Name, s.Operation.Action, s.Operation.StartedAt.Format(time.RFC3339), ErrNotReady)
	case s.Status != lifecycle.StatusReady || s.StatusDetail != lifecycle.DetailNone:
		return fmt.Errorf("server %q is %s: %w", info.Name, lifecycle.Describe(s.Status, s.StatusDetail), ErrNotReady)
	}
	switch action {
	case lifecycle.ActionUpdate, lifecycle.ActionReboot, lifecycle.ActionPowerOff, lifecycle.ActionSuspend, lifecycle.ActionReconfigure, lifecycle.ActionFactoryReset:
		return nil
	case lifecycle.ActionEvacuate, lifecycle.ActionRestore:
		if s.Type != lifecycle.TypeIncus {
			return fmt.Errorf("server %q: %s is for type incus, not %s: %w", info.Name, action, s.Type, ErrNotApplicable)
		}
		return nil
	}
	return fmt.Errorf("server %q: action %q is not known: %w", info.Name, action, ErrNotApplicable)
}

// End stores the outcome of the effect of an action. A failure ends the action. A success ends an evacuation, a restore
// or a power off, because their effects are complete. An update and a reboot have only started: they end when a poll
// finds them done. End asks for a poll in either case. It leaves an operation alone that is over already. Errors:
// storage.ErrConflict if the server was removed.
//
// After the commit, the process that began the action calls Observer.Acted.
func (t *Tx) End(server *ServerInfo, operation string, failure error) error {
	at := t.Now()
	state, err := stateOf(t, server)
	if err != nil {
		return err
	}
	change := lifecycle.End(*state, operation, at, failure, errors.Is(failure, ErrOutcomeUnknown))
	if err := t.putState(&change.State); err != nil {
		return err
	}
	return t.Record(change.Events...)
}

// Acting tells that this process carries out an action on a server that an earlier process began. Until Acted, no poll
// ends the action before its deadline. id is the ID of the server.
func (h Observer) Acting(id string) { h.registry.beginActing(id) }

// Acted tells that this process has ended its part of an action, which it began with Tx.Begin or took up with Acting.
// From then on polls judge the action. id is the ID of the server.
func (h Observer) Acted(id string) {
	h.registry.endActing(id)
	h.registry.doubt(id)
}

// stateOf returns the state of a server, also if the server was renamed meanwhile.
func stateOf(tx *Tx, server *ServerInfo) (*lifecycle.ServerState, error) {
	state, err := states.Find(tx, nameKey(server.Name))
	if err != nil || state != nil && state.ID == server.ID {
		return state, err
	}
	known, err := byID.Find(tx, storage.StringKey(server.ID))
	if err != nil {
		return nil, err
	}
	if known == nil {
		return nil, fmt.Errorf("server %q was removed: %w", server.Name, storage.ErrConflict)
	}
	return states.Get(tx, nameKey(known.Name))
}

// MarkLost records that the control plane looked for a server and did not find it. The server is unresponsive until it
// answers. why goes into the reason of the status.
func (t *Tx) MarkLost(server *ServerInfo, why string) error {
	at := t.Now()
	state, err := stateOf(t, server)
	if err != nil {
		return err
	}
	change := lifecycle.MarkLost(*state, at, why)
	if err := t.putState(&change.State); err != nil {
		return err
	}
	return t.Record(change.Events...)
}

// rememberStopped adds the instances that are about to be stopped on a standalone server to those that were stopped
// before. It stores all of them, and returns them. Errors: storage.ErrConflict if the evacuation is over, ErrTooLong.
func (r *Registry) rememberStopped(ctx context.Context, server *ServerInfo, operation *lifecycle.Operation, instances []lifecycle.Instance) (all []lifecycle.Instance, err error) {
	err = r.Write(ctx, func(tx *Tx) error {
		state, err := stateOf(tx, server)
		if err != nil {
			return err
		}
		if state.Operation == nil || state.Operation.ID != operation.ID {
			return fmt.Errorf("server %q: the evacuation is over: %w", server.Name, storage.ErrConflict)
		}
		changed := *state
		stopped := lifecycle.Stopped{At: r.now()}
		known := map[lifecycle.Instance]bool{}
		if state.Stopped != nil {
			stopped.At = state.Stopped.At
			for _, i := range state.Stopped.Instances {
				known[i] = true
			}
			stopped.Instances = append(stopped.Instances, state.Stopped.Instances...)
		}
		for _, i := range instances {
			if !known[i] {
				stopped.Instances = append(stopped.Instances, i)
			}
		}
		if n := len(stopped.Instances); n > maxStopped {
			return fmt.Errorf("server %q: %d instances, at most %d can be remembered: %w", server.Name, n, maxStopped, ErrTooLong)
		}
		changed.Stopped, all = &stopped, stopped.Instances
		return tx.putState(&changed)
	})
	return all, err
}

// maxStopped is how many stopped instances of a standalone server the Registry remembers.
const maxStopped = 5000
