package opscenter_test

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

var policy = lifecycle.Policy{OfflineThreshold: 3, RebootTimeout: 15 * time.Minute}

// tale applies observations one after the other.
type tale struct {
	t       *testing.T
	at      time.Time
	state   lifecycle.ServerState
	contact lifecycle.Contact
	events  []event.Event
}

func begin(t *testing.T, status lifecycle.Status, detail lifecycle.StatusDetail) *tale {
	at := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	return &tale{t: t, at: at, state: lifecycle.ServerState{Name: "a", Status: status, StatusDetail: detail, Type: lifecycle.TypeIncus, StatusSince: at}}
}

func (s *tale) apply(o lifecycle.Observation) *tale {
	s.at = s.at.Add(time.Minute)
	o.At = s.at
	next := lifecycle.Apply(s.state, s.contact, o, policy)
	s.state, s.contact = next.State, next.Contact
	s.events = append(s.events, next.Events...)
	return s
}

func (s *tale) fails() *tale {
	return s.apply(lifecycle.Observation{Failure: &lifecycle.Failure{Kind: lifecycle.FailureTimeout, Message: "no answer"}})
}

// answers, booted that long ago.
func (s *tale) answers(up time.Duration, ready bool) *tale {
	kind := lifecycle.TypeIncus
	return s.apply(lifecycle.Observation{Ready: ready, Type: &kind, BootedAt: s.at.Add(time.Minute - up)})
}

func (s *tale) is(status lifecycle.Status, detail lifecycle.StatusDetail) *tale {
	s.t.Helper()
	require.Equal(s.t, status, s.state.Status)
	require.Equal(s.t, detail, s.state.StatusDetail)
	return s
}

// announce takes in that the server goes down on purpose.
func (s *tale) announce(detail lifecycle.StatusDetail, timeout time.Duration) *tale {
	s.at = s.at.Add(time.Minute)
	s.state.Status, s.state.StatusDetail = lifecycle.StatusOffline, detail
	s.state.Announced = &lifecycle.Announcement{At: s.at}
	if timeout > 0 {
		s.state.Announced.Deadline = s.at.Add(timeout)
	}
	return s
}

const (
	ready   = lifecycle.StatusReady
	offline = lifecycle.StatusOffline
	pending = lifecycle.StatusPending
	none    = lifecycle.DetailNone
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
	t.Run("a reboot nobody announced", func(t *testing.T) {
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
	t.Run("a shutdown that nobody saw, or that never was", func(t *testing.T) {
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

func TestSelfUpdates(t *testing.T) {
	for _, cause := range append(lifecycle.Causes, "", "invented-by-a-newer-release") {
		t.Run("cause "+string(cause), func(t *testing.T) {
			w := memoryWorld(t)
			before := w.ready(t, 0)
			revision := w.revision(t)
			time.Sleep(time.Millisecond)
			require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{ConnectionURL: "https://10.7.7.7:8443", Cause: cause}))
			after := w.get(t, "server00")
			require.True(t, after.LastSeen.After(before.LastSeen))
			switch cause {
			case "invented-by-a-newer-release":
				require.Equal(t, revision, w.revision(t), "changes nothing but last seen")
				require.Equal(t, before.Server, after.Server)
				require.Equal(t, before.State, after.State)
				require.Contains(t, w.log.text(), "invented-by-a-newer-release")
				return
			case lifecycle.CauseSystemRebootTriggered:
				require.Equal(t, offline, after.State.Status)
				require.Equal(t, lifecycle.DetailRebooting, after.State.StatusDetail)
				require.WithinDuration(t, time.Now().Add(opscenter.DefaultRebootTimeout), after.State.Announced.Deadline, time.Minute)
			case lifecycle.CauseSystemShutdownTriggered, lifecycle.CauseSuspendTriggered:
				require.Equal(t, offline, after.State.Status)
				require.Equal(t, lifecycle.DetailShutDown, after.State.StatusDetail)
				require.Contains(t, after.State.StatusReason, string(cause))
			default:
				require.Equal(t, ready, after.State.Status)
				require.True(t, after.State.PollRequested.After(before.State.PollRequested), "it is polled at once")
				require.Len(t, w.events(t, event.SelfUpdate), 1)
			}
			require.Equal(t, "https://10.7.7.7:8443", after.ConnectionURL)
			require.Len(t, w.events(t, event.ConnectionURLChanged), 1)
		})
	}
}

func TestSelfUpdateErrors(t *testing.T) {
	w := memoryWorld(t)
	w.ready(t, 0)
	require.ErrorIs(t, w.SelfUpdate(t.Context(), nil, opscenter.SelfUpdate{}), opscenter.ErrNoCertificate)
	for _, cause := range []lifecycle.Cause{"", "unheard-of"} {
		require.ErrorIs(t, w.SelfUpdate(t.Context(), certificate(9), opscenter.SelfUpdate{Cause: cause}), opscenter.ErrUnknownCertificate)
	}
	require.ErrorIs(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{ConnectionURL: "http://a"}), opscenter.ErrInvalidURL)
	require.ErrorIs(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{ConnectionURL: "https://" + strings.Repeat("a", 5000)}), opscenter.ErrTooLong)
	require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{}), "an empty URL is unchanged")
	require.Equal(t, registration(0, "").ConnectionURL, w.get(t, "server00").ConnectionURL)
}

// A server that reboots, and says when it is ready, is ready at the next poll, whatever its clock says.
func TestRebootBySelfUpdates(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		info := w.ready(t, 0)
		require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: lifecycle.CauseSystemRebootTriggered}))
		w.observe(t, failed(info), failed(info), failed(info), failed(info))
		require.Equal(t, lifecycle.DetailRebooting, w.get(t, "server00").State.StatusDetail)
		require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: lifecycle.CauseSystemIsReady}))
		o := answer(info)
		o.BootedAt = time.Now().Add(-10 * time.Hour) // a clock that is off
		w.observe(t, o)
		require.Equal(t, ready, w.get(t, "server00").State.Status)
	})
}

// TestResetNeverBegun: a server that is up as before long after it was asked for a factory reset was not reset.
func TestResetNeverBegun(t *testing.T) {
	begun := time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	kind, policy := lifecycle.TypeIncus, lifecycle.Policy{OfflineThreshold: 3, RebootTimeout: 15 * time.Minute}
	at := func(after time.Duration, booted time.Time) *lifecycle.ServerState {
		state := lifecycle.ServerState{Status: lifecycle.StatusPending, StatusDetail: lifecycle.DetailRegistering, Type: kind,
			Operation: &lifecycle.Operation{ID: "x", Action: lifecycle.ActionFactoryReset, StartedAt: begun, Deadline: begun.Add(time.Hour)}}
		next := lifecycle.Apply(state, lifecycle.Contact{}, lifecycle.Observation{At: begun.Add(after), Ready: true, Type: &kind, BootedAt: booted}, policy)
		return &next.State
	}
	before := begun.Add(-24 * time.Hour)
	require.NotNil(t, at(14*time.Minute, before).Operation, "it may take its time")
	require.NotNil(t, at(16*time.Minute, time.Time{}).Operation, "it does not tell when it booted")
	over := at(15*time.Minute, before)
	require.Nil(t, over.Operation)
	require.Equal(t, "the server has not gone down", over.LastOperation.Failed)
	require.Equal(t, ready, over.Status)
}
