package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
)

// ask polls the servers of a unit.
func (e *engine) ask(u *unitCourse) {
	if e.options.Poller == nil {
		names := slices.Clone(u.names)
		e.group.Go(func() {
			if err := e.registry.RequestPoll(e.ctx, names...); err != nil && e.ctx.Err() == nil {
				e.log.WarnContext(e.ctx, "polls could not be requested", "error", err)
			}
		})
		return
	}
	for _, name := range u.names {
		if e.polling[name] {
			continue
		}
		e.polling[name] = true
		e.group.Go(func() {
			defer e.say(func() {
				delete(e.polling, name)
				u.look = true // a good poll that changes nothing is one, too
			})
			select {
			case e.polls <- struct{}{}:
				defer func() { <-e.polls }()
			case <-e.ctx.Done():
				return
			}
			// What could not be reached is recorded; what can't be recorded is tried again.
			if _, err := e.options.Poller.Poll(e.ctx, name); err != nil && e.ctx.Err() == nil && !errors.Is(err, opscenter.ErrNotFound) {
				e.log.WarnContext(e.ctx, "a server could not be polled", "server", name, "error", err)
			}
		})
	}
}

// carryOut carries out a command that is stored.
func (e *engine) carryOut(u *unitCourse, info *opscenter.ServerInfo, operation *lifecycle.Operation) {
	ctx := e.ctx
	if operation.Action != lifecycle.ActionEvacuate && operation.Action != lifecycle.ActionRestore {
		// It is a short call, whose outcome must not be lost to a controller that stops.
		ctx = context.WithoutCancel(ctx)
	}
	e.group.Go(func() {
		err := e.planner.CarryOut(ctx, info, operation)
		if err != nil {
			e.log.WarnContext(ctx, "a step failed", "server", info.Name, "action", operation.Action, "error", err)
			e.insist(info.Name, info.ID, operation.ID, operation.Action)
		}
		e.say(func() { u.look = true })
	})
}

// insistInterval is the first pause before an action is asked for again whose outcome was not heard.
const insistInterval = 5 * time.Second

// insist asks again for an action whose outcome was not heard, until it is, or the operation is over.
func (e *engine) insist(name, id, operation string, action lifecycle.Action) {
	if action == lifecycle.ActionReboot || action == lifecycle.ActionPowerOff {
		return // for polls to find out
	}
	for pause := insistInterval; ; pause = min(2*pause, time.Minute) {
		sleep(e.ctx, pause)
		if e.ctx.Err() != nil {
			return
		}
		err := e.planner.CarryOn(e.ctx, id, operation)
		if err == nil || errors.Is(err, opscenter.ErrNotFound) || errors.Is(err, opscenter.ErrRefused) {
			return
		}
		e.log.WarnContext(e.ctx, "the outcome of a step is not known, yet", "server", name, "action", action, "error", err)
	}
}

// carryOn carries out again what an earlier controller began.
func (e *engine) carryOn(u *unitCourse, c rolling.Command) {
	e.group.Go(func() {
		if err := e.planner.CarryOn(e.ctx, c.ServerID, c.ID); err != nil {
			e.log.WarnContext(e.ctx, "a step that was taken over failed", "server", c.Server, "action", c.Action, "error", err)
			e.insist(c.Server, c.ServerID, c.ID, c.Action)
		}
		e.say(func() { u.look = true })
	})
}

// askGate asks the embedder's health gate, and looks again when it has answered.
func (e *engine) askGate(u *unitCourse, unit string, members []*opscenter.ServerInfo) {
	if u.gate != nil && u.gate.asking {
		return
	}
	u.gate = &gate{asking: true}
	e.group.Go(func() {
		ctx, cancel := context.WithTimeout(e.ctx, e.options.GateTimeout)
		defer cancel()
		closed := ""
		if err := e.callGate(ctx, unit, members); err != nil {
			closed = err.Error()
		}
		e.say(func() {
			u.gate = &gate{at: time.Now(), closed: closed}
			u.look = true
		})
	})
}

func (e *engine) callGate(ctx context.Context, unit string, members []*opscenter.ServerInfo) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("it panicked: %v", r)
		}
	}()
	done := make(chan error, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				done <- fmt.Errorf("it panicked: %v", r)
			}
		}()
		done <- e.options.HealthGate(ctx, unit, members)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("no answer within %s", e.options.GateTimeout)
	}
}
