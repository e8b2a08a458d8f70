package cputime_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/cputime"
)

// TestUsed: work counts, and a pause does not.
func TestUsed(t *testing.T) {
	before, err := cputime.Used()
	require.NoError(t, err)
	n, now := 0, before
	for deadline := time.Now().Add(time.Minute); now-before < 20*time.Millisecond && time.Now().Before(deadline); {
		for range 1_000_000 {
			n++
		}
		now, err = cputime.Used()
		require.NoError(t, err)
	}
	require.GreaterOrEqual(t, now-before, 20*time.Millisecond, n)
	const pause = 500 * time.Millisecond
	time.Sleep(pause)
	after, err := cputime.Used()
	require.NoError(t, err)
	require.Less(t, after-now, pause/2)
}
