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
	var info *ServerInfo
	var list []Event
	err := r.store.Update(ctx, func(tx storage.WriteTx) error {
		server, err := servers.Get(tx, nameKey(name))
		if err != nil {
			return notFound("server", name, err)
		}
		if info, err = r.load(tx, server); err != nil {
			return err
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
		if err := states.Put(tx, next); err != nil {
			return err
		}
		list = t.Events
		return r.record(tx, list...)
	})
	if err != nil {
		return nil, nil, err
	}
	r.setContact(info.ID, name, func(c *Contact) { c.Acting = true })
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
func (r *Registry) EndAction(ctx context.Context, name string, operation *Operation, failure error) error {
	at := now()
	var list []Event
	var id string
	err := r.store.Update(ctx, func(tx storage.WriteTx) error {
		list, id = nil, ""
		state, err := states.Get(tx, nameKey(name))
		if err != nil {
			return notFound("server", name, err)
		}
		id = state.ID
		t := Transition{State: *state}
		next := &t.State
		next.PollRequested = at
		if ours := next.Operation != nil && next.Operation.ID == operation.ID; ours {
			switch {
			case errors.Is(failure, ErrOutcomeUnknown):
				// Left to polls, and to the deadline.
			case failure != nil:
				next.Operation, next.Announced = nil, nil
				t.event(at, EventActionFailed, fmt.Sprintf("%s: %v", operation.Action, failure))
				t.to(at, StatusReady, DetailNone, fmt.Sprintf("%s failed", operation.Action))
			case operation.Action == ActionEvacuate || operation.Action == ActionRestore:
				t.endOperation(at, "done")
				next.Maintenance = NotInMaintenance
				if operation.Action == ActionEvacuate {
					next.Maintenance = MaintenanceEvacuated
				}
				t.to(at, StatusReady, DetailNone, string(operation.Action)+" done")
			}
			next.LastUpdated = at
		}
		if err := states.Put(tx, next); err != nil {
			return err
		}
		list = t.Events
		return r.record(tx, list...)
	})
	if id != "" {
		r.setContact(id, name, func(c *Contact) { c.Acting = false })
	}
	if err == nil {
		r.logEvents(ctx, list)
	}
	return err
}
