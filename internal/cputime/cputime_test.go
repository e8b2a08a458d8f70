package cputime_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/cputime"
)

// TestUsed: work counts, and a pause does not.
func TestUsed(t *testing.T) {
	before := cputime.Used(t)
	n, now := 0, before
	for deadline := time.Now().Add(time.Minute); now-before < 20*time.Millisecond && time.Now().Before(deadline); {
		for range 1_000_000 {
			n++
		}
		now = cputime.Used(t)
	}
	require.GreaterOrEqual(t, now-before, 20*time.Millisecond, n)
	const pause = 500 * time.Millisecond
	time.Sleep(pause)
	require.Less(t, cputime.Used(t)-now, pause/2)
}
