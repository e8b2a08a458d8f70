package lifecycle_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// rebooted are the events of reboots that were not asked for.
func (s *tale) rebooted() (out []event.Event) {
	for _, e := range s.events {
		if e.Kind == event.ServerRebooted {
			out = append(out, e)
		}
	}
	return out
}

func TestUnannouncedReboot(t *testing.T) {
	up := func(s *tale, since time.Time) *tale { return s.answers(s.at.Add(time.Minute).Sub(since), true) }
	steady := func(t *testing.T) (*tale, time.Time) {
		s := begin(t, ready, none)
		boot := s.at.Add(-24 * time.Hour)
		up(up(s, boot), boot)
		require.Empty(t, s.rebooted())
		return s, boot
	}
	t.Run("between two polls", func(t *testing.T) {
		s, boot := steady(t)
		s.answers(20*time.Second, true).is(ready, none)
		require.Len(t, s.rebooted(), 1)
		require.Contains(t, s.rebooted()[0].Reason, "was up since "+boot.Format(time.RFC3339))
		require.Contains(t, s.rebooted()[0].Reason, "booted at "+s.state.BootedAt.Format(time.RFC3339))
		s.answers(80*time.Second, true)
		require.Len(t, s.rebooted(), 1, "it is told once")
	})
	t.Run("booting still, and with another version", func(t *testing.T) {
		s, _ := steady(t)
		s.state.Versions = lifecycle.Versions{OS: lifecycle.OSVersion{Name: lifecycle.OSName, Version: "1"}}
		kind := lifecycle.TypeIncus
		s.apply(lifecycle.Observation{Type: &kind, BootedAt: s.at.Add(30 * time.Second), Versions: &lifecycle.Versions{OS: lifecycle.OSVersion{Name: lifecycle.OSName, Version: "2"}}})
		s.is(offline, lifecycle.DetailRebooting)
		require.Contains(t, s.rebooted()[0].Reason, "runs os 2, ran 1")
		s.answers(time.Minute, true).is(ready, none)
		require.Len(t, s.rebooted(), 1)
	})
	t.Run("a crash that polls saw", func(t *testing.T) {
		s, _ := steady(t)
		s.fails().fails().fails().fails().answers(30*time.Second, true).is(ready, none)
		require.Len(t, s.rebooted(), 1)
	})
	t.Run("twice within two polls' time", func(t *testing.T) { // up for longer than before, but not since then
		s := begin(t, ready, none)
		s.answers(20*time.Second, true).answers(40*time.Second, true)
		require.Len(t, s.rebooted(), 1)
	})
	t.Run("one that was asked for, or announced, is none", func(t *testing.T) {
		s, _ := steady(t)
		s.announce(lifecycle.DetailRebooting, 15*time.Minute).fails().answers(20*time.Second, true).is(ready, none)
		require.Empty(t, s.rebooted())
	})
	t.Run("a clock that was set is none", func(t *testing.T) {
		for _, by := range []time.Duration{time.Hour, -time.Hour, 20 * time.Second} {
			s, boot := steady(t)
			moved := boot.Add(by)
			if by.Abs() > time.Minute {
				s.at = s.at.Add(by) // ours was; else it is the server's, which runs at another rate
			}
			s.answers(s.at.Add(time.Minute).Sub(moved), true)
			require.Empty(t, s.rebooted(), by)
			require.WithinDuration(t, moved, s.state.BootedAt, time.Second)
		}
	})
	t.Run("a server that does not tell", func(t *testing.T) {
		s, boot := steady(t)
		kind := lifecycle.TypeIncus
		s.apply(lifecycle.Observation{Ready: true, Type: &kind})
		require.Empty(t, s.rebooted())
		require.WithinDuration(t, boot, s.state.BootedAt, time.Second)
	})
}
