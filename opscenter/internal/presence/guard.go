package presence

import (
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Guard is the handle that tells an outage of the control plane's own connection from one of the servers. When a large
// share of the servers fails at once, it suspects the control plane. It watches ready servers only: offline ones tell
// nothing new.
//
// The servers polled within a window are no fair share of the fleet. Failed servers are polled again and again, and a
// whole rack fails at once. Therefore the window only gives cause for doubt. Then a sample of the servers that have not
// failed is polled at once. Its answers tell the share of all ready servers that fails.
//
// While there is doubt, no server becomes offline. Servers that still fail when the doubt ends cause no new doubt until
// they have answered. Without samples, the window decides.
//
// Within a window a server counts once, for its last answer or for its first failure. Once the guard is on, each server
// that was polled since counts with its last outcome. Each further sample counts, too. The guard ends when less than the
// share fails.
type Guard struct {
	p     *Presence
	state guardState
}

// guardState is the memory of the guard. Its methods read no clock and take no lock.
type guardState struct {
	share   float64
	minimum int
	window  time.Duration

	first, last    *watched // within the window, the oldest first
	asked, failing int
	on             bool

	sampler bool          // a poller asks samples
	ready   func() int    // how many servers are ready
	doubt   bool          // there is cause to suspect the control plane
	since   time.Duration // of the doubt
	quiet   time.Duration // until when a decision holds
	ended   time.Duration // when the guard was last on
	sample  sample
}

// watched is a server in the guard's list.
type watched struct {
	previous, next *watched
	at             time.Duration
	listed, failed bool
	sampled        uint32 // the number of the sample it is in
	excused        bool   // it fails by itself
}

// sample is servers that are polled to find out which side is at fault.
type sample struct {
	number             uint32
	size, good, failed int
	// known servers fail; the sample speaks for the rest.
	known, rest int
	at          time.Duration
	open        bool
}

// sampleSize is how many times the minimum is asked, so that chance does not decide.
const sampleSize = 32

// observe takes in the outcome of a poll of a server that is ready.
func (g *guardState) observe(w *watched, at time.Duration, failed bool) {
	g.expire(at)
	if !failed {
		w.excused = false
	}
	if g.sample.open && w.sampled == g.sample.number {
		w.sampled = 0
		if failed {
			g.sample.failed++
		} else {
			g.sample.good++
		}
		g.decide(at)
	}
	if !g.on && failed && (w.listed && w.failed || w.excused) {
		return // it counts once in a window
	}
	g.drop(w)
	w.at, w.failed = at, failed
	g.append(w)
	most := g.failing >= g.minimum && float64(g.failing) >= g.share*float64(g.asked)
	switch {
	case !g.on && failed && most && !g.sampler:
		g.trip()
	case !g.on && failed && most && !g.doubt && at >= g.quiet:
		g.doubt, g.since = true, at
	case g.on && g.asked >= g.minimum && float64(g.failing) < ease*g.share*float64(g.asked):
		g.on, g.ended, g.sample.open = false, at, false // the rest of a sample is of the time before
	}
	g.late(at)
}

// late decides by the answers that a sample has got, where the others are late. A sample without an answer makes the
// fault ours. Without a sample, the share of all ready servers decides.
func (g *guardState) late(at time.Duration) {
	s := &g.sample
	came := s.good + s.failed
	switch {
	case s.open && at-s.at > g.window/3 && 2*came >= s.size:
		s.size = came
		g.decide(at)
	case g.doubt && at-g.since > 2*g.window:
		// No server of the sample answered; or no sample was asked, and this share of the ready servers failed.
		ours := s.open && s.failed >= s.good
		if !s.open && g.ready != nil {
			ours = float64(g.failing) >= g.share*float64(max(g.failing, g.ready()))
		}
		g.conclude(at, ours)
	}
}

// wants returns how many servers are to be asked as a sample; 0: none.
func (g *guardState) wants(at time.Duration) int {
	g.late(at)
	if g.sample.open && at-g.sample.at > 2*g.window {
		g.sample.open = false // some of it never came
	}
	if g.sample.open || !g.doubt && !(g.on && at-g.sample.at >= g.window/3) {
		return 0
	}
	return sampleSize * g.minimum
}

// begin begins a sample of size servers, drawn out of so many. In doubt, failed servers are not among them.
func (g *guardState) begin(at time.Duration, size, of int) uint32 {
	known := 0
	if g.doubt {
		known = g.failing
	}
	g.sample = sample{number: g.sample.number + 1, size: size, known: known, rest: max(size, of), at: at, open: size > 0}
	if g.sample.number == 0 {
		g.sample.number = 1
	}
	if size == 0 && g.doubt && g.sample.rest == 0 {
		g.conclude(at, true) // all fail
	}
	return g.sample.number
}

// unsample takes a server out of the sample, because it tells nothing about the others.
func (g *guardState) unsample(w *watched, at time.Duration) {
	if !g.sample.open || w.sampled != g.sample.number {
		return
	}
	w.sampled = 0
	if g.sample.size--; g.sample.size == 0 {
		g.sample.open = false
		return
	}
	g.decide(at)
}

// decide ends the sample when its open answers can make no difference.
func (g *guardState) decide(at time.Duration) {
	s := &g.sample
	fail := func(failed int) float64 { return float64(s.known) + float64(s.rest)*float64(failed)/float64(s.size) }
	limit := g.share * float64(s.known+s.rest)
	if g.on {
		limit *= ease
	}
	switch {
	case fail(s.failed) >= limit:
		g.conclude(at, true)
	case fail(s.size-s.good) < limit:
		g.conclude(at, false)
	}
}

// conclude ends the doubt, one way or the other.
func (g *guardState) conclude(at time.Duration, ours bool) {
	g.sample.open, g.doubt = false, false
	switch {
	case ours && !g.on:
		g.trip()
	case !ours:
		if g.on {
			g.ended = at
		}
		g.on, g.quiet = false, at+g.window/3
		for w := g.first; w != nil; {
			next := w.next
			if w.failed {
				w.excused = true
				g.drop(w)
			}
			w = next
		}
	}
}

// ease is by how much less than the share must fail for the guard to end. It keeps the guard from going on and off at
// just the share.
const ease = 0.9

// trip sets the guard off. From then on only failed servers count, and those polled next.
func (g *guardState) trip() {
	g.on = true
	for w := g.first; w != nil; {
		next := w.next
		if !w.failed {
			g.drop(w)
		}
		w = next
	}
}

// expire drops the outcomes that are older than the window. It drops none while the guard is on or in doubt.
func (g *guardState) expire(now time.Duration) {
	for !g.on && !g.doubt && g.first != nil && now-g.first.at > g.window {
		g.drop(g.first)
	}
}

// leave takes out a server that is not ready any more. Its failure still counts within the window. While the guard is on,
// no server leaves because it failed.
func (g *guardState) leave(w *watched) {
	if g.on {
		g.drop(w)
	}
}

func (g *guardState) append(w *watched) {
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

func (g *guardState) drop(w *watched) {
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

// Verdict is the guard's judgement on a failure.
type Verdict struct {
	// Unreachable: the fleet counts as unreachable. Doubt: it may be.
	Unreachable, Doubt bool
	// Asked is how many servers were polled last. Failing is how many of them failed.
	Asked, Failing int
}

// Judge tells the guard the outcome of a poll of a server that began age ago. A server that is not ready tells nothing
// about the fleet.
func (g *Guard) Judge(id string, ready, failed bool, age time.Duration) Verdict {
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	t := g.p.tracks[id]
	switch {
	case t == nil:
	case failed && g.state.ended > 0 && g.p.Elapsed()-age < g.state.ended:
		// It began while the control plane was at fault.
		g.state.unsample(&t.watched, g.p.Elapsed())
	case ready:
		g.state.observe(&t.watched, g.p.Elapsed(), failed)
	default:
		g.state.leave(&t.watched)
		g.state.unsample(&t.watched, g.p.Elapsed())
	}
	g.endSmall()
	return g.state.verdict()
}

// Verdict returns the judgement of now.
func (g *Guard) Verdict() Verdict {
	g.p.mu.RLock()
	defer g.p.mu.RUnlock()
	return g.state.verdict()
}

func (g *guardState) verdict() Verdict { return Verdict{g.on, g.doubt, g.asked, g.failing} }

// Trip makes the fleet count as unreachable, as it did when an earlier Registry ended.
func (g *Guard) Trip() {
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	g.state.trip()
	g.endSmall()
}

// endSmall ends the guard of a fleet that has become too small to tell.
func (g *Guard) endSmall() {
	if g.state.on && g.state.asked < g.state.minimum && g.p.count(lifecycle.StatusReady) < g.state.minimum {
		g.state.on = false
	}
}

// SetSampling tells the guard whether a poller polls samples, as SampleSize asks.
func (g *Guard) SetSampling(on bool) {
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	g.state.sampler = on
}

// SampleSize returns how many servers the guard wants polled at once. 0: none. unbiased: any ready servers will do.
// Otherwise the sample is of ready servers that answered last time.
func (g *Guard) SampleSize() (n int, unbiased bool) {
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	return g.state.wants(g.p.Elapsed()), g.state.on
}

// BeginSample tells the guard which servers are polled now, by their IDs, drawn at random out of so many.
func (g *Guard) BeginSample(of int, ids ...string) {
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	var asked []*track
	for _, id := range ids {
		t := g.p.tracks[id]
		if t == nil || g.state.doubt && (t.watched.listed && t.watched.failed || t.watched.excused) {
			of-- // its outcome is known, and counted
			continue
		}
		asked = append(asked, t)
	}
	number := g.state.begin(g.p.Elapsed(), len(asked), of)
	for _, t := range asked {
		t.watched.sampled = number
	}
}
