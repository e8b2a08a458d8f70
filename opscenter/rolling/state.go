package rolling

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// ErrState: what was asked for is not possible in the state the rollout is in.
var ErrState = errors.New("not possible now")

// Status is where a rollout is.
type Status string

const (
	StatusStarting   Status = "starting" // being written down
	StatusRunning    Status = "running"
	StatusPaused     Status = "paused"     // by somebody, or by a failure; Reason says which
	StatusCancelling Status = "cancelling" // see CancelMode
	StatusDone       Status = "done"
	StatusCancelled  Status = "cancelled"
)

// Ended reports whether nothing more happens.
func (s Status) Ended() bool { return s == StatusDone || s == StatusCancelled }

// CancelMode is how a rollout is given up.
type CancelMode string

const (
	// CancelStop begins nothing more: what is under way ends, evacuated servers stay so.
	CancelStop CancelMode = "stop"
	// CancelFinish finishes the servers that are out.
	CancelFinish CancelMode = "finish"
	// CancelRestore restores at once, maintenance window or not, all servers the rollout has evacuated.
	CancelRestore CancelMode = "restore"
)

// CancelModes lists them.
var CancelModes = []CancelMode{CancelStop, CancelFinish, CancelRestore}

// State is how far a rollout is, but for its units, which are apart: there may be many.
type State struct {
	Policy Policy
	Status Status
	// Reason says why it is paused, cancelling or cancelled.
	Reason string
	Cancel CancelMode
	Waves  []WaveState
	// Halted: it was paused for what failed, and by no operator.
	Halted bool `json:",omitempty"`
	// Next is the index of the unit to be begun with next: they are in order.
	Next  int
	Units int
	// Running is how many units are being worked on, Failed how many wait to be resumed. Aside is how many of those
	// that run stand still, with nothing out: they keep no others waiting, and Waits says what one of them waits for.
	Running, Failed int
	Aside           int    `json:",omitempty"`
	Waits           string `json:",omitempty"`
	// Steps is how many actions were expected, StepsDone how many succeeded.
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

// Admit reports whether the next unit may be begun with now; if not, when to ask again, if
// that is only a matter of time, and what it waits for.
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

// Begin begins with the next unit.
func (s *State) Begin(u *Unit, now time.Time) {
	u.Status, u.StartedAt = UnitRunning, now
	s.Next++
	s.Running++
	if w := s.waveOf(s.Next - 1); w.StartedAt.IsZero() {
		w.StartedAt = now
	}
}

// Drop cancels the next unit, with which was not begun.
func (s *State) Drop(u *Unit, now time.Time) {
	u.Status, u.EndedAt = UnitCancelled, now
	w := s.waveOf(s.Next)
	s.Next++
	w.Ended++
}

// Moved takes note of what became of a unit, by its index, that had a status before.
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

// halt pauses the rollout for what failed.
func (s *State) halt(reason string) {
	if s.Status == StatusRunning || s.Status == StatusCancelling {
		s.Status, s.Reason, s.Halted = StatusPaused, reason, true
	}
}

// Relieve lets a rollout go on that was halted by what failed, once nothing of that is left: the
// server was removed. One that an operator has paused stays paused.
func (s *State) Relieve() {
	if s.Status == StatusPaused && s.Halted && s.Failed == 0 {
		_ = s.Resume()
	}
}

// Pause begins nothing more until Resume; what is under way ends.
func (s *State) Pause(reason string) error {
	if s.Status != StatusRunning && s.Status != StatusCancelling {
		return fmt.Errorf("%w: the rollout is %s", ErrState, s.Status)
	}
	s.halt(reason)
	s.Halted = false
	return nil
}

// Resume goes on. The units that failed are to be resumed, each by Unit.Resume.
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

// Abandon cancels the rollout in one of three ways. It can be called again, with another
// mode. Units that failed are to be resumed, each by Unit.Resume: what is left to do in them is another now.
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

// Finish ends the rollout if nothing is left to do, or pauses it if all that is left waits
// for somebody. It reports whether anything changed.
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
