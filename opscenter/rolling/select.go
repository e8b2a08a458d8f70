package rolling

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Fleet has the servers and clusters from which New makes a rollout.
type Fleet struct {
	// Servers are all servers.
	Servers []*Server
	// Cluster returns the record of a cluster; nil: there is none.
	Cluster func(name string) *Cluster
	// Busy tells which other operation has claimed a unit; empty: none.
	Busy func(unit string, cluster bool) string
}

// Blocker is a reason that keeps a unit from beginning.
type Blocker struct {
	Unit   string `json:"unit"`
	Server string `json:"server,omitempty"` // empty: the unit as a whole
	Reason string `json:"reason"`
	// Soft: the reason does not keep the rollout from starting. It passes by itself, or does no harm.
	Soft bool `json:"soft,omitempty"`
}

// Left is a server that the rollout leaves alone, and the reason.
type Left struct {
	Unit   string `json:"unit"`
	Server string `json:"server"`
	Reason string `json:"reason"`
}

// selection is the work of New.
type selection struct {
	fleet    Fleet
	selector Selector
	policy   Policy
	at       time.Time
	calendar *calendar
	longest  time.Duration

	named    map[string]bool // servers by name, of the selector
	last     map[string]bool // servers of the control plane, by name
	known    map[string]bool // names of all clusters and servers
	mean     map[lifecycle.Action]time.Duration
	blockers []Blocker
	left     []Left
}

// candidate is a unit with its servers.
type candidate struct {
	*Unit
	servers    []*Server // in the order of its members
	properties map[string]string
	control    bool // has a server of the control plane
}

// Selected is the result of New.
type Selected struct {
	State *State
	Units []*Unit
	// Servers are those of each unit's members, in their order.
	Servers  [][]*Server
	Blockers []Blocker
	Left     []Left
}

// New makes the units of a rollout from the clusters and servers that the selector selects, in the order of their waves. It
// leaves out the units that are blocked. The result names the blockers, and the servers that the rollout leaves alone.
// Errors: ErrInvalid.
func New(fleet Fleet, selector Selector, policy Policy, at time.Time) (*Selected, error) {
	policy, err := policy.WithDefaults()
	if err == nil {
		err = selector.Check()
	}
	if err != nil {
		return nil, err
	}
	cal, err := newCalendar(policy.Windows)
	if err != nil {
		return nil, err
	}
	s := &selection{fleet: fleet, selector: selector, policy: policy, at: at, calendar: cal}
	if len(policy.Windows) > 0 {
		s.longest = cal.longest(at)
	}
	candidates, err := s.candidates()
	if err != nil {
		return nil, err
	}
	s.mean = meanTook(fleet.Servers)
	kept := candidates[:0]
	for _, c := range candidates {
		if s.prepare(c) {
			kept = append(kept, c)
		}
	}
	state := &State{Policy: policy, Status: StatusRunning, Units: len(kept), StartedAt: at}
	if err := s.waves(state, kept); err != nil {
		return nil, err
	}
	out := &Selected{State: state, Blockers: s.blockers, Left: s.left}
	for _, c := range kept {
		out.Units, out.Servers = append(out.Units, c.Unit), append(out.Servers, c.servers)
	}
	return out, nil
}

// nameSet returns the set of the names.
func nameSet(names []string) map[string]bool {
	out := make(map[string]bool, len(names))
	for _, name := range names {
		out[name] = true
	}
	return out
}

// applicable returns ErrInvalid for a single action that is not possible on the server.
func applicable(server *Server, goal Goal) error {
	switch {
	case server.Plain && goal.needsOS():
		return fmt.Errorf("%w: server %q is not on IncusOS, which %s needs", ErrInvalid, server.Name, goal)
	case !goal.needsOS() && !server.Incus:
		return fmt.Errorf("%w: server %q: %s is for type incus", ErrInvalid, server.Name, goal)
	}
	return nil
}

// candidates groups the servers by cluster, and returns the selected units, by name.
func (s *selection) candidates() ([]*candidate, error) {
	sel := &s.selector
	clusters := nameSet(sel.Clusters)
	s.named, s.last = nameSet(sel.Servers), nameSet(s.policy.ControlPlane)
	s.known = make(map[string]bool, len(s.fleet.Servers))
	groups := map[string]*candidate{}
	var all []*candidate
	single := s.policy.Goal.single() != lifecycle.ActionNone
	if single && (sel.All || len(sel.Clusters) > 0 || sel.Channel != "" || len(sel.Properties) > 0) {
		return nil, fmt.Errorf("%w: goal %s wants its servers by name", ErrInvalid, s.policy.Goal)
	}
	for _, server := range s.fleet.Servers {
		s.known[server.Name] = true
		if s.named[server.Name] && single {
			if err := applicable(server, s.policy.Goal); err != nil {
				return nil, err
			}
		}
		if server.Cluster == "" {
			all = append(all, &candidate{Unit: &Unit{Name: server.Name}, servers: []*Server{server}, properties: server.Properties})
			continue
		}
		if s.named[server.Name] && !single {
			return nil, fmt.Errorf("%w: server %q is a member of cluster %q: select the cluster", ErrInvalid, server.Name, server.Cluster)
		}
		c := groups[server.Cluster]
		if c == nil {
			c = &candidate{Unit: &Unit{Name: server.Cluster, Cluster: true}}
			groups[server.Cluster] = c
			all = append(all, c)
			s.known[server.Cluster] = true
		}
		c.servers = append(c.servers, server)
	}
	for _, list := range [][]string{sel.Clusters, sel.Servers, s.policy.Canaries, s.policy.ControlPlane} {
		for _, name := range list {
			if !s.known[name] {
				return nil, fmt.Errorf("%w: there is no server, and no cluster with members, named %.100q", ErrInvalid, name)
			}
		}
	}
	out := all[:0]
	for _, c := range all {
		if c.Cluster && s.fleet.Cluster != nil {
			if record := s.fleet.Cluster(c.Name); record != nil {
				c.properties, c.PostRestoreDelay, c.RestoreMode = record.Properties, record.PostRestoreDelay, record.RestoreMode
			}
		}
		selected := sel.All
		for _, server := range c.servers {
			selected = selected || s.named[server.Name] || sel.Channel != "" && server.Channel == sel.Channel
		}
		selected = selected || c.Cluster && clusters[c.Name] || len(sel.Properties) > 0 && matches(c.properties, sel.Properties)
		if selected {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b *candidate) int { return cmp.Compare(a.Name, b.Name) })
	for _, c := range out {
		slices.SortFunc(c.servers, func(a, b *Server) int {
			if s.last[a.Name] != s.last[b.Name] {
				if s.last[a.Name] {
					return 1
				}
				return -1
			}
			return cmp.Compare(a.Name, b.Name)
		})
	}
	return out, nil
}

// meanTook returns the mean time of the last action of each kind.
func meanTook(servers []*Server) map[lifecycle.Action]time.Duration {
	sum, count := map[lifecycle.Action]time.Duration{}, map[lifecycle.Action]time.Duration{}
	for _, s := range servers {
		for action, took := range s.Took {
			sum[action] += took
			count[action]++
		}
	}
	for action := range sum {
		sum[action] /= count[action]
	}
	return sum
}

// prepare fills in a unit, and reports whether it has work to do and is not blocked.
func (s *selection) prepare(c *candidate) bool {
	u := c.Unit
	u.Status = UnitPending
	u.Members = make([]Member, len(c.servers))
	work := false
	for i, server := range c.servers {
		u.Members[i] = s.member(server)
		work = work || u.Members[i].Left == ""
		c.control = c.control || s.last[server.Name]
	}
	for i := range u.Members {
		if m := &u.Members[i]; m.Left != "" {
			s.left = append(s.left, Left{Unit: u.Name, Server: m.Server, Reason: m.Left})
		}
	}
	if !work {
		return false
	}
	s.expect(c)
	if u.PostRestoreDelay == 0 {
		u.PostRestoreDelay = s.policy.PostRestoreDelay
	}
	if s.policy.RestoreMode != "" {
		u.RestoreMode = s.policy.RestoreMode
	}
	return !s.blocked(c)
}

// member returns the member for a server: it decides what the rollout does with it.
func (s *selection) member(server *Server) Member {
	m := Member{Server: server.Name, ID: server.ID, EvacuatedBefore: server.Evacuated}
	goal := s.policy.Goal
	if server.Plain && goal.needsOS() && (goal.single() == lifecycle.ActionNone || s.named[server.Name]) {
		m.Left = plainReason
		return m
	}
	if action := goal.single(); action != lifecycle.ActionNone {
		switch {
		case !s.named[server.Name]:
			m.Left = "another server was asked for"
		case (action == lifecycle.ActionEvacuate || action == lifecycle.ActionRestore) && !server.Incus:
			m.Left = string(action) + " is for type incus"
		case action == lifecycle.ActionEvacuate && server.Evacuated:
			m.Left = "it is evacuated"
		case action == lifecycle.ActionRestore && !server.Evacuated && !server.Moving:
			m.Left = "it is not evacuated"
		case action == lifecycle.ActionUpdate:
			if m.Targets = server.Outdated(server.Available); m.Targets == nil {
				m.Left = "it is up to date"
			} else {
				m.Keys = server.SecureBootKeys
			}
		}
		return m
	}
	if goal == GoalReboot {
		m.Reboot = true
		return m
	}
	if m.Targets = server.Outdated(server.Available); m.Targets != nil && goal != GoalStage {
		m.Keys = server.SecureBootKeys
	}
	switch {
	case len(server.Versions) == 0:
	case m.Targets == nil && (goal == GoalStage || !server.NeedsReboot):
		m.Left = "it is up to date"
	}
	return m
}

// plainReason is the reason to leave a server alone that is not on IncusOS.
const plainReason = "it is not on IncusOS: its updates and reboots are not managed here"

// expect sets the expected times of the actions in the unit.
func (s *selection) expect(c *candidate) {
	own := meanTook(c.servers)
	c.Expected = make(map[lifecycle.Action]time.Duration, len(assumed))
	for action, guess := range assumed {
		c.Expected[action] = own[action]
		if own[action] <= 0 {
			c.Expected[action] = s.mean[action]
		}
		if c.Expected[action] <= 0 {
			c.Expected[action] = guess
			c.Assumed = true
		}
	}
}

// blocked stores the blockers of a unit, and reports whether one of them is not soft.
func (s *selection) blocked(c *candidate) (hard bool) {
	u, single := c.Unit, s.policy.Goal.single()
	block := func(server, reason string, soft bool) {
		s.blockers = append(s.blockers, Blocker{Unit: u.Name, Server: server, Reason: reason, Soft: soft})
		hard = hard || !soft
	}
	if s.fleet.Busy != nil {
		if busy := s.fleet.Busy(u.Name, u.Cluster); busy != "" {
			block("", "another operation is running: "+busy, false)
		}
	}
	if n := len(c.servers); n > MaxMembers {
		block("", fmt.Sprintf("it has %d members, at most %d can be rolled through", n, MaxMembers), false)
	}
	channel := ""
	for i, server := range c.servers {
		m := &u.Members[i]
		acts := m.Left == ""
		switch {
		case server.Operation != nil:
			block(server.Name, fmt.Sprintf("another operation is running: %s", server.Operation.Action), false)
		case server.Moving && single != lifecycle.ActionRestore:
			block(server.Name, "it is being evacuated or restored, and not by a rollout", false)
		case !server.Ready && (acts || !s.policy.Force):
			block(server.Name, "not ready: "+server.Condition, false)
		case acts && len(server.Versions) == 0 && single == lifecycle.ActionNone:
			block(server.Name, "its versions are not known", false)
		case acts && server.skips(m.Targets) != "":
			block(server.Name, server.skips(m.Targets), false)
		case server.Evacuated && single == lifecycle.ActionNone && acts:
			block(server.Name, "it is already evacuated, and stays evacuated", true)
		}
		switch {
		case channel == "":
			channel = server.Channel
		case server.Plain: // it follows no channel
		case server.Channel != channel && single == lifecycle.ActionNone && s.policy.Goal != GoalReboot:
			block(server.Name, fmt.Sprintf("it follows channel %s, others in its cluster channel %s", server.Channel, channel), false)
		}
	}
	if hard {
		return true
	}
	if !s.policy.Force && u.Cluster && single != lifecycle.ActionUpdate && single != lifecycle.ActionRestore && s.policy.Goal != GoalStage {
		a := advance{u: u, p: &s.policy, v: View{Now: s.at, Servers: c.servers}}
		costs := true
		for i := range u.Members {
			u.Members[i].index = i
		}
		for i := range u.Members {
			if m := &u.Members[i]; m.Left == "" {
				costs = costs && a.costsQuorum(m)
			}
		}
		if costs {
			block("", "no quorum if one more leaves", false)
		}
	}
	if len(s.policy.Windows) > 0 && !s.policy.Force {
		takes := u.Expected[single]
		if single == lifecycle.ActionNone {
			takes = u.Expected[lifecycle.ActionUpdate]
			if s.policy.Goal != GoalStage {
				takes = max(takes, u.Expected[lifecycle.ActionEvacuate]+u.Expected[lifecycle.ActionReboot]+u.Expected[lifecycle.ActionRestore])
				if !c.servers[0].Incus {
					takes = max(u.Expected[lifecycle.ActionUpdate], u.Expected[lifecycle.ActionReboot])
				}
			}
		}
		if takes > s.longest {
			block("", fmt.Sprintf("out of window: a server is expected to take %s, the longest maintenance window has %s", takes, s.longest), false)
		} else if again, ok := s.calendar.fits(s.at, takes); !ok {
			block("", "out of window until "+again.UTC().Format(time.RFC3339), true)
		}
	}
	return hard
}
