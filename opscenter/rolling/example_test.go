package rolling_test

import (
	"fmt"
	"log"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
)

// exampleServer returns a server that runs version 1, while its channel offers version 2.
func exampleServer(name string) *rolling.Server {
	return &rolling.Server{Name: name, ID: name, Channel: "stable", Ready: true, Online: true, Condition: "ready", Good: 1,
		Running: "1", Versions: map[string]string{"os": "1"}, Available: map[string]string{"os": "2"}}
}

// A plan shows the steps of a rollout before it begins. The times of the actions are known from earlier ones.
func ExampleMake() {
	a, b := exampleServer("a"), exampleServer("b")
	a.Took = map[lifecycle.Action]time.Duration{lifecycle.ActionUpdate: 2 * time.Minute, lifecycle.ActionReboot: 3 * time.Minute,
		lifecycle.ActionEvacuate: time.Minute, lifecycle.ActionRestore: time.Minute, lifecycle.ActionPowerOff: time.Minute}
	b.Staged, b.NeedsReboot, b.Versions["os"] = "2", true, "2"
	at := time.Date(2026, 8, 17, 20, 0, 0, 0, time.UTC)
	plan, _, err := rolling.Make(rolling.Fleet{Servers: []*rolling.Server{a, b}}, rolling.Selector{All: true}, rolling.Policy{}, at)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(plan)
	// Output:
	// Plan: update, 3 steps, 2 servers, done in about 8m0s
	// 1.  +0s    a  a  update  os 1 → 2
	// 2.  +2m0s  a  a  reboot  os 2 is staged over 1
	// 3.  +5m0s  b  b  reboot  os 2 is staged over 1
}

// A rollout decides again after each change. The program carries out the commands, and puts the results of polls into the
// next View.
func ExampleUnit_Advance() {
	now := time.Date(2026, 8, 17, 20, 0, 0, 0, time.UTC)
	server := exampleServer("a")
	selected, err := rolling.New(rolling.Fleet{Servers: []*rolling.Server{server}}, rolling.Selector{All: true}, rolling.Policy{}, now)
	if err != nil {
		log.Fatal(err)
	}
	state, unit := selected.State, selected.Units[0]
	calendar, err := rolling.NewCalendar(state.Policy.Windows)
	if err != nil {
		log.Fatal(err)
	}
	if ok, _, why := state.Admit(now); !ok {
		log.Fatal(why)
	}
	state.Begin(unit, now)
	for !state.Status.Ended() {
		before := unit.Status
		result := unit.Advance(&state.Policy, calendar, rolling.View{Now: now, Servers: []*rolling.Server{server}, GateAsked: true}, state.Cancel, false)
		state.Moved(unit, 0, before, now)
		for _, c := range result.Commands {
			fmt.Printf("%s %s: %s\n", c.Action, c.Server, c.Why)
			now = now.Add(5 * time.Minute) // the server carries it out, and a poll finds that
			server.Last = &rolling.Outcome{ID: c.ID, Action: c.Action, EndedAt: now}
			switch c.Action {
			case lifecycle.ActionUpdate:
				server.Staged, server.NeedsReboot, server.Versions = "2", true, map[string]string{"os": "2"}
			case lifecycle.ActionReboot:
				server.Running, server.Staged, server.NeedsReboot = "2", "", false
			}
		}
		state.Finish(now)
	}
	fmt.Println(state.Status)
	// Output:
	// update a: os 1 → 2
	// reboot a: os 2 is staged over 1
	// done
}

func ExampleCalendar_Open() {
	calendar, err := rolling.NewCalendar([]rolling.Window{{Days: []string{"sat"}, Start: "22:00", End: "04:00", Zone: "Europe/Berlin"}})
	if err != nil {
		log.Fatal(err)
	}
	friday := time.Date(2026, 8, 21, 12, 0, 0, 0, time.UTC)
	again, open := calendar.Open(friday)
	fmt.Println(open, again.UTC().Format(time.RFC1123))
	// Output:
	// false Sat, 22 Aug 2026 20:00:00 UTC
}
