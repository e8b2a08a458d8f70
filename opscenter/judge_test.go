package opscenter_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// warnings returns the kinds of the warnings there are, by server.
func (w *world) warnings(t testing.TB) map[string][]warning.Kind {
	t.Helper()
	page, err := w.Warnings().List(context.Background(), opscenter.WarningFilter{}, opscenter.Page{Limit: 1000})
	require.NoError(t, err)
	out := map[string][]warning.Kind{}
	for _, one := range page.Warnings {
		out[one.Server] = append(out[one.Server], one.Kind)
	}
	return out
}

func TestFlapping(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	at := time.Now().UTC()
	see := func(o lifecycle.Observation, after time.Duration) {
		at = at.Add(after)
		o.At = at
		w.observe(t, o)
	}
	down := func() {
		for range 3 {
			see(failed(info), 10*time.Second)
		}
		require.Equal(t, lifecycle.StatusOffline, w.get(t, "server00").State.Status)
	}
	for range 2 {
		down()
		see(answer(info), time.Minute)
		require.Equal(t, lifecycle.StatusReady, w.get(t, "server00").State.Status, "once or twice is none")
	}
	down()
	require.Len(t, w.events(t, event.Flapping), 1)
	see(answer(info), time.Minute)
	require.Equal(t, lifecycle.StatusOffline, w.get(t, "server00").State.Status, "held")
	require.Equal(t, map[string][]warning.Kind{"server00": {warning.Flapping}}, w.warnings(t))
	// Neither answers nor failures in between change what it is held in.
	changes := len(w.events(t, event.StatusChanged))
	for range 5 {
		see(answer(info), 10*time.Minute)
		for range 3 {
			see(failed(info), time.Minute)
		}
	}
	require.Len(t, w.events(t, event.StatusChanged), changes)
	see(answer(info), time.Minute)
	see(failed(info), time.Minute) // one is none
	see(answer(info), (15*time.Minute)-time.Minute-time.Second)
	require.Equal(t, lifecycle.StatusOffline, w.get(t, "server00").State.Status)
	see(answer(info), time.Second)
	require.Equal(t, lifecycle.StatusReady, w.get(t, "server00").State.Status, "steady")
	require.Empty(t, w.warnings(t))
	require.Len(t, w.events(t, event.Steady), 1)
	down()
	see(answer(info), time.Minute)
	require.Equal(t, lifecycle.StatusReady, w.get(t, "server00").State.Status, "it begins anew")
}

// A server that goes up and down, and then stays down, is just down: it is back at once.
func TestFlappingEndsDown(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	at := time.Now().UTC()
	for range 3 {
		for range 3 {
			at = at.Add(10 * time.Second)
			o := failed(info)
			o.At = at
			w.observe(t, o)
		}
		at = at.Add(time.Minute)
		o := answer(info)
		o.At = at
		w.observe(t, o)
	}
	require.Contains(t, w.warnings(t)["server00"], warning.Flapping)
	for range 20 {
		at = at.Add(time.Minute)
		o := failed(info)
		o.At = at
		w.observe(t, o)
	}
	require.Equal(t, []warning.Kind{warning.Unreachable}, w.warnings(t)["server00"])
	o := answer(info)
	o.At = at.Add(time.Minute)
	w.observe(t, o)
	require.Equal(t, lifecycle.StatusReady, w.get(t, "server00").State.Status)
}

// Outages long ago don't count.
func TestSlowFlappingIsNone(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	at := time.Now().UTC()
	for range 10 {
		for range 3 {
			at = at.Add(10 * time.Second)
			o := failed(info)
			o.At = at
			w.observe(t, o)
		}
		at = at.Add(time.Hour / 2)
		o := answer(info)
		o.At = at
		w.observe(t, o)
		require.Equal(t, lifecycle.StatusReady, w.get(t, "server00").State.Status)
	}
}

func TestCertificateChange(t *testing.T) {
	w := memoryWorld(t)
	info, other := w.ready(t, 0), w.ready(t, 1)
	foreign, cluster := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	presents := func(o lifecycle.Observation, fingerprint string, refused bool) lifecycle.Observation {
		o.Presented = fingerprint
		if refused {
			o.Failure = &lifecycle.Failure{Kind: lifecycle.FailureCertificate, Message: "presents another certificate"}
		}
		return o
	}
	w.observe(t, presents(answer(info), info.Fingerprint, false))
	require.Empty(t, w.events(t, event.CertificateChanged), "the one it registered with is no change")
	for range 2 {
		w.observe(t, presents(failed(info), foreign, true))
	}
	require.Len(t, w.events(t, event.CertificateChanged), 1, "told once")
	s := w.get(t, "server00").State
	require.Equal(t, lifecycle.StatusReady, s.Status)
	require.Contains(t, s.StatusReason, "another certificate")
	require.Equal(t, foreign, s.Presented)
	require.Equal(t, []warning.Kind{warning.Certificate}, w.warnings(t)["server00"], "warned at once")
	w.observe(t, presents(failed(info), foreign, true))
	require.Equal(t, lifecycle.DetailUnresponsive, w.get(t, "server00").State.StatusDetail)

	// A failure to connect says nothing of certificates.
	w.observe(t, failed(info))
	require.Contains(t, w.warnings(t)["server00"], warning.Certificate)
	require.ErrorIs(t, w.AcceptCertificate(t.Context(), "server00", "xyz"), opscenter.ErrInvalidCertificate)
	require.ErrorIs(t, w.AcceptCertificate(t.Context(), "server99", foreign), opscenter.ErrNotFound)
	asked := time.Now()
	require.NoError(t, w.AcceptCertificate(t.Context(), "server00", strings.ToUpper(foreign)))
	info = w.get(t, "server00")
	require.Equal(t, foreign, info.Target().ServedFingerprint)
	require.False(t, info.State.PollRequested.Before(asked.UTC().Round(0)), "it is looked at again")
	w.observe(t, presents(answer(info), foreign, false))
	require.Equal(t, lifecycle.StatusReady, w.get(t, "server00").State.Status)
	require.Empty(t, w.warnings(t))

	// Of a cluster, the others are followed; of none, they are not.
	require.NoError(t, w.AcceptCertificate(t.Context(), "server00", cluster))
	w.observe(t, presents(failed(other), cluster, true))
	require.Empty(t, w.get(t, "server01").ServedFingerprint)
	w.setCluster(t, "server00", "c1")
	w.setCluster(t, "server01", "c1")
	w.observe(t, presents(failed(other), foreign, true))
	require.Empty(t, w.get(t, "server01").ServedFingerprint, "not its cluster's")
	w.observe(t, presents(failed(other), cluster, true))
	require.Equal(t, cluster, w.get(t, "server01").ServedFingerprint)
	require.Contains(t, w.events(t, event.CertificateAccepted)[2].Reason, "its cluster's")
	// Another member's own certificate is not the cluster's: no member passes for another by it.
	third := w.ready(t, 2)
	w.setCluster(t, "server02", "c1")
	w.observe(t, presents(failed(third), info.Fingerprint, true))
	require.Empty(t, w.get(t, "server02").ServedFingerprint)
}

func TestUntrustedIsWarnedOfLater(t *testing.T) {
	w := memoryWorld(t)
	info := w.add(t, 0)
	o := failed(info)
	o.Failure.Kind = lifecycle.FailureUntrusted
	w.observe(t, o)
	w.observe(t, o)
	require.Empty(t, w.warnings(t), "for some seconds after a registration it is as it should be")
	w.observe(t, o)
	require.Contains(t, w.warnings(t)["server00"], warning.Untrusted)
	w.observe(t, answer(info))
	require.Empty(t, w.warnings(t))
}

func TestUnreadableParts(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	o := answer(info)
	o.Type, o.Versions, o.MemberName, o.Maintenance = nil, nil, nil, nil
	o.Unread = []string{"applications: error 500", "network: cut off"}
	w.observe(t, o)
	s := w.get(t, "server00").State
	require.Equal(t, lifecycle.TypeIncus, s.Type, "never worsened")
	require.Equal(t, "202610010000", s.Versions.OS.Version)
	page, err := w.Warnings().List(t.Context(), opscenter.WarningFilter{}, opscenter.Page{})
	require.NoError(t, err)
	require.Len(t, page.Warnings, 1)
	require.Contains(t, page.Warnings[0].Message, "network: cut off")
	light := answer(info)
	light.Light = true
	w.observe(t, light)
	require.NotEmpty(t, w.warnings(t), "a light poll did not try what could not be read")
	for range 2 {
		w.observe(t, answer(info))
		require.NotEmpty(t, w.warnings(t), "one whole poll between others is no end of it")
	}
	w.observe(t, answer(info))
	require.Empty(t, w.warnings(t))
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
	// What was learned in the wrong year must not make deaf in the right one.
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

// A poll that ends after its server was renamed, moved, or installed anew.
func TestPollsThatEndTooLate(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	renamed := failed(info)
	require.NoError(t, w.RenameServer(t.Context(), "server00", "other", nil))
	w.observe(t, renamed)
	require.Equal(t, 1, w.get(t, "other").Failures, "it is the same server")

	moved := failed(info)
	require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{ConnectionURL: "https://10.9.9.9:8443"}))
	w.observe(t, moved, moved, moved)
	require.Equal(t, 1, w.get(t, "other").Failures, "it was asked at its old address")

	deleted := answer(info)
	require.NoError(t, w.DeleteServer(t.Context(), "other", false))
	w.observe(t, deleted)
	again := w.add(t, 0)
	w.observe(t, deleted)
	require.Equal(t, lifecycle.StatusPending, w.get(t, again.Name).State.Status)
}
