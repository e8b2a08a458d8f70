package opscenter_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// TestLocalTrouble: what fails for a reason of ours says nothing of a server, and is a warning as long as it goes on.
func TestLocalTrouble(t *testing.T) {
	certificate(10)
	synctest.Test(t, func(t *testing.T) {
		w, infos := fleet(t, 3, opscenter.Options{})
		before := w.get(t, "server00")
		for range 20 {
			time.Sleep(10 * time.Second)
			o := failed(infos[0])
			o.Failure = &lifecycle.Failure{Kind: lifecycle.FailureLocal, Message: "too many open files"}
			w.observe(t, o, answer(infos[1]), failed(infos[2]))
		}
		require.Equal(t, before.State, w.get(t, "server00").State)
		require.Zero(t, w.get(t, "server00").Failures)
		require.Equal(t, lifecycle.StatusOffline, w.get(t, "server02").State.Status, "the others are judged as ever")
		require.Equal(t, []warning.Kind{warning.Local}, w.warnings(t)[""])
		require.Len(t, w.events(t, event.WarningRaised), 2)
		time.Sleep(time.Minute)
		w.observe(t, answer(infos[0]))
		require.Empty(t, w.warnings(t)[""])
	})
}
