package rolling_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
)

// world is a fleet with a clock of its own, in which things go wrong, and a rollout through
// it: what the store, the registry and the servers are to the real one.
type world struct {
	now     time.Time
	begun   time.Time
	servers map[string]*rolling.Server // by ID
	order   []string
	offers  map[string]map[string]string // by channel
	records map[string]*rolling.Cluster
	takes   map[string]time.Duration // by "server action" or "action"
	faults  map[string][]string      // by "server action", one for each time it is tried
	pending []happening

	state    *rolling.State
	units    []*rolling.Unit
	calendar *rolling.Calendar
	epoch    uint64
	gate     string
	hold     string

	trace   []string
	reboots map[string]int
	check   func(rolling.Command) // of each step that begins
}

// happening is something that happens at its time.
type happening struct {
	at time.Time
	do func()
}

func newWorld() *world {
	at := time.Date(2026, 8, 17, 20, 0, 0, 0, time.UTC) // a Monday
	return &world{now: at, begun: at, servers: map[string]*rolling.Server{}, offers: map[string]map[string]string{}, records: map[string]*rolling.Cluster{},
		takes:  map[string]time.Duration{"update": 2 * time.Minute, "evacuate": 5 * time.Minute, "reboot": 3 * time.Minute, "restore": 4 * time.Minute, "poweroff": time.Minute},
		faults: map[string][]string{}, reboots: map[string]int{}, epoch: 1}
}

func (w *world) log(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("+%-8s %s", w.now.Sub(w.begun), fmt.Sprintf(format, args...)))
}

func (w *world) after(d time.Duration, do func()) {
	w.pending = append(w.pending, happening{w.now.Add(d), do})
	slices.SortStableFunc(w.pending, func(a, b happening) int { return a.at.Compare(b.at) })
}

func (w *world) add(s *rolling.Server) *rolling.Server {
	if s.ID == "" {
		s.ID = s.Name
	}
	s.Ready, s.Online, s.Condition, s.Good = true, true, "ready", 10
	if s.Channel == "" {
		s.Channel = "stable"
	}
	w.servers[s.ID] = s
	w.order = append(w.order, s.ID)
	return s
}

func (w *world) fleet() rolling.Fleet {
	f := rolling.Fleet{Cluster: func(name string) *rolling.Cluster { return w.records[name] }}
	for _, id := range w.order {
		if s := w.servers[id]; s != nil {
			copied := *s
			copied.Available = w.offers[s.Channel]
			f.Servers = append(f.Servers, &copied)
		}
	}
	return f
}

// server by name.
func (w *world) server(name string) *rolling.Server {
	for _, s := range w.servers {
		if s.Name == name {
			return s
		}
	}
	return nil
}

func (w *world) duration(server string, action lifecycle.Action) time.Duration {
	if d, ok := w.takes[server+" "+string(action)]; ok {
		return d
	}
	return w.takes[string(action)]
}

// start makes the plan, and begins.
func (w *world) start(selector rolling.Selector, policy rolling.Policy) (*rolling.Plan, error) {
	plan, selected, err := rolling.Make(w.fleet(), selector, policy, w.now)
	if err != nil {
		return nil, err
	}
	w.state, w.units = selected.State, selected.Units
	w.calendar, err = rolling.NewCalendar(w.state.Policy.Windows)
	return plan, err
}

// view of a unit.
func (w *world) view(u *rolling.Unit) []*rolling.Server {
	out := make([]*rolling.Server, len(u.Members))
	for i, m := range u.Members {
		if s := w.servers[m.ID]; s != nil {
			copied := *s
			out[i] = &copied
		}
	}
	return out
}

// run runs until nothing is left to happen, or for that long.
func (w *world) run(limit time.Duration) {
	end := w.now.Add(limit)
	status := w.state.Status
	for {
		wake := w.step()
		if w.state.Status != status {
			status = w.state.Status
			if w.state.Reason != "" {
				w.log("%s: %s", status, w.state.Reason)
			} else {
				w.log("%s", status)
			}
		}
		if w.state.Status.Ended() && len(w.pending) == 0 {
			return
		}
		next := wake
		if len(w.pending) > 0 && (next.IsZero() || !w.pending[0].at.After(next)) {
			next = w.pending[0].at
		}
		if next.IsZero() || next.After(end) {
			return
		}
		if next.After(w.now) {
			w.now = next
		}
		if len(w.pending) > 0 && !w.pending[0].at.After(w.now) {
			do := w.pending[0].do
			w.pending = w.pending[1:]
			do()
		}
	}
}

// step lets all units decide, and admits new ones.
func (w *world) step() (wake time.Time) {
	sooner := func(at time.Time) {
		if !at.IsZero() && (wake.IsZero() || at.Before(wake)) {
			wake = at
		}
	}
	for again := true; again; {
		again = false
		for i, u := range w.units {
			before := u.Status
			v := rolling.View{Now: w.now, Servers: w.view(u), Epoch: w.epoch, Hold: w.hold, Gate: w.gate, GateAsked: true}
			r := u.Advance(&w.state.Policy, w.calendar, v, w.state.Cancel, w.state.Status == rolling.StatusPaused)
			for _, n := range r.Notes {
				if n.Server != "" {
					n.Text = n.Server + ": " + n.Text
				}
				w.log("%s", strings.TrimSpace(fmt.Sprintf("%-10s %s", n.Kind, n.Text)))
			}
			for _, c := range r.Commands {
				w.carryOut(c)
			}
			w.state.Moved(u, i, before, w.now)
			if before == rolling.UnitFailed && u.Status != rolling.UnitFailed {
				w.state.Relieve()
				again = true
			}
			sooner(r.Wake)
		}
		if w.state.Status == rolling.StatusCancelling {
			for w.state.Next < w.state.Units {
				w.state.Drop(w.units[w.state.Next], w.now)
			}
		}
		if ok, at, _ := w.state.Admit(w.now); ok {
			w.state.Begin(w.units[w.state.Next], w.now)
			again = true
		} else {
			sooner(at)
		}
	}
	w.state.Finish(w.now)
	return wake
}

// carryOut does what a registry, an actuator, and the server itself do.
func (w *world) carryOut(c rolling.Command) {
	if w.check != nil && !c.Again {
		w.check(c)
	}
	s := w.servers[c.ServerID]
	if s == nil || c.Again && (s.Operation == nil || s.Operation.ID != c.ID) {
		return
	}
	deadline := w.now.Add(c.Timeout)
	if c.Again {
		deadline = s.Operation.Deadline
	}
	s.Operation = &rolling.Operation{ID: c.ID, Action: c.Action, Deadline: deadline}
	s.Ready, s.Good = false, 0
	s.Condition = fmt.Sprintf("ready (%s)", c.Action)
	if c.Action == lifecycle.ActionReboot || c.Action == lifecycle.ActionPowerOff {
		s.Online, s.Condition = false, fmt.Sprintf("offline (%s)", c.Action)
	}
	fault := ""
	if key := s.Name + " " + string(c.Action); len(w.faults[key]) > 0 {
		fault = w.faults[key][0]
		w.faults[key] = w.faults[key][1:]
	}
	if c.Action == lifecycle.ActionReboot && fault != "refused" && fault != "lost" {
		w.reboots[c.Server]++
	}
	if (c.Action == lifecycle.ActionEvacuate || c.Action == lifecycle.ActionRestore) && fault == "" {
		s.Moving = true
	}
	over := func() bool { return w.servers[s.ID] != s || s.Operation == nil || s.Operation.ID != c.ID }
	end := func(failed string, effect func()) func() {
		return func() {
			if over() {
				return
			}
			s.Operation, s.Last = nil, &rolling.Outcome{ID: c.ID, Action: c.Action, EndedAt: w.now, Failed: failed}
			s.Ready, s.Online, s.Condition, s.Moving, s.Good = true, true, "ready", false, 10
			effect()
		}
	}
	effect := func() { w.apply(s, c) }
	nothing := func() {}
	late := func(failed string, effect func()) { w.after(deadline.Sub(w.now), end(failed, effect)) }
	switch fault {
	case "":
		w.after(w.duration(s.Name, c.Action), end("", effect))
	case "refused":
		w.after(0, end("the server refused", nothing))
	case "fails":
		w.after(w.duration(s.Name, c.Action), end("an instance could not be moved", nothing))
	case "stuck", "lost":
		late("its deadline has passed", nothing)
	case "half": // says that it failed, and is done
		w.after(w.duration(s.Name, c.Action), end("the connection was lost", effect))
	case "old version":
		w.after(w.duration(s.Name, c.Action), end("", func() { // from the backup image
			s.Versions = maps.Clone(s.Versions)
			s.Versions["os"], s.Skipped = s.Running, s.Staged
			s.Staged, s.NeedsReboot, s.BootedAt = "", false, w.now
		}))
	case "newer staged":
		w.after(w.duration(s.Name, c.Action), end("", func() {
			effect()
			s.Staged, s.NeedsReboot = "9", true
		}))
	case "key": // a Secure Boot key comes first
		w.after(w.duration(s.Name, c.Action), end("", func() { s.NeedsReboot = true }))
	case "needs reboot":
		w.after(w.duration(s.Name, c.Action), end("", func() { effect(); s.NeedsReboot = true }))
	case "no return":
		late("not back by its deadline", func() {
			s.Ready, s.Online, s.Condition, s.Good = false, false, "offline (unresponsive)", 0
		})
	default:
		panic("unknown fault " + fault)
	}
}

func (w *world) apply(s *rolling.Server, c rolling.Command) {
	switch c.Action {
	case lifecycle.ActionUpdate:
		s.Versions = maps.Clone(s.Versions)
		for component, version := range s.Outdated(w.offers[s.Channel]) {
			s.Versions[component] = version
			if component == "os" {
				s.Staged, s.NeedsReboot = version, true
			}
		}
	case lifecycle.ActionEvacuate:
		s.Evacuated = true
	case lifecycle.ActionRestore:
		s.Evacuated = false
	case lifecycle.ActionReboot:
		if s.Staged != "" {
			s.Running = s.Staged
		}
		s.Staged, s.NeedsReboot, s.BootedAt = "", false, w.now
	case lifecycle.ActionPowerOff:
		s.Ready, s.Online, s.Condition = false, false, "offline (shut down)"
	}
}

func (w *world) offline(s *rolling.Server) {
	s.Ready, s.Online, s.Condition, s.Good = false, false, "offline (unresponsive)", 0
}

func (w *world) online(s *rolling.Server) {
	s.Ready, s.Online, s.Condition, s.Good = s.Operation == nil, true, "ready", 10
}

func (w *world) resume() error {
	if err := w.state.Resume(); err != nil {
		return err
	}
	w.resumeUnits()
	return nil
}

func (w *world) resumeUnits() {
	for i, u := range w.units {
		before := u.Status
		u.Resume(w.view(u))
		w.state.Moved(u, i, before, w.now)
	}
}

func (w *world) cancel(mode rolling.CancelMode) error {
	if err := w.state.Abandon(mode); err != nil {
		return err
	}
	w.resumeUnits()
	return nil
}
