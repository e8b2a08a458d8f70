package rolling_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
)

// randomFleet draws clusters, and servers in none.
func randomFleet(t *rapid.T, w *world) {
	w.offers["stable"] = map[string]string{"os": "2", "incus": "2", "migration-manager": "2"}
	version := rapid.SampledFrom([]string{"1", "1", "1", "2"})
	add := func(cluster, name, kind string, voters bool, voter bool) {
		s := &rolling.Server{Name: name, Cluster: cluster, Incus: kind == "incus", Running: version.Draw(t, "os")}
		s.Versions = map[string]string{"os": s.Running, kind: version.Draw(t, "app")}
		if s.Running == "1" && rapid.IntRange(0, 4).Draw(t, "staged") == 0 {
			s.Staged, s.NeedsReboot, s.Versions["os"] = "2", true, "2"
		}
		s.Evacuated = s.Incus && rapid.IntRange(0, 9).Draw(t, "evacuated") == 0
		s.RolesKnown, s.Voter = voters, voters && voter
		w.add(s)
	}
	for c := range rapid.IntRange(0, 3).Draw(t, "clusters") {
		n, known := rapid.IntRange(1, 6).Draw(t, "members"), rapid.Bool().Draw(t, "roles known")
		for m := range n {
			add(fmt.Sprintf("c%d", c), fmt.Sprintf("c%d-%d", c, m), "incus", known, m < 3 && (n >= 3 || m == 0))
		}
	}
	for d := range rapid.IntRange(0, 3).Draw(t, "servers") {
		add("", fmt.Sprintf("d%d", d), rapid.SampledFrom([]string{"incus", "migration-manager"}).Draw(t, "type"), false, false)
	}
}

func randomPolicy(t *rapid.T) rolling.Policy {
	p := rolling.Policy{
		Goal:           rapid.SampledFrom([]rolling.Goal{rolling.GoalUpdate, rolling.GoalUpdate, rolling.GoalReboot, rolling.GoalStage}).Draw(t, "goal"),
		MaxUnavailable: rapid.IntRange(1, 3).Draw(t, "max unavailable"), Parallel: rapid.IntRange(1, 3).Draw(t, "parallel"),
		StopThreshold: rapid.IntRange(1, 3).Draw(t, "stop threshold"), Retries: rapid.IntRange(-1, 2).Draw(t, "retries"),
		PostRestoreDelay: time.Duration(rapid.IntRange(0, 2).Draw(t, "delay")) * 10 * time.Minute,
	}
	if rapid.Bool().Draw(t, "windows") {
		hour := rapid.IntRange(0, 23).Draw(t, "hour")
		p.Windows = []rolling.Window{{Start: fmt.Sprintf("%02d:00", hour), End: fmt.Sprintf("%02d:30", (hour+2)%24),
			Zone: rapid.SampledFrom([]string{"UTC", "Europe/Berlin", "Australia/Lord_Howe"}).Draw(t, "zone")}}
	}
	if rapid.Bool().Draw(t, "waves") {
		p.Waves = []rolling.Wave{{Percent: 40, Soak: time.Hour}}
	}
	return p
}

// watch holds each step that begins to what was promised.
func watch(t *rapid.T, w *world) {
	cal, err := rolling.NewCalendar(w.state.Policy.Windows)
	require.NoError(t, err)
	w.check = func(c rolling.Command) {
		before := map[string]bool{} // or found so when an operator resumed
		for _, u := range w.units {
			for _, m := range u.Members {
				before[m.ID] = m.EvacuatedBefore
			}
		}
		s := w.servers[c.ServerID]
		require.Nil(t, s.Operation, "%s of %s: %v is under way", c.Action, c.Server, s.Operation)
		restoring := w.state.Cancel == rolling.CancelRestore
		if _, ok := cal.Open(w.now); !ok && !restoring {
			require.Fail(t, "outside of a window", "%s of %s at %s", c.Action, c.Server, w.now)
		}
		require.NotEqual(t, rolling.StatusPaused, w.state.Status, "paused")
		if c.Action == lifecycle.ActionReboot && s.Incus {
			require.True(t, s.Evacuated, "%s is rebooted without being evacuated", c.Server)
		}
		if s.Cluster == "" || c.Action == lifecycle.ActionUpdate || c.Action == lifecycle.ActionRestore {
			return
		}
		members, out, down, known, voters, votersDown := 0, 0, 0, true, 0, 0
		for _, other := range w.servers {
			if other.Cluster != s.Cluster {
				continue
			}
			members++
			known = known && other.RolesKnown
			gone := other == s || !other.Online || other.Operation != nil && other.Operation.Action != lifecycle.ActionUpdate || other.Evacuated && !before[other.ID]
			if gone {
				out++
			}
			if other.Voter {
				voters++
			}
			if other == s || !other.Online {
				down++
				if other.Voter {
					votersDown++
				}
			}
		}
		require.LessOrEqual(t, out, w.state.Policy.MaxUnavailable, "members out when %s of %s begins", c.Action, c.Server)
		switch {
		case members == 1:
		case members == 2 || !known:
			require.LessOrEqual(t, down, 1, "quorum when %s of %s begins: %s", c.Action, c.Server, strings.Join(w.trace, "\n"))
		default:
			require.LessOrEqual(t, votersDown, (voters-1)/2, "quorum")
		}
	}
}

// TestPlanIsWhatHappens: in a world in which nothing fails, and everything takes as long as
// before, a rollout does what its plan says, when it says so.
func TestPlanIsWhatHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		randomFleet(t, w)
		for _, s := range w.servers {
			s.Took = map[lifecycle.Action]time.Duration{}
			for _, action := range []lifecycle.Action{lifecycle.ActionUpdate, lifecycle.ActionEvacuate, lifecycle.ActionReboot, lifecycle.ActionRestore} {
				s.Took[action] = w.takes[string(action)]
			}
		}
		if len(w.servers) == 0 {
			return
		}
		plan, err := w.start(rolling.Selector{All: true}, randomPolicy(t))
		require.NoError(t, err)
		watch(t, w)
		check := w.check
		var trace []string
		w.check = func(c rolling.Command) {
			check(c)
			trace = append(trace, fmt.Sprintf("%s %s %s %s", w.now.Format(time.RFC3339), c.Server, c.Action, c.Why))
		}
		w.run(60 * 24 * time.Hour)
		var planned []string
		for _, s := range plan.Steps {
			planned = append(planned, fmt.Sprintf("%s %s %s %s", s.Start.Format(time.RFC3339), s.Server, s.Action, s.Why))
		}
		slices.Sort(planned) // what begins at the same moment has no order
		slices.Sort(trace)
		require.Equal(t, planned, trace)
		if !plan.End.IsZero() {
			require.Equal(t, rolling.StatusDone, w.state.Status, w.state.Reason)
			require.Equal(t, plan.End, w.state.EndedAt)
			require.Equal(t, len(plan.Steps), w.state.Steps)
		}
		data, err := json.Marshal(plan)
		require.NoError(t, err)
		var read rolling.Plan
		require.NoError(t, json.Unmarshal(data, &read))
		require.Empty(t, plan.Difference(&read))
	})
}

// TestProperties: whatever fails, and whatever operators do meanwhile, the promises are kept, and every
// rollout ends or says what it waits for.
func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		randomFleet(t, w)
		if len(w.servers) == 0 {
			return
		}
		kinds := []string{"refused", "fails", "stuck", "half", "old version", "needs reboot", "no return", "lost"}
		for range rapid.IntRange(0, 4).Draw(t, "faults") {
			s := w.servers[rapid.SampledFrom(w.order).Draw(t, "faulty")]
			action := rapid.SampledFrom([]string{"update", "evacuate", "reboot", "restore"}).Draw(t, "action")
			kind := rapid.SampledFrom(kinds).Draw(t, "fault")
			if action != "reboot" && slices.Contains(kinds[4:], kind) {
				kind = "stuck"
			}
			w.faults[s.Name+" "+action] = append(w.faults[s.Name+" "+action], kind)
		}
		for range rapid.IntRange(0, 5).Draw(t, "events") {
			s := w.servers[rapid.SampledFrom(w.order).Draw(t, "server")]
			at := time.Duration(rapid.IntRange(0, 300).Draw(t, "minute")) * time.Minute
			switch rapid.IntRange(0, 6).Draw(t, "event") {
			case 0:
				w.after(at, func() {
					if s.Operation == nil {
						w.offline(s)
						w.after(time.Hour, func() {
							if s.Operation == nil {
								w.online(s)
							}
						})
					}
				})
			case 1:
				w.after(at, func() { s.Evacuated = s.Incus && s.Operation == nil || s.Evacuated })
			case 2:
				w.after(at, func() { s.Evacuated = s.Evacuated && s.Operation != nil })
			case 3:
				w.after(at, func() { delete(w.servers, s.ID) })
			case 4:
				w.after(at, func() { w.epoch++ })
			case 5:
				w.after(at, func() {
					if w.state.Pause("test") == nil {
						w.after(30*time.Minute, func() { _ = w.resume() })
					}
				})
			case 6:
				w.after(at, func() { w.offers["stable"] = map[string]string{"os": "3", "incus": "3", "migration-manager": "3"} })
			}
		}
		mode := rapid.SampledFrom([]rolling.CancelMode{"", "", rolling.CancelStop, rolling.CancelFinish, rolling.CancelRestore}).Draw(t, "cancel")
		cancelAt := time.Duration(rapid.IntRange(0, 200).Draw(t, "cancel at")) * time.Minute
		plan, err := w.start(rolling.Selector{All: true}, randomPolicy(t))
		require.NoError(t, err)
		_ = plan
		watch(t, w)
		if mode != "" {
			w.after(cancelAt, func() { _ = w.cancel(mode) })
		}
		// An operator who resumes whatever pauses, for a while.
		for i := range 13 {
			w.run(30 * 24 * time.Hour)
			if w.state.Status != rolling.StatusPaused || i == 12 {
				break
			}
			require.NotEmpty(t, w.state.Reason)
			for _, s := range w.servers {
				if !s.Online {
					w.online(s)
				}
			}
			require.NoError(t, w.resume())
		}
		story := strings.Join(w.trace, "\n")
		if !w.state.Status.Ended() {
			waits := w.state.Reason
			for _, u := range w.units {
				waits += u.Waiting
			}
			require.NotEmpty(t, waits, "it neither ends nor says what it waits for\n%s", story)
		}
		for name, n := range w.reboots {
			// Those that an operator resumed may be rebooted again; by itself, once, or after one that was refused.
			require.LessOrEqual(t, n, 14, "%s is rebooted %d times\n%s", name, n, story)
		}
		if w.state.Status == rolling.StatusCancelled && mode == rolling.CancelRestore || w.state.Status == rolling.StatusDone {
			for _, u := range w.units {
				for _, m := range u.Members {
					s := w.servers[m.ID]
					require.False(t, m.Evacuated && s != nil, "%s is left evacuated by us\n%s", m.Server, story)
				}
			}
		}
	})
}

// TestBadPolicies names what is wrong.
func TestBadPolicies(t *testing.T) {
	for text, p := range map[string]rolling.Policy{
		"goal":            {Goal: "destroy"},
		"max_unavailable": {MaxUnavailable: -1},
		"parallel":        {Parallel: -1},
		"good_polls":      {GoodPolls: 1000},
		"retries":         {Retries: rolling.MaxRetries + 1},
		"step_timeout":    {StepTimeout: -time.Second},
		"evacuate_mode":   {EvacuateMode: "burn"},
		"restore_mode":    {RestoreMode: "x"},
		"wave 1 takes":    {Waves: []rolling.Wave{{}}},
		"percent":         {Waves: []rolling.Wave{{Percent: 101}}},
		"waves":           {Waves: make([]rolling.Wave, rolling.MaxWaves+1)},
		"windows":         {Windows: make([]rolling.Window, rolling.MaxWindows+1)},
		"day":             {Windows: []rolling.Window{{Days: []string{"someday"}, Start: "01:00", End: "02:00"}}},
		"time":            {Windows: []rolling.Window{{Start: "25:00", End: "02:00"}}},
		"zone":            {Windows: []rolling.Window{{Start: "01:00", End: "02:00", Zone: "Mars/Olympus"}}},
	} {
		_, err := p.WithDefaults()
		require.ErrorIs(t, err, rolling.ErrInvalid, text)
		require.ErrorContains(t, err, text)
	}
	w := newWorld()
	w.add(&rolling.Server{Name: "a"})
	for text, s := range map[string]rolling.Selector{
		"selects nothing": {},
		`named "b"`:       {Servers: []string{"b"}},
		"names":           {Servers: make([]string, rolling.MaxSelected+1)},
	} {
		_, err := w.start(s, rolling.Policy{})
		require.ErrorIs(t, err, rolling.ErrInvalid, text)
		require.ErrorContains(t, err, text)
	}
	_, err := w.start(rolling.Selector{All: true}, rolling.Policy{Canaries: []string{"typo"}})
	require.ErrorContains(t, err, `named "typo"`)
	_, err = w.start(rolling.Selector{All: true}, rolling.Policy{Goal: rolling.GoalPowerOff})
	require.ErrorContains(t, err, "by name")
}

// fleetOf returns servers in clusters of ten.
func fleetOf(clusters int) rolling.Fleet {
	var f rolling.Fleet
	available := map[string]string{"os": "202610150000", "incus": "202610150000"}
	for c := range clusters {
		for m := range 10 {
			name := fmt.Sprintf("c%05d-%d", c, m)
			f.Servers = append(f.Servers, &rolling.Server{Name: name, ID: name, Cluster: name[:6], Channel: "stable", Incus: true, Ready: true, Online: true, Good: 1,
				Condition: "ready", Running: "202610010000", Versions: map[string]string{"os": "202610010000", "incus": "202610010000"}, Available: available})
		}
	}
	return f
}

// BenchmarkPlan plans an update of clusters of ten servers; per server it must not grow.
func BenchmarkPlan(b *testing.B) {
	for _, clusters := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprintf("servers=%d", clusters*10), func(b *testing.B) {
			fleet := fleetOf(clusters)
			at := time.Date(2026, 8, 17, 20, 0, 0, 0, time.UTC)
			b.ReportAllocs()
			for b.Loop() {
				plan, _, err := rolling.Make(fleet, rolling.Selector{All: true}, rolling.Policy{Parallel: 50, Windows: []rolling.Window{{Start: "22:00", End: "06:00", Zone: "Europe/Berlin"}}}, at)
				if err != nil || len(plan.Steps) != clusters*40 || plan.End.IsZero() {
					b.Fatal(err, len(plan.Steps), plan.End, plan.Blocked())
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(clusters*10), "µs/server")
		})
	}
}

// TestJSON: durations are texts, and a policy comes back as it was.
func TestJSON(t *testing.T) {
	p, err := rolling.Policy{Soak: time.Hour, GateTimeout: 90 * time.Second, Waves: []rolling.Wave{{Percent: 5, Soak: time.Minute}}}.WithDefaults()
	require.NoError(t, err)
	data, err := json.Marshal(p)
	require.NoError(t, err)
	require.Contains(t, string(data), `"soak":"1h0m0s"`)
	require.Contains(t, string(data), `"soak":"1m0s"`)
	var read rolling.Policy
	require.NoError(t, json.Unmarshal(data, &read))
	require.Equal(t, p, read)
	require.ErrorContains(t, json.Unmarshal([]byte(`{"soak":"soon"}`), &read), `duration "soon"`)
}
