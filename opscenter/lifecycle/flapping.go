package lifecycle

import (
	"fmt"
	"math"
	"time"

	"github.com/opscenter-go/sdk/opscenter/event"
)

// noteOutage stores that the server became unresponsive. If that happens too often, the server is flapping from now on.
func (t *Transition) noteOutage(at time.Time, policy Policy) {
	next := &t.State
	if policy.FlapThreshold <= 0 || policy.FlapThreshold == math.MaxInt {
		return
	}
	recent := []time.Time{}
	for _, one := range next.Outages {
		if age := at.Sub(one); age >= 0 && age < policy.FlapWindow {
			recent = append(recent, one)
		}
	}
	recent = append(recent, at)
	if extra := len(recent) - policy.FlapThreshold; extra > 0 {
		recent = recent[extra:]
	}
	next.Outages = recent
	if len(recent) >= policy.FlapThreshold && next.FlappingSince.IsZero() {
		next.FlappingSince = at
		t.addEvent(at, event.Flapping, fmt.Sprintf("became unresponsive %d times within %s: held offline until it is steady for %s", len(recent), policy.FlapWindow, policy.FlapSteady))
	}
}

// heldOffline reports whether a server that answers is held offline because it is flapping.
func (t *Transition) heldOffline(o Observation, policy Policy) bool {
	next := &t.State
	if next.FlappingSince.IsZero() {
		return false
	}
	if next.Status == StatusOffline && o.At.Sub(t.Contact.AnsweringSince) < policy.FlapSteady {
		if next.StatusDetail != DetailUnresponsive {
			t.setStatus(o.At, StatusOffline, DetailUnresponsive, "answers, but goes up and down: held offline until it is steady")
		}
		return true
	}
	t.endFlapping(o.At, fmt.Sprintf("has answered for %s", policy.FlapSteady))
	return false
}

// endFlappingWhenDown ends the flapping of a server that stays down.
func (t *Transition) endFlappingWhenDown(o Observation, policy Policy) {
	if !t.State.FlappingSince.IsZero() && o.At.Sub(t.Contact.FirstFailure) >= policy.FlapSteady {
		t.endFlapping(o.At, fmt.Sprintf("has not answered for %s", policy.FlapSteady))
	}
}

func (t *Transition) endFlapping(at time.Time, why string) {
	t.State.FlappingSince, t.State.Outages = time.Time{}, nil
	t.addEvent(at, event.Steady, "no longer goes up and down: "+why)
}
