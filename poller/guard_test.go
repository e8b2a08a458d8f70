package poller_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/poller"
)

// registerMany registers n servers, whose certificates only look like some.
func (w *world) registerMany(n int) (names []string) {
	token, err := w.registry.CreateToken(w.t.Context(), opscenter.TokenSpec{Uses: int64(n)})
	require.NoError(w.t, err)
	for i := range n {
		certificate := *certificates()[0].Certificate
		certificate.Raw = append(bytes.Clone(certificate.Raw), byte(i>>8), byte(i))
		name := fmt.Sprintf("many%03d", i)
		_, err := w.registry.Register(w.t.Context(), opscenter.Registration{Token: token.UUID, Certificate: &certificate, Name: name, ConnectionURL: "https://127.0.0.1:1"})
		require.NoError(w.t, err)
		names = append(names, name)
	}
	return names
}

func (w *world) fleetWarnings() (raised, cleared int) {
	events, err := w.registry.Events(w.t.Context(), opscenter.EventFilter{Limit: 1000, Newest: true})
	require.NoError(w.t, err)
	for _, e := range events {
		if strings.HasPrefix(e.Reason, string(warning.Fleet)) {
			switch e.Kind {
			case event.WarningRaised:
				raised++
			case event.WarningCleared:
				cleared++
			}
		}
	}
	return raised, cleared
}

func (w *world) offline() (out []string) {
	for info, err := range w.registry.Servers(w.t.Context(), opscenter.ServerFilter{Status: lifecycle.StatusOffline}) {
		require.NoError(w.t, err)
		out = append(out, info.Name)
	}
	return out
}

// TestWhoseFault: part of a fleet dies, found out in turn, or as all of it is asked at once. Those that are dead are
// offline soon after they were first asked, and no other server is. If all servers fail, none is offline, and one
// warning says so.
func TestWhoseFault(t *testing.T) {
	const offlineWithin = 3 * opscenter.DefaultOfflineThreshold * poller.DefaultRetryInterval
	for _, size := range []int{20, 100, 600} {
		for _, share := range []float64{0.12, 0.27, 0.4, 1} {
			for _, atOnce := range []bool{true, false} {
				for _, takes := range []time.Duration{0, 10 * time.Second} {
					if size > 100 && (share != 0.27 || !atOnce) {
						continue
					}
					t.Run(fmt.Sprintf("%.0f%% of %d, at once %t, failing after %s", 100*share, size, atOnce, takes), func(t *testing.T) {
						inBubble(t, poller.Options{}, func(w *world) { whoseFault(w, size, share, atOnce, takes, offlineWithin) })
					})
				}
			}
		}
	}
}

func whoseFault(w *world, size int, share float64, atOnce bool, takes, offlineWithin time.Duration) {
	names := w.registerMany(size)
	time.Sleep(2 * poller.DefaultInterval)
	dead := map[string]bool{}
	for _, name := range names[:int(share*float64(size))] {
		dead[name] = true
	}
	w.set(func(ctx context.Context, target opscenter.Target) *lifecycle.Failure {
		if !dead[target.Name] {
			return nil
		}
		if takes > 0 {
			timer := time.NewTimer(takes)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
		}
		return refuse
	})
	if atOnce {
		require.NoError(w.t, w.registry.RequestPoll(w.t.Context(), names[:len(dead)]...))
	} else {
		time.Sleep(poller.DefaultInterval)
	}
	time.Sleep(offlineWithin)
	synctest.Wait()
	raised, cleared := w.fleetWarnings()
	if share < 1 {
		require.ElementsMatch(w.t, names[:len(dead)], w.offline())
		require.Equal(w.t, []int{0, 0}, []int{raised, cleared}, "%s", w.told())
		return
	}
	time.Sleep(10 * time.Minute)
	synctest.Wait()
	require.Empty(w.t, w.offline())
	raised, cleared = w.fleetWarnings()
	require.Equal(w.t, []int{1, 0}, []int{raised, cleared})
	w.set(nil)
	time.Sleep(opscenter.DefaultGuardWindow)
	synctest.Wait()
	require.False(w.t, w.registry.FleetUnreachable(), "a sample shows within seconds that it is over")
	time.Sleep(10 * time.Minute)
	synctest.Wait()
	require.Empty(w.t, w.offline())
	raised, cleared = w.fleetWarnings()
	require.Equal(w.t, []int{1, 1}, []int{raised, cleared}, "%s", w.told())
}

// told lists the warnings of the fleet for a failure message.
func (w *world) told() string {
	var out strings.Builder
	events, err := w.registry.Events(w.t.Context(), opscenter.EventFilter{Limit: 1000})
	require.NoError(w.t, err)
	for _, e := range events {
		if strings.HasPrefix(e.Reason, string(warning.Fleet)) {
			fmt.Fprintln(&out, e.At.Sub(w.began), e.Kind, e.Reason)
		}
	}
	return out.String()
}
