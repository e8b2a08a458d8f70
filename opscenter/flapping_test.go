package opscenter_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage/memstore"
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

// polls returns a function that stores observations, each after a pause. The times lie ahead of the clock.
func (w *world) polls(t *testing.T) (see func(o lifecycle.Observation, after time.Duration)) {
	at := time.Now().UTC()
	return func(o lifecycle.Observation, after time.Duration) {
		t.Helper()
		at = at.Add(after)
		o.At = at
		w.observe(t, o)
	}
}

func TestFlapping(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	see := w.polls(t)
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
	// Answers and failures in between change no status: it is held.
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
	see := w.polls(t)
	for range 3 {
		for range 3 {
			see(failed(info), 10*time.Second)
		}
		see(answer(info), time.Minute)
	}
	require.Contains(t, w.warnings(t)["server00"], warning.Flapping)
	for range 20 {
		see(failed(info), time.Minute)
	}
	require.Equal(t, []warning.Kind{warning.Unreachable}, w.warnings(t)["server00"])
	see(answer(info), time.Minute)
	require.Equal(t, lifecycle.StatusReady, w.get(t, "server00").State.Status)
}

// Outages long ago don't count.
func TestSlowFlappingIsNone(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	see := w.polls(t)
	for range 10 {
		for range 3 {
			see(failed(info), 10*time.Second)
		}
		see(answer(info), time.Hour/2)
		require.Equal(t, lifecycle.StatusReady, w.get(t, "server00").State.Status)
	}
}

// One poll in a while that fails does not keep a server in the pillory.
func TestFlappingEndsInSpiteOfSingleFailures(t *testing.T) {
	w := newWorld(t, memstore.New(), opscenter.Options{FlapThreshold: 1, FlapSteady: 10 * time.Minute, FlapWindow: time.Hour})
	info := w.ready(t, 0)
	at := time.Now().UTC()
	see := func(o lifecycle.Observation) {
		at = at.Add(time.Minute)
		o.At = at
		w.observe(t, o)
	}
	for range 3 {
		see(failed(info))
	}
	for i := range 10 {
		see(answer(info))
		require.Equal(t, lifecycle.StatusOffline, w.get(t, "server00").State.Status, "%d", i)
		if i%3 == 0 {
			see(failed(info))
		}
		if time.Until(at) > 12*time.Minute {
			break
		}
	}
	for range 3 {
		see(answer(info))
	}
	require.Equal(t, lifecycle.StatusReady, w.get(t, "server00").State.Status)

	off := newWorld(t, memstore.New(), opscenter.Options{FlapThreshold: -1})
	info = off.ready(t, 0)
	for range 10 {
		off.observe(t, failed(info), failed(info), failed(info), answer(info))
	}
	require.Equal(t, lifecycle.StatusReady, off.get(t, "server00").State.Status, "switched off")
}
