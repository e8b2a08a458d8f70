package lifecycle_test

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

var updateDiagram = flag.Bool("update", false, "write the transitions of the status into doc.go")

// situation is the part of a server's state that decides about its next status. It has no times: state sets them.
type situation struct {
	status lifecycle.Status
	detail lifecycle.StatusDetail
	// typeKnown: the server's type was read. flapping: it goes up and down.
	typeKnown, flapping bool
	announced           announced
	operation           operation
	// acting: the call that carries out the operation has not returned.
	acting bool
}

// announced is a lifecycle.Announcement; the zero value: none.
type announced struct {
	is, deadline, wentDown, unasked, answered bool
	byOperation                               bool // made with the operation
	isReady                                   bool // the server said that it is ready again
}

// operation is a lifecycle.Operation; the zero value: none.
type operation struct {
	action       lifecycle.Action
	applications bool // an update that leaves the operating system alone
}

// before stands for the status that a server had before an action was forced upon it.
const before lifecycle.Status = "the status before Begin"

// The moments of the enumeration: all that is under way began before now, and its time is over when it is late.
var (
	now      = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	begun    = now.Add(-2 * time.Minute)
	said     = now.Add(-time.Minute)
	deadline = now.Add(10 * time.Minute)
	late     = now.Add(time.Hour)
)

// state returns a state of the situation.
func (s situation) state() lifecycle.ServerState {
	out := lifecycle.ServerState{Status: s.status, StatusDetail: s.detail, Type: lifecycle.TypeUnknown,
		Versions: lifecycle.Versions{OS: lifecycle.OSVersion{Name: lifecycle.OSName, Version: "1"}, Applications: []lifecycle.ApplicationVersion{{Name: "incus", Version: "1"}}}}
	if s.typeKnown {
		out.Type = lifecycle.TypeIncus
	}
	if s.flapping {
		out.FlappingSince = said
	}
	if op := s.operation; op.action != lifecycle.ActionNone {
		out.Operation = &lifecycle.Operation{ID: "operation", Action: op.action, StartedAt: begun, Deadline: deadline, Targets: op.targets()}
	}
	if a := s.announced; a.is {
		out.Announced = &lifecycle.Announcement{At: said, WentDown: a.wentDown, Unasked: a.unasked}
		switch {
		case a.byOperation:
			out.Announced.At = begun
		case a.isReady:
			out.Announced.At = time.Unix(0, 0)
		}
		if a.deadline {
			out.Announced.Deadline = deadline
		}
		if a.answered {
			out.Announced.Answered = said
		}
	}
	return out
}

func (o operation) targets() map[string]string {
	switch {
	case o.action != lifecycle.ActionUpdate:
		return nil
	case o.applications:
		return map[string]string{"incus": "2"}
	}
	return map[string]string{lifecycle.ComponentOS: "2"}
}

// situationOf returns the situation of a state.
func situationOf(s *lifecycle.ServerState, acting bool) situation {
	out := situation{status: s.Status, detail: s.StatusDetail, typeKnown: s.Type == lifecycle.TypeIncus, flapping: !s.FlappingSince.IsZero()}
	if op := s.Operation; op != nil {
		_, os := op.Targets[lifecycle.ComponentOS]
		out.operation = operation{action: op.Action, applications: op.Action == lifecycle.ActionUpdate && !os}
		out.acting = acting
	}
	if a := s.Announced; a != nil {
		out.announced = announced{is: true, deadline: !a.Deadline.IsZero(), wentDown: a.WentDown, unasked: a.Unasked, answered: !a.Answered.IsZero(),
			byOperation: s.Operation != nil && a.At.Equal(s.Operation.StartedAt), isReady: a.At.Equal(time.Unix(0, 0))}
	}
	return out
}

// input is a poll, a self update, or a step of an action.
type input struct {
	// on names the input and the circumstances that lead from one situation to the other.
	on func(from, to situation) string
	// change returns the transition from a state of the situation; acting tells whether the operation's call is under way
	// after it.
	change func(from situation, state lifecycle.ServerState) (t lifecycle.Transition, acting bool)
	// only reports for which situations it differs from another input; nil: for all.
	only func(from situation) bool
}

func named(name string) func(from, to situation) string {
	return func(situation, situation) string { return name }
}

// place is where in the picture a server is.
type place struct {
	status lifecycle.Status
	detail lifecycle.StatusDetail
}

func (p place) String() string { return lifecycle.Describe(p.status, p.detail) }

func (s situation) place() place { return place{s.status, s.detail} }

// inputs returns all kinds of inputs, one of each.
func inputs() []input {
	return slices.Concat(failures(), answers(), selfUpdates(), actions(), []input{{on: named(onLost), change: func(from situation, state lifecycle.ServerState) (lifecycle.Transition, bool) {
		return lifecycle.MarkLost(state, now, "not seen"), from.acting
	}}})
}

const offlineThreshold = 3

// policies returns a policy, and one by which the next outage makes a server flapping.
func policies() (usual, flapping lifecycle.Policy) {
	usual = lifecycle.Policy{OfflineThreshold: offlineThreshold, RebootTimeout: 15 * time.Minute, FlapWindow: time.Hour, FlapSteady: 30 * time.Minute}
	flapping = usual
	flapping.FlapThreshold = 1
	return usual, flapping
}

func observe(o lifecycle.Observation, contact lifecycle.Contact, policy lifecycle.Policy) func(situation, lifecycle.ServerState) (lifecycle.Transition, bool) {
	return func(from situation, state lifecycle.ServerState) (lifecycle.Transition, bool) {
		known := contact
		if from.acting {
			known.Acting = 1
		}
		return lifecycle.Apply(state, known, o, policy), from.acting
	}
}

// failures returns polls that fail: for the first time, often enough, and for long.
func failures() (out []input) {
	on := func(from, to situation) string {
		switch {
		case to.detail == lifecycle.DetailShutDown:
			return onFailsAnnounced
		case from.announced.is:
			return onFailsLate
		}
		return onFails
	}
	failure := lifecycle.Failure{Kind: lifecycle.FailureConnect, Message: "refused"}
	for _, at := range []time.Time{now, late} {
		add := func(contact lifecycle.Contact, policy lifecycle.Policy, only func(situation) bool) {
			out = append(out, input{on: on, change: observe(lifecycle.Observation{At: at, Failure: &failure}, contact, policy), only: only})
		}
		const before = offlineThreshold - 1
		usual, flapping := policies()
		frozen, doubtful := usual, usual
		frozen.FleetUnreachable, doubtful.FleetInDoubt = true, true
		for _, policy := range []lifecycle.Policy{frozen, doubtful} {
			out = append(out, input{on: named("fails while failures do not count"), change: observe(lifecycle.Observation{At: at, Failure: &failure}, lifecycle.Contact{Failures: before}, policy)})
		}
		add(lifecycle.Contact{}, usual, nil)
		add(lifecycle.Contact{Failures: before, FirstFailure: said}, usual, nil)
		add(lifecycle.Contact{Failures: before, FirstFailure: said}, flapping, func(s situation) bool { return !s.flapping })
		add(lifecycle.Contact{Failures: before, FirstFailure: now.Add(-time.Hour)}, usual, func(s situation) bool { return s.flapping })
	}
	return out
}

// answers returns polls that are answered: by a server that is booting, or ready; that has booted since, or not; and that
// tells its type and versions, or not.
func answers() (out []input) {
	policy, _ := policies()
	booting := func(_, to situation) string {
		if to.detail == lifecycle.DetailUnresponsive {
			return onBootingLate
		}
		return onBooting
	}
	flapping := func(s situation) bool { return s.flapping }
	updating := func(s situation) bool { return s.operation.action == lifecycle.ActionUpdate }
	for _, at := range []time.Time{now, late} {
		for _, booted := range []time.Time{{}, begun.Add(-time.Hour), now.Add(-time.Second)} {
			out = append(out, input{on: booting, change: observe(lifecycle.Observation{At: at, BootedAt: booted}, lifecycle.Contact{}, policy)})
			ready := func(from, to situation) string { return readyName(from, to, booted.After(begun)) }
			for m := lifecycle.NotInMaintenance; m <= lifecycle.MaintenanceRestoring; m++ {
				add := func(o lifecycle.Observation, contact lifecycle.Contact, only func(situation) bool) {
					maintenance := m
					o.At, o.BootedAt, o.Ready, o.Maintenance = at, booted, true, &maintenance
					out = append(out, input{on: ready, change: observe(o, contact, policy), only: only})
				}
				steady := lifecycle.Contact{AnsweringSince: at.Add(-time.Hour)}
				add(lifecycle.Observation{}, lifecycle.Contact{}, nil) // its type is not read
				add(lifecycle.Observation{}, steady, flapping)
				add(whole("1"), lifecycle.Contact{}, nil)
				add(whole("1"), steady, flapping)
				add(whole("2"), lifecycle.Contact{}, updating)
			}
		}
	}
	return out
}

// whole returns an observation with the type and the versions of a server.
func whole(version string) lifecycle.Observation {
	incus := lifecycle.TypeIncus
	return lifecycle.Observation{Type: &incus, Versions: &lifecycle.Versions{OS: lifecycle.OSVersion{Name: lifecycle.OSName, Version: version},
		Applications: []lifecycle.ApplicationVersion{{Name: "incus", Version: version}}}}
}

// readyName names the answer of a server that is ready.
func readyName(from, to situation, booted bool) string {
	switch a := from.announced; {
	case to.detail == lifecycle.DetailUnresponsive:
		return onReadyFlapping
	case to.operation.action != lifecycle.ActionNone:
		return onReadyUnderWay
	case to.detail != lifecycle.DetailNone:
		return onReadyMaintenance
	case from.status == lifecycle.StatusReady:
		return onReadyOver
	case !a.is:
		return onReady
	case booted || a.wentDown:
		return onReadyWasDown
	case a.unasked:
		return onReadyStillUp
	}
	return onReadyLate
}

// selfUpdates returns one self update for each cause, those of newer releases included.
func selfUpdates() (out []input) {
	for _, cause := range slices.Concat(lifecycle.Causes, []lifecycle.Cause{"", "of-a-newer-release"}) {
		name := onOtherCause
		switch cause {
		case lifecycle.CauseSystemRebootTriggered:
			name = onReboot
		case lifecycle.CauseSystemShutdownTriggered, lifecycle.CauseSuspendTriggered:
			name = onShutdown
		}
		out = append(out, input{on: named(name), change: func(from situation, state lifecycle.ServerState) (lifecycle.Transition, bool) {
			return lifecycle.Tell(state, cause, lifecycle.Telling{At: now, RebootTimeout: 15 * time.Minute}), from.acting
		}})
	}
	return out
}

// actions returns the begin of each action, and its end: with success, with a failure, and with an outcome that is unknown.
func actions() (out []input) {
	begin := func(name string, op operation) {
		out = append(out, input{on: named("Begin " + name), change: func(_ situation, state lifecycle.ServerState) (lifecycle.Transition, bool) {
			return lifecycle.Begin(state, &lifecycle.Operation{ID: "operation", Action: op.action, Targets: op.targets(), StartedAt: now, Deadline: deadline}, "test"), true
		}})
	}
	begin("update", operation{action: lifecycle.ActionUpdate})
	begin("update of applications", operation{action: lifecycle.ActionUpdate, applications: true})
	for _, action := range []lifecycle.Action{lifecycle.ActionEvacuate, lifecycle.ActionReboot, lifecycle.ActionRestore, lifecycle.ActionPowerOff,
		lifecycle.ActionSuspend, lifecycle.ActionReconfigure, lifecycle.ActionFactoryReset} {
		begin(string(action), operation{action: action})
	}
	end := func(name string, failure error, unknown, forced bool) {
		out = append(out, input{on: named(name), change: func(_ situation, state lifecycle.ServerState) (lifecycle.Transition, bool) {
			if state.Operation != nil && forced {
				operation := *state.Operation
				operation.Was = before
				state.Operation = &operation
			}
			return lifecycle.End(state, "operation", now, failure, unknown), false
		}})
	}
	for _, forced := range []bool{false, true} {
		end(onEnd, nil, false, forced)
		end(onEndFailure, errors.New("refused"), false, forced)
		end(onEndFailure, errors.New("no answer"), true, forced)
	}
	return out
}

// edge is a way from one place to another.
type edge struct {
	from place
	on   string
	to   place
}

// edges follows all inputs from the situations in which the Registry creates servers, as far as they lead.
var edges = sync.OnceValue(func() map[edge]bool {
	todo := []situation{
		{status: lifecycle.StatusUnregistered},
		{status: lifecycle.StatusPending, detail: lifecycle.DetailRegistering},
	}
	known := map[situation]bool{todo[0]: true, todo[1]: true}
	out := map[edge]bool{}
	all := inputs()
	for len(todo) > 0 {
		from, state := todo[0], todo[0].state()
		todo = todo[1:]
		follow := func(to situation) {
			if !known[to] && to.status != before {
				known[to] = true
				todo = append(todo, to)
			}
		}
		for _, in := range all {
			if in.only != nil && !in.only(from) {
				continue
			}
			t, acting := in.change(from, state)
			to := situationOf(&t.State, acting)
			if from.place() != to.place() {
				out[edge{from.place(), in.on(from, to), to.place()}] = true
			}
			follow(to)
		}
		from.acting = false // the call has returned, and its outcome was not stored
		follow(from)
	}
	return out
})

// The words of the column "on", in the order of the table.
const (
	onReady            = "answers ready"
	onReadyWasDown     = "answers ready, was down"
	onReadyStillUp     = "answers ready, announced by itself"
	onReadyLate        = "answers ready, deadline passed"
	onReadyOver        = "answers ready, nothing under way"
	onReadyUnderWay    = "answers ready, action under way"
	onReadyMaintenance = "answers ready, in maintenance"
	onReadyFlapping    = "answers ready, flapping"
	onBooting          = "answers, is booting"
	onBootingLate      = "answers, is booting, deadline passed"
	onFails            = "fails OfflineThreshold times"
	onFailsAnnounced   = "fails OfflineThreshold times, announced"
	onFailsLate        = "fails, deadline passed"
	onReboot           = "self update: reboot"
	onShutdown         = "self update: shutdown, suspend"
	onOtherCause       = "self update: any other"
	onEnd              = "End, success"
	onEndFailure       = "End, failure"
	onLost             = "MarkLost"
)

var onOrder = []string{onReady, onReadyWasDown, onReadyStillUp, onReadyLate, onReadyOver, onReadyUnderWay, onReadyMaintenance, onReadyFlapping,
	onBooting, onBootingLate, onFails, onFailsAnnounced, onFailsLate, onReboot, onShutdown, onOtherCause,
	"Begin update", "Begin update of applications", "Begin evacuate", "Begin restore", "Begin reboot", "Begin poweroff", "Begin suspend",
	"Begin reconfigure", "Begin factory-reset", onEnd, onEndFailure, onLost}

// comparePlaces orders places as Statuses and StatusDetails do; before is last.
func comparePlaces(a, b place) int {
	rank := func(p place) int {
		status := slices.Index(lifecycle.Statuses, p.status)
		if p.status == before {
			status = len(lifecycle.Statuses)
		}
		return status*100 + slices.Index(lifecycle.StatusDetails, p.detail)
	}
	return rank(a) - rank(b)
}

// table renders the edges. Those from several places of one status to one place, by one input, share a line.
func table(t *testing.T, list map[edge]bool) string {
	type line struct {
		on string
		to place
	}
	from, all := map[line][]place{}, map[place]bool{}
	for e := range list {
		require.Contains(t, onOrder, e.on)
		l := line{e.on, e.to}
		from[l] = append(from[l], e.from)
		all[e.from] = true
		if e.to.status != before {
			all[e.to] = true
		}
	}
	places := slices.SortedFunc(maps.Keys(all), comparePlaces)
	lines := slices.SortedFunc(maps.Keys(from), func(a, b line) int {
		return cmp.Or(slices.Index(onOrder, a.on)-slices.Index(onOrder, b.on), comparePlaces(a.to, b.to))
	})
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "on\tfrom\tto\n")
	for _, l := range lines {
		for _, group := range groups(from[l], l.to, places) {
			fmt.Fprintf(w, "%s\t%s\t%s\n", l.on, group, l.to)
		}
	}
	require.NoError(t, w.Flush())
	return out.String()
}

// groups names the places from which an input leads to another one: "any", or for each status "any ready", "ready with a
// detail", "any ready but (rebooting)" or "ready (updating, evacuating)".
func groups(from []place, to place, all []place) (out []string) {
	missing := slices.DeleteFunc(slices.Clone(all), func(p place) bool { return p == to || slices.Contains(from, p) })
	if len(missing) == 0 {
		return []string{"any"}
	}
	for _, status := range lifecycle.Statuses {
		of := func(p place) bool { return p.status == status }
		list := func(places []place) (details []string) {
			for _, p := range slices.SortedFunc(slices.Values(places), comparePlaces) {
				if of(p) {
					details = append(details, string(p.detail))
				}
			}
			return details
		}
		has, lacks := list(from), list(missing)
		switch {
		case len(has) == 0:
		case len(lacks) == 0 && len(list(all)) > 1:
			out = append(out, "any "+string(status))
		case len(has) > 2 && len(lacks) == 1 && lacks[0] == "":
			out = append(out, string(status)+" with a detail")
		case len(has) > len(lacks) && len(has) > 2:
			out = append(out, fmt.Sprintf("any %s but (%s)", status, strings.Join(lacks, ", ")))
		default:
			if has[0] == "" {
				out, has = append(out, string(status)), has[1:]
			}
			if len(has) > 0 {
				out = append(out, fmt.Sprintf("%s (%s)", status, strings.Join(has, ", ")))
			}
		}
	}
	return out
}

// TestDiagram compares the table in the package comment with the transitions that the functions make. With -update it
// writes the table.
func TestDiagram(t *testing.T) {
	const head = "//\ton "
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	var shown, others []string
	at := -1
	for line := range strings.Lines(string(doc)) {
		if strings.HasPrefix(line, head) {
			require.Equal(t, -1, at, "there is one table")
			at = len(others)
		}
		if at == len(others) && strings.HasPrefix(line, "//\t") {
			shown = append(shown, strings.TrimPrefix(line, "//\t"))
			continue
		}
		others = append(others, line)
	}
	require.NotEqual(t, -1, at, "doc.go has no table")
	found := table(t, edges())
	if *updateDiagram {
		made := ""
		for line := range strings.Lines(found) {
			made += "//\t" + line
		}
		text := strings.Join(slices.Concat(others[:at], []string{made}, others[at:]), "")
		require.NoError(t, os.WriteFile("doc.go", []byte(text), 0o644))
		return
	}
	require.Equal(t, strings.Join(shown, ""), found, "doc.go shows other transitions than there are; go test ./opscenter/lifecycle -run TestDiagram -update writes them")
}

// TestDiagramIsClosed: no input leads from any status with any detail to a place that the diagram does not have.
func TestDiagramIsClosed(t *testing.T) {
	places := map[place]bool{{status: before}: true}
	for e := range edges() {
		places[e.from], places[e.to] = true, true
	}
	for _, status := range lifecycle.Statuses {
		for _, detail := range append(lifecycle.StatusDetails, lifecycle.DetailNone) {
			from := situation{status: status, detail: detail}
			for _, in := range inputs() {
				next, acting := in.change(from, from.state())
				if to := situationOf(&next.State, acting).place(); to != from.place() {
					require.Contains(t, places, to, "from %s", from.place())
				}
			}
		}
	}
}
