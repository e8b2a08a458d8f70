package rolling

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrState: the request is not possible in the current status of the rollout.
var ErrState = errors.New("not possible now")

// Status is the status of a rollout.
type Status string

const (
	StatusStarting   Status = "starting" // it is being stored
	StatusRunning    Status = "running"
	StatusPaused     Status = "paused"     // by an operator, or for a failure; see Reason
	StatusCancelling Status = "cancelling" // see CancelMode
	StatusDone       Status = "done"
	StatusCancelled  Status = "cancelled"
)

// Ended reports whether the rollout is over.
func (s Status) Ended() bool { return s == StatusDone || s == StatusCancelled }

// CancelMode tells how to cancel a rollout.
type CancelMode string

const (
	// CancelStop begins no more steps. Steps under way end, and evacuated servers stay evacuated.
	CancelStop CancelMode = "stop"
	// CancelFinish finishes the servers that are out, and begins with no others.
	CancelFinish CancelMode = "finish"
	// CancelRestore restores all servers that the rollout has evacuated, at once, even outside of a maintenance window.
	CancelRestore CancelMode = "restore"
)

// CancelModes lists all modes.
var CancelModes = []CancelMode{CancelStop, CancelFinish, CancelRestore}

// State tells how far a rollout is. Its units are kept apart from it, as there may be many.
type State struct {
	Policy Policy
	Status Status
	// Reason tells why the rollout is paused, cancelling or cancelled.
	Reason string
	Cancel CancelMode
	Waves  []WaveState
	// Halted: a failure paused the rollout, and not an operator.
	Halted bool `json:",omitempty"`
	// Next is the index of the next unit to begin. Units are in order.
	Next  int
	Units int
	// Running is how many units have begun and not ended, Failed how many wait to be resumed. Aside is how many of the
	// running units stand still with no member out: they do not keep the next units waiting. Waits tells what one of
	// these waits for.
	Running, Failed int
	Aside           int    `json:",omitempty"`
	Waits           string `json:",omitempty"`
	// Steps is how many actions the plan has, StepsDone how many have succeeded.
	Steps, StepsDone int
	StartedAt        time.Time
	EndedAt          time.Time
}

// Clone returns a copy of a state that can be changed without changing the original.
func (s *State) Clone() *State {
	out := *s
	out.Waves = slices.Clone(s.Waves)
	return &out
}

// Admit reports whether the next unit may begin now. If not, why tells what it waits for, and again when to ask again; again is
// zero if time alone does not change the answer.
func (s *State) Admit(now time.Time) (ok bool, again time.Time, why string) {
	if s.Status != StatusRunning || s.Next >= s.Units {
		return false, time.Time{}, ""
	}
	if s.Running-s.Aside >= s.Policy.Parallel {
		return false, time.Time{}, fmt.Sprintf("%d at a time", s.Policy.Parallel)
	}
	for i := range s.Waves {
		w := &s.Waves[i]
		if s.Next < w.To {
			break
		}
		if w.Ended+w.Failures < w.To-w.From || w.EndedAt.IsZero() {
			return false, time.Time{}, "wave " + w.Name
		}
		if soaked := w.EndedAt.Add(w.Soak); i+1 < len(s.Waves) && s.Next < s.Waves[i+1].To && now.Before(soaked) {
			return false, soaked, fmt.Sprintf("wave %s soaks until %s", w.Name, soaked.UTC().Format(time.RFC3339))
		}
	}
	return true, time.Time{}, ""
}

// Begin begins the next unit.
func (s *State) Begin(u *Unit, now time.Time) {
	u.Status, u.StartedAt = UnitRunning, now
	s.Next++
	s.Running++
	if w := s.waveOf(s.Next - 1); w.StartedAt.IsZero() {
		w.StartedAt = now
	}
}

// Drop cancels the next unit, which has not begun.
func (s *State) Drop(u *Unit, now time.Time) {
	u.Status, u.EndedAt = UnitCancelled, now
	w := s.waveOf(s.Next)
	s.Next++
	w.Ended++
}

// Moved updates the state after the unit with that index has changed. before is the unit's status before the change.
func (s *State) Moved(u *Unit, index int, before UnitStatus, now time.Time) {
	if stands := u.standsStill(now); stands != u.Aside {
		if u.Aside = stands; stands {
			s.Aside++
		} else {
			s.Aside--
		}
	}
	switch {
	case u.Aside:
		s.Waits = shorten(fmt.Sprintf("%d of %d under way stand still; %s: %s", s.Aside, s.Running, u.Name, u.Waiting))
	case s.Aside == 0:
		s.Waits = ""
	}
	if u.Status == before {
		return
	}
	w := s.waveOf(index)
	switch before {
	case UnitRunning:
		s.Running--
	case UnitFailed:
		s.Failed--
		w.Failures--
	}
	switch {
	case u.Status == UnitRunning:
		s.Running++
		w.EndedAt = time.Time{}
	case u.Status == UnitFailed:
		s.Failed++
		w.Failures++
		if w.Failures >= s.Policy.StopThreshold || s.Cancel != "" {
			s.halt(u.Failure.describe(u))
		}
	default:
		w.Ended++
	}
	if w.Ended+w.Failures == w.To-w.From {
		w.EndedAt = now
	}
}

// halt pauses the rollout for a failure.
func (s *State) halt(reason string) {
	if s.Status == StatusRunning || s.Status == StatusCancelling {
		s.Status, s.Reason, s.Halted = StatusPaused, reason, true
	}
}

// Relieve resumes a rollout that a failure paused, once no unit has failed any more, for example because the server was
// removed. A rollout that an operator has paused stays paused.
func (s *State) Relieve() {
	if s.Status == StatusPaused && s.Halted && s.Failed == 0 {
		_ = s.Resume()
	}
}

// Pause makes the rollout begin no more steps until Resume. Steps under way end. Errors: ErrState.
func (s *State) Pause(reason string) error {
	if s.Status != StatusRunning && s.Status != StatusCancelling {
		return fmt.Errorf("%w: the rollout is %s", ErrState, s.Status)
	}
	s.halt(reason)
	s.Halted = false
	return nil
}

// Resume makes a paused rollout go on. The caller calls Unit.Resume for each unit that has failed. Errors: ErrState.
func (s *State) Resume() error {
	if s.Status != StatusPaused {
		return fmt.Errorf("%w: the rollout is %s, not paused", ErrState, s.Status)
	}
	s.Status, s.Reason, s.Halted = StatusRunning, "", false
	if s.Cancel != "" {
		s.Status, s.Reason = StatusCancelling, "cancelled: "+string(s.Cancel)
	}
	return nil
}

// Abandon cancels the rollout. It can be called again with another mode. The caller calls Unit.Resume for each unit that has
// failed, as other steps are left to do in it now. Errors: ErrInvalid, ErrState.
func (s *State) Abandon(mode CancelMode) error {
	if !slices.Contains(CancelModes, mode) {
		return fmt.Errorf("%w: cancel mode %.40q, known are %q", ErrInvalid, mode, CancelModes)
	}
	if s.Status.Ended() || s.Status == StatusStarting {
		return fmt.Errorf("%w: the rollout is %s", ErrState, s.Status)
	}
	s.Status, s.Cancel, s.Reason, s.Halted = StatusCancelling, mode, "cancelled: "+string(mode), false
	return nil
}

// Finish ends the rollout if nothing is left to do, or pauses it if all units that are left have failed. It reports whether
// anything changed.
func (s *State) Finish(now time.Time) bool {
	if s.Next < s.Units || s.Running > 0 || s.Status != StatusRunning && s.Status != StatusCancelling {
		return false
	}
	switch {
	case s.Failed > 0:
		s.halt(fmt.Sprintf("%d of %d failed, all others are done; resume to try them again, or cancel", s.Failed, s.Units))
		return true
	case s.Cancel != "":
		s.Status = StatusCancelled
	default:
		s.Status, s.Reason = StatusDone, ""
	}
	s.EndedAt = now
	return true
}
