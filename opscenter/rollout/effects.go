package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
)

// pollUnit polls the servers of a unit, except those that are being polled already.
func (e *engine) pollUnit(u *activeUnit) {
	if e.options.Poller == nil {
		names := slices.Clone(u.names)
		e.group.Go(func() { e.requestPolls(names...) })
		return
	}
	for _, name := range u.names {
		if !e.busy.beginPoll(name, false) {
			continue
		}
		e.group.Go(func() {
			e.poll(name)
			e.post(func() { u.due = true }) // a poll without changes may matter, too
		})
	}
}

// poll polls a server, and again if that was asked for meanwhile. The caller has called beginPoll.
func (e *engine) poll(name string) {
	for again := true; again; again = e.busy.endPoll(name) {
		select {
		case e.polls <- struct{}{}:
		case <-e.ctx.Done():
			e.busy.endPoll(name)
			return
		}
		// Poll records an unreachable server as an observation. An error here is one of the store.
		if _, err := e.options.Poller.Poll(e.ctx, name); err != nil && e.ctx.Err() == nil && !errors.Is(err, opscenter.ErrNotFound) {
			e.log.WarnContext(e.ctx, "a server could not be polled", "server", name, "error", err)
		}
		<-e.polls
	}
}

// requestPolls asks for polls of servers.
func (e *engine) requestPolls(names ...string) {
	if err := e.registry.Observer().RequestPoll(e.ctx, names...); err != nil && e.ctx.Err() == nil {
		e.log.WarnContext(e.ctx, "polls could not be requested", "error", err)
	}
}

// pollsAfter tells for which actions the next decision needs a poll that began after the action. The server is then polled at
// once. A long action is not over by then, and the polls of each PollInterval find its end.
var pollsAfter = map[lifecycle.Action]bool{lifecycle.ActionUpdate: true, lifecycle.ActionReboot: true, lifecycle.ActionRestore: true}

// busyServers are the servers that are being polled or acted on, by name. Its methods may be called concurrently.
type busyServers struct {
	mu      sync.Mutex
	polling map[string]bool // true: another poll is wanted after this one
	acting  map[string]actions
}

// actions counts those on a server: the ones under way, and all that have begun since there were none.
type actions struct{ underWay, begun int }

// has reports whether a server is being polled or acted on.
func (b *busyServers) has(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, polling := b.polling[name]
	return polling || b.acting[name].underWay > 0
}

// beginPoll reports whether the caller may poll a server now: no other goroutine does. again: otherwise that goroutine polls
// it again.
func (b *busyServers) beginPoll(name string, again bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if wanted, ok := b.polling[name]; ok {
		b.polling[name] = wanted || again
		return false
	}
	if b.polling == nil {
		b.polling = map[string]bool{}
	}
	b.polling[name] = false
	return true
}

// endPoll reports whether the caller must poll a server again. Otherwise its poll is over.
func (b *busyServers) endPoll(name string) (again bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if again = b.polling[name]; again {
		b.polling[name] = false
	} else {
		delete(b.polling, name)
	}
	return again
}

// beginAction counts an action on a server, and returns its number.
func (b *busyServers) beginAction(name string) (number int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.acting == nil {
		b.acting = map[string]actions{}
	}
	known := b.acting[name]
	known.underWay++
	known.begun++
	b.acting[name] = known
	return known.begun
}

// overtaken reports whether another action on a server began since the one with that number, which has not ended.
func (b *busyServers) overtaken(name string, number int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.acting[name].begun > number
}

// endAction counts the end of an action on a server.
func (b *busyServers) endAction(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	known := b.acting[name]
	if known.underWay--; known.underWay > 0 {
		b.acting[name] = known
	} else {
		delete(b.acting, name)
	}
}

// carryOut carries out a stored action in a goroutine.
func (e *engine) carryOut(u *activeUnit, info *opscenter.ServerInfo, operation *lifecycle.Operation) {
	ctx := e.ctx
	if operation.Action != lifecycle.ActionEvacuate && operation.Action != lifecycle.ActionRestore {
		// The call is short, and a controller that stops must not lose its outcome.
		ctx = context.WithoutCancel(ctx)
	}
	number := e.busy.beginAction(info.Name)
	e.group.Go(func() {
		err := e.planner.CarryOut(ctx, info, operation)
		// The outcome shows before CarryOut returns, and the next action may begin then. Until now, no poll could end that one.
		overtaken := e.busy.overtaken(info.Name, number)
		switch {
		case e.ctx.Err() != nil:
		case e.options.Poller == nil && overtaken: // the end of an action asks for a poll by itself
			e.requestPolls(info.Name)
		case e.options.Poller != nil && (overtaken || err == nil && pollsAfter[operation.Action]) && e.busy.beginPoll(info.Name, true):
			e.poll(info.Name)
		}
		e.busy.endAction(info.Name)
		e.post(func() { u.due = true })
		if err != nil {
			e.log.WarnContext(ctx, "a step failed", "server", info.Name, "action", operation.Action, "error", err)
			e.retryUntilKnown(info.Name, info.ID, operation.ID, operation.Action)
			e.post(func() { u.due = true })
		}
	})
}

// firstRetryPause is the first pause before an action with an unknown outcome is tried again.
const firstRetryPause = 5 * time.Second

// retryUntilKnown tries an action with an unknown outcome again, until its outcome is known or the operation has ended. It
// does not retry a reboot or a power off.
func (e *engine) retryUntilKnown(name, id, operation string, action lifecycle.Action) {
	if action == lifecycle.ActionReboot || action == lifecycle.ActionPowerOff {
		return // polls find the outcome
	}
	for pause := firstRetryPause; ; pause = min(2*pause, time.Minute) {
		sleep(e.ctx, pause)
		if e.ctx.Err() != nil {
			return
		}
		err := e.planner.CarryOn(e.ctx, id, operation)
		if err == nil || errors.Is(err, opscenter.ErrNotFound) || errors.Is(err, opscenter.ErrRefused) {
			return
		}
		e.log.WarnContext(e.ctx, "the outcome of a step is not known so far", "server", name, "action", action, "error", err)
	}
}

// carryOn continues an action that an earlier controller began, in a goroutine.
func (e *engine) carryOn(u *activeUnit, c rolling.Command) {
	e.group.Go(func() {
		if err := e.planner.CarryOn(e.ctx, c.ServerID, c.ID); err != nil {
			e.log.WarnContext(e.ctx, "a step that was taken over failed", "server", c.Server, "action", c.Action, "error", err)
			e.retryUntilKnown(c.Server, c.ServerID, c.ID, c.Action)
		}
		e.post(func() { u.due = true })
	})
}

// askGate asks the health gate in a goroutine, and marks the unit as due after the answer.
func (e *engine) askGate(u *activeUnit, unit string, members []*opscenter.ServerInfo) {
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
		e.post(func() {
			u.gate = &gate{at: time.Now(), closed: closed}
			u.due = true
		})
	})
}

// callGate calls the health gate. A panic, or no answer before ctx ends, is an error.
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
