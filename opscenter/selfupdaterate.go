package opscenter

import (
	"slices"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// selfUpdateBurst is how many things that are new to us a server may say at once, beyond one each Options.SelfUpdateInterval.
const selfUpdateBurst = 20

// selfUpdateRate is how often a server has said something of itself lately. Times are since the Registry began.
type selfUpdateRate struct {
	window time.Duration // its beginning
	causes uint16        // that were said within it, by their place in Causes
	polled time.Duration // when the last poll is due that it has caused
	full   time.Duration // when the server may say selfUpdateBurst new things at once again
	any    bool
}

// verdict is what is done about something a server says.
type verdict struct {
	// store it. If it isn't, it says nothing new.
	store bool
	// poll the server after so long; below 0: a poll is due already that will find whatever there is.
	poll time.Duration
	// refuse it: the server says more new things than any does.
	refuse bool
}

// judge decides about what a server says at a time. news: it is new whatever was said before, as another address is, and
// what it asks for can't wait. It changes only t, and reads no clock.
func (t *selfUpdateRate) judge(at, interval time.Duration, cause lifecycle.Cause, news bool) verdict {
	if !t.any || at-t.window >= interval {
		t.window, t.causes = at, 0
	}
	bit := uint16(1) << max(0, slices.Index(lifecycle.Causes, cause))
	out := verdict{store: news || t.causes&bit == 0, poll: -1}
	if out.store {
		full := max(t.full, at) + interval
		if full-at > selfUpdateBurst*interval {
			out.store, out.refuse = false, true
			return out
		}
		t.full = full
	}
	t.causes |= bit
	switch {
	case !t.any || news || at-t.polled >= interval:
		out.poll = 0
	case t.polled <= at: // it has been polled, and may have something to tell that was not found
		out.poll = t.polled + interval - at
	}
	if out.poll >= 0 {
		t.polled = at + out.poll
	}
	t.any = true
	return out
}

// judgeUpdate judges what a server says of itself now. A server without a track has no limit.
func (r *Registry) judgeUpdate(id string, cause lifecycle.Cause, news bool) verdict {
	m := &r.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.tracks[id]
	if t == nil {
		return verdict{store: true}
	}
	return t.selfUpdates.judge(m.elapsed(), r.options.SelfUpdateInterval, cause, news)
}

// forgetUpdate forgets that a server said something: it was not stored, and the server may say it again.
func (r *Registry) forgetUpdate(id string) {
	m := &r.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.tracks[id]; t != nil {
		t.selfUpdates = selfUpdateRate{full: t.selfUpdates.full}
	}
}
