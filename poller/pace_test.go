package poller

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The usual duration is a maximum that decays.
func TestPace(t *testing.T) {
	var p pace
	p.learn(true, 0)
	require.Positive(t, p.light, "a poll that took no time is known")
	require.Zero(t, p.full)
	p.learn(true, 8*time.Second)
	require.Equal(t, 8*time.Second, p.light, "a slower poll counts at once")
	p.learn(true, 0)
	require.InDelta(t, 7*time.Second, p.light, 10)
	for range 100 {
		p.learn(true, time.Second)
	}
	require.InDelta(t, time.Second, p.light, float64(10*time.Millisecond))
	require.Zero(t, p.full)
}

// TestTimeout lists the timeouts for usual durations. They are steps, and never shorter than wanted.
func TestTimeout(t *testing.T) {
	o, err := Options{}.withDefaults()
	require.NoError(t, err)
	require.Equal(t, DefaultTimeout, o.timeout(0), "unknown")
	require.Equal(t, DefaultMinTimeout, o.timeout(1))
	require.Equal(t, DefaultMinTimeout, o.timeout(500*time.Millisecond))
	require.Equal(t, DefaultTimeout, o.timeout(time.Hour))
	steps := map[time.Duration]bool{}
	for usual := time.Duration(1); usual < time.Minute; usual += 7 * time.Millisecond {
		got := o.timeout(usual)
		steps[got] = true
		require.GreaterOrEqual(t, got, min(4*usual, DefaultTimeout))
		require.LessOrEqual(t, got, min(max(5*usual+1, DefaultMinTimeout), DefaultTimeout))
	}
	require.LessOrEqual(t, len(steps), 14)
	o.TimeoutFactor = -1
	require.Equal(t, DefaultTimeout, o.timeout(1))
	o.TimeoutFactor, o.MinTimeout = 4, time.Hour
	require.Equal(t, DefaultTimeout, o.timeout(1), "MinTimeout above Timeout")
}

// A light poll is expected to take as long as one with facts, until there was a light one. A light poll tells nothing of one with facts.
func TestUsualDuration(t *testing.T) {
	var p pace
	require.Zero(t, p.usual(true))
	require.Zero(t, p.usual(false))
	p.learn(false, 2*time.Second)
	require.Equal(t, 2*time.Second, p.usual(true))
	p.learn(true, time.Second)
	require.Equal(t, time.Second, p.usual(true))
	require.Equal(t, 2*time.Second, p.usual(false))
	p = pace{}
	p.learn(true, time.Second)
	require.Zero(t, p.usual(false))
}
