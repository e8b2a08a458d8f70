package lifecycle_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

func TestPostpone(t *testing.T) {
	at := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	announced := &lifecycle.Announcement{At: at.Add(-time.Minute), Deadline: at.Add(time.Hour)}
	operation := &lifecycle.Operation{StartedAt: at.Add(-time.Minute), Deadline: at.Add(time.Hour)}
	s := lifecycle.ServerState{Announced: announced, Operation: operation}
	s.Postpone(2*time.Hour, at)
	require.Equal(t, at.Add(3*time.Hour), s.Announced.Deadline)
	require.Equal(t, at.Add(3*time.Hour), s.Operation.Deadline)
	require.Equal(t, at.Add(time.Hour), announced.Deadline, "the values of other states stay")
	require.Equal(t, at.Add(time.Hour), operation.Deadline)

	later := lifecycle.ServerState{Announced: &lifecycle.Announcement{At: at, Deadline: at.Add(time.Hour)}, Operation: &lifecycle.Operation{StartedAt: at, Deadline: at.Add(time.Hour)}}
	later.Postpone(2*time.Hour, at)
	require.Equal(t, at.Add(time.Hour), later.Announced.Deadline, "it began after the clock was set")
	require.Equal(t, at.Add(time.Hour), later.Operation.Deadline)

	down := lifecycle.ServerState{Announced: &lifecycle.Announcement{At: at.Add(-time.Minute)}}
	down.Postpone(2*time.Hour, at)
	require.Zero(t, down.Announced.Deadline, "a server that was shut down has none")
}

func TestRewind(t *testing.T) {
	at := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	ahead := at.Add(24 * time.Hour)
	state := lifecycle.ServerState{Announced: &lifecycle.Announcement{At: ahead, Deadline: ahead.Add(time.Hour)}, Operation: &lifecycle.Operation{StartedAt: ahead, Deadline: ahead.Add(2 * time.Hour)}}
	got, changed := lifecycle.Rewind(state, at, at.Add(-time.Second))
	require.True(t, changed)
	require.Equal(t, lifecycle.Announcement{At: at.Add(-time.Second), Deadline: at.Add(time.Hour - time.Second)}, *got.Announced)
	require.Equal(t, at.Add(-time.Second), got.Operation.StartedAt)
	require.Equal(t, at.Add(2*time.Hour-time.Second), got.Operation.Deadline)
	require.Equal(t, ahead, state.Announced.At, "the argument stays")

	same, changed := lifecycle.Rewind(got, at, at)
	require.False(t, changed)
	require.Equal(t, got, same)

	down, changed := lifecycle.Rewind(lifecycle.ServerState{Announced: &lifecycle.Announcement{At: ahead}}, at, at)
	require.True(t, changed)
	require.Zero(t, down.Announced.Deadline)
}
