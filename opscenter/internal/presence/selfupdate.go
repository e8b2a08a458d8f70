package presence

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

// SelfUpdate is how a self update of a server is taken.
type SelfUpdate struct {
	// Store it. If it is not stored, it says nothing new.
	Store bool
	// Poll the server after so long; below 0: a poll is due already that will find the news.
	Poll time.Duration
	// Refuse it: the server says more new things than any server needs to.
	Refuse bool
}

// judge decides about what a server says at a time. news: it is new whatever was said before, as another address is, and
// what it asks for can't wait. It changes only t, and reads no clock.
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
	case t.polled <= at: // it has been polled, and may have something to tell that was not found
		out.Poll = t.polled + interval - at
	}
	if out.Poll >= 0 {
		t.polled = at + out.Poll
	}
	t.any = true
	return out
}

// JudgeSelfUpdate decides how a self update of a server is taken now. news: it is new whatever was said before. A server
// that is not known has no limit.
func (p *Presence) JudgeSelfUpdate(id string, cause lifecycle.Cause, news bool) SelfUpdate {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tracks[id]
	if t == nil {
		return SelfUpdate{Store: true}
	}
	return t.selfUpdates.judge(p.elapsed(), p.options.SelfUpdateInterval, cause, news)
}

// ForgetSelfUpdate forgets that a server said something: it was not stored, and the server may say it again.
func (p *Presence) ForgetSelfUpdate(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.tracks[id]; t != nil {
		t.selfUpdates = selfUpdateRate{full: t.selfUpdates.full}
	}
}
