package opscenter

import (
	"context"
	"fmt"
	"iter"
)

// Actuator carries out actions on servers. Package opscenter/incusos implements it.
type Actuator interface {
	// Update makes the server fetch and apply what its update feed offers; it returns when
	// the server has accepted that.
	Update(ctx context.Context, target Target) error
	// Evacuate moves the server's instances away, and returns when they are.
	Evacuate(ctx context.Context, target Target) error
	// Restore brings the server's instances back, and returns when they are.
	Restore(ctx context.Context, target Target) error
	// Reboot reboots the server; it returns when the server has accepted that.
	Reboot(ctx context.Context, target Target) error
}

// UpdatePlanner says what to do next with each server, and does it when told to.
type UpdatePlanner struct {
	registry *Registry
	actuator Actuator
}

// NewUpdatePlanner returns a planner. Without an actuator it recommends, and can't act.
func NewUpdatePlanner(registry *Registry, actuator Actuator) *UpdatePlanner {
	return &UpdatePlanner{registry: registry, actuator: actuator}
}

// Recommend returns the recommended action for a server, computed from what is known now.
func (p *UpdatePlanner) Recommend(ctx context.Context, name string) (Recommendation, error) {
	info, err := p.registry.Server(ctx, name)
	if err != nil {
		return Recommendation{}, err
	}
	return info.Recommendation(), nil
}

// Recommendations yields the servers that match with their recommendations, by name.
func (p *UpdatePlanner) Recommendations(ctx context.Context, filter ServerFilter) iter.Seq2[*ServerInfo, error] {
	return p.registry.Servers(ctx, filter)
}

var errAbandoned = fmt.Errorf("the actuator did not return: %w", ErrOutcomeUnknown)

// Act carries out one action on one server: the intent is stored, the effect carried out, and
// its outcome stored; polls then see it through. If the process dies on the way, the server
// counts as busy until a poll sees the action done, or its deadline passes. Act returns when the
// server has accepted an update or a reboot, and when an evacuation or a restore is done.
//
// Errors are those of Registry.BeginAction, and what the server says.
func (p *UpdatePlanner) Act(ctx context.Context, name string, action Action) error {
	if p.actuator == nil {
		return fmt.Errorf("the planner has no actuator: %w", ErrInvalidOptions)
	}
	operation, info, err := p.registry.BeginAction(ctx, name, action)
	if err != nil {
		return err
	}
	var effect func(context.Context, Target) error
	switch action {
	case ActionUpdate:
		effect = p.actuator.Update
	case ActionEvacuate:
		effect = p.actuator.Evacuate
	case ActionRestore:
		effect = p.actuator.Restore
	default:
		effect = p.actuator.Reboot
	}
	failure := errAbandoned // what stays if the actuator panics
	end := func() error {   // the outcome is stored even if the caller has given up meanwhile
		return p.registry.EndAction(context.WithoutCancel(ctx), info, operation, failure)
	}
	ended := false
	defer func() {
		if !ended {
			_ = end()
		}
	}()
	bounded, cancel := context.WithDeadline(ctx, operation.Deadline)
	defer cancel()
	failure = effect(bounded, info.Target())
	ended = true
	if err := end(); err != nil {
		return err
	}
	if failure != nil {
		return fmt.Errorf("%s of server %q: %w", action, name, failure)
	}
	return nil
}
