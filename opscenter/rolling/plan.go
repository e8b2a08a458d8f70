package rolling

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Plan tells what a rollout will do if nothing fails. It comes from the same decisions, made on a model of the servers in
// which every action takes its expected time.
type Plan struct {
	At       time.Time  `json:"at"`
	Selector Selector   `json:"selector"`
	Policy   Policy     `json:"policy"`
	Waves    []PlanWave `json:"waves"`
	Steps    []PlanStep `json:"steps"`
	// Blockers keep units from beginning. Left are the servers that the rollout leaves alone.
	Blockers []Blocker `json:"blockers"`
	Left     []Left    `json:"left"`
	// End is when the rollout will probably be done; zero: it halts before.
	End time.Time `json:"end"`
	// Reboots is how many of the steps are reboots. MaxReboots is how many there may be: only the update shows how many of
	// its Secure Boot keys a server does not have yet, and each takes a reboot.
	Reboots    int `json:"reboots"`
	MaxReboots int `json:"max_reboots"`
	// Assumed: the times of some actions are defaults, as there are no earlier ones.
	Assumed bool `json:"assumed"`
}

// PlanWave is a wave of a plan.
type PlanWave struct {
	Name    string `json:"name"`
	Units   int    `json:"units"`
	Servers int    `json:"servers"`
	Soak    string `json:"soak,omitempty"`
}

// PlanStep is a step of a plan.
type PlanStep struct {
	Number int              `json:"number"` // from 1
	Wave   string           `json:"wave"`
	Unit   string           `json:"unit"`
	Server string           `json:"server"`
	Action lifecycle.Action `json:"action"`
	Mode   string           `json:"mode,omitempty"`
	Why    string           `json:"why"`
	// Needs tells what must hold before the step begins.
	Needs string `json:"needs"`
	// Start and End are when the step will probably begin and end. Deadline is when it counts as failed.
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	Deadline time.Time `json:"deadline"`
}

// Blocked returns the blockers that keep a rollout from starting.
func (p *Plan) Blocked() []Blocker {
	return slices.DeleteFunc(slices.Clone(p.Blockers), func(b Blocker) bool { return b.Soft })
}

// Difference tells the first step in which another plan differs; empty: none. Times do not count.
func (p *Plan) Difference(other *Plan) string {
	for i := range max(len(p.Steps), len(other.Steps)) {
		switch {
		case i >= len(other.Steps):
			return fmt.Sprintf("step %d, %s of %s, is no longer part of the plan", i+1, p.Steps[i].Action, p.Steps[i].Server)
		case i >= len(p.Steps):
			return fmt.Sprintf("step %d, %s of %s, is new", i+1, other.Steps[i].Action, other.Steps[i].Server)
		}
		a, b := p.Steps[i], other.Steps[i]
		a.Start, a.End, a.Deadline = b.Start, b.End, b.Deadline
		if a != b {
			return fmt.Sprintf("step %d is %s of %s (%s), was %s of %s (%s)", i+1, b.Action, b.Server, b.Why, a.Action, a.Server, a.Why)
		}
	}
	return ""
}

// String returns the plan as operators read it.
func (p *Plan) String() string {
	var out strings.Builder
	_ = p.Write(&out)
	return out.String()
}

// Write writes the plan as operators read it.
func (p *Plan) Write(w io.Writer) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	servers := 0
	for _, wave := range p.Waves {
		servers += wave.Servers
	}
	fmt.Fprintf(out, "Plan: %s, %d steps, %d servers", p.Policy.Goal, len(p.Steps), servers)
	switch {
	case len(p.Steps) == 0:
		fmt.Fprint(out, "\n")
	case p.End.IsZero():
		fmt.Fprint(out, ", comes to a halt\n")
	default:
		fmt.Fprintf(out, ", done in about %s", p.End.Sub(p.At).Round(time.Second))
		if p.Assumed {
			fmt.Fprint(out, " (some of it assumed: there is no history)")
		}
		fmt.Fprint(out, "\n")
	}
	wave := ""
	for _, s := range p.Steps {
		if s.Wave != wave && len(p.Waves) > 1 {
			wave = s.Wave
			fmt.Fprintf(out, "wave %s\n", wave)
		}
		action := string(s.Action)
		if s.Mode != "" && s.Mode != "auto" {
			action += " (" + s.Mode + ")"
		}
		fmt.Fprintf(out, "%d.\t+%s\t%s\t%s\t%s\t%s\n", s.Number, s.Start.Sub(p.At).Round(time.Second), s.Unit, s.Server, action, s.Why)
	}
	if p.MaxReboots > p.Reboots {
		fmt.Fprintf(out, "reboots:\t%d, or up to %d: Secure Boot keys take one each\n", p.Reboots, p.MaxReboots)
	}
	for _, b := range p.Blockers {
		kind := "blocked"
		if b.Soft {
			kind = "note"
		}
		fmt.Fprintf(out, "%s:\t%s\t%s\t%s\n", kind, b.Unit, b.Server, b.Reason)
	}
	for _, l := range p.Left {
		fmt.Fprintf(out, "left:\t%s\t%s\t%s\n", l.Unit, l.Server, l.Reason)
	}
	return out.Flush()
}

// Make makes a plan, and the state and the units with which its rollout begins. Errors: ErrInvalid.
func Make(fleet Fleet, selector Selector, policy Policy, at time.Time) (*Plan, *Selected, error) {
	selected, err := New(fleet, selector, policy, at)
	if err != nil {
		return nil, nil, err
	}
	plan := &Plan{At: at, Selector: selector, Policy: selected.State.Policy, Blockers: selected.Blockers, Left: selected.Left}
	for _, w := range selected.State.Waves {
		wave := PlanWave{Name: w.Name, Units: w.To - w.From, Soak: soakText(w.Soak)}
		for _, u := range selected.Units[w.From:w.To] {
			wave.Servers += len(u.Members)
			plan.Assumed = plan.Assumed || u.Assumed
		}
		plan.Waves = append(plan.Waves, wave)
	}
	f, err := Forecast(selected.State, selected.Units, selected.Servers, at)
	if err != nil {
		return nil, nil, err
	}
	plan.Steps, plan.End = f.Steps, f.End
	for i := range plan.Steps {
		if plan.Steps[i].Action == lifecycle.ActionReboot {
			plan.Reboots++
		}
	}
	plan.MaxReboots = plan.Reboots
	for _, u := range selected.Units {
		for i := range u.Members {
			if m := &u.Members[i]; m.Left == "" && selected.State.Policy.Goal.single() == lifecycle.ActionNone {
				plan.MaxReboots += m.Keys
			}
		}
	}
	plan.Blockers = append(plan.Blockers, f.Blockers...)
	for i, n := range f.perUnit {
		selected.Units[i].Steps = n
		selected.State.Steps += n
	}
	return plan, selected, nil
}

func soakText(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}
