package incusostest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// ask notes a call, and returns the server that takes it.
func (f *Fleet) ask(ctx context.Context, t opscenter.Target, action lifecycle.Action) (*Server, error) {
	s, _, failure := f.reach(ctx, t)
	err := asError(failure)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, Call{At: time.Now(), Server: t.Name, Action: action, Err: err})
	return s, err
}

// asError: whether a server that was connected to, and gave no answer, has done what it was asked is not known.
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
	s, err := f.ask(ctx, t, lifecycle.ActionUpdate)
	if err == nil && s.beginUpdate() {
		s.later(s.options.UpdateDelay, func() { s.applyUpdate(false) })
	}
	return err
}

// Reboot implements opscenter.Actuator.
func (f *Fleet) Reboot(ctx context.Context, t opscenter.Target) error {
	s, err := f.ask(ctx, t, lifecycle.ActionReboot)
	if err == nil {
		s.beginReboot()
		s.later(0, s.Reboot)
	}
	return err
}

// PowerOff implements opscenter.Actuator.
func (f *Fleet) PowerOff(ctx context.Context, t opscenter.Target) error {
	return f.off(ctx, t, lifecycle.ActionPowerOff, "system-shutdown-triggered")
}

// Suspend implements opscenter.Actuator.
func (f *Fleet) Suspend(ctx context.Context, t opscenter.Target) error {
	return f.off(ctx, t, lifecycle.ActionSuspend, "suspend-triggered")
}

func (f *Fleet) off(ctx context.Context, t opscenter.Target, action lifecycle.Action, cause string) error {
	s, err := f.ask(ctx, t, action)
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
	return f.move(ctx, t, lifecycle.ActionEvacuate, mode, "Evacuated")
}

// Restore implements opscenter.Actuator.
func (f *Fleet) Restore(ctx context.Context, t opscenter.Target, mode string) error {
	return f.move(ctx, t, lifecycle.ActionRestore, mode, "Online")
}

func (f *Fleet) move(ctx context.Context, t opscenter.Target, action lifecycle.Action, mode, want string) error {
	s, err := f.ask(ctx, t, action)
	if err != nil {
		return err
	}
	d := s.db()
	var ended chan string
	for { // one that is under way is waited for first
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
			mode = "stop" // the only member has nowhere to move them to
		}
		m.action, m.moving = string(action)+" "+mode, make(chan struct{})
		d.mu.Unlock()
		ended = make(chan string, 1)
		s.later(s.options.EvacuateDelay, func() { // also when its caller has given up
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
			return nil, fmt.Errorf("instance %s of project %s is ephemeral: to stop it is to delete it", i.Name, i.Project)
		default:
			out = append(out, lifecycle.Instance{Project: i.Project, Name: i.Name})
		}
	}
	return out, nil
}

// StopInstance implements opscenter.Actuator.
func (f *Fleet) StopInstance(ctx context.Context, t opscenter.Target, i lifecycle.Instance) error {
	return f.run(ctx, t, i, false)
}

// StartInstance implements opscenter.Actuator.
func (f *Fleet) StartInstance(ctx context.Context, t opscenter.Target, i lifecycle.Instance) error {
	return f.run(ctx, t, i, true)
}

func (f *Fleet) run(ctx context.Context, t opscenter.Target, instance lifecycle.Instance, running bool) error {
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
