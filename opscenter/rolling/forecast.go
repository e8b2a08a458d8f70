package rolling

import (
	"container/heap"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Ahead tells what a rollout will do from a moment on if nothing fails.
type Ahead struct {
	Steps []PlanStep `json:"steps"`
	// Blockers are the reasons at which it will halt.
	Blockers []Blocker `json:"blockers"`
	// End is when it will probably end; zero: it halts before.
	End     time.Time `json:"end"`
	perUnit []int
}

// Forecast runs a rollout forward on a model of the servers, from its current state. It does not change its arguments.
// servers are those of each unit's members, in their order; nil for a server that was removed.
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
				expected += 4 // a server takes at most four steps, if nothing fails
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

// event is a moment at which a unit decides, or with unit -1, at which the next unit may begin.
type event struct {
	at     time.Time
	unit   int
	member int // the member whose step ends; -1: none
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

func (e *events) Push(x any) { *e = append(*e, x.(event)) }

func (e *events) Pop() any {
	last := len(*e) - 1
	out := (*e)[last]
	(*e)[last] = event{}
	*e = (*e)[:last]
	return out
}

// run runs until nothing more happens.
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

// modelServer is a server with room for its operation and its last outcome.
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

// underway makes steps that are under way end at their expected time.
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

// admit begins the units that can begin.
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

// advance lets a unit decide, and carries out its commands.
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
			// The event that ends the step is there already.
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

// complete ends a step on the model with success.
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

// need tells what must hold before an action.
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
