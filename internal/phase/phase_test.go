package phase_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/opscenter-go/sdk/internal/phase"
)

func TestTurnsStayInPlace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.String().Draw(t, "id")
		interval := time.Duration(rapid.Int64Range(1, int64(24*time.Hour)).Draw(t, "interval"))
		now := time.Unix(0, rapid.Int64Range(0, 1<<60).Draw(t, "now"))
		wait := phase.Until(id, interval, now)
		require.Positive(t, wait)
		require.LessOrEqual(t, wait, interval)
		turn := now.Add(wait)
		require.Equal(t, interval, phase.Until(id, interval, turn), "the next turn is an interval later")
		require.Equal(t, time.Nanosecond, phase.Until(id, interval, turn.Add(-time.Nanosecond)), "a restart does not move a turn")
	})
}

// TestKnownTurns keeps the turns of a release in the next one.
func TestKnownTurns(t *testing.T) {
	midnight := time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)
	require.Equal(t, 100812253482*time.Nanosecond, phase.Until("0198c0de-0000-7000-8000-000000000001", 5*time.Minute, midnight))
}
