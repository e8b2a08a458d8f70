package rolling

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/internal/defaults"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// ErrInvalid: a policy or a selector is not valid. The error tells which value, and the allowed ones.
var ErrInvalid = errors.New("invalid")

// Defaults of Policy.
const (
	DefaultMaxUnavailable = 1
	DefaultParallel       = 1
	DefaultStepTimeout    = time.Hour
	DefaultRebootTimeout  = 15 * time.Minute
	DefaultRetries        = 2
	DefaultBackoff        = 30 * time.Second
	DefaultMaxBackoff     = 10 * time.Minute
	DefaultStopThreshold  = 1
	DefaultGoodPolls      = 1
	DefaultGateTimeout    = time.Hour
)

// Limits of Policy.
const (
	// MaxWaves and MaxWindows are the largest numbers of Waves and Windows.
	MaxWaves   = 100
	MaxWindows = 50
	// MaxRetries is the largest number of Retries.
	MaxRetries = 20
)

// assumed is the expected time of an action that has never been carried out.
var assumed = map[lifecycle.Action]time.Duration{lifecycle.ActionUpdate: 5 * time.Minute, lifecycle.ActionEvacuate: 10 * time.Minute, lifecycle.ActionReboot: 5 * time.Minute,
	lifecycle.ActionRestore: 10 * time.Minute, lifecycle.ActionPowerOff: time.Minute}

// The modes of evacuations and restores, as Incus names them.
var (
	EvacuateModes = []string{"auto", "migrate", "live-migrate", "stop"}
	RestoreModes  = []string{"", "skip"}
)

// Policy tells how carefully a rollout goes on. The zero value updates one server after the other, and pauses at the first
// failure.
type Policy struct {
	// Goal is the aim of the rollout. Default GoalUpdate.
	Goal Goal `json:"goal,omitempty"`
	// MaxUnavailable is how many members of a cluster may be out at a time. The database quorum of the cluster may limit it
	// further. Default 1.
	MaxUnavailable int `json:"max_unavailable,omitempty"`
	// Parallel is how many clusters, and servers in no cluster, are worked on at a time. Default 1. There may be more of
	// them: units that failed go on together when they are resumed, and a unit that has waited for AsideAfter (2 minutes)
	// with no member out does not count.
	Parallel int `json:"parallel,omitempty"`
	// Canaries are the names of the clusters and servers that go first, as a wave of their own. Soak is how long the next
	// wave waits after them.
	Canaries []string      `json:"canaries,omitempty"`
	Soak     time.Duration `json:"soak,omitempty"`
	// Waves come one after the other. Units that are in none come after them.
	Waves []Wave `json:"waves,omitempty"`
	// Windows are the times in which actions may begin; none: at any time. A server is evacuated or rebooted only if all
	// of its remaining actions will probably fit into the window. If they take longer, the rest waits for the next window.
	Windows []Window `json:"windows,omitempty"`
	// EvacuateMode is auto (default), migrate, live-migrate or stop. RestoreMode is empty, or skip, which leaves the
	// instances where they are.
	EvacuateMode string `json:"evacuate_mode,omitempty"`
	RestoreMode  string `json:"restore_mode,omitempty"`
	// PostRestoreDelay is how long to wait after the restore of a member before the next one goes out.
	PostRestoreDelay time.Duration `json:"post_restore_delay,omitempty"`
	// StepTimeout is how long each action but a reboot may take. Default 1 hour. RebootTimeout is how long a server may take
	// until it is back and ready. Default 15 minutes.
	StepTimeout   time.Duration `json:"step_timeout,omitempty"`
	RebootTimeout time.Duration `json:"reboot_timeout,omitempty"`
	// Retries is how often an action that has failed is tried again. Default 2; below 0: never. Backoff is the pause before
	// the first retry; it doubles each time, up to 10 minutes. Default 30 seconds. A server that did not come back from a
	// reboot, or came back with the wrong version, is not rebooted again.
	Retries int           `json:"retries,omitempty"`
	Backoff time.Duration `json:"backoff,omitempty"`
	// StopThreshold is how many failed units in one wave pause the rollout. Default 1.
	StopThreshold int `json:"stop_threshold,omitempty"`
	// GoodPolls is how many polls in a row must find every member of a cluster ready before the next one goes out.
	// Default 1.
	GoodPolls int `json:"good_polls,omitempty"`
	// GateTimeout is how long a step may wait for its conditions until that counts as a failure. The time until the next
	// window does not count. Default 1 hour.
	GateTimeout time.Duration `json:"gate_timeout,omitempty"`
	// ControlPlane names the servers on which the control plane itself runs as an instance. They come last.
	ControlPlane []string `json:"control_plane,omitempty"`
	// SkipBlocked: units that are blocked before the start are left out. Otherwise the rollout does not start.
	SkipBlocked bool `json:"skip_blocked,omitempty"`
	// Force: a step has no conditions, except that the server is ready and no other action is under way on it. It is for
	// goals that are a single action.
	Force bool `json:"force,omitempty"`
}

// WithDefaults returns the policy with its defaults filled in. Errors: ErrInvalid.
func (p Policy) WithDefaults() (Policy, error) {
	if p.Goal == "" {
		p.Goal = GoalUpdate
	}
	if !slices.Contains(Goals, p.Goal) {
		return p, fmt.Errorf("%w: goal %.40q, known are %q", ErrInvalid, p.Goal, Goals)
	}
	for _, n := range []struct {
		name     string
		value    *int
		def, max int
	}{
		{"max_unavailable", &p.MaxUnavailable, DefaultMaxUnavailable, 1000},
		{"parallel", &p.Parallel, DefaultParallel, 10_000},
		{"stop_threshold", &p.StopThreshold, DefaultStopThreshold, 1_000_000},
		{"good_polls", &p.GoodPolls, DefaultGoodPolls, 100},
	} {
		if *n.value < 0 || *n.value > n.max {
			return p, fmt.Errorf("%w: %s is %d, it must be between 1 and %d", ErrInvalid, n.name, *n.value, n.max)
		}
		if *n.value == 0 {
			*n.value = n.def
		}
	}
	err := defaults.Fill(ErrInvalid,
		defaults.Of("soak", &p.Soak, 0), defaults.Of("post_restore_delay", &p.PostRestoreDelay, 0), defaults.Of("step_timeout", &p.StepTimeout, DefaultStepTimeout),
		defaults.Of("reboot_timeout", &p.RebootTimeout, DefaultRebootTimeout), defaults.Of("backoff", &p.Backoff, DefaultBackoff),
		defaults.Of("gate_timeout", &p.GateTimeout, DefaultGateTimeout))
	if err != nil {
		return p, err
	}
	switch {
	case p.Retries == 0:
		p.Retries = DefaultRetries
	case p.Retries < 0:
		p.Retries = -1
	case p.Retries > MaxRetries:
		return p, fmt.Errorf("%w: retries is %d, at most %d are allowed", ErrInvalid, p.Retries, MaxRetries)
	}
	if p.EvacuateMode == "" {
		p.EvacuateMode = "auto"
	}
	if !slices.Contains(EvacuateModes, p.EvacuateMode) {
		return p, fmt.Errorf("%w: evacuate_mode %.40q, known are %q", ErrInvalid, p.EvacuateMode, EvacuateModes)
	}
	if !slices.Contains(RestoreModes, p.RestoreMode) {
		return p, fmt.Errorf("%w: restore_mode %.40q, known are %q", ErrInvalid, p.RestoreMode, RestoreModes)
	}
	if len(p.Waves) > MaxWaves || len(p.Windows) > MaxWindows || len(p.Canaries)+len(p.ControlPlane) > MaxSelected {
		return p, fmt.Errorf("%w: at most %d waves, %d windows, and %d canaries and servers of the control plane are allowed", ErrInvalid, MaxWaves, MaxWindows, MaxSelected)
	}
	for i, w := range p.Waves {
		if w.Percent < 0 || w.Percent > 100 || w.Soak < 0 {
			return p, fmt.Errorf("%w: wave %d: percent is %d, soak %s", ErrInvalid, i+1, w.Percent, w.Soak)
		}
		if len(w.Names) == 0 && len(w.Properties) == 0 && w.Percent == 0 {
			return p, fmt.Errorf("%w: wave %d takes no units: names, properties or a percentage are wanted", ErrInvalid, i+1)
		}
		if len(w.Names) > MaxSelected {
			return p, fmt.Errorf("%w: wave %d has %d names, at most %d are allowed", ErrInvalid, i+1, len(w.Names), MaxSelected)
		}
	}
	names := 0
	for _, w := range p.Waves {
		names += len(w.Names)
	}
	if names > MaxSelected {
		return p, fmt.Errorf("%w: the waves have %d names, at most %d are allowed", ErrInvalid, names, MaxSelected)
	}
	if p.Force && p.Goal.single() == lifecycle.ActionNone {
		return p, fmt.Errorf("%w: force is for single actions, not for goal %s", ErrInvalid, p.Goal)
	}
	if _, err := newCalendar(p.Windows); err != nil {
		return p, err
	}
	return p, nil
}

// timeout returns how long an action may take.
func (p *Policy) timeout(action lifecycle.Action) time.Duration {
	if action == lifecycle.ActionReboot {
		return p.RebootTimeout
	}
	return p.StepTimeout
}

// backoff returns the pause after so many failed attempts.
func (p *Policy) backoff(attempts int) time.Duration {
	d := p.Backoff
	for range attempts - 1 {
		if d *= 2; d >= DefaultMaxBackoff {
			return max(DefaultMaxBackoff, p.Backoff)
		}
	}
	return d
}
