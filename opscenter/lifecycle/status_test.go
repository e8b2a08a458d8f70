package lifecycle_test

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

func TestStatusMachine(t *testing.T) {
	t.Run("the first answer makes ready", func(t *testing.T) {
		s := begin(t, pending, lifecycle.DetailRegistering).fails().is(pending, lifecycle.DetailRegistering).answers(time.Hour, true).is(ready, none)
		require.Len(t, s.events, 1)
		require.Contains(t, s.events[0].Reason, "ready, was pending (registering)")
	})
	t.Run("a server that boots stays pending", func(t *testing.T) {
		begin(t, pending, lifecycle.DetailRegistering).answers(time.Second, false).is(pending, lifecycle.DetailRegistering).answers(time.Minute, true).is(ready, none)
	})
	t.Run("half an answer leaves a new server pending", func(t *testing.T) {
		s := begin(t, pending, lifecycle.DetailRegistering).apply(lifecycle.Observation{Ready: true, Unread: []string{"applications"}}).is(pending, lifecycle.DetailRegistering)
		s.answers(time.Hour, true).is(ready, none)
		s.apply(lifecycle.Observation{Ready: true, Unread: []string{"applications"}}).is(ready, none)
		require.Equal(t, lifecycle.TypeIncus, s.state.Type, "and takes nothing from one that is known")
	})
	t.Run("one failure is none", func(t *testing.T) {
		s := begin(t, ready, none).fails().fails().is(ready, none).answers(time.Hour, true).is(ready, none)
		require.Zero(t, s.contact.Failures)
		s.fails().fails().is(ready, none).fails().is(offline, lifecycle.DetailUnresponsive)
		require.Contains(t, s.state.StatusReason, "3 polls failed in a row: no answer")
		s.fails().fails()
		require.Len(t, s.events, 1, "being down is told once")
		s.answers(time.Hour, true).is(ready, none)
	})
	t.Run("an announced reboot", func(t *testing.T) {
		s := begin(t, ready, none).announce(lifecycle.DetailRebooting, 15*time.Minute)
		s.answers(10*time.Hour, true).is(offline, lifecycle.DetailRebooting) // not gone down, yet
		s.fails().fails().fails().fails().is(offline, lifecycle.DetailRebooting)
		s.answers(time.Second, false).is(offline, lifecycle.DetailRebooting) // booting
		s.answers(time.Minute, true).is(ready, none)
		require.Nil(t, s.state.Announced)
	})
	t.Run("a reboot too quick for the polls", func(t *testing.T) {
		begin(t, ready, none).announce(lifecycle.DetailRebooting, 15*time.Minute).answers(30*time.Second, true).is(ready, none)
	})
	t.Run("a blip before the reboot is not the reboot", func(t *testing.T) {
		begin(t, ready, none).announce(lifecycle.DetailRebooting, 15*time.Minute).fails().answers(10*time.Hour, true).is(offline, lifecycle.DetailRebooting)
	})
	t.Run("a server that doesn't tell its uptime is back once it was gone", func(t *testing.T) {
		s := begin(t, ready, none).announce(lifecycle.DetailRebooting, 15*time.Minute)
		kind := lifecycle.TypeIncus
		plain := lifecycle.Observation{Ready: true, Type: &kind}
		s.apply(plain).is(offline, lifecycle.DetailRebooting).fails().apply(plain).is(ready, none)
	})
	t.Run("a reboot that never ends", func(t *testing.T) {
		s := begin(t, ready, none).announce(lifecycle.DetailRebooting, 5*time.Minute)
		s.fails().fails().fails().fails().is(offline, lifecycle.DetailRebooting).fails().is(offline, lifecycle.DetailUnresponsive)
		require.Contains(t, s.state.StatusReason, "not back from rebooting by its deadline")
		s.answers(time.Minute, true).is(ready, none)
	})
	t.Run("a reboot that never began", func(t *testing.T) {
		s := begin(t, ready, none).announce(lifecycle.DetailRebooting, 3*time.Minute)
		s.answers(time.Hour, true).answers(time.Hour, true).is(offline, lifecycle.DetailRebooting).answers(time.Hour, true).is(ready, none)
	})
	t.Run("a boot that never gets ready", func(t *testing.T) {
		s := begin(t, ready, none).announce(lifecycle.DetailRebooting, 3*time.Minute)
		s.answers(time.Second, false).answers(time.Minute, false).is(offline, lifecycle.DetailRebooting)
		s.answers(2*time.Minute, false).is(offline, lifecycle.DetailUnresponsive).answers(9*time.Minute, true).is(ready, none)
	})
	t.Run("a reboot that was not announced", func(t *testing.T) {
		s := begin(t, ready, none).answers(10*time.Second, false).is(offline, lifecycle.DetailRebooting)
		s.answers(70*time.Second, true).is(ready, none)
	})
	t.Run("shut down stays shut down, without a deadline", func(t *testing.T) {
		s := begin(t, ready, none).announce(lifecycle.DetailShutDown, 0)
		for range 100 {
			s.fails()
		}
		s.is(offline, lifecycle.DetailShutDown).answers(time.Minute, true).is(ready, none)
	})
	t.Run("resumed from suspension, without a boot", func(t *testing.T) {
		begin(t, ready, none).announce(lifecycle.DetailShutDown, 0).answers(time.Hour, true).is(offline, lifecycle.DetailShutDown).
			fails().answers(2*time.Hour, true).is(ready, none)
	})
	t.Run("an answer from before the announcement is old news", func(t *testing.T) {
		s := begin(t, ready, none)
		s.state.Status, s.state.StatusDetail = offline, lifecycle.DetailRebooting
		s.state.Announced = &lifecycle.Announcement{At: s.at.Add(10 * time.Minute), Deadline: s.at.Add(time.Hour)}
		s.answers(time.Second, true).is(offline, lifecycle.DetailRebooting).fails()
		require.False(t, s.state.Announced.WentDown)
	})
	t.Run("a shutdown that no poll saw, or that never was", func(t *testing.T) {
		s := begin(t, ready, none).announce(lifecycle.DetailShutDown, 0)
		for range 14 {
			s.answers(10*time.Hour, true).is(offline, lifecycle.DetailShutDown)
		}
		s.answers(10*time.Hour, true).is(ready, none)
	})
	t.Run("a server that was down before it was ever read stays so until it is", func(t *testing.T) {
		s := begin(t, pending, lifecycle.DetailRegistering)
		s.state.Type = lifecycle.TypeUnknown
		s.fails().fails().fails().is(offline, lifecycle.DetailUnresponsive)
		s.apply(lifecycle.Observation{Ready: true, Unread: []string{"applications"}}).is(offline, lifecycle.DetailUnresponsive)
		s.answers(time.Hour, true).is(ready, none)
	})
	t.Run("a reason that is a novel is cut", func(t *testing.T) {
		s := begin(t, ready, none)
		for range 3 {
			s.apply(lifecycle.Observation{Failure: &lifecycle.Failure{Kind: lifecycle.FailureAnswer, Message: strings.Repeat("\xffé", 1<<20)}})
		}
		s.is(offline, lifecycle.DetailUnresponsive)
		require.Less(t, len(s.state.StatusReason), 2000)
		require.True(t, utf8.ValidString(s.state.StatusReason))
	})
	t.Run("maintenance shows as the cluster says", func(t *testing.T) {
		s := begin(t, ready, none)
		for _, step := range []struct {
			m      lifecycle.MaintenanceState
			detail lifecycle.StatusDetail
		}{{lifecycle.MaintenanceEvacuating, lifecycle.DetailEvacuating}, {lifecycle.MaintenanceEvacuated, none}, {lifecycle.MaintenanceRestoring, lifecycle.DetailRestoring}, {lifecycle.NotInMaintenance, none}} {
			s.apply(lifecycle.Observation{Ready: true, Maintenance: &step.m}).is(ready, step.detail)
		}
	})
	t.Run("unregistered servers are left alone", func(t *testing.T) {
		begin(t, lifecycle.StatusUnregistered, none).fails().fails().fails().fails().is(lifecycle.StatusUnregistered, none)
	})
}

// Whatever happens, in whatever order, the state makes sense and Apply changes nothing it was given.
func TestStatusMachineInvariants(t *testing.T) {
	details := map[lifecycle.Status][]lifecycle.StatusDetail{
		pending: {none, lifecycle.DetailRegistering, lifecycle.DetailReconfiguring},
		ready:   {none, lifecycle.DetailUpdating, lifecycle.DetailUpdatingApplication, lifecycle.DetailEvacuating, lifecycle.DetailRestoring},
		offline: {lifecycle.DetailRebooting, lifecycle.DetailShutDown, lifecycle.DetailUnresponsive},
	}
	rapid.Check(t, func(r *rapid.T) {
		at := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
		state := lifecycle.ServerState{Name: "a", Status: pending, StatusDetail: lifecycle.DetailRegistering, Type: lifecycle.TypeUnknown}
		var contact lifecycle.Contact
		failures := 0
		for range rapid.IntRange(1, 40).Draw(r, "steps") {
			at = at.Add(time.Duration(rapid.IntRange(1, 600).Draw(r, "seconds")) * time.Second)
			before := state
			var announced lifecycle.Announcement
			if state.Announced != nil {
				announced = *state.Announced
			}
			o := lifecycle.Observation{At: at}
			if rapid.Bool().Draw(r, "fails") {
				o.Failure = &lifecycle.Failure{Kind: lifecycle.FailureConnect, Message: "refused"}
				failures++
			} else {
				failures = 0
				o.Ready = rapid.Bool().Draw(r, "ready")
				if rapid.Bool().Draw(r, "uptime") {
					o.BootedAt = at.Add(-time.Duration(rapid.IntRange(1, 3600).Draw(r, "up")) * time.Second)
				}
				if rapid.Bool().Draw(r, "type") {
					kind := rapid.SampledFrom(lifecycle.ServerTypes).Draw(r, "kind")
					o.Type = &kind
				}
				if rapid.Bool().Draw(r, "maintenance") {
					m := lifecycle.MaintenanceState(rapid.IntRange(0, 3).Draw(r, "m"))
					o.Maintenance = &m
				}
			}
			next := lifecycle.Apply(state, contact, o, policy)
			if state.Announced != nil {
				require.Equal(r, announced, *state.Announced, "Apply must not change its arguments")
			}
			require.Equal(r, before, state)
			state, contact = next.State, next.Contact
			require.Contains(r, details[state.Status], state.StatusDetail, "%s", state.Status)
			require.Equal(r, failures, contact.Failures)
			if state.Status != before.Status || state.StatusDetail != before.StatusDetail {
				require.True(r, next.Changed)
				require.NotEmpty(r, next.Events, "a change is told")
				require.NotEmpty(r, state.StatusReason)
				require.Equal(r, at, state.StatusSince)
			}
			if before.Status == ready && state.StatusDetail == lifecycle.DetailUnresponsive {
				require.GreaterOrEqual(r, failures, policy.OfflineThreshold, "no single failure makes offline")
			}
			if state.Status == ready {
				require.Nil(r, state.Announced)
			}
			if o.Type == nil {
				require.Equal(r, before.Type, state.Type, "what was not read stays")
			}
			if o.Maintenance == nil {
				require.Equal(r, before.Maintenance, state.Maintenance)
			}
		}
		// A server that answers for good is ready in the end.
		kind := lifecycle.TypeIncus
		m := lifecycle.NotInMaintenance
		for range 3 {
			at = at.Add(policy.RebootTimeout)
			next := lifecycle.Apply(state, contact, lifecycle.Observation{At: at, Ready: true, Type: &kind, Maintenance: &m, BootedAt: at.Add(-time.Minute)}, policy)
			state, contact = next.State, next.Contact
		}
		require.Equal(r, ready, state.Status)
		require.Equal(r, none, state.StatusDetail)
	})
}
