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

// Actuator carries out actions on servers. Package opscenter/incusos implements it. After the request was sent, an error
// is ErrRefused if the server reported it, else ErrOutcomeUnknown.
type Actuator interface {
	// Update makes the server fetch and apply the versions of its update feed. It returns when the server has accepted
	// that.
	Update(ctx context.Context, target Target) error
	// Evacuate moves the instances of a cluster member away, and returns when that is done. It leaves an evacuated member
	// as it is. mode is auto, migrate, live-migrate or stop; empty: auto.
	Evacuate(ctx context.Context, target Target, mode string) error
	// Restore brings the instances back, and returns when that is done. mode is empty, or skip.
	Restore(ctx context.Context, target Target, mode string) error
	// Reboot, PowerOff and Suspend return when the server has accepted the request.
	Reboot(ctx context.Context, target Target) error
	PowerOff(ctx context.Context, target Target) error
	Suspend(ctx context.Context, target Target) error
	// RunningInstances returns the instances that run on a server that is in no cluster.
	RunningInstances(ctx context.Context, target Target) ([]lifecycle.Instance, error)
	// StopInstance and StartInstance return when that is done. They ignore an instance that is stopped or started
	// already, or was deleted.
	StopInstance(ctx context.Context, target Target, instance lifecycle.Instance) error
	StartInstance(ctx context.Context, target Target, instance lifecycle.Instance) error
}

// UpdatePlanner recommends the next action for each server, plans rollouts, and carries out single actions. All methods
// may be called concurrently.
type UpdatePlanner struct {
	registry *Registry
	actuator Actuator
}

// NewUpdatePlanner returns a planner. A planner without an actuator recommends and plans. Its actions fail with
// ErrNotSetUp.
func NewUpdatePlanner(registry *Registry, actuator Actuator) *UpdatePlanner {
	return &UpdatePlanner{registry: registry, actuator: actuator}
}

// Registry returns the registry of the planner.
func (p *UpdatePlanner) Registry() *Registry { return p.registry }

// Recommend returns the recommended action for a server, computed from its present state. Errors: ErrNotFound.
func (p *UpdatePlanner) Recommend(ctx context.Context, name string) (lifecycle.Recommendation, error) {
	info, err := p.registry.Server(ctx, name)
	if err != nil {
		return lifecycle.Recommendation{}, err
	}
	return info.Recommendation(), nil
}

// Recommendations yields the servers that match, by name. ServerInfo.Recommendation has the action of each.
func (p *UpdatePlanner) Recommendations(ctx context.Context, filter ServerFilter) iter.Seq2[*ServerInfo, error] {
	return p.registry.Servers(ctx, filter)
}

// Plan returns the steps of a rollout of the selected servers, and its blockers. It does nothing to servers, and stores
// nothing. Package rollout carries out the rollout with the same functions: without failures it takes these steps.
// Errors: rolling.ErrInvalid.
func (p *UpdatePlanner) Plan(ctx context.Context, selector rolling.Selector, policy rolling.Policy) (*rolling.Plan, error) {
	plan, _, err := p.Prepare(ctx, selector, policy)
	return plan, err
}

// Prepare returns a plan, and the selection with which a rollout begins, from one snapshot. Errors: rolling.ErrInvalid.
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

// Act carries out one action on one server. It stores the intent, carries out the effect, and stores the outcome. Polls
// then find the action done. If the process dies meanwhile, the server counts as busy until a poll finds the action done,
// or its deadline passes.
//
// Act returns when the server has accepted an update, a reboot or a power off. It returns when an evacuation or a restore
// is done. Package rollout follows actions to their end, under the rules of a rollout.
//
// Errors: those of Tx.Begin, ErrNotSetUp, ErrRefused, ErrUnreachable, ErrOutcomeUnknown.
func (p *UpdatePlanner) Act(ctx context.Context, name string, action lifecycle.Action) error {
	return p.ActOn(ctx, Intent{Server: name, Action: action})
}

// ActOn is Act for an intent with a mode, a timeout, or force.
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

// CarryOut carries out an action that Tx.Begin began, and stores its outcome.
func (p *UpdatePlanner) CarryOut(ctx context.Context, server *ServerInfo, operation *lifecycle.Operation) error {
	return p.carryOut(ctx, server, operation, false)
}

func (p *UpdatePlanner) carryOut(ctx context.Context, server *ServerInfo, operation *lifecycle.Operation, again bool) error {
	failure := errAbandoned // the outcome if the actuator panics
	end := func() error {   // it stores the outcome even if ctx has ended
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
			// The caller stopped in the middle, as at a shutdown. The server did not report a failure.
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

// CarryOn repeats an action whose control plane has ended, or whose outcome is unknown. It repeats only an update, an
// evacuation or a restore. It does nothing if the action is over. An error leaves the action under way, because the
// earlier request may still have its effect. id is the ID of the server, operation the ID of the action. Errors:
// ErrNotFound, ErrNotApplicable, ErrOutcomeUnknown.
func (p *UpdatePlanner) CarryOn(ctx context.Context, id, operation string) error {
	// Acting begins before the state is read. Otherwise a poll could take the action for a leftover.
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
		return fmt.Errorf("%s of server %q can't be repeated: %w", action, info.Name, ErrNotApplicable)
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

// stop evacuates a server in no cluster. It stores which instances run, and then stops them.
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

// start restores a server in no cluster. It starts exactly the instances that stop stopped.
func (p *UpdatePlanner) start(ctx context.Context, server *ServerInfo, operation *lifecycle.Operation) error {
	if server.State.Stopped == nil {
		return nil // no instance was stopped
	}
	target := server.Target()
	return eachInstance(server.State.Stopped.Instances, func(i lifecycle.Instance) error { return p.actuator.StartInstance(ctx, target, i) })
}

// eachInstance calls do for each instance. It goes on after a failure, and returns all errors.
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
