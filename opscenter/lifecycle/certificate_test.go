package lifecycle_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

func TestCertificate(t *testing.T) {
	own, other, cluster := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64)
	incus := lifecycle.TypeIncus
	accepted := func(s *tale, fingerprint, trust string) *tale {
		return s.apply(lifecycle.Observation{Ready: true, Type: &incus, Presented: fingerprint, Trust: trust})
	}
	refused := func(s *tale, fingerprint string) *tale {
		return s.apply(lifecycle.Observation{Presented: fingerprint, Failure: &lifecycle.Failure{Kind: lifecycle.FailureCertificate, Message: "another certificate"}})
	}
	changes := func(s *tale) (out []string) {
		for _, e := range s.events {
			if e.Kind == event.CertificateChanged {
				out = append(out, e.Reason)
			}
		}
		return out
	}
	s := accepted(begin(t, ready, none), own, "")
	require.Empty(t, changes(s), "the certificate that it registered with is no change")
	require.Equal(t, own, s.state.Presented)

	refused(refused(s, other), other).is(ready, none)
	require.Len(t, changes(s), 1, "the change is told once")
	require.Contains(t, changes(s)[0], "presents certificate bbbbbbbbbbbb, which is not accepted: another certificate")
	require.Equal(t, "another certificate", s.state.StatusReason)
	require.Equal(t, []warning.Kind{warning.Certificate}, s.warned(), "the first failure is enough")

	s.fails()
	require.NotContains(t, s.last.Judged, warning.Certificate, "a poll that saw no certificate decides nothing")
	require.Equal(t, other, s.state.Presented)

	accepted(s, own, "").is(ready, none)
	require.Contains(t, changes(s)[1], "accepted: the server registered with it")
	require.True(t, s.last.Clears(warning.Certificate))
	require.NotContains(t, s.state.StatusReason, "another certificate")

	accepted(s, cluster, "its cluster's")
	require.Contains(t, changes(s)[2], "accepted: its cluster's")

	// A server that is being reset to factory defaults will present another certificate.
	s.state.Operation = &lifecycle.Operation{ID: "x", Action: lifecycle.ActionFactoryReset, StartedAt: s.at, Deadline: s.at.Add(time.Hour)}
	refused(s, other)
	require.Empty(t, s.warned())
}
