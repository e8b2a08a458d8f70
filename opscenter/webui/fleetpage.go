package webui

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/client"
)

// fleetPage is the data of the first page.
type fleetPage struct {
	*overview
	Warnings []client.Warning
	Rollouts []client.Rollout // that are not over
	Advice   advice
}

// overview is the fleet in numbers, and the servers that need attention.
type overview struct {
	Total  int
	Counts [states]stateCount
	// Attention are servers that should not be as they are, at most maxAttention. More is the number of further ones.
	Attention []*tile
	More      int
	Groups    []group
}

// stateCount is the number of servers in a state.
type stateCount struct {
	State state
	Text  string
	Count int
}

// URL is the list of the servers in the state; empty: no filter of the API selects them.
func (c stateCount) URL() string { return stateURLs[c.State] }

// stateURLs are the lists of the servers in each state.
var stateURLs = [states]string{stateReady: "/servers?status=ready", stateDue: "/servers?" + url.Values{"filter": {"recommended_action != \"\""}}.Encode(),
	stateDown: "/servers?status=offline&status_detail=shut+down", stateFailed: "/servers?status=offline&status_detail=unresponsive", stateUnknown: "/servers?status=unregistered"}

// stateTexts describe states to people.
var stateTexts = [states]string{"ready", "ready, and something is due", "being changed", "down on purpose", "do not answer", "never answered"}

// group is a cluster, or the servers in none, on the fleet page.
type group struct {
	Name   string // empty: no cluster
	Total  int
	Counts [states]int
}

const (
	maxAttention = 20
	maxWarnings  = 10
	maxGroups    = 100
	// maxWarningsRead bounds the warnings among which the newest are looked for.
	maxWarningsRead = 2000
)

// advice is the one thing to do next, the reason, and where to do it.
type advice struct {
	Do, Why, URL string
}

// advise returns the most urgent thing to do. may reports whether the person has a role.
func advise(p *fleetPage, may func(access.Role) bool) advice {
	for i := range p.Rollouts {
		if r := &p.Rollouts[i]; r.Status == "paused" {
			return advice{"Look at the paused rollout", r.StatusReason, "/rollouts/" + url.PathEscape(r.UUID)}
		}
	}
	count := func(s state) int { return p.Counts[s].Count }
	switch {
	case p.Total == 0 && !may(access.RoleAdmin):
		return advice{Do: "Ask an administrator for servers", Why: "No server has registered yet, or none is in your part of the fleet."}
	case p.Total == 0:
		return advice{"Make a token for your first servers", "No server has registered yet. A server registers with a token, which an installation image contains.", "/tokens"}
	case count(stateFailed) > 0:
		return advice{"Look at the servers that do not answer", fmt.Sprintf("%s not answer, and should.", plural(count(stateFailed), "server does", "servers do")), "/servers?" + url.Values{"status": {"offline"}, "status_detail": {"unresponsive"}}.Encode()}
	case len(p.Warnings) > 0:
		return advice{"Read the warnings", fmt.Sprintf("The newest: %s.", strings.TrimSuffix(p.Warnings[0].Type, ".")), "/warnings"}
	case len(p.Rollouts) > 0:
		return advice{"Watch the rollout", fmt.Sprintf("%d of %d steps are done.", p.Rollouts[0].StepsDone, p.Rollouts[0].Steps), "/rollouts/" + url.PathEscape(p.Rollouts[0].UUID)}
	case count(stateDue) > 0 && !may(access.RoleOperator):
		return advice{"Look at the servers for which something is due", fmt.Sprintf("For %s an action is due. An operator plans a rollout.", plural(count(stateDue), "server", "servers")), "/servers?" + url.Values{"filter": {"needs_update || needs_reboot"}}.Encode()}
	case count(stateDue) > 0:
		return advice{"Plan a rolling update", fmt.Sprintf("For %s an action is due.", plural(count(stateDue), "server", "servers")), "/rollouts/new?all=1"}
	}
	if waiting := p.Total - count(stateReady); waiting > 0 {
		return advice{Do: "Nothing", Why: fmt.Sprintf("%s being changed, down on purpose, or never answered. All others are ready.", plural(waiting, "server is", "servers are"))}
	}
	return advice{Do: "Nothing", Why: "All servers are ready, and nothing is due."}
}

// overviewOf returns the overview of servers.
func overviewOf(tiles []*tile) *overview {
	o := &overview{Total: len(tiles)}
	for s := range states {
		o.Counts[s] = stateCount{State: s, Text: stateTexts[s]}
	}
	groups := map[string]*group{}
	for _, t := range tiles {
		o.Counts[t.State].Count++
		g := groups[t.cluster]
		if g == nil {
			g = &group{Name: t.cluster}
			groups[t.cluster] = g
		}
		g.Total++
		g.Counts[t.State]++
		if t.State == stateFailed {
			o.Attention = append(o.Attention, t)
		}
	}
	slices.SortFunc(o.Attention, func(a, b *tile) int { return strings.Compare(a.Name, b.Name) })
	if len(o.Attention) > maxAttention {
		o.More = len(o.Attention) - maxAttention
		o.Attention = o.Attention[:maxAttention]
	}
	for _, g := range groups {
		o.Groups = append(o.Groups, *g)
	}
	slices.SortFunc(o.Groups, func(a, b group) int {
		return cmp.Or(cmp.Compare(b.Counts[stateFailed], a.Counts[stateFailed]), strings.Compare(a.Name, b.Name))
	})
	o.Groups = o.Groups[:min(len(o.Groups), maxGroups)]
	return o
}

func loadFleet(v *visit) (any, error) {
	p := &fleetPage{}
	run, release, err := v.h.fleet.use(v.ctx())
	if err != nil {
		return nil, err
	}
	p.overview = run.overview(&v.me.Scope)
	release()
	read := 0
	for w, err := range client.All[client.Warning](v.ctx(), v.api, client.Path("warnings"), url.Values{"status": {"new"}}) { // the oldest first
		if err != nil {
			return nil, err
		}
		if read++; read > maxWarningsRead {
			break
		}
		p.Warnings = append(p.Warnings, w)
		if len(p.Warnings) > maxWarnings {
			p.Warnings = p.Warnings[1:]
		}
	}
	slices.Reverse(p.Warnings)
	rollouts, err := listOf[client.Rollout](v, client.Path("provisioning/rollouts"), url.Values{"limit": {"20"}})
	for _, r := range rollouts {
		if r.EndedAt.IsZero() {
			p.Rollouts = append(p.Rollouts, r)
		}
	}
	p.Advice = advise(p, v.may)
	return p, err
}

// warningsPage is the data of the page of warnings.
type warningsPage struct {
	paged[client.Warning]
}

func loadWarnings(v *visit) (any, error) {
	list, err := loadPage[client.Warning](v, client.Path("warnings"), url.Values{})
	return &warningsPage{list}, err
}
