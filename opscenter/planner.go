package opscenter

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
)

// Actuator carries out actions on servers. Package opscenter/incusos implements it. Once a
// server was asked, an error that is not its own word is an ErrOutcomeUnknown.
type Actuator interface {
	// Update makes the server fetch and apply what its update feed offers; it returns when
	// the server has accepted that.
	Update(ctx context.Context, target Target) error
	// Evacuate moves the instances of a cluster's member away, and returns when they are; one
	// that is evacuated already is left as it is. Mode is auto, migrate, live-migrate or stop; empty: auto.
	Evacuate(ctx context.Context, target Target, mode string) error
	// Restore brings them back, and returns when they are; mode is empty, or skip.
	Restore(ctx context.Context, target Target, mode string) error
	// Reboot, PowerOff and Suspend return when the server has accepted that.
	Reboot(ctx context.Context, target Target) error
	PowerOff(ctx context.Context, target Target) error
	Suspend(ctx context.Context, target Target) error
	// RunningInstances returns the instances that run on a server that is in no cluster.
	RunningInstances(ctx context.Context, target Target) ([]lifecycle.Instance, error)
	// StopInstance and StartInstance return when it is; one that is already, or that is gone, is left alone.
	StopInstance(ctx context.Context, target Target, instance lifecycle.Instance) error
	StartInstance(ctx context.Context, target Target, instance lifecycle.Instance) error
}

// UpdatePlanner says what to do next with each server, and does it when told to.
type UpdatePlanner struct {
	registry *Registry
	actuator Actuator
}

// NewUpdatePlanner returns a planner. Without an actuator it recommends and plans, and can't act.
func NewUpdatePlanner(registry *Registry, actuator Actuator) *UpdatePlanner {
	return &UpdatePlanner{registry: registry, actuator: actuator}
}

// Registry returns the registry it plans for.
func (p *UpdatePlanner) Registry() *Registry { return p.registry }

// Recommend returns the recommended action for a server, computed from what is known now.
func (p *UpdatePlanner) Recommend(ctx context.Context, name string) (lifecycle.Recommendation, error) {
	info, err := p.registry.Server(ctx, name)
	if err != nil {
		return lifecycle.Recommendation{}, err
	}
	return info.Recommendation(), nil
}

// Recommendations yields the servers that match with their recommendations, by name.
func (p *UpdatePlanner) Recommendations(ctx context.Context, filter ServerFilter) iter.Seq2[*ServerInfo, error] {
	return p.registry.Servers(ctx, filter)
}

// Plan returns what a rollout of what the selector selects would do, and what is in its way.
// Nothing is done, and nothing stored. The same functions carry it out, in package rollout:
// if nothing fails, this is what happens. Errors: rolling.ErrInvalid, with what is wrong.
func (p *UpdatePlanner) Plan(ctx context.Context, selector rolling.Selector, policy rolling.Policy) (*rolling.Plan, error) {
	plan, _, err := p.Prepare(ctx, selector, policy)
	return plan, err
}

// Prepare makes a plan, and what a rollout begins with, out of one snapshot.
func (p *UpdatePlanner) Prepare(ctx context.Context, selector rolling.Selector, policy rolling.Policy) (plan *rolling.Plan, selected *rolling.Selected, err error) {
	fleet := rolling.Fleet{}
	err = p.registry.Read(ctx, func(s *Snapshot) error {
		fleet, err = s.fleet()
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return rolling.Make(fleet, selector, policy, p.registry.now())
}

// fleet reads all servers, clusters and claims.
func (s *Snapshot) fleet() (rolling.Fleet, error) {
	fleet := rolling.Fleet{}
	for info, err := range s.Servers(ServerFilter{}) {
		if err != nil {
			return fleet, err
		}
		fleet.Servers = append(fleet.Servers, info.Rolling())
	}
	records := map[string]*rolling.Cluster{}
	for c, err := range clusters.Scan(s, rangeAll) {
		if err != nil {
			return fleet, err
		}
		records[c.Name] = &rolling.Cluster{Name: c.Name, Properties: c.Properties, PostRestoreDelay: c.PostRestoreDelay, RestoreMode: c.RestoreMode}
	}
	busy := map[string]string{}
	names := map[string]string{}
	for _, server := range fleet.Servers {
		names[server.ID] = server.Name
	}
	for c, err := range claims.Scan(s, rangeAll) {
		if err != nil {
			return fleet, err
		}
		key := "server " + names[c.Unit]
		if c.Cluster {
			key = "cluster " + c.Unit
		}
		busy[key] = fmt.Sprintf("%s (%s)", c.What, c.Owner)
	}
	fleet.Cluster = func(name string) *rolling.Cluster { return records[name] }
	fleet.Busy = func(unit string, cluster bool) string {
		if cluster {
			return busy["cluster "+unit]
		}
		return busy["server "+unit]
	}
	return fleet, nil
}

var errAbandoned = fmt.Errorf("the actuator did not return: %w", ErrOutcomeUnknown)

// Act carries out one action on one server: the intent is stored, the effect carried out, and
// its outcome stored; polls then see it through. If the process dies on the way, the server
// counts as busy until a poll sees the action done, or its deadline passes. Act returns when the
// server has accepted an update, a reboot or a power off, and when an evacuation or a restore is
// done. For the rules of a rollout, and to see it through, see package rollout.
//
// Errors are those of Registry.BeginAction, and what the server says.
func (p *UpdatePlanner) Act(ctx context.Context, name string, action lifecycle.Action) error {
	return p.ActOn(ctx, Intent{Server: name, Action: action})
}

// ActOn is Act for an intent with more to it: a mode, a timeout, or force.
func (p *UpdatePlanner) ActOn(ctx context.Context, intent Intent) error {
	if p.actuator == nil {
		return errNoActuator
	}
	operation, info, err := p.registry.begin(ctx, intent)
	if err != nil {
		return err
	}
	return p.CarryOut(ctx, info, operation)
}

var errNoActuator = fmt.Errorf("the planner has no actuator: %w: %w", ErrNotSetUp, ErrInvalidOptions)

// CarryOut carries out an action that was begun, by Tx.Begin, and stores its outcome.
func (p *UpdatePlanner) CarryOut(ctx context.Context, server *ServerInfo, operation *lifecycle.Operation) error {
	return p.carryOut(ctx, server, operation, false)
}

func (p *UpdatePlanner) carryOut(ctx context.Context, server *ServerInfo, operation *lifecycle.Operation, again bool) error {
	failure := errAbandoned // what stays if the actuator panics
	end := func() error {   // the outcome is stored even if the caller has given up meanwhile
		return p.registry.end(context.WithoutCancel(ctx), server, operation, failure)
	}
	ended := false
	defer func() {
		if !ended {
			_ = end()
		}
	}()
	if p.actuator == nil {
		failure = errNoActuator
	} else {
		bounded, cancel := context.WithDeadline(ctx, operation.Deadline)
		defer cancel()
		failure = p.effect(bounded, server, operation)
		if failure != nil && again && !errors.Is(failure, ErrRefused) {
			failure = fmt.Errorf("%w: %w", ErrOutcomeUnknown, failure)
		}
		if failure != nil && ctx.Err() != nil && (operation.Action == lifecycle.ActionEvacuate || operation.Action == lifecycle.ActionRestore) {
			// Given up in the middle, as when the controller stops: that is no word of the server.
			failure = fmt.Errorf("%w: %w", ErrOutcomeUnknown, failure)
		}
	}
	ended = true
	if err := end(); err != nil {
		return err
	}
	if failure != nil {
		return fmt.Errorf("%s of server %q: %w", operation.Action, server.Name, failure)
	}
	return nil
}

// CarryOn carries out once more an action whose controller is gone, or whose outcome was not
// heard, and which can be asked for again: an update, an evacuation, a restore. It does nothing if
// the action is over. An error leaves the action under way: what was asked for before may go on.
// Errors: ErrNotFound, ErrNotApplicable, ErrOutcomeUnknown.
func (p *UpdatePlanner) CarryOn(ctx context.Context, id, operation string) error {
	// From before it is looked at: a poll must not take it for a leftover.
	p.registry.beginActing(id)
	var info *ServerInfo
	err := p.registry.Read(ctx, func(s *Snapshot) (err error) {
		info, err = s.ServerByID(id)
		return err
	})
	if err != nil || info.State.Operation == nil || info.State.Operation.ID != operation {
		p.registry.endActing(id)
		return err
	}
	if action := info.State.Operation.Action; action != lifecycle.ActionUpdate && action != lifecycle.ActionEvacuate && action != lifecycle.ActionRestore {
		p.registry.endActing(id)
		return fmt.Errorf("%s of server %q can't be asked for twice: %w", action, info.Name, ErrNotApplicable)
	}
	return p.carryOut(ctx, info, info.State.Operation, true)
}

func (p *UpdatePlanner) effect(ctx context.Context, server *ServerInfo, operation *lifecycle.Operation) error {
	target := server.Target()
	alone := target.MemberName == ""
	if alone && server.Cluster != "" && (operation.Action == lifecycle.ActionEvacuate || operation.Action == lifecycle.ActionRestore) {
		return fmt.Errorf("it is not known which member of cluster %q it is: %w", server.Cluster, ErrNotReady)
	}
	switch operation.Action {
	case lifecycle.ActionUpdate:
		return p.actuator.Update(ctx, target)
	case lifecycle.ActionReboot:
		return p.actuator.Reboot(ctx, target)
	case lifecycle.ActionPowerOff:
		return p.actuator.PowerOff(ctx, target)
	case lifecycle.ActionSuspend:
		return p.actuator.Suspend(ctx, target)
	case lifecycle.ActionEvacuate:
		if alone {
			return p.stop(ctx, server, operation)
		}
		return p.actuator.Evacuate(ctx, target, operation.Mode)
	case lifecycle.ActionRestore:
		if alone {
			return p.start(ctx, server, operation)
		}
		return p.actuator.Restore(ctx, target, operation.Mode)
	}
	return fmt.Errorf("action %q is not known: %w", operation.Action, ErrNotApplicable)
}

// instancesAtOnce bounds how many instances of a server are stopped or started at a time.
const instancesAtOnce = 4

// stop evacuates a server that is in no cluster: its running instances are remembered, and
// then stopped.
func (p *UpdatePlanner) stop(ctx context.Context, server *ServerInfo, operation *lifecycle.Operation) error {
	target := server.Target()
	running, err := p.actuator.RunningInstances(ctx, target)
	if err != nil {
		return err
	}
	if _, err := p.registry.rememberStopped(ctx, server, operation, running); err != nil {
		return err
	}
	return eachInstance(running, func(i lifecycle.Instance) error { return p.actuator.StopInstance(ctx, target, i) })
}

// start restores a server that is in no cluster: exactly the instances that were stopped are
// started again.
func (p *UpdatePlanner) start(ctx context.Context, server *ServerInfo, operation *lifecycle.Operation) error {
	if server.State.Stopped == nil {
		return nil // whatever the mode: what was stopped, and not moved, is to be started
	}
	target := server.Target()
	return eachInstance(server.State.Stopped.Instances, func(i lifecycle.Instance) error { return p.actuator.StartInstance(ctx, target, i) })
}

// eachInstance goes on after an instance that fails, and returns all errors.
func eachInstance(list []lifecycle.Instance, do func(lifecycle.Instance) error) error {
	var group errgroup.Group
	group.SetLimit(instancesAtOnce)
	failures := make([]error, len(list))
	for i, instance := range list {
		group.Go(func() error {
			if err := do(instance); err != nil {
				failures[i] = fmt.Errorf("instance %s of project %s: %w", instance.Name, instance.Project, err)
			}
			return nil
		})
	}
	_ = group.Wait()
	return errors.Join(failures...)
}
