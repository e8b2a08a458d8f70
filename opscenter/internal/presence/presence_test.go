package presence_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/opscenter-go/sdk/opscenter/internal/presence"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

func newPresence() *presence.Presence {
	return presence.New(presence.Options{GuardShare: 0.5, GuardMinimum: 5, GuardWindow: 15 * time.Second, SelfUpdateInterval: 5 * time.Second})
}

// TestApply changes rows at random, and applies them in batches as a Watch merges them: each key once, as its row is when
// the batch is read. Counts follow, and a server keeps its contact under each of its names, and loses it when it is removed.
func TestApply(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPresence()
		rows := map[string]presence.State{}      // by name
		warnings := map[string]warning.Warning{} // by UUID
		failures := map[string]int{}             // by ID
		next, raises := 0, 0
		names := []string{"a", "b", "c", "d"}
		for range rapid.IntRange(1, 12).Draw(t, "batches") {
			touched, raised := map[string]bool{}, map[string]bool{}
			for range rapid.IntRange(1, 6).Draw(t, "changes") {
				name := rapid.SampledFrom(names).Draw(t, "name")
				row, there := rows[name]
				switch rapid.IntRange(0, 4).Draw(t, "what") {
				case 0: // registered
					if !there {
						next++
						rows[name] = presence.State{ID: fmt.Sprint("id", next), Name: name, Census: presence.Census{Status: lifecycle.StatusPending}}
						touched[name] = true
					}
				case 1: // removed
					if there {
						delete(rows, name)
						delete(failures, row.ID)
						touched[name] = true
					}
				case 2: // renamed
					to := rapid.SampledFrom(names).Draw(t, "to")
					if _, taken := rows[to]; there && !taken {
						delete(rows, name)
						row.Name = to
						rows[to] = row
						touched[name], touched[to] = true, true
					}
				case 3: // polled
					if there {
						row.Census.Status = rapid.SampledFrom(lifecycle.Statuses).Draw(t, "status")
						rows[name] = row
						touched[name] = true
					}
				case 4: // a warning is raised, or cleared
					kind := rapid.SampledFrom([]warning.Kind{"x", "y"}).Draw(t, "kind")
					open := ""
					for uuid, w := range warnings {
						if w.Kind == kind {
							open = uuid // there is one of each kind about a server
						}
					}
					if open != "" {
						delete(warnings, open)
						raised[open] = true
					}
					if open == "" || rapid.Bool().Draw(t, "again") {
						raises++
						uuid := fmt.Sprint("w", raises)
						warnings[uuid] = warning.Warning{UUID: uuid, Kind: kind, ServerID: "id1"}
						raised[uuid] = true
					}
				}
			}
			changes := presence.Changes{All: rapid.Bool().Draw(t, "reset")}
			for name, row := range rows {
				if changes.All || touched[name] {
					changes.States = append(changes.States, row)
				}
			}
			for _, w := range warnings {
				if changes.All || raised[w.UUID] {
					changes.Warnings = append(changes.Warnings, &w)
				}
			}
			if !changes.All {
				for name := range touched {
					if _, there := rows[name]; !there {
						changes.GoneStates = append(changes.GoneStates, name)
					}
				}
				for uuid := range raised {
					if _, open := warnings[uuid]; !open {
						changes.GoneWarnings = append(changes.GoneWarnings, uuid)
					}
				}
			}
			for range rapid.IntRange(1, 2).Draw(t, "times") { // twice is as good as once
				p.Apply(changes)
			}
			wanted, open := map[presence.Census]int{}, map[warning.Kind]int{}
			for _, row := range rows {
				wanted[row.Census]++
				if have := p.Contact(row.ID).Failures; have != failures[row.ID] {
					t.Fatalf("server %s has %d failures, %d were wanted", row.ID, have, failures[row.ID])
				}
				failures[row.ID]++
				p.Change(row.ID, func(c *lifecycle.Contact) { c.Failures++ })
			}
			for _, w := range warnings {
				open[w.Kind]++
			}
			servers, kinds := p.Counts()
			if fmt.Sprint(servers) != fmt.Sprint(wanted) || fmt.Sprint(kinds) != fmt.Sprint(open) {
				t.Fatalf("counted %v and %v, wanted %v and %v", servers, kinds, wanted, open)
			}
			for id := range next {
				id := fmt.Sprint("id", id+1)
				gone := !slices.ContainsFunc(names, func(name string) bool { return rows[name].ID == id })
				if p.Change(id, func(c *lifecycle.Contact) {}); gone && p.Contact(id) != (lifecycle.Contact{}) {
					t.Fatalf("server %s is gone, and has a contact", id)
				}
			}
		}
	})
}

// TestFlush: each change is taken once. A change that could not be stored is taken again.
func TestFlush(t *testing.T) {
	p := newPresence()
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	var changes presence.Changes
	for i := range 20 {
		changes.States = append(changes.States, presence.State{ID: fmt.Sprint("id", i), Name: fmt.Sprint("server", i)})
	}
	changes.Warnings = []*warning.Warning{{UUID: "w", Kind: "Fan", ServerID: "id0", Message: "fan 1"}}
	p.Apply(changes)
	require.Empty(t, p.Flush.Take())
	p.Change("id0", func(c *lifecycle.Contact) { c.LastSeen = at })
	fan := presence.Subject{Kind: "Fan", ServerID: "id0"}
	p.Warnings.Repeat(fan, "fan 2", at)
	p.Warnings.Repeat(fan, "", at.Add(time.Second))
	p.Warnings.Repeat(fan, "", at.Add(time.Second)) // the same poll
	taken := p.Flush.Take()
	require.Len(t, taken.Seen, 1)
	require.Equal(t, []presence.Repeated{{UUID: "w", Count: 2, Last: at.Add(time.Second), Message: "fan 2"}}, taken.Warnings)
	require.Empty(t, p.Flush.Take())

	p.Flush.Return(taken)
	again := p.Flush.Take()
	require.Equal(t, taken.Warnings, again.Warnings)
	require.Len(t, again.Seen, 1)
	require.NotNil(t, again.Seen[0].Members, "nothing tells whether the first ones were stored")

	// Another Presence reads the rows.
	other := newPresence()
	other.Apply(changes)
	other.Flush.LoadSeen(again.Seen[0].Members, again.Seen[0].Times)
	require.True(t, at.Equal(other.Contact("id0").LastSeen))
	third := newPresence()
	third.Apply(changes)
	members := *again.Seen[0].Members
	members.Version++
	third.Flush.LoadSeen(&members, again.Seen[0].Times)
	require.True(t, third.Contact("id0").LastSeen.IsZero(), "times of other members tell nothing")
}
