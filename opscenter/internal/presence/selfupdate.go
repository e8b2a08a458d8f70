package presence

import (
	"slices"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// selfUpdateBurst is how many self updates with news a server may send at once, beyond one each
// Options.SelfUpdateInterval.
const selfUpdateBurst = 20

// SelfUpdates is the handle that limits the self updates of each server.
type SelfUpdates struct {
	p        *Presence
	interval time.Duration
}

// selfUpdateRate is the rate of the self updates of a server. Times are since the Registry began.
type selfUpdateRate struct {
	window time.Duration // beginning of the interval
	causes uint16        // of the interval, by their place in Causes
	polled time.Duration // when the last poll that they caused is due
	full   time.Duration // when the server may send selfUpdateBurst self updates with news at once again
	any    bool
}

// SelfUpdate is the decision about a self update of a server.
type SelfUpdate struct {
	// Store: it is stored. Otherwise it has no news.
	Store bool
	// Poll is the delay of the poll that it causes. Below 0: a poll that will find the news is due already.
	Poll time.Duration
	// Refuse: it is refused, because the server sends too many self updates with news.
	Refuse bool
}

// judge decides about a self update at a time. news: it is news in any case, as another address, and its poll is not
// delayed. It changes only t, and reads no clock.
func (t *selfUpdateRate) judge(at, interval time.Duration, cause lifecycle.Cause, news bool) SelfUpdate {
	if !t.any || at-t.window >= interval {
		t.window, t.causes = at, 0
	}
	bit := uint16(1) << max(0, slices.Index(lifecycle.Causes, cause))
	out := SelfUpdate{Store: news || t.causes&bit == 0, Poll: -1}
	if out.Store {
		full := max(t.full, at) + interval
		if full-at > selfUpdateBurst*interval {
			out.Store, out.Refuse = false, true
			return out
		}
		t.full = full
	}
	t.causes |= bit
	switch {
	case !t.any || news || at-t.polled >= interval:
		out.Poll = 0
	case t.polled <= at: // its poll has begun, and may have missed the news
		out.Poll = t.polled + interval - at
	}
	if out.Poll >= 0 {
		t.polled = at + out.Poll
	}
	t.any = true
	return out
}

// Judge decides about a self update of a server now. news: it is news in any case. An unknown server has no
// limit.
func (s *SelfUpdates) Judge(id string, cause lifecycle.Cause, news bool) SelfUpdate {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	t := s.p.tracks[id]
	if t == nil {
		return SelfUpdate{Store: true}
	}
	return t.selfUpdates.judge(s.p.Elapsed(), s.interval, cause, news)
}

// Forget takes a self update back that could not be stored: the server may send it again.
func (s *SelfUpdates) Forget(id string) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if t := s.p.tracks[id]; t != nil {
		t.selfUpdates = selfUpdateRate{full: t.selfUpdates.full}
	}
}
