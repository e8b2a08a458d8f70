package lifecycle_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Three polls in a row fail, and the server becomes offline. It answers again, and is ready.
func ExampleApply() {
	at := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	policy := lifecycle.Policy{OfflineThreshold: 3, RebootTimeout: 15 * time.Minute}
	incus := lifecycle.TypeIncus
	failure := lifecycle.Observation{Failure: &lifecycle.Failure{Kind: lifecycle.FailureConnect, Message: "connection refused"}}
	answer := lifecycle.Observation{Ready: true, Type: &incus}

	state := lifecycle.ServerState{Name: "server01", Status: lifecycle.StatusReady, Type: incus}
	var contact lifecycle.Contact
	for i, observation := range []lifecycle.Observation{failure, failure, failure, answer} {
		observation.At = at.Add(time.Duration(i) * time.Minute)
		next := lifecycle.Apply(state, contact, observation, policy)
		for _, e := range next.Events {
			fmt.Printf("%s %s: %s\n", e.At.Format("15:04"), e.Kind, e.Reason)
		}
		for _, w := range next.Warnings {
			fmt.Printf("warning: %s: %s\n", w.Kind, w.Message)
		}
		state, contact = next.State, next.Contact // to be stored, and kept for the next poll
	}
	// Output:
	// 12:02 status-changed: offline (unresponsive), was ready: 3 polls failed in a row: connection refused
	// warning: Server unreachable: connection refused
	// 12:03 status-changed: ready, was offline (unresponsive): answers, and is ready
}

// A server that reboots says so, and is offline on purpose until it is back.
func ExampleTell() {
	at := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	state := lifecycle.ServerState{Name: "server01", Status: lifecycle.StatusReady}
	next := lifecycle.Tell(state, lifecycle.CauseSystemRebootTriggered, lifecycle.Telling{At: at, RebootTimeout: 15 * time.Minute})
	fmt.Println(lifecycle.Describe(next.State.Status, next.State.StatusDetail))
	fmt.Println("back by", next.State.Announced.Deadline.Format("15:04"))
	// Output:
	// offline (rebooting)
	// back by 12:15
}

// An evacuation is stored before it is carried out, and its outcome afterwards.
func ExampleBegin() {
	at := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	state := lifecycle.ServerState{Name: "server01", Status: lifecycle.StatusReady, Type: lifecycle.TypeIncus}
	operation := &lifecycle.Operation{ID: "e1", Action: lifecycle.ActionEvacuate, StartedAt: at, Deadline: at.Add(time.Hour)}

	begun := lifecycle.Begin(state, operation, "asked for by an operator")
	fmt.Println(lifecycle.Describe(begun.State.Status, begun.State.StatusDetail))

	ended := lifecycle.End(begun.State, operation.ID, at.Add(5*time.Minute), nil, false)
	fmt.Println(lifecycle.Describe(ended.State.Status, ended.State.StatusDetail))
	fmt.Println(ended.State.Maintenance, "after", ended.State.Took[lifecycle.ActionEvacuate])
	// Output:
	// ready (evacuating)
	// ready
	// evacuated after 5m0s
}

// A server that refuses a reboot gets its status back.
func ExampleEnd() {
	at := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	state := lifecycle.ServerState{Name: "server01", Status: lifecycle.StatusReady}
	operation := &lifecycle.Operation{ID: "r1", Action: lifecycle.ActionReboot, StartedAt: at, Deadline: at.Add(15 * time.Minute)}
	begun := lifecycle.Begin(state, operation, "asked for by an operator")

	ended := lifecycle.End(begun.State, operation.ID, at.Add(time.Second), errors.New("error 403"), false)
	for _, e := range append(begun.Events, ended.Events...) {
		fmt.Printf("%s: %s\n", e.Kind, e.Reason)
	}
	// Output:
	// status-changed: offline (rebooting), was ready: asked to reboot
	// action-started: asked for by an operator
	// action-failed: reboot: error 403
	// status-changed: ready, was offline (rebooting): reboot failed
}

func ExampleRecommend() {
	needsReboot := lifecycle.Condition{Type: lifecycle.TypeIncus, Status: lifecycle.StatusReady, NeedsReboot: true}
	r := lifecycle.Recommend(needsReboot)
	fmt.Println(r.Action)
	fmt.Println(r.Reason)

	needsReboot.Maintenance = lifecycle.MaintenanceEvacuated
	fmt.Println(lifecycle.Recommend(needsReboot).Action)
	// Output:
	// evacuate
	// a reboot is required, and type incus is evacuated before (needs update false, needs reboot true, in maintenance false)
	// reboot
}

func ExampleServerState_Recommend() {
	state := lifecycle.ServerState{Type: lifecycle.TypeIncus, Status: lifecycle.StatusReady, Versions: lifecycle.Versions{
		OS:           lifecycle.OSVersion{Name: lifecycle.OSName, Version: "202610010000"},
		Applications: []lifecycle.ApplicationVersion{{Name: "incus", Version: "202610010000"}}}}
	r := state.Recommend(map[string]string{lifecycle.ComponentOS: "202610150000", "incus": "202610150000"})
	fmt.Println(r.Action)
	fmt.Println(r.Reason)
	// Output:
	// update
	// incus, os 202610010000 → 202610150000: a newer version is available (needs update true, needs reboot false, in maintenance false)
}

// The operating system has staged the newest version: only the application needs an update.
func ExampleVersions_Outdated() {
	versions := lifecycle.Versions{
		OS:           lifecycle.OSVersion{Name: lifecycle.OSName, Version: "202610010000", VersionNext: "202610150000", NeedsReboot: true},
		Applications: []lifecycle.ApplicationVersion{{Name: "incus", Version: "202610010000"}},
	}
	fmt.Println(versions.Outdated(map[string]string{lifecycle.ComponentOS: "202610150000", "incus": "202610150000", "openfga": "202610150000"}))
	// Output:
	// map[incus:202610150000]
}
