package poller

import (
	"container/heap"
	"hash/fnv"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
)

// timing holds the intervals of Options. Its methods are pure: time is an argument.
type timing struct {
	interval, fast, retry, maxBackoff time.Duration
	threshold                         int
}

// never is when servers are due that are not polled.
var never = time.Time{}

// next returns when a server is due after a poll, or after it was first heard of, at now.
// Servers in a steady state keep their phase: a point in the interval that comes from their
// ID, so that a fleet spreads over it, and a restart polls nobody early.
func (t timing) next(info *opscenter.ServerInfo, now time.Time) time.Time {
	switch s := &info.State; {
	case s.Status == opscenter.StatusUnregistered || info.Certificate == "":
		return never
	case s.Status == opscenter.StatusOffline && s.StatusDetail != opscenter.DetailRebooting:
		return now.Add(t.backoff(info.Failures))
	case s.Status != opscenter.StatusReady || s.StatusDetail != opscenter.DetailNone:
		return now.Add(t.fast) // on its way: pending, rebooting, updating, evacuating, restoring
	case info.Failures > 0:
		return now.Add(t.retry)
	}
	return t.phased(info.ID, now)
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

// phased returns the next point in time of a server's own phase.
func (t timing) phased(id string, now time.Time) time.Time {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id))
	phase := time.Duration(h.Sum64() % uint64(t.interval))
	into := time.Duration(now.UnixNano() % int64(t.interval))
	wait := phase - into
	if wait <= 0 {
		wait += t.interval
	}
	return now.Add(wait)
}

// entry is a server in the queue.
type entry struct {
	name, id string
	due      time.Time // never: not in the heap
	index    int       // in the heap, -1: not in it
	running  bool
	again    bool      // asked for while running
	began    time.Time // of the last poll
}

// queue orders entries by when they are due.
type queue []*entry

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *queue) Push(x any) {
	e := x.(*entry)
	e.index = len(*q)
	*q = append(*q, e)
}
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	e.index = -1
	return e
}

// set puts an entry at its place for that time.
func (q *queue) set(e *entry, due time.Time) {
	e.due = due
	switch {
	case due.Equal(never):
		q.remove(e)
	case e.index < 0:
		heap.Push(q, e)
	default:
		heap.Fix(q, e.index)
	}
}

func (q *queue) remove(e *entry) {
	if e.index >= 0 {
		heap.Remove(q, e.index)
	}
}
