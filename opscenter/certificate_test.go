package opscenter_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

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

func TestTheReasonOfAnAlarmGoesWithIt(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	right, wrong := answer(info), failed(info)
	right.Presented = info.Fingerprint
	wrong.Presented, wrong.Failure = strings.Repeat("ab", 32), &lifecycle.Failure{Kind: lifecycle.FailureCertificate, Message: "another certificate"}
	w.observe(t, right)
	w.observe(t, wrong)
	require.Contains(t, w.get(t, "server00").State.StatusReason, "another certificate")
	right.At = time.Now()
	w.observe(t, right)
	require.Equal(t, "answers, and is ready", w.get(t, "server00").State.StatusReason)
	require.Empty(t, w.warnings(t))
}
