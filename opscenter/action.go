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

// Intent is an action that is about to be carried out.
type Intent struct {
	// Server by its name, or if ID is set, by that.
	Server   string
	ServerID string
	Action   lifecycle.Action
	// ID of the Operation. Default: a random one.
	ID string
	// Mode of an evacuation or a restore, as Incus names it.
	Mode string
	// Owner is who has claimed the server's cluster, or the server, see Tx.Claim.
	Owner string
	// Targets are the versions an update is to reach. Default: the newest in its channel.
	Targets map[string]string
	// Timeout after which it counts as failed. Default: Options.RebootTimeout, or ActionTimeout.
	Timeout time.Duration
	// Force begins it although the server is not ready, or something is under way on it or its
	// cluster: an operation of its own that it takes the place of counts as failed.
	Force bool
	// Note is for the event: what it is about.
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

// Begin stores the intent to act on a server, before anything is done to it: from then
// on the server counts as busy, on every controller of the store, until EndAction, the
// observation that the action is done, or its deadline. It returns what the action needs.
//
// Errors: ErrNotFound; ErrNotReady if the server is not ready or something is under way;
// ErrBusy if a rollout has claimed it; ErrNotApplicable for evacuate and restore on another type than
// incus, and for all else on a server that is not on IncusOS.
//
// The caller carries the action out, by UpdatePlanner.CarryOut, once the transaction is committed.
func (t *Tx) Begin(intent Intent) (*lifecycle.Operation, *ServerInfo, error) {
	r, at := t.registry, t.now()
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
	// From before the intent shows: a poll must not take it for a leftover.
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
		// Whatever took its place would take back what lets the server in again.
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

// End tells how the effect of an action went. A failure ends the action. A success ends
// an evacuation, a restore or a power off, which are done by then; an update and a reboot have only been
// started, and end when a poll finds them done. A poll is asked for either way. An operation that is
// over already is left alone.
//
// The process that began the action calls Observer.Acted once that is committed.
func (t *Tx) End(server *ServerInfo, operation string, failure error) error {
	at := t.now()
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

// Acting tells that this process carries out an action on a server that another run of it has
// begun: from now on no poll says, before the deadline, that it is over. Acted is its end.
func (h Observer) Acting(id string) { h.registry.beginActing(id) }

// Acted tells that this process is done with an action on a server, which it began with
// Tx.Begin, or took up with Acting: from now on polls judge it.
func (h Observer) Acted(id string) {
	h.registry.endActing(id)
	h.registry.doubt(id)
}

// stateOf returns the state of a server, whatever its name is by now.
func stateOf(tx *Tx, server *ServerInfo) (*lifecycle.ServerState, error) {
	known, err := byID.Find(tx, storage.StringKey(server.ID))
	if err != nil {
		return nil, err
	}
	if known == nil {
		return nil, fmt.Errorf("server %q was removed: %w", server.Name, storage.ErrConflict)
	}
	return states.Get(tx, nameKey(known.Name))
}

// Lose notes that a server was looked for, and is not seen: it is unresponsive, until it answers.
func (t *Tx) Lose(server *ServerInfo, why string) error {
	at := t.now()
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

// rememberStopped stores which instances of a standalone server are about to be stopped, with
// those that were before.
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
		if n := len(stopped.Instances); n > MaxStopped {
			return fmt.Errorf("server %q: %d instances, at most %d can be remembered: %w", server.Name, n, MaxStopped, ErrTooLong)
		}
		changed.Stopped, all = &stopped, stopped.Instances
		return tx.putState(&changed)
	})
	return all, err
}

// MaxStopped bounds the instances of a standalone server that are stopped, and remembered.
const MaxStopped = 5000
