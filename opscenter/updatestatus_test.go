package opscenter_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// A server that says that it goes down, and answers, is up; should it go down after all, it is shut down.
func TestGoesDownByItsOwnWord(t *testing.T) {
	for _, cause := range []lifecycle.Cause{lifecycle.CauseSuspendTriggered, lifecycle.CauseSystemShutdownTriggered} {
		t.Run(string(cause), func(t *testing.T) {
			w := memoryWorld(t)
			info := w.ready(t, 0)
			at := time.Now()
			step := func(o lifecycle.Observation) lifecycle.ServerState {
				at = at.Add(time.Minute)
				o.At = at
				o.BootedAt = at.Add(-24 * time.Hour)
				if o.Failure != nil {
					o.BootedAt = time.Time{}
				}
				w.observe(t, o)
				return w.get(t, info.Name).State
			}
			require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: cause}))
			require.Equal(t, lifecycle.DetailShutDown, w.get(t, info.Name).State.StatusDetail)
			require.Equal(t, lifecycle.StatusReady, step(answer(info)).Status, "at the first good poll")
			require.Equal(t, lifecycle.StatusReady, step(failed(info)).Status)
			require.Equal(t, lifecycle.StatusReady, step(failed(info)).Status)
			state := step(failed(info))
			require.Equal(t, lifecycle.DetailShutDown, state.StatusDetail, "it had said so")
			require.Equal(t, lifecycle.StatusReady, step(answer(info)).Status)
			for range 20 {
				state = step(answer(info))
			}
			require.Nil(t, state.Announced, "it is forgotten in the end")
			for range 3 {
				state = step(failed(info))
			}
			require.Equal(t, lifecycle.DetailUnresponsive, state.StatusDetail)
		})
	}
}

// TestShutsDownInTheMiddle: an action that began after a server had said that it goes down, and answered, ends
// when it goes down after all.
func TestShutsDownInTheMiddle(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	at := time.Now()
	step := func(o lifecycle.Observation) lifecycle.ServerState {
		at = at.Add(time.Minute)
		o.At = at
		w.observe(t, o)
		return w.get(t, info.Name).State
	}
	require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: lifecycle.CauseSuspendTriggered}))
	require.Equal(t, lifecycle.StatusReady, step(answer(info)).Status)
	require.NoError(t, w.Write(t.Context(), func(tx *opscenter.Tx) error {
		_, _, err := tx.Begin(opscenter.Intent{Server: info.Name, Action: lifecycle.ActionUpdate, Timeout: time.Hour})
		return err
	}))
	require.NotNil(t, w.get(t, info.Name).State.Operation)
	var state lifecycle.ServerState
	for range 70 { // this process carries the action out: it has until its deadline to say how it ended
		state = step(failed(info))
	}
	require.Equal(t, lifecycle.DetailShutDown, state.StatusDetail)
	require.Nil(t, state.Operation)
	require.Contains(t, state.LastOperation.Failed, "shut down")
}
