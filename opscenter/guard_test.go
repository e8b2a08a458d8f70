package opscenter_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// fleet makes n servers ready, in a bubble of time.
func fleet(t *testing.T, n int, options opscenter.Options) (*world, []*opscenter.ServerInfo) {
	w := newWorld(t, memstore.New(), options)
	token := w.token(t, int64(n))
	var infos []*opscenter.ServerInfo
	for i := range n {
		_, err := w.Register(t.Context(), registration(i, token))
		require.NoError(t, err)
		info := w.get(t, fmt.Sprintf("server%02d", i))
		w.observe(t, answer(info))
		infos = append(infos, info)
	}
	return w, infos
}

// outage lets all servers fail in five rounds, each after 10 s.
func (w *world) outage(t testing.TB, infos []*opscenter.ServerInfo) {
	t.Helper()
	for range 5 {
		time.Sleep(10 * time.Second)
		for _, info := range infos {
			w.observe(t, failed(info))
		}
	}
}

func (w *world) status(t testing.TB, status lifecycle.Status) int {
	t.Helper()
	page, err := w.ListServers(context.Background(), opscenter.ServerFilter{Status: status}, opscenter.Page{Limit: 1000})
	require.NoError(t, err)
	return len(page.Servers)
}

func TestCorrelatedFailures(t *testing.T) {
	for _, test := range []struct {
		servers, dead int
		held          bool
	}{{10, 10, true}, {10, 5, true}, {10, 4, false}, {20, 9, false}, {20, 10, true}, {4, 4, false}, {5, 5, true}} {
		t.Run(fmt.Sprintf("%d of %d", test.dead, test.servers), func(t *testing.T) {
			certificate(test.servers) // made outside the bubble
			synctest.Test(t, func(t *testing.T) {
				w, infos := fleet(t, test.servers, opscenter.Options{})
				sweep := func(dead int) {
					time.Sleep(10 * time.Second)
					for i, info := range infos {
						if i < dead {
							w.observe(t, failed(info))
						} else {
							w.observe(t, answer(info))
						}
					}
				}
				for range 3 {
					sweep(0)
				}
				for range 10 {
					sweep(test.dead)
				}
				if !test.held {
					require.Equal(t, test.dead, w.status(t, lifecycle.StatusOffline))
					require.Empty(t, w.warnings(t)[""])
					require.False(t, w.Observer().FleetUnreachable())
					return
				}
				require.Zero(t, w.status(t, lifecycle.StatusOffline), "no server becomes offline")
				require.Equal(t, []warning.Kind{warning.Fleet}, w.warnings(t)[""])
				require.True(t, w.Observer().FleetUnreachable())
				sweep(0)
				require.Empty(t, w.warnings(t), "it clears by itself")
				require.False(t, w.Observer().FleetUnreachable())
				require.Equal(t, test.servers, w.status(t, lifecycle.StatusReady))
				// The judgement goes on.
				for range 3 {
					sweep(1)
				}
				require.Equal(t, 1, w.status(t, lifecycle.StatusOffline))
			})
		})
	}
}

// Servers that were down before an outage stay down, and do not count in it.
func TestCorrelatedFailuresBesideDeadServers(t *testing.T) {
	certificate(20)
	synctest.Test(t, func(t *testing.T) {
		w, infos := fleet(t, 20, opscenter.Options{})
		dead := func(n int) {
			time.Sleep(10 * time.Second)
			for i, info := range infos {
				if i < n {
					w.observe(t, failed(info))
				} else {
					w.observe(t, answer(info))
				}
			}
		}
		for n := 1; n <= 12; n++ { // one by one, far apart
			for range 3 {
				dead(n)
			}
		}
		require.Equal(t, 12, w.status(t, lifecycle.StatusOffline), "12 of 20 are down, but not together")
		require.False(t, w.Observer().FleetUnreachable())
		dead(20)
		dead(20)
		dead(20)
		require.True(t, w.Observer().FleetUnreachable())
		require.Equal(t, 8, w.status(t, lifecycle.StatusReady))
		require.Equal(t, 12, w.status(t, lifecycle.StatusOffline))
		// Part of it comes back: the rest is down for real.
		for range 4 {
			dead(14)
		}
		require.False(t, w.Observer().FleetUnreachable())
		require.Equal(t, 14, w.status(t, lifecycle.StatusOffline))
	})
}

// A controller that starts again in the middle of an outage goes on suspecting itself.
func TestCorrelatedFailuresOverARestart(t *testing.T) {
	certificate(10)
	synctest.Test(t, func(t *testing.T) {
		w, infos := fleet(t, 10, opscenter.Options{})
		fail := func(r *opscenter.Registry) {
			time.Sleep(10 * time.Second)
			for _, info := range infos {
				require.NoError(t, r.Observer().Record(t.Context(), failed(info)))
			}
		}
		fail(w.Registry)
		require.True(t, w.Observer().FleetUnreachable())
		again, err := opscenter.NewRegistry(w.store, opscenter.Options{})
		require.NoError(t, err)
		require.True(t, again.Observer().FleetUnreachable())
		for range 5 {
			fail(again)
		}
		require.Zero(t, w.status(t, lifecycle.StatusOffline))
		for _, info := range infos {
			require.NoError(t, again.Observer().Record(t.Context(), answer(info)))
		}
		require.False(t, again.Observer().FleetUnreachable())
		require.Empty(t, w.warnings(t))
	})
}

func TestGuardSwitchedOff(t *testing.T) {
	w, infos := fleet(t, 10, opscenter.Options{GuardShare: -1})
	for range 3 {
		for _, info := range infos {
			w.observe(t, failed(info))
		}
	}
	require.Equal(t, 10, w.status(t, lifecycle.StatusOffline))
}

// Polls that were under way when an outage of ours ended make no server offline.
func TestLateFailuresOfAnOutage(t *testing.T) {
	certificate(10)
	synctest.Test(t, func(t *testing.T) {
		w, infos := fleet(t, 10, opscenter.Options{})
		w.outage(t, infos)
		require.True(t, w.Observer().FleetUnreachable())
		late := failed(infos[9])
		for _, info := range infos[:6] {
			w.observe(t, answer(info))
		}
		require.False(t, w.Observer().FleetUnreachable())
		w.observe(t, late)
		require.Zero(t, w.status(t, lifecycle.StatusOffline))
		for range 2 {
			time.Sleep(10 * time.Second)
			w.observe(t, failed(infos[9]))
		}
		require.Equal(t, 1, w.status(t, lifecycle.StatusOffline), "it is dead by itself")
	})
}

// Slow timeouts: the failures come further apart than the window.
func TestGuardWithSlowTimeouts(t *testing.T) {
	certificate(10)
	synctest.Test(t, func(t *testing.T) {
		w, infos := fleet(t, 5, opscenter.Options{})
		time.Sleep(time.Minute)
		w.observe(t, failed(infos[0]))
		time.Sleep(20 * time.Second) // the others time out much later
		for _, info := range infos {
			w.observe(t, failed(info))
		}
		require.True(t, w.Observer().FleetUnreachable())
	})
}

// A fleet that is removed while it counts as unreachable does not stay so.
func TestAnUnreachableFleetThatIsRemoved(t *testing.T) {
	certificate(10)
	synctest.Test(t, func(t *testing.T) {
		w, infos := fleet(t, 6, opscenter.Options{})
		for _, info := range infos {
			w.observe(t, failed(info))
		}
		require.True(t, w.Observer().FleetUnreachable())
		for _, info := range infos {
			require.NoError(t, w.DeleteServer(t.Context(), info.Name, false))
		}
		require.False(t, w.Observer().FleetUnreachable())
		require.NoError(t, w.Observer().Maintain(t.Context()))
		require.Empty(t, w.warnings(t))
	})
}

func TestFleetWarningIsCounted(t *testing.T) {
	certificate(10)
	synctest.Test(t, func(t *testing.T) {
		w, infos := fleet(t, 6, opscenter.Options{})
		w.outage(t, infos)
		page, err := w.Warnings().List(t.Context(), opscenter.WarningFilter{Kind: warning.Fleet}, opscenter.Page{})
		require.NoError(t, err)
		require.Greater(t, page.Warnings[0].Count, 3)
		require.True(t, page.Warnings[0].LastSeen.After(page.Warnings[0].FirstSeen))
	})
}
