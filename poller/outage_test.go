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

// registerMany registers n servers. Their certificates are unique bytes, not valid signatures.
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

// fleetWarnings counts how often the warning of an outage of the fleet was raised and cleared.
func (w *world) fleetWarnings() (raised, cleared int) {
	events, err := w.registry.ListEvents(w.t.Context(), opscenter.EventFilter{Limit: 1000, Newest: true})
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

// offline lists the servers that are offline.
func (w *world) offline() (out []string) {
	for info, err := range w.registry.Servers(w.t.Context(), opscenter.ServerFilter{Status: lifecycle.StatusOffline}) {
		require.NoError(w.t, err)
		out = append(out, info.Name)
	}
	return out
}

// Part of a fleet fails. The failed servers become offline soon after their first failed poll, and no other server does.
// This holds if all failed servers are polled at once, and if they are polled in turn. If the whole fleet fails, no
// server becomes offline, and the Registry raises one warning.
func TestPartialAndTotalOutages(t *testing.T) {
	const offlineWithin = 3 * 3 * poller.DefaultRetryInterval
	for _, size := range []int{20, 100, 600} {
		for _, share := range []float64{0.12, 0.27, 0.4, 1} {
			for _, atOnce := range []bool{true, false} {
				for _, takes := range []time.Duration{0, 10 * time.Second} {
					if size > 100 && (share != 0.27 || !atOnce) {
						continue
					}
					t.Run(fmt.Sprintf("%.0f%% of %d, at once %t, failing after %s", 100*share, size, atOnce, takes), func(t *testing.T) {
						inBubble(t, poller.Options{}, func(w *world) { testOutage(w, size, share, atOnce, takes, offlineWithin) })
					})
				}
			}
		}
	}
}

func testOutage(w *world, size int, share float64, atOnce bool, takes, offlineWithin time.Duration) {
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
		require.NoError(w.t, w.registry.Observer().RequestPoll(w.t.Context(), names[:len(dead)]...))
	} else {
		time.Sleep(poller.DefaultInterval)
	}
	time.Sleep(offlineWithin)
	synctest.Wait()
	raised, cleared := w.fleetWarnings()
	if share < 1 {
		require.ElementsMatch(w.t, names[:len(dead)], w.offline())
		require.Equal(w.t, []int{0, 0}, []int{raised, cleared}, "%s", w.fleetEvents())
		return
	}
	time.Sleep(10 * time.Minute)
	synctest.Wait()
	require.Empty(w.t, w.offline())
	raised, cleared = w.fleetWarnings()
	require.Equal(w.t, []int{1, 0}, []int{raised, cleared})
	w.set(nil)
	time.Sleep((15 * time.Second))
	synctest.Wait()
	require.False(w.t, w.registry.Observer().FleetUnreachable(), "a sample ends the outage within seconds")
	time.Sleep(10 * time.Minute)
	synctest.Wait()
	require.Empty(w.t, w.offline())
	raised, cleared = w.fleetWarnings()
	require.Equal(w.t, []int{1, 1}, []int{raised, cleared}, "%s", w.fleetEvents())
}

// fleetEvents lists the events about an outage of the fleet, for failure messages.
func (w *world) fleetEvents() string {
	var out strings.Builder
	events, err := w.registry.ListEvents(w.t.Context(), opscenter.EventFilter{Limit: 1000})
	require.NoError(w.t, err)
	for _, e := range events {
		if strings.HasPrefix(e.Reason, string(warning.Fleet)) {
			fmt.Fprintln(&out, e.At.Sub(w.began), e.Kind, e.Reason)
		}
	}
	return out.String()
}

// The first failure makes the poller poll other servers at once. So the Registry detects an outage of
// the control plane before a server becomes offline, even if few polls are due.
func TestOthersArePolledWhenOneFails(t *testing.T) {
	inBubble(t, poller.Options{Interval: time.Hour}, func(w *world) {
		for n := range 30 {
			w.register(n)
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		w.set(func(context.Context, opscenter.Target) *lifecycle.Failure { return refuse })
		time.Sleep(time.Hour)
		synctest.Wait()
		page, err := w.registry.ListServers(t.Context(), opscenter.ServerFilter{Status: lifecycle.StatusOffline}, opscenter.Page{})
		require.NoError(t, err)
		require.Empty(t, page.Servers, "30 servers are polled once an hour, and none became offline")
		require.True(t, w.registry.Observer().FleetUnreachable())
		w.set(nil)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		require.False(t, w.registry.Observer().FleetUnreachable())
		require.Empty(t, w.warnings())
		// A single failed server becomes offline.
		w.set(func(_ context.Context, target opscenter.Target) *lifecycle.Failure {
			if target.Name == "server07" {
				return refuse
			}
			return nil
		})
		time.Sleep(time.Hour + time.Minute)
		synctest.Wait()
		require.Equal(t, lifecycle.DetailUnresponsive, w.state(7).State.StatusDetail)
		require.False(t, w.registry.Observer().FleetUnreachable())
	})
}
