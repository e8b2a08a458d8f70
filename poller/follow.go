package poller

import (
	"context"
	"errors"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
)

// follow takes in what the Registry's change feed tells, until ctx ends.
func (l *loop) follow(ctx context.Context, revision uint64) {
	for ctx.Err() == nil {
		for changes, err := range l.registry.Watch(ctx, revision) {
			if err != nil {
				if ctx.Err() == nil {
					l.options.Logger.ErrorContext(ctx, "the change feed ended, and is tried again", "error", err)
				}
				break
			}
			revision = changes.Revision
			if len(changes.Servers) == 0 && !changes.Reset {
				continue
			}
			select {
			case l.changes <- changes:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-time.After(l.options.RetryInterval):
		case <-ctx.Done():
		}
	}
}

// take takes in changes; what could not be read is read again later, with all the rest.
func (l *loop) take(ctx context.Context, changes opscenter.Changes) {
	err := l.apply(ctx, changes)
	if changes.Reset {
		l.stale = false
	}
	if err != nil && ctx.Err() == nil {
		l.options.Logger.ErrorContext(ctx, "servers could not be read, and are tried again", "error", err)
		l.stale, l.staleUntil = true, l.now()+l.options.RetryInterval
	}
}

// reload reads all servers, and forgets those that are gone.
func (l *loop) reload(ctx context.Context) error {
	gone := map[string]*entry{}
	for name, e := range l.entries {
		gone[name] = e
	}
	for info, err := range l.registry.Servers(ctx, opscenter.ServerFilter{}) {
		if err != nil {
			return err
		}
		delete(gone, info.Name)
		l.see(info)
	}
	for name := range gone {
		l.remove(name)
	}
	return nil
}

// apply takes in what the change feed tells.
func (l *loop) apply(ctx context.Context, changes opscenter.Changes) error {
	if changes.Reset {
		return l.reload(ctx)
	}
	var failed error
	for _, name := range changes.Servers {
		info, err := l.registry.Server(ctx, name)
		switch {
		case errors.Is(err, opscenter.ErrNotFound):
			l.remove(name)
		case err != nil:
			failed = err // the others are not to suffer
		default:
			l.see(info)
		}
	}
	return failed
}

func (l *loop) remove(name string) {
	if e := l.entries[name]; e != nil {
		e.leave()
		e.removed = true
		delete(l.entries, name)
	}
}

// see takes in a server as it is now: a new one, one that asks for a poll, or one whose next
// turn comes sooner than was thought.
func (l *loop) see(info *opscenter.ServerInfo) {
	e := l.entries[info.Name]
	if e != nil && e.target.ID != info.ID {
		l.remove(info.Name) // another server, by the same name
		e = nil
	}
	fresh := e == nil
	if fresh {
		e = &entry{}
		l.entries[info.Name] = e
	}
	e.target = info.ProbeTarget()
	now, request := l.now(), !info.State.PollRequested.Equal(e.asked)
	e.asked = info.State.PollRequested
	if fresh && time.Since(e.asked) >= l.options.Interval {
		request = false // from before the program began
	}
	wait, class := l.timing.next(info, time.Now())
	switch {
	case wait == never:
		e.leave()
		e.stale = e.running
	case e.running && request:
		e.again = true // once more, however often it was asked
	case e.running:
		e.stale = true
	case request:
		// A server that says something is not dead; what it says is looked at now.
		e.class, e.facts = min(class, suspect), 0
		if due := now + later(e.asked, l.options.RetryInterval); e.queue != &l.queues[e.class] || e.due > due {
			l.enqueue(e, due) // who waits for its turn keeps its place
		}
	case fresh && class == dead:
		// Those that were dead before the program began are not all asked at once.
		e.class = dead
		l.enqueue(e, now+l.timing.phased(info.ID, time.Now()))
	case e.queue == nil || now+wait < e.due || class != e.class:
		e.class = class
		l.enqueue(e, now+wait)
	}
}

// later returns how long it is to the time a poll is asked for, where that is to come still, at most limit: a clock
// that was set back must not put it off.
func later(asked time.Time, limit time.Duration) time.Duration {
	return min(max(0, time.Until(asked)), limit)
}
