package rolling

import (
	"container/heap"
	"fmt"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Plan is what a rollout would do, if nothing fails: the same decisions, made on a model of
// the servers in which every action takes as long as it is expected to.
type Plan struct {
	At       time.Time  `json:"at"`
	Selector Selector   `json:"selector"`
	Policy   Policy     `json:"policy"`
	Waves    []PlanWave `json:"waves"`
	Steps    []PlanStep `json:"steps"`
	// Blockers are in the way; Left is what is left alone.
	Blockers []Blocker `json:"blockers"`
	Left     []Left    `json:"left"`
	// End is when it is expected to be done; zero: it comes to a halt before.
	End time.Time `json:"end"`
	// Reboots is how many there are among the steps, and MaxReboots up to how many there may be: how many Secure Boot keys
	// of an update a server has not yet only shows on the way.
	Reboots    int `json:"reboots"`
	MaxReboots int `json:"max_reboots"`
	// Assumed tells that there is no history of how long some of the actions take.
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
	// Needs is what must hold before.
	Needs string `json:"needs"`
	// Start and End are when it is expected to begin and to end, Deadline when it counts as failed.
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	Deadline time.Time `json:"deadline"`
}

// Blocked returns the blockers that keep a rollout from starting.
func (p *Plan) Blocked() []Blocker {
	return slices.DeleteFunc(slices.Clone(p.Blockers), func(b Blocker) bool { return b.Soft })
}

// Difference says in what another plan does something else, times apart; empty: in nothing.
func (p *Plan) Difference(other *Plan) string {
	for i := range max(len(p.Steps), len(other.Steps)) {
		switch {
		case i >= len(other.Steps):
			return fmt.Sprintf("step %d, %s of %s, is there no more", i+1, p.Steps[i].Action, p.Steps[i].Server)
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

// String returns the plan for people.
func (p *Plan) String() string {
	var out strings.Builder
	_ = p.Write(&out)
	return out.String()
}

// Write writes the plan for people.
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

// Make makes a plan, and the state and units a rollout of it begins with. Errors: ErrInvalid.
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

// Ahead is what a rollout is expected to do from a moment on.
type Ahead struct {
	Steps []PlanStep `json:"steps"`
	// Blockers are what it comes to a halt at.
	Blockers []Blocker `json:"blockers"`
	// End is when it is expected to end; zero: it does not.
	End     time.Time `json:"end"`
	perUnit []int
}

// Forecast runs a rollout forward on a model of the servers, from where it is. Nothing it is
// given is changed. servers are those of each unit's members, in their order, nil if gone.
func Forecast(state *State, units []*Unit, servers [][]*Server, now time.Time) (*Ahead, error) {
	cal, err := NewCalendar(state.Policy.Windows)
	if err != nil {
		return nil, err
	}
	m := &model{state: *state, policy: &state.Policy, calendar: cal, original: servers, first: units, ahead: &Ahead{perUnit: make([]int, len(units))}}
	m.state.Waves = slices.Clone(state.Waves)
	expected := 0
	for _, u := range units {
		for i := range u.Members {
			if member := &u.Members[i]; member.Left == "" && !member.Finished {
				expected += 4 // what a server takes at the most, if nothing fails
			}
		}
	}
	m.ahead.Steps = make([]PlanStep, 0, expected)
	m.units, m.servers, m.models = make([]*Unit, len(units)), make([][]*Server, len(units)), make([][]modelServer, len(units))
	m.run(now)
	if m.state.Status.Ended() {
		m.ahead.End = m.now
	}
	return m.ahead, nil
}

// model is a rollout in a world in which nothing fails.
type model struct {
	state    State
	policy   *Policy
	calendar *Calendar
	first    []*Unit
	original [][]*Server
	units    []*Unit // copies of those that were touched
	servers  [][]*Server
	models   [][]modelServer
	events   events
	now      time.Time
	ahead    *Ahead
	needs    map[lifecycle.Action]string
}

// event is a moment at which a unit, or with unit -1 the rollout, is to be looked at.
type event struct {
	at     time.Time
	unit   int
	member int // whose step ends; -1: none
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	if c := e[i].at.Compare(e[j].at); c != 0 {
		return c < 0
	}
	return e[i].unit < e[j].unit
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := len(*e) - 1
	out := (*e)[last]
	(*e)[last] = event{}
	*e = (*e)[:last]
	return out
}

// run runs until nothing happens any more.
func (m *model) run(now time.Time) {
	m.now = now
	if m.state.Status == StatusStarting {
		m.state.Status = StatusRunning
	}
	for i, u := range m.first {
		if u.Status == UnitRunning || u.Status == UnitFailed {
			m.touch(i)
			m.underway(i)
			m.advance(i)
		}
	}
	m.admit()
	for len(m.events) > 0 && !m.state.Status.Ended() {
		e := heap.Pop(&m.events).(event)
		if e.at.After(m.now) {
			m.now = e.at
		}
		if e.unit >= 0 {
			if e.member >= 0 {
				m.complete(e)
			}
			for len(m.events) > 0 && m.events[0].unit == e.unit && m.events[0].at.Equal(e.at) {
				if next := heap.Pop(&m.events).(event); next.member >= 0 {
					m.complete(next)
				}
			}
			m.advance(e.unit)
		}
		m.admit()
	}
}

// modelServer is a server with room for what is under way, and was.
type modelServer struct {
	Server
	operation Operation
	last      Outcome
}

// touch copies a unit, and its servers, before they change.
func (m *model) touch(i int) {
	u := m.first[i].Clone()
	list := make([]*Server, len(u.Members))
	copies := make([]modelServer, len(u.Members))
	for k, s := range m.original[i] {
		if s != nil {
			copies[k].Server = *s
			copies[k].Good = m.policy.GoodPolls
			list[k] = &copies[k].Server
		}
	}
	m.models[i] = copies
	m.units[i], m.servers[i] = u, list
}

// underway takes steps that are under way to end when they are expected to.
func (m *model) underway(i int) {
	u := m.units[i]
	for k := range u.Members {
		step, s := u.Members[k].Step, m.servers[i][k]
		if step == nil || s == nil || s.Operation == nil || s.Operation.ID != step.ID {
			continue
		}
		step.Epoch = 0
		end := step.StartedAt.Add(u.Expected[step.Action])
		if end.Before(m.now) {
			end = m.now
		}
		heap.Push(&m.events, event{at: end, unit: i, member: k})
	}
}

func (m *model) admit() {
	for {
		ok, again, _ := m.state.Admit(m.now)
		if !ok {
			if !again.IsZero() && !(len(m.events) > 0 && m.events[0].unit == -1) {
				heap.Push(&m.events, event{at: again, unit: -1, member: -1})
			}
			m.state.Finish(m.now)
			return
		}
		i := m.state.Next
		m.touch(i)
		m.state.Begin(m.units[i], m.now)
		m.advance(i)
	}
}

// advance lets a unit decide, and carries out what it decides.
func (m *model) advance(i int) {
	u := m.units[i]
	if u == nil {
		return
	}
	before := u.Status
	r := u.Advance(m.policy, m.calendar, View{Now: m.now, Servers: m.servers[i], GateAsked: true, quiet: true}, m.state.Cancel, m.state.Status == StatusPaused)
	for _, c := range r.Commands {
		m.start(i, c)
	}
	if u.Status == UnitRunning {
		wake, under := time.Time{}, false
		for k := range u.Members {
			under = under || u.Members[k].Step != nil
		}
		switch {
		case under:
			// What ends it is an event already.
		case u.Window && !r.Wake.IsZero():
			wake = r.Wake
		case u.Waiting != "" && !u.Window:
			m.ahead.Blockers = append(m.ahead.Blockers, Blocker{Unit: u.Name, Reason: u.Waiting})
			u.Status = UnitFailed
			u.Failure = &Failure{Reason: u.Waiting}
		}
		if !wake.IsZero() {
			heap.Push(&m.events, event{at: wake, unit: i, member: -1})
		}
	}
	m.state.Moved(u, i, before, m.now)
	if u.Status.ended() {
		m.units[i], m.servers[i], m.models[i] = nil, nil, nil
	}
}

// start begins a command on the model.
func (m *model) start(i int, c Command) {
	u := m.units[i]
	k := slices.IndexFunc(u.Members, func(member Member) bool { return member.ID == c.ServerID })
	s := m.servers[i][k]
	end := m.now.Add(u.Expected[c.Action])
	model := &m.models[i][k]
	model.operation = Operation{ID: c.ID, Action: c.Action, Deadline: m.now.Add(c.Timeout)}
	s.Operation = &model.operation
	s.Ready = false
	s.Online = c.Action != lifecycle.ActionReboot && c.Action != lifecycle.ActionPowerOff
	m.ahead.Steps = append(m.ahead.Steps, PlanStep{Number: len(m.ahead.Steps) + 1, Wave: m.state.Waves[u.Wave].Name, Unit: u.Name, Server: c.Server,
		Action: c.Action, Mode: c.Mode, Why: c.Why, Needs: m.need(u, c.Action), Start: m.now, End: end, Deadline: m.now.Add(c.Timeout)})
	m.ahead.perUnit[i]++
	heap.Push(&m.events, event{at: end, unit: i, member: k})
}

// complete ends a step on the model: what was asked for is so.
func (m *model) complete(e event) {
	if m.units[e.unit] == nil {
		return
	}
	s, member := m.servers[e.unit][e.member], &m.units[e.unit].Members[e.member]
	if s == nil || s.Operation == nil || member.Step == nil || s.Operation.ID != member.Step.ID {
		return
	}
	model := &m.models[e.unit][e.member]
	model.last = Outcome{ID: s.Operation.ID, Action: s.Operation.Action, EndedAt: m.now}
	s.Last = &model.last
	s.Operation = nil
	s.Ready, s.Online = true, true
	switch s.Last.Action {
	case lifecycle.ActionUpdate:
		versions := maps.Clone(s.Versions)
		for component, version := range member.Targets {
			if have, ok := versions[component]; ok && lifecycle.Newer(version, have) {
				versions[component] = version
				if component == lifecycle.ComponentOS {
					s.Staged, s.NeedsReboot = version, true
				}
			}
		}
		s.Versions = versions
	case lifecycle.ActionEvacuate:
		s.Evacuated = true
	case lifecycle.ActionRestore:
		s.Evacuated = false
	case lifecycle.ActionReboot:
		if s.Staged != "" {
			s.Running = s.Staged
		}
		s.Staged, s.NeedsReboot = "", false
	case lifecycle.ActionPowerOff:
		s.Ready, s.Online, s.Condition = false, false, "offline (shut down)"
	}
}

// need says what must hold before an action.
func (m *model) need(u *Unit, action lifecycle.Action) string {
	key := action
	if !u.Cluster {
		key += "-alone"
	}
	if text, ok := m.needs[key]; ok {
		return text
	}
	parts := []string{"the server is ready, nothing else is under way"}
	if u.Cluster && !m.policy.Force {
		if action == lifecycle.ActionUpdate || action == lifecycle.ActionEvacuate || action == lifecycle.ActionReboot || action == lifecycle.ActionPowerOff {
			parts = append(parts, fmt.Sprintf("all other members are online (%d good polls)", m.policy.GoodPolls))
		}
		if action == lifecycle.ActionEvacuate || action == lifecycle.ActionReboot || action == lifecycle.ActionPowerOff {
			parts = append(parts, fmt.Sprintf("at most %d out, the database keeps its quorum", m.policy.MaxUnavailable))
		}
	}
	if len(m.policy.Windows) > 0 && !m.policy.Force {
		parts = append(parts, "a maintenance window in which it fits")
	}
	if m.needs == nil {
		m.needs = map[lifecycle.Action]string{}
	}
	m.needs[key] = strings.Join(parts, "; ")
	return m.needs[key]
}
