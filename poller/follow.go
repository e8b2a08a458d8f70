package poller

import (
	"context"
	"errors"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
)

// follow reads the Registry's change feed, starting after revision, and sends the changes to the loop until ctx ends.
func (l *loop) follow(ctx context.Context, revision uint64) {
	for ctx.Err() == nil {
		for changes, err := range l.registry.Watch(ctx, revision) {
			if err != nil {
				if ctx.Err() == nil {
					l.options.Logger.ErrorContext(ctx, "the change feed ended; the poller opens it again", "error", err)
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

// applyOrRetry applies changes. After an error it schedules a reload of all servers in RetryInterval.
func (l *loop) applyOrRetry(ctx context.Context, changes opscenter.Changes) {
	err := l.applyChanges(ctx, changes)
	if changes.Reset {
		l.stale = false
	}
	if err != nil && ctx.Err() == nil {
		l.options.Logger.ErrorContext(ctx, "servers could not be read; the poller reads all of them again later", "error", err)
		l.stale, l.staleUntil = true, l.now()+l.options.RetryInterval
	}
}

// reload reads all servers, and removes the entries of deleted ones.
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
		l.updateEntry(info)
	}
	for name := range gone {
		l.remove(name)
	}
	return nil
}

// applyChanges updates the entries of changed servers. It returns an error if a server could not be read.
func (l *loop) applyChanges(ctx context.Context, changes opscenter.Changes) error {
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
			failed = err // go on with the other servers
		default:
			l.updateEntry(info)
		}
	}
	return failed
}

func (l *loop) remove(name string) {
	if e := l.entries[name]; e != nil {
		e.dequeue()
		e.removed = true
		delete(l.entries, name)
	}
}

// updateEntry creates or updates the entry of a server, and schedules its next poll. The server may be new,
// may have requested a poll, or may be due sooner than its entry says.
func (l *loop) updateEntry(info *opscenter.ServerInfo) {
	e := l.entries[info.Name]
	if e != nil && e.target.ID != info.ID {
		l.remove(info.Name) // a different server has the name now
		e = nil
	}
	fresh := e == nil
	if fresh {
		e = &entry{}
		l.entries[info.Name] = e
	}
	e.describe(info)
	now, request := l.now(), !info.State.PollRequested.Equal(e.asked)
	e.asked = info.State.PollRequested
	if fresh && time.Since(e.asked) >= l.options.Interval {
		request = false // an old request, from before the program began
	}
	wait, class := l.timing.next(info, time.Now())
	if e.doubted && class == answering && wait != never {
		wait, class = 0, retrying // its retry is due, and has the full Timeout
	}
	switch {
	case wait == never:
		e.dequeue()
		e.stale = e.running
	case e.running && request:
		e.again = true // one more poll answers any number of requests
	case e.running:
		e.stale = true
	case request:
		// A server that reports something is alive: poll it now, and read its facts.
		e.class, e.facts = min(class, retrying), 0
		if due := now + untilRequested(e.asked, l.options.RetryInterval); e.queue != &l.queues[e.class] || e.due > due {
			l.enqueue(e, due) // a server that is already due keeps its place
		}
	case fresh && class == offline:
		// Servers that were offline before the program began are spread over the interval.
		e.class = offline
		l.enqueue(e, now+l.timing.phased(info.ID, time.Now()))
	case e.queue == nil || now+wait < e.due || class != e.class:
		e.class = class
		l.enqueue(e, now+wait)
	}
}

// untilRequested returns the time left until the requested time of a poll: 0 if that has passed, and at most limit.
// The limit keeps a poll from being put off for long after the clock was set back.
func untilRequested(asked time.Time, limit time.Duration) time.Duration {
	return min(max(0, time.Until(asked)), limit)
}
