package poller

import (
	"container/heap"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/internal/phase"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// timing holds the intervals of Options. Its methods are pure: time is an argument.
type timing struct {
	interval, fast, retry, maxBackoff, facts time.Duration
	threshold                                int
}

// never is the wait of servers that are not polled.
const never = time.Duration(-1)

// class selects the queue and the concurrency limit of a server's polls.
type class int

const (
	answering class = iota // answered last time
	retrying               // failed last time, and is not offline
	offline                // offline, and not known to reboot
)

// next returns the time until the next poll of a server, and its class. Servers in a steady state
// keep their phase: a point in the interval that depends on their ID. So the polls of a fleet spread
// over the interval, and a restart causes no early polls. now is the time of day.
func (t timing) next(info *opscenter.ServerInfo, now time.Time) (wait time.Duration, of class) {
	online := answering
	if info.Failures > 0 {
		online = retrying
	}
	switch s := &info.State; {
	case s.Status == lifecycle.StatusUnregistered || info.Certificate == "":
		return never, answering
	case s.Status == lifecycle.StatusOffline && s.StatusDetail != lifecycle.DetailRebooting:
		return t.backoff(info.Failures), offline
	case s.Status != lifecycle.StatusReady || s.StatusDetail != lifecycle.DetailNone:
		return t.fast, online // changing: pending, rebooting, updating, evacuating, restoring
	case online == retrying:
		return t.retry, retrying
	}
	return t.phased(info.ID, now), answering
}

// backoff returns the wait of an offline server. It doubles with each failure after the server became offline.
func (t timing) backoff(failures int) time.Duration {
	d := t.retry
	for range max(0, failures-t.threshold) {
		if d *= 2; d >= t.maxBackoff {
			return t.maxBackoff
		}
	}
	return min(d, t.maxBackoff)
}

// phased returns how long it is to the next point in time of a server's own phase.
func (t timing) phased(id string, now time.Time) time.Duration {
	return phase.Until(id, t.interval, now)
}

// entry is a server of a loop. Times count from the start of Run, so that changes of the clock do
// not affect them.
type entry struct {
	target  opscenter.Target
	due     time.Duration
	queue   *queue        // that holds it; nil if none does
	index   int           // in queue
	asked   time.Time     // the last known request for a poll
	facts   time.Duration // when to read the facts again
	booted  time.Time     // of the server
	began   time.Duration // start of the active poll
	lane    *lane         // of the active poll
	class   class
	pace    pace    // of its polls
	early   *result // the second result of a poll, if it arrived before the first
	running bool    // polled, or its observation is being stored
	again   bool    // a poll was requested while running
	removed bool
	stale   bool // the server changed while running
	doubted bool // its last poll was cut short, and the next one decides
	// neighbours in lane, the oldest poll first
	previous, next *entry
}

// describe takes over a server. If it was booted, or has other versions than before, the next poll reads the facts.
func (e *entry) describe(info *opscenter.ServerInfo) {
	before, booted := e.target.Versions, e.booted
	e.target, e.booted = info.ProbeTarget(), info.State.BootedAt
	now := e.target.Versions
	if before == nil {
		return
	}
	if e.booted.Sub(booted).Abs() > lifecycle.BootDrift || before.OS.Version != now.OS.Version || !slices.Equal(before.Applications, now.Applications) {
		e.facts = 0
	}
}

// queue is a heap of entries. The entry that is due first comes first.
type queue []*entry

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due < q[j].due }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *queue) Push(x any) {
	e := x.(*entry)
	e.index, e.queue = len(*q), q
	*q = append(*q, e)
}
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	e.queue = nil
	return e
}

// set puts an entry into the queue, due at that time, and removes it from any other.
func (q *queue) set(e *entry, due time.Duration) {
	if e.queue != nil && e.queue != q {
		e.dequeue()
	}
	e.due = due
	if e.queue == nil {
		heap.Push(q, e)
	} else {
		heap.Fix(q, e.index)
	}
}

// dequeue removes an entry from its queue, if it is in one.
func (e *entry) dequeue() {
	if e.queue != nil {
		heap.Remove(e.queue, e.index)
	}
}

// first returns the entry that is due first, or nil if it is not due yet.
func (q queue) first(now time.Duration) *entry {
	if len(q) > 0 && q[0].due <= now {
		return q[0]
	}
	return nil
}

// lane is a list of active polls in the order of their start, with a limit on their number.
type lane struct {
	limit, busy int
	first, last *entry
}

func (l *lane) full() bool { return l.busy >= l.limit }

func (l *lane) add(e *entry) {
	l.busy++
	e.lane, e.previous, e.next = l, l.last, nil
	if l.last != nil {
		l.last.next = e
	} else {
		l.first = e
	}
	l.last = e
}

func (l *lane) remove(e *entry) {
	l.busy--
	if e.previous != nil {
		e.previous.next = e.next
	} else {
		l.first = e.next
	}
	if e.next != nil {
		e.next.previous = e.previous
	} else {
		l.last = e.previous
	}
	e.lane, e.previous, e.next = nil, nil, nil
}
