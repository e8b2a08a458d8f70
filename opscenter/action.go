package opscenter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/opscenter-go/sdk/storage"
)

// BeginAction stores the intent to act on a server, before anything is done to it: from then
// on the server counts as busy, on every controller of the store, until EndAction, the
// observation that the action is done, or its deadline. It returns what the action needs.
//
// Errors: ErrNotFound; ErrNotReady if the server is not ready or something is under way;
// ErrNotApplicable for evacuate and restore on another type than incus, or outside a cluster.
func (r *Registry) BeginAction(ctx context.Context, name string, action Action) (*Operation, *ServerInfo, error) {
	at := now()
	operation := &Operation{ID: uuid.NewString(), Action: action, StartedAt: at, Deadline: at.Add(r.options.ActionTimeout)}
	info, err := r.Server(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	// From before the intent shows: a poll must not take it for a leftover.
	id := info.ID
	r.setContact(id, func(c *Contact) { c.Acting++ })
	var list []Event
	err = r.update(ctx, func(tx *writing) error {
		server, err := servers.Get(tx, nameKey(name))
		if err != nil {
			return notFound("server", name, err)
		}
		if info, err = r.load(tx, server); err != nil {
			return err
		}
		if info.ID != id {
			return fmt.Errorf("server %q is another by now: %w", name, storage.ErrConflict)
		}
		if err := applicable(info, action); err != nil {
			return err
		}
		t := Transition{State: info.State}
		next := &t.State
		operation.Targets = nil
		next.Operation = operation
		switch action {
		case ActionUpdate:
			operation.Targets = info.Outdated()
			t.to(at, StatusReady, operation.detail(), "asked to update")
		case ActionReboot:
			operation.Deadline = at.Add(r.options.RebootTimeout)
			next.Announced = &Announcement{At: at, Deadline: operation.Deadline}
			t.to(at, StatusOffline, DetailRebooting, "asked to reboot")
		default:
			t.to(at, StatusReady, operation.detail(), "asked to "+string(action))
		}
		t.event(at, EventActionStarted, string(action))
		next.LastUpdated = at
		if err := tx.putState(next); err != nil {
			return err
		}
		list = t.Events
		return r.record(tx, list...)
	})
	if err != nil {
		r.endActing(id)
		return nil, nil, err
	}
	r.logEvents(ctx, list)
	return operation, info, nil
}

func applicable(info *ServerInfo, action Action) error {
	s := &info.State
	if s.Operation != nil {
		return fmt.Errorf("server %q: %s is under way since %s: %w", info.Name, s.Operation.Action, s.Operation.StartedAt.Format(time.RFC3339), ErrNotReady)
	}
	if s.Status != StatusReady || s.StatusDetail != DetailNone {
		return fmt.Errorf("server %q is %s: %w", info.Name, describe(s.Status, s.StatusDetail), ErrNotReady)
	}
	switch action {
	case ActionUpdate, ActionReboot:
		return nil
	case ActionEvacuate, ActionRestore:
		if s.Type != TypeIncus {
			return fmt.Errorf("server %q: %s is for type incus, not %s: %w", info.Name, action, s.Type, ErrNotApplicable)
		}
		if s.MemberName == "" {
			return fmt.Errorf("server %q: %s is for members of an Incus cluster: %w", info.Name, action, ErrNotApplicable)
		}
		return nil
	}
	return fmt.Errorf("server %q: action %q is not known: %w", info.Name, action, ErrNotApplicable)
}

// EndAction tells how the effect of an action went. A failure ends the action. A success ends
// an evacuation or a restore, which are done by then; an update and a reboot have only been
// started, and end when a poll finds them done. A poll is asked for either way. An operation that is
// over already is left alone.
func (r *Registry) EndAction(ctx context.Context, server *ServerInfo, operation *Operation, failure error) error {
	defer r.endActing(server.ID)
	at := now()
	var list []Event
	err := r.update(ctx, func(tx *writing) error {
		list = nil
		state, err := states.Get(tx, nameKey(server.Name))
		if err != nil {
			return notFound("server", server.Name, err)
		}
		if state.ID != server.ID {
			return fmt.Errorf("server %q is another by now: %w", server.Name, storage.ErrConflict)
		}
		t := Transition{State: *state}
		next := &t.State
		// Polls that began before know less than we do.
		next.PollRequested, next.NotBefore = at, at
		if ours := next.Operation != nil && next.Operation.ID == operation.ID; ours {
			switch {
			case errors.Is(failure, ErrOutcomeUnknown):
				// Left to polls, and to the deadline.
			case failure != nil:
				t.event(at, EventActionFailed, fmt.Sprintf("%s: %v", operation.Action, failure))
				t.release(at, fmt.Sprintf("%s failed", operation.Action))
			case operation.Action == ActionEvacuate || operation.Action == ActionRestore:
				t.event(at, EventActionFinished, fmt.Sprintf("%s: done", operation.Action))
				next.Maintenance = NotInMaintenance
				if operation.Action == ActionEvacuate {
					next.Maintenance = MaintenanceEvacuated
				}
				t.release(at, string(operation.Action)+" done")
			}
			next.LastUpdated = at
		}
		if err := tx.putState(next); err != nil {
			return err
		}
		list = t.Events
		return r.record(tx, list...)
	})
	if err == nil {
		r.logEvents(ctx, list)
	}
	return err
}

func (r *Registry) endActing(id string) {
	r.setContact(id, func(c *Contact) { c.Acting = max(0, c.Acting-1) })
}

// release ends the operation, and takes back the status that was given for its sake; what
// the server has become meanwhile for other reasons, unresponsive say, it stays.
func (t *Transition) release(at time.Time, reason string) {
	next, op := &t.State, t.State.Operation
	next.Operation = nil
	rebooting := op.Action == ActionReboot && next.StatusDetail == DetailRebooting && next.Announced != nil && next.Announced.At.Equal(op.StartedAt)
	if rebooting {
		next.Announced = nil
	}
	if rebooting || next.Status == StatusReady && next.StatusDetail == op.detail() {
		t.to(at, StatusReady, DetailNone, reason)
	}
}
