package poller

import (
	"container/heap"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// timing holds the intervals of Options. Its methods are pure: time is an argument.
type timing struct {
	interval, fast, retry, maxBackoff, facts time.Duration
	threshold                                int
}

// never is how long those wait that are not polled.
const never = time.Duration(-1)

// class is which servers a server waits with, and takes its turns from.
type class int

const (
	living  class = iota // answered last time
	suspect              // failed last time, and is not given up: on its way, or asked once more
	dead                 // offline
)

// next returns how long after a poll, or after it was first heard of, a server is due, and
// with whom it waits. Servers in a steady state keep their phase: a
// point in the interval that comes from their ID, so that a fleet spreads over it, and a
// restart polls nobody early. now is the time of day.
func (t timing) next(info *opscenter.ServerInfo, now time.Time) (wait time.Duration, with class) {
	failing := living
	if info.Failures > 0 {
		failing = suspect
	}
	switch s := &info.State; {
	case s.Status == lifecycle.StatusUnregistered || info.Certificate == "":
		return never, living
	case s.Status == lifecycle.StatusOffline && s.StatusDetail != lifecycle.DetailRebooting:
		return t.backoff(info.Failures), dead
	case s.Status != lifecycle.StatusReady || s.StatusDetail != lifecycle.DetailNone:
		return t.fast, failing // on its way: pending, rebooting, updating, evacuating, restoring
	case failing == suspect:
		return t.retry, suspect
	}
	return t.phased(info.ID, now), living
}

// backoff doubles with each failure beyond the one that made the server offline.
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
	phase := time.Duration(xxhash.Sum64String(id) % uint64(t.interval))
	into := time.Duration(now.UnixNano() % int64(t.interval))
	wait := phase - into
	if wait <= 0 {
		wait += t.interval
	}
	return wait
}

// entry is a server in a queue. Times are since the beginning of Run, so that no change of
// the time of day moves them.
type entry struct {
	target  opscenter.Target
	due     time.Duration
	queue   *queue        // where it waits; nil: it doesn't
	index   int           // there
	asked   time.Time     // the last request for a poll that was heard of
	facts   time.Duration // when they are to be read again
	began   time.Duration // of the poll under way
	lane    *lane         // of the poll under way
	class   class
	early   *result // of a poll that was stored before it was heard to be over
	running bool
	again   bool // asked for while running
	removed bool
	stale   bool // changed while running
	// neighbours among those under way, the longest first
	previous, next *entry
}

// queue orders entries by when they are due: who has waited the longest is first.
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

// set puts an entry at its place for that time, wherever it was.
func (q *queue) set(e *entry, due time.Duration) {
	if e.queue != nil && e.queue != q {
		e.leave()
	}
	e.due = due
	if e.queue == nil {
		heap.Push(q, e)
	} else {
		heap.Fix(q, e.index)
	}
}

// leave takes an entry out of the queue it is in, if any.
func (e *entry) leave() {
	if e.queue != nil {
		heap.Remove(e.queue, e.index)
	}
}

// first returns the entry that has waited the longest, if it is due.
func (q queue) first(now time.Duration) *entry {
	if len(q) > 0 && q[0].due <= now {
		return q[0]
	}
	return nil
}

// lane is a number of polls that may be under way at once, in the order in which they began.
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
