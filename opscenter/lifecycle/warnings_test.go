package lifecycle_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// warned returns the kinds of the warnings that the last observation gave cause for.
func (s *tale) warned() (out []warning.Kind) {
	for _, w := range s.last.Warnings {
		out = append(out, w.Kind)
	}
	return out
}

func TestWarnings(t *testing.T) {
	incus := lifecycle.TypeIncus
	fails := func(s *tale, kind string) *tale {
		return s.apply(lifecycle.Observation{Failure: &lifecycle.Failure{Kind: kind, Message: "a message"}})
	}
	t.Run("unreachable", func(t *testing.T) {
		s := begin(t, ready, none).fails().fails()
		require.Empty(t, s.warned())
		require.True(t, s.last.Clears(warning.Unreachable))
		s.fails()
		require.Equal(t, []warning.Kind{warning.Unreachable}, s.warned())
		require.Equal(t, "no answer", s.last.Warnings[0].Message)
		s.answers(time.Hour, true)
		require.True(t, s.last.Clears(warning.Unreachable))
	})
	t.Run("not trusted, but only after some failures", func(t *testing.T) {
		s := fails(fails(begin(t, pending, lifecycle.DetailRegistering), lifecycle.FailureUntrusted), lifecycle.FailureUntrusted)
		require.Empty(t, s.warned())
		fails(s, lifecycle.FailureUntrusted)
		require.Contains(t, s.warned(), warning.Untrusted)
		s.answers(time.Hour, true)
		require.True(t, s.last.Clears(warning.Untrusted))
	})
	t.Run("another machine", func(t *testing.T) {
		s := fails(begin(t, ready, none), lifecycle.FailureIdentity)
		require.Equal(t, []warning.Kind{warning.Identity}, s.warned())
		s.fails()
		require.NotContains(t, s.last.Judged, warning.Identity, "a failure to connect decides nothing")
		s.answers(time.Hour, true)
		require.True(t, s.last.Clears(warning.Identity))
	})
	t.Run("unreadable, until three polls have read everything", func(t *testing.T) {
		s := begin(t, ready, none).apply(lifecycle.Observation{Ready: true, Type: &incus, Unread: []string{"network: cut off", "storage: error 500"}})
		require.Equal(t, []warning.Kind{warning.Unreadable}, s.warned())
		require.Equal(t, "could not be read, so the old values are kept: network: cut off; storage: error 500", s.last.Warnings[0].Message)
		for range 5 {
			s.apply(lifecycle.Observation{Ready: true, Type: &incus, Light: true})
			require.NotContains(t, s.last.Judged, warning.Unreadable, "a light poll decides nothing")
		}
		for range 2 {
			s.answers(time.Hour, true)
			require.NotContains(t, s.last.Judged, warning.Unreadable)
		}
		s.answers(time.Hour, true)
		require.True(t, s.last.Clears(warning.Unreadable))
	})
	t.Run("facts that are too large", func(t *testing.T) {
		s := begin(t, ready, none).apply(lifecycle.Observation{Ready: true, Type: &incus, Facts: &lifecycle.Facts{}, Notes: []string{"network: 1 MiB"}})
		require.Equal(t, []warning.Kind{warning.Facts}, s.warned())
		s.apply(lifecycle.Observation{Ready: true, Type: &incus})
		require.NotContains(t, s.last.Judged, warning.Facts, "no facts were read")
		s.apply(lifecycle.Observation{Ready: true, Type: &incus, Facts: &lifecycle.Facts{}, Unread: []string{"network: cut off"}})
		require.NotContains(t, s.last.Judged, warning.Facts, "the large part may be the one that was not read")
		s.apply(lifecycle.Observation{Ready: true, Type: &incus, Facts: &lifecycle.Facts{}})
		require.True(t, s.last.Clears(warning.Facts))
	})
	t.Run("backup image", func(t *testing.T) {
		versions := lifecycle.Versions{OS: lifecycle.OSVersion{Name: lifecycle.OSName, Version: "1", VersionNext: "2", BackupImage: true}}
		s := begin(t, ready, none).apply(lifecycle.Observation{Ready: true, Type: &incus, Versions: &versions})
		require.Equal(t, []warning.Kind{warning.BackupImage}, s.warned())
		require.Equal(t, "runs os 1 from its backup image: os 2 did not boot, and is not installed again", s.last.Warnings[0].Message)
	})
}

func TestSteady(t *testing.T) {
	s := begin(t, ready, none).answers(time.Hour, true).answers(time.Hour, true)
	require.True(t, s.last.Steady())
	require.False(t, s.fails().last.Steady())
	require.True(t, s.answers(time.Hour, true).last.Steady())
	incus := lifecycle.TypeIncus
	require.False(t, s.apply(lifecycle.Observation{Ready: true, Type: &incus, Unread: []string{"network: cut off"}}).last.Steady(), "there is a warning")
	s.state.Operation = &lifecycle.Operation{ID: "x", Action: lifecycle.ActionUpdate, Targets: map[string]string{"os": "2"}, StartedAt: s.at, Deadline: s.at.Add(time.Hour)}
	s.state.Versions.OS = lifecycle.OSVersion{Name: lifecycle.OSName, Version: "1"}
	require.False(t, s.answers(time.Hour, true).last.Steady(), "an update is under way")
}
