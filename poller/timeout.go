package poller

import (
	"context"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// A silent server costs a poll its whole timeout. So the timeout of a server that answers follows the usual duration of
// its polls. A poll that ends at this shorter timeout is cut. A cut tells nothing: the server may only have become slower.
// Therefore a cut changes only the schedule:
//
//  1. The poller drops the observation. It is no failure, and the Registry learns nothing of it.
//  2. The poller forgets the usual durations of the server.
//  3. The next poll of the server follows at once, among the retries, with the full Options.Timeout.
//
// So each failure for lack of an answer still means that the server had the full timeout. A server that answers within
// Options.Timeout never fails because of a cut. It answers the next poll, and that poll's duration is its usual one
// from then on. Servers that failed last time always have the full timeout: they delay no healthy server.

// pace holds the usual durations of the polls of one server. A poll that reads the facts takes longer than a light one,
// so each kind has its own. 0: unknown.
type pace struct{ light, full time.Duration }

// slowness is the weight of the past in a usual duration. A faster poll lowers the duration by an eighth of the difference.
const slowness = 8

func (p *pace) of(light bool) *time.Duration {
	if light {
		return &p.light
	}
	return &p.full
}

// usual returns the usual duration of a poll. 0: unknown. A light poll sends a part of the requests of a full one, so as long as
// there was none, it is expected to take as long.
func (p *pace) usual(light bool) time.Duration {
	if light && p.light != 0 {
		return p.light
	}
	return p.full
}

// learn takes in the duration of a successful poll. The usual duration is a maximum that decays: a slower poll counts at
// once, faster ones count little by little.
func (p *pace) learn(light bool, took time.Duration) {
	usual := p.of(light)
	took = max(took, 1) // 0 means unknown
	if took >= *usual {
		*usual = took
	} else {
		*usual -= (*usual - took) / slowness
	}
}

// timeout returns the timeout of a poll of that usual duration, see TimeoutFactor. It is one of a few steps, each a quarter
// longer than the one before, so that many polls share a deadline.
func (o *Options) timeout(usual time.Duration) time.Duration {
	if o.TimeoutFactor < 0 || usual == 0 {
		return o.Timeout
	}
	wanted := float64(usual) * o.TimeoutFactor
	for step := o.MinTimeout; step < o.Timeout; step += step/4 + 1 {
		if float64(step) >= wanted {
			return step
		}
	}
	return o.Timeout
}

// The poll of a silent server occupies a place under Concurrency until it counts as slow. So that time, too, follows the usual
// duration, here of all polls. By Markov's inequality at most one successful poll in TimeoutFactor takes longer than TimeoutFactor times the mean,
// unless SlowAfter is shorter.

// meanDuration is the mean duration of successful polls. Older ones count less and less. 0: unknown.
type meanDuration time.Duration

func (m *meanDuration) learn(took time.Duration) {
	if *m == 0 {
		*m = meanDuration(took)
	}
	*m += (meanDuration(took) - *m) / memory
}

// memory is how many polls a mean duration follows.
const memory = 64

// minSlowAfter is the least time after which a poll counts as slow, unless SlowAfter is less.
const minSlowAfter = 100 * time.Millisecond

// slowAfter returns how long a poll counts under Concurrency, see SlowAfter.
func (o *Options) slowAfter(mean meanDuration) time.Duration {
	if o.TimeoutFactor < 0 || mean == 0 {
		return o.SlowAfter
	}
	return time.Duration(min(float64(o.SlowAfter), max(float64(minSlowAfter), float64(mean)*o.TimeoutFactor)))
}

// expired reports whether a context has ended, or its deadline has passed. A reader with the same deadline may return before the context
// has an error.
func expired(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

// incomplete reports whether an observation lacks values that a longer poll might have read.
func incomplete(o *lifecycle.Observation) bool {
	if o.Failure != nil {
		return o.Failure.Kind != lifecycle.FailureLocal
	}
	return len(o.Unread) > 0
}
