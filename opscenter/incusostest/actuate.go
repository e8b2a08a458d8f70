package incusostest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// recordCall records a call of an action, and returns the target's server, or an error if it is not reached.
func (f *Fleet) recordCall(ctx context.Context, t opscenter.Target, action lifecycle.Action) (*Server, error) {
	s, _, failure := f.reach(ctx, t)
	err := asError(failure)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, Call{At: time.Now(), Server: t.Name, Action: action, Err: err})
	return s, err
}

// asError converts a failure to an error. If the server was connected to and did not answer, the outcome is unknown.
func asError(failure *lifecycle.Failure) error {
	switch {
	case failure == nil:
		return nil
	case failure.Kind == lifecycle.FailureConnect, failure.Kind == lifecycle.FailureCertificate:
		return errors.New(failure.Message)
	}
	return fmt.Errorf("%w: %s", opscenter.ErrOutcomeUnknown, failure.Message)
}

// Update implements opscenter.Actuator.
func (f *Fleet) Update(ctx context.Context, t opscenter.Target) error {
	s, err := f.recordCall(ctx, t, lifecycle.ActionUpdate)
	if err == nil && s.beginUpdate() {
		s.later(s.options.UpdateDelay, func() { s.applyUpdate(false) })
	}
	return err
}

// Reboot implements opscenter.Actuator.
func (f *Fleet) Reboot(ctx context.Context, t opscenter.Target) error {
	s, err := f.recordCall(ctx, t, lifecycle.ActionReboot)
	if err == nil {
		s.beginReboot()
		s.later(0, s.Reboot)
	}
	return err
}

// PowerOff implements opscenter.Actuator.
func (f *Fleet) PowerOff(ctx context.Context, t opscenter.Target) error {
	return f.powerDown(ctx, t, lifecycle.ActionPowerOff, "system-shutdown-triggered")
}

// Suspend implements opscenter.Actuator.
func (f *Fleet) Suspend(ctx context.Context, t opscenter.Target) error {
	return f.powerDown(ctx, t, lifecycle.ActionSuspend, "suspend-triggered")
}

func (f *Fleet) powerDown(ctx context.Context, t opscenter.Target, action lifecycle.Action, cause string) error {
	s, err := f.recordCall(ctx, t, action)
	if err == nil {
		s.later(0, func() { s.PowerOff(cause) })
	}
	return err
}

// Evacuate implements opscenter.Actuator.
func (f *Fleet) Evacuate(ctx context.Context, t opscenter.Target, mode string) error {
	if mode == "" {
		mode = "auto"
	}
	return f.changeMember(ctx, t, lifecycle.ActionEvacuate, mode, "Evacuated")
}

// Restore implements opscenter.Actuator.
func (f *Fleet) Restore(ctx context.Context, t opscenter.Target, mode string) error {
	return f.changeMember(ctx, t, lifecycle.ActionRestore, mode, "Online")
}

// changeMember evacuates or restores a member, and waits for the end.
func (f *Fleet) changeMember(ctx context.Context, t opscenter.Target, action lifecycle.Action, mode, want string) error {
	s, err := f.recordCall(ctx, t, action)
	if err != nil {
		return err
	}
	d := s.db()
	var ended chan string
	for { // wait for an active evacuation or restore first
		d.mu.Lock()
		m := d.member(t.MemberName)
		if m == nil {
			d.mu.Unlock()
			return fmt.Errorf("%w: Cluster member not found", opscenter.ErrRefused)
		}
		if before := m.moving; before != nil {
			d.mu.Unlock()
			select {
			case <-before:
				continue
			case <-ctx.Done():
				return fmt.Errorf("%w: %w", opscenter.ErrOutcomeUnknown, ctx.Err())
			case <-s.ctx.Done():
				return opscenter.ErrOutcomeUnknown
			}
		}
		if m.status == want {
			d.mu.Unlock()
			return nil
		}
		m.status = map[lifecycle.Action]string{lifecycle.ActionEvacuate: "Evacuating", lifecycle.ActionRestore: "Restoring"}[action]
		if mode == "auto" && len(d.members) == 1 {
			mode = "stop" // there is no other member to move instances to
		}
		m.action, m.moving = string(action)+" "+mode, make(chan struct{})
		d.mu.Unlock()
		ended = make(chan string, 1)
		s.later(s.options.EvacuateDelay, func() { // even if the caller no longer waits
			failed := d.finish(m)
			d.mu.Lock()
			close(m.moving)
			m.moving = nil
			d.mu.Unlock()
			ended <- failed
		})
		break
	}
	select {
	case failed := <-ended:
		if failed != "" {
			return fmt.Errorf("%w: %s", opscenter.ErrRefused, failed)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", opscenter.ErrOutcomeUnknown, ctx.Err())
	case <-s.ctx.Done():
		return opscenter.ErrOutcomeUnknown
	}
}

// RunningInstances implements opscenter.Actuator.
func (f *Fleet) RunningInstances(ctx context.Context, t opscenter.Target) (out []lifecycle.Instance, err error) {
	s, _, failure := f.reach(ctx, t)
	if failure != nil {
		return nil, asError(failure)
	}
	for _, i := range s.Instances() {
		switch {
		case !i.Running || i.Location != s.Name():
		case i.Ephemeral:
			return nil, fmt.Errorf("instance %s of project %s is ephemeral: stopping it would delete it", i.Name, i.Project)
		default:
			out = append(out, lifecycle.Instance{Project: i.Project, Name: i.Name})
		}
	}
	return out, nil
}

// StopInstance implements opscenter.Actuator.
func (f *Fleet) StopInstance(ctx context.Context, t opscenter.Target, i lifecycle.Instance) error {
	return f.setRunning(ctx, t, i, false)
}

// StartInstance implements opscenter.Actuator.
func (f *Fleet) StartInstance(ctx context.Context, t opscenter.Target, i lifecycle.Instance) error {
	return f.setRunning(ctx, t, i, true)
}

func (f *Fleet) setRunning(ctx context.Context, t opscenter.Target, instance lifecycle.Instance, running bool) error {
	s, _, failure := f.reach(ctx, t)
	if failure != nil {
		return asError(failure)
	}
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, i := range d.instances {
		if i.Project == instance.Project && i.Name == instance.Name {
			i.Running = running
		}
	}
	return nil
}
