package lifecycle_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

var policy = lifecycle.Policy{OfflineThreshold: 3, RebootTimeout: 15 * time.Minute}

// tale applies observations one after the other, one minute apart.
type tale struct {
	t       *testing.T
	policy  lifecycle.Policy
	at      time.Time
	state   lifecycle.ServerState
	contact lifecycle.Contact
	events  []event.Event
	last    lifecycle.Transition
}

func begin(t *testing.T, status lifecycle.Status, detail lifecycle.StatusDetail) *tale {
	at := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	return &tale{t: t, policy: policy, at: at, state: lifecycle.ServerState{Name: "a", Status: status, StatusDetail: detail, Type: lifecycle.TypeIncus, StatusSince: at}}
}

func (s *tale) apply(o lifecycle.Observation) *tale {
	s.at = s.at.Add(time.Minute)
	o.At = s.at
	next := lifecycle.Apply(s.state, s.contact, o, s.policy)
	s.state, s.contact, s.last = next.State, next.Contact, next
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
