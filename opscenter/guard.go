package opscenter

import (
	"context"
	"fmt"
	"time"
)

// guard tells an outage of the control plane's own connection from one of the servers: when
// a large share of the servers that were asked within a window fail, it suspects us. It
// watches servers that are ready; those known to be offline say nothing new.
//
// To set it off, a server counts once within a window, for its last answer or for its first
// failure, so that those that fail, and are asked again and again, don't weigh more than the others.
// Once it is set off, each server that was asked since counts with its last outcome, and it
// ends when fewer than the share fail.
type guard struct {
	share   float64
	minimum int
	window  time.Duration

	first, last    *watched // within the window, the oldest first
	asked, failing int
	on             bool
}

// watched is a server in the guard's list.
type watched struct {
	previous, next *watched
	at             time.Duration
	listed, failed bool
}

// observe takes in the outcome of a poll of a server that is ready.
func (g *guard) observe(w *watched, at time.Duration, failed bool) {
	g.expire(at)
	if !g.on && failed && w.listed && w.failed {
		return // it counts once in a window
	}
	g.drop(w)
	w.at, w.failed = at, failed
	g.append(w)
	switch {
	case !g.on && failed && g.failing >= g.minimum && float64(g.failing) >= g.share*float64(g.asked):
		g.trip()
	case g.on && g.asked >= g.minimum && float64(g.failing) < ease*g.share*float64(g.asked):
		g.on = false
	}
}

// ease is by how much less than the share must fail for the guard to end, so that it does not
// go on and off where just about the share fails.
const ease = 0.9

// trip sets the guard off: from now on only those count that fail already, and who is asked next.
func (g *guard) trip() {
	g.on = true
	for w := g.first; w != nil; {
		next := w.next
		if !w.failed {
			g.drop(w)
		}
		w = next
	}
}

// expire forgets what is older than the window; while the guard is on, nothing is.
func (g *guard) expire(now time.Duration) {
	for !g.on && g.first != nil && now-g.first.at > g.window {
		g.drop(g.first)
	}
}

// leave takes a server out that is not ready any more. What it failed still counts within the
// window, unless the guard is on: then nobody leaves for having failed.
func (g *guard) leave(w *watched) {
	if g.on {
		g.drop(w)
	}
}

func (g *guard) append(w *watched) {
	w.previous, w.next, w.listed = g.last, nil, true
	if g.last != nil {
		g.last.next = w
	} else {
		g.first = w
	}
	g.last = w
	g.asked++
	if w.failed {
		g.failing++
	}
}

func (g *guard) drop(w *watched) {
	if !w.listed {
		return
	}
	if w.previous != nil {
		w.previous.next = w.next
	} else {
		g.first = w.next
	}
	if w.next != nil {
		w.next.previous = w.previous
	} else {
		g.last = w.previous
	}
	w.previous, w.next, w.listed = nil, nil, false
	g.asked--
	if w.failed {
		g.failing--
	}
}

// judge shows the guard an outcome, and returns whether the fleet counts as unreachable.
func (m *memory) judge(id string, ready, failed bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.tracks[id]
	switch {
	case t == nil:
	case ready:
		m.guard.observe(&t.watched, m.elapsed(), failed)
	default:
		m.guard.leave(&t.watched)
	}
	m.endSmall()
	return m.guard.on
}

// endSmall ends the guard of a fleet that has become too small to tell.
func (m *memory) endSmall() {
	if m.guard.on && m.guard.asked < m.guard.minimum && m.count(StatusReady) < m.guard.minimum {
		m.guard.on = false
	}
}

// count returns how many servers have a status.
func (m *memory) count(status Status) (n int) {
	for c, some := range m.counts {
		if c.Status == status {
			n += some
		}
	}
	return n
}

// FleetUnreachable reports whether so much of the fleet fails at once that the control plane
// suspects itself. Nobody becomes offline then, and nothing should be begun that counts on
// what servers say.
func (r *Registry) FleetUnreachable() bool {
	m := &r.memory
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.guard.on
}

// warnFleet raises or clears the warning of the guard, if it is not as it should be.
func (r *Registry) warnFleet(ctx context.Context) error {
	m := &r.memory
	m.mu.RLock()
	on, asked, failing := m.guard.on, m.guard.asked, m.guard.failing
	warned := m.open[warningSubject{WarningFleet, ""}] != nil
	m.mu.RUnlock()
	if on == warned {
		return nil
	}
	at := now()
	err := r.update(ctx, func(tx *writing) error {
		if on {
			return r.raise(tx, "", "", Warned{Kind: WarningFleet, Message: fmt.Sprintf("%d of the %d servers asked last fail together: the fault is taken to be on this side, and no server becomes offline", failing, asked)}, at)
		}
		return r.clear(tx, "", "", WarningFleet, at, fmt.Sprintf("%d of the %d servers asked since fail", failing, asked))
	})
	if err == nil {
		r.log.WarnContext(ctx, string(WarningFleet), "holds", on, "failing", failing, "asked", asked)
	}
	return err
}
