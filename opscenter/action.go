package opscenter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/storage"
)

// Intent is an action that is about to be carried out.
type Intent struct {
	// Server by its name, or if ID is set, by that.
	Server   string
	ServerID string
	Action   Action
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

// BeginAction stores the intent to act on a server, before anything is done to it: from then
// on the server counts as busy, on every controller of the store, until EndAction, the
// observation that the action is done, or its deadline. It returns what the action needs.
//
// Errors: ErrNotFound; ErrNotReady if the server is not ready or something is under way;
// ErrBusy if a rollout has claimed it; ErrNotApplicable for evacuate and restore on another type than
// incus, and for all else on a server that is not on IncusOS.
func (r *Registry) BeginAction(ctx context.Context, name string, action Action) (*Operation, *ServerInfo, error) {
	return r.begin(ctx, Intent{Server: name, Action: action})
}

func (r *Registry) begin(ctx context.Context, intent Intent) (operation *Operation, info *ServerInfo, err error) {
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

// Begin stores the intent to act on a server, as Registry.BeginAction does. Whoever begins an
// action carries it out, by UpdatePlanner.CarryOut, once the transaction is committed.
func (t *Tx) Begin(intent Intent) (*Operation, *ServerInfo, error) {
	r, at := t.registry, now()
	info, err := t.Snapshot().find(intent.Server, intent.ServerID)
	if err != nil {
		return nil, nil, err
	}
	timeout := intent.Timeout
	if timeout <= 0 {
		timeout = r.options.ActionTimeout
		if intent.Action == ActionReboot {
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
	operation := &Operation{ID: intent.ID, Action: intent.Action, Mode: intent.Mode, Owner: intent.Owner, StartedAt: at, Deadline: at.Add(timeout)}
	change := Transition{State: info.State}
	next := &change.State
	switch { // forced
	case next.Operation != nil:
		operation.Was, operation.WasDetail = next.Operation.Was, next.Operation.WasDetail
		change.endOperation(at, fmt.Sprintf("%s took its place", intent.Action), "")
	case next.Status != StatusReady:
		operation.Was, operation.WasDetail = next.Status, next.StatusDetail
	}
	next.Operation = operation
	switch intent.Action {
	case ActionUpdate:
		if operation.Targets = intent.Targets; operation.Targets == nil {
			operation.Targets = info.Outdated()
		}
		operation.Before = info.State.UpdateStatus
		operation.Keys = info.SecureBootKeys > 0 && !info.NeedsReboot()
		change.to(at, StatusReady, operation.detail(), "asked to update")
	case ActionReboot:
		next.Announced = &Announcement{At: at, Deadline: operation.Deadline}
		change.to(at, StatusOffline, DetailRebooting, "asked to reboot")
	case ActionPowerOff, ActionSuspend:
		next.Announced = &Announcement{At: at}
		change.to(at, StatusOffline, DetailShutDown, "asked to "+actionWords[intent.Action])
	case ActionReconfigure, ActionFactoryReset:
		next.Announced = nil
		change.to(at, StatusPending, operation.detail(), "asked to "+actionWords[intent.Action])
	default:
		change.to(at, StatusReady, operation.detail(), "asked to "+string(intent.Action))
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
	change.event(at, EventActionStarted, text)
	next.LastUpdated = at
	if err := t.writing.putState(next); err != nil {
		return nil, nil, err
	}
	return operation, info, t.Record(change.Events...)
}

var actionWords = map[Action]string{ActionPowerOff: "power off", ActionSuspend: "suspend", ActionReconfigure: "change its configuration", ActionFactoryReset: "install itself anew"}

func applicable(info *ServerInfo, action Action, force bool) error {
	s := &info.State
	switch {
	case s.Versions.OS.Plain && action != ActionEvacuate && action != ActionRestore:
		return info.notOnIncusOS()
	case s.Operation != nil && s.Operation.Action == ActionFactoryReset && action != ActionFactoryReset:
		// Whatever took its place would take back what lets the server in again.
		return fmt.Errorf("server %q: its factory reset is under way since %s: %w", info.Name, s.Operation.StartedAt.Format(time.RFC3339), ErrBusy)
	case force && info.Fingerprint == "":
		return fmt.Errorf("server %q has not registered: %w", info.Name, ErrNotReady)
	case force:
	case s.Operation != nil:
		return fmt.Errorf("server %q: %s is under way since %s: %w", info.Name, s.Operation.Action, s.Operation.StartedAt.Format(time.RFC3339), ErrNotReady)
	case s.Status != StatusReady || s.StatusDetail != DetailNone:
		return fmt.Errorf("server %q is %s: %w", info.Name, describe(s.Status, s.StatusDetail), ErrNotReady)
	}
	switch action {
	case ActionUpdate, ActionReboot, ActionPowerOff, ActionSuspend, ActionReconfigure, ActionFactoryReset:
		return nil
	case ActionEvacuate, ActionRestore:
		if s.Type != TypeIncus {
			return fmt.Errorf("server %q: %s is for type incus, not %s: %w", info.Name, action, s.Type, ErrNotApplicable)
		}
		return nil
	}
	return fmt.Errorf("server %q: action %q is not known: %w", info.Name, action, ErrNotApplicable)
}

// EndAction tells how the effect of an action went. A failure ends the action. A success ends
// an evacuation, a restore or a power off, which are done by then; an update and a reboot have only been
// started, and end when a poll finds them done. A poll is asked for either way. An operation that is
// over already is left alone.
func (r *Registry) EndAction(ctx context.Context, server *ServerInfo, operation *Operation, failure error) error {
	defer r.doubt(server.ID)
	defer r.endActing(server.ID)
	return r.Write(ctx, func(tx *Tx) error { return tx.End(server, operation.ID, failure) })
}

// End tells how the effect of an action went, as Registry.EndAction does. Whoever began it in
// this process calls Registry.Acted once that is committed.
func (t *Tx) End(server *ServerInfo, operation string, failure error) error {
	at := now()
	state, err := stateOf(t.writing, server)
	if err != nil {
		return err
	}
	change := Transition{State: *state}
	next := &change.State
	// Polls that began before know less than we do.
	next.PollRequested, next.NotBefore = at, at
	if ours := next.Operation != nil && next.Operation.ID == operation; ours {
		change.end(at, failure)
		next.LastUpdated = at
	}
	if err := t.writing.putState(next); err != nil {
		return err
	}
	return t.Record(change.Events...)
}

// Acting tells that this process carries out an action on a server that another run of it has
// begun: from now on no poll says, before the deadline, that it is over. Acted is its end.
func (r *Registry) Acting(id string) { r.beginActing(id) }

// Acted tells that this process is done with an action on a server, which it began with
// Tx.Begin, or took up with Acting: from now on polls judge it.
func (r *Registry) Acted(id string) {
	r.endActing(id)
	r.doubt(id)
}

// stateOf returns the state of a server, whatever its name is by now.
func stateOf(tx *writing, server *ServerInfo) (*ServerState, error) {
	known, err := byID.Find(tx, storage.StringKey(server.ID))
	if err != nil {
		return nil, err
	}
	if known == nil {
		return nil, fmt.Errorf("server %q was removed: %w", server.Name, storage.ErrConflict)
	}
	return states.Get(tx, nameKey(known.Name))
}

// end ends the operation as its effect went.
func (t *Transition) end(at time.Time, failure error) {
	next, op := &t.State, t.State.Operation
	switch {
	case errors.Is(failure, ErrOutcomeUnknown):
		// Left to polls, and to the deadline.
	case failure != nil:
		t.endOperation(at, failure.Error(), "")
		t.release(at, op, fmt.Sprintf("%s failed", op.Action), op.Was, op.WasDetail)
	case op.down():
		t.endOperation(at, "", "the server has accepted it")
	case op.Action == ActionReconfigure:
		t.endOperation(at, "", "done")
		t.release(at, op, "reconfigured", "", DetailNone)
	case op.Action == ActionEvacuate || op.Action == ActionRestore:
		t.endOperation(at, "", "done")
		next.Maintenance = NotInMaintenance
		if op.Action == ActionEvacuate {
			next.Maintenance = MaintenanceEvacuated
		} else {
			next.Stopped = nil
		}
		t.release(at, op, string(op.Action)+" done", "", DetailNone)
	}
}

func (r *Registry) endActing(id string) {
	r.setContact(id, func(c *Contact) {
		c.Acting = max(0, c.Acting-1)
	})
}

// release takes back the status that was given for the sake of an operation that is over; what
// the server has become meanwhile for other reasons, unresponsive say, it stays. It is ready
// then, or what it was before.
func (t *Transition) release(at time.Time, op *Operation, reason string, was Status, detail StatusDetail) {
	if was == "" {
		was, detail = StatusReady, DetailNone
	}
	next := &t.State
	down := (op.Action == ActionReboot || op.down()) && next.StatusDetail == op.detail() && next.Announced != nil && next.Announced.At.Equal(op.StartedAt)
	if down {
		next.Announced = nil
	}
	if down || (next.Status == StatusReady || op.pending() && next.Status == StatusPending) && next.StatusDetail == op.detail() {
		t.to(at, was, detail, reason)
	}
}

// Lose notes that a server was looked for, and is not seen: it is unresponsive, until it answers.
func (t *Tx) Lose(server *ServerInfo, why string) error {
	at := now()
	state, err := stateOf(t.writing, server)
	if err != nil {
		return err
	}
	change := Transition{State: *state}
	change.State.Announced = nil
	change.to(at, StatusOffline, DetailUnresponsive, why)
	change.State.LastUpdated = at
	if err := t.writing.putState(&change.State); err != nil {
		return err
	}
	return t.Record(change.Events...)
}

// rememberStopped stores which instances of a standalone server are about to be stopped, with
// those that were before.
func (r *Registry) rememberStopped(ctx context.Context, server *ServerInfo, operation *Operation, instances []Instance) (all []Instance, err error) {
	err = r.update(ctx, func(tx *writing) error {
		state, err := stateOf(tx, server)
		if err != nil {
			return err
		}
		if state.Operation == nil || state.Operation.ID != operation.ID {
			return fmt.Errorf("server %q: the evacuation is over: %w", server.Name, storage.ErrConflict)
		}
		changed := *state
		stopped := Stopped{At: now()}
		known := map[Instance]bool{}
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
