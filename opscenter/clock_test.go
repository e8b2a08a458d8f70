package opscenter_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// TestClockIsSet: a clock that is set, in either direction, is named, and no server is blamed for it: one that reboots
// has as much time for it as before.
func TestClockIsSet(t *testing.T) {
	certificate(10)
	for _, by := range []time.Duration{8 * time.Hour, -8 * time.Hour, 30 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			w, infos := fleet(t, 2, opscenter.Options{})
			require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: lifecycle.CauseSystemRebootTriggered}))
			time.Sleep(time.Minute)
			w.observe(t, failed(infos[0]), answer(infos[1]))
			w.TurnClock(func() time.Time { return time.Now().Add(by) })
			look := func() {
				time.Sleep(10 * time.Second)
				down, up := failed(infos[0]), answer(infos[1])
				down.At, up.At = down.At.Add(by), up.At.Add(by)
				require.NoError(t, w.Observer().Record(t.Context(), down, up))
			}
			for range 60 { // 10 of its 15 minutes
				look()
			}
			require.Equal(t, lifecycle.DetailRebooting, w.get(t, "server00").State.StatusDetail, "%s: it has time for it", by)
			require.Equal(t, lifecycle.StatusReady, w.get(t, "server01").State.Status)
			jumps := w.events(t, event.ClockJumped)
			if by.Abs() < time.Minute {
				require.Empty(t, jumps)
			} else {
				require.Len(t, jumps, 1)
				require.Contains(t, jumps[0].Reason, "by 8h0m0s")
			}
			for range 60 {
				look()
			}
			require.Equal(t, lifecycle.DetailUnresponsive, w.get(t, "server00").State.StatusDetail, "%s: and not for ever", by)
		})
	}
}

func TestClockJumps(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	real := time.Now().UTC()
	clock := real
	w.SetClock(func() time.Time { return clock })
	see := func(o lifecycle.Observation) {
		o.At = clock
		require.NoError(t, w.Observer().Record(t.Context(), o))
	}
	o := answer(info)
	clock = real.AddDate(1, 0, 0)
	see(o)
	see(failed(info))
	require.Equal(t, lifecycle.StatusReady, w.get(t, "server00").State.Status)
	// Times that were stored in the wrong year must not block polls in the right one.
	clock = real.Add(-time.Hour)
	require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: lifecycle.CauseSystemRebootTriggered}))
	require.NoError(t, w.AcceptCertificate(t.Context(), "server00", strings.Repeat("ab", 32))) // sets NotBefore, an hour from now
	changed := answer(info)
	changed.Versions.OS.Version = "202611010000"
	see(changed)
	s := w.get(t, "server00").State
	require.Equal(t, "202611010000", s.Versions.OS.Version)
	require.True(t, w.get(t, "server00").LastSeen.Before(real.Add(time.Minute)))
	require.Equal(t, lifecycle.DetailRebooting, s.StatusDetail)
	require.False(t, s.Announced.At.After(clock), "the reboot takes its time from now")
	require.Equal(t, clock.Add((15 * time.Minute)).Round(time.Second), s.Announced.Deadline.Round(time.Second))
	see(failed(info))
	clock = clock.Add(time.Minute)
	changed.BootedAt = clock.Add(-30 * time.Second)
	see(changed)
	require.Equal(t, lifecycle.StatusReady, w.get(t, "server00").State.Status, "back, an hour before it was to have gone")
	// An observation from the future of the clock counts as made now.
	late := answer(info)
	late.At = clock.Add(48 * time.Hour)
	require.NoError(t, w.Observer().Record(t.Context(), late))
	require.False(t, w.get(t, "server00").LastSeen.After(clock))
}
