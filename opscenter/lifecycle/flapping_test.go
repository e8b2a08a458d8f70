package lifecycle_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// flappingPolicy holds a server offline after two outages within an hour, until it is steady for 10 minutes.
var flappingPolicy = lifecycle.Policy{OfflineThreshold: 1, RebootTimeout: 15 * time.Minute, FlapThreshold: 2, FlapWindow: time.Hour, FlapSteady: 10 * time.Minute}

// kinds returns the kinds of the events so far.
func (s *tale) kinds() (out []event.Kind) {
	for _, e := range s.events {
		out = append(out, e.Kind)
	}
	return out
}

func TestFlapping(t *testing.T) {
	flapping := func(t *testing.T) *tale {
		s := begin(t, ready, none)
		s.policy = flappingPolicy
		s.fails().is(offline, lifecycle.DetailUnresponsive).answers(time.Hour, true).is(ready, none)
		require.NotContains(t, s.kinds(), event.Flapping, "one outage is not flapping")
		s.fails().is(offline, lifecycle.DetailUnresponsive)
		require.Contains(t, s.kinds(), event.Flapping)
		require.Equal(t, s.at, s.state.FlappingSince)
		return s
	}
	t.Run("held offline until it has answered for long", func(t *testing.T) {
		s := flapping(t)
		for range 10 {
			s.answers(time.Hour, true).is(offline, lifecycle.DetailUnresponsive)
			require.Contains(t, s.warned(), warning.Flapping)
		}
		s.answers(time.Hour, true).is(ready, none)
		require.Contains(t, s.kinds(), event.Steady)
		require.True(t, s.last.Clears(warning.Flapping))
		require.Zero(t, s.state.FlappingSince)
		s.fails().answers(time.Hour, true).is(ready, none) // it begins anew
	})
	t.Run("a failure starts the time again", func(t *testing.T) {
		s := flapping(t)
		for range 9 {
			s.answers(time.Hour, true)
		}
		s.fails()
		for range 10 {
			s.answers(time.Hour, true).is(offline, lifecycle.DetailUnresponsive)
		}
		s.answers(time.Hour, true).is(ready, none)
	})
	t.Run("a server that stays down is only down", func(t *testing.T) {
		s := flapping(t)
		for range 10 {
			s.fails()
		}
		require.Contains(t, s.kinds(), event.Steady)
		require.Equal(t, []warning.Kind{warning.Unreachable}, s.warned())
		s.answers(time.Hour, true).is(ready, none)
	})
	t.Run("outages long ago do not count", func(t *testing.T) {
		s := begin(t, ready, none)
		s.policy = flappingPolicy
		for range 5 {
			s.fails().answers(time.Hour, true).is(ready, none)
			s.at = s.at.Add(time.Hour)
		}
		require.NotContains(t, s.kinds(), event.Flapping)
		require.Len(t, s.state.Outages, 1)
	})
	t.Run("off", func(t *testing.T) {
		s := begin(t, ready, none)
		s.policy = flappingPolicy
		s.policy.FlapThreshold = 0
		for range 5 {
			s.fails().answers(time.Hour, true).is(ready, none)
		}
		require.Empty(t, s.state.Outages)
	})
	t.Run("only the last outages are kept", func(t *testing.T) {
		s := begin(t, ready, none)
		s.policy = flappingPolicy
		s.policy.FlapThreshold = 3
		for range 3 {
			s.fails().answers(time.Hour, true)
		}
		require.Len(t, s.state.Outages, 3)
		require.NotZero(t, s.state.FlappingSince)
	})
	t.Run("a reboot that ends while it is flapping", func(t *testing.T) {
		s := flapping(t)
		s.announce(lifecycle.DetailRebooting, 15*time.Minute).fails().answers(time.Second, true).is(offline, lifecycle.DetailUnresponsive)
		require.Contains(t, s.state.StatusReason, "held offline")
	})
}
