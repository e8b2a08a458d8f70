package incusostest_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// Each Secure Boot key of a server needs a reboot. A rollout performs these reboots, and so does following the
// recommendations by hand.
func TestFleetSecureBootKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		store := memstore.New()
		defer store.Close()
		registry, err := opscenter.NewRegistry(store, opscenter.Options{})
		require.NoError(t, err)
		defer registry.Close()
		fleet := incusostest.NewFleet(registry)
		defer fleet.Close()
		token, err := registry.CreateToken(ctx, opscenter.TokenSpec{Uses: 4})
		require.NoError(t, err)
		polls, err := poller.New(registry, fleet, poller.Options{Interval: 5 * time.Minute})
		require.NoError(t, err)
		planner := opscenter.NewUpdatePlanner(registry, fleet)
		rollouts, err := rollout.New(planner, rollout.Options{Poller: polls, Lease: time.Hour})
		require.NoError(t, err)
		ended := make(chan error, 2)
		go func() { ended <- polls.Run(ctx) }()
		go func() { ended <- rollouts.Run(ctx) }()
		defer func() { stop(); <-ended; <-ended }()
		var servers []*incusostest.Server
		for i := range 4 {
			s, err := fleet.Add(ctx, token.UUID, incusostest.Options{Name: fmt.Sprintf("s%d", i), Standalone: true, UpdateDelay: 2 * time.Minute, EvacuateDelay: 5 * time.Minute, RebootDelay: 3 * time.Minute})
			require.NoError(t, err)
			s.Offer("202610150000")
			s.OfferKeys([]string{"KEK_1", "db_2", "dbx_3"}[:i]...)
			servers = append(servers, s)
		}
		require.NoError(t, fleet.Form(ctx, "c1", opscenter.ClusterSpec{}, servers[:3]...))
		require.NoError(t, registry.Write(ctx, func(tx *opscenter.Tx) error {
			return tx.SetOffer("stable", opscenter.Offer{"": {"os": "202610150000", "incus": "202610150000"}}, 3, "test")
		}))
		time.Sleep(time.Hour)
		plan, err := planner.Plan(ctx, rolling.Selector{Clusters: []string{"c1"}}, rolling.Policy{})
		require.NoError(t, err)
		require.Equal(t, 3, plan.Reboots)
		require.Equal(t, 12, plan.MaxReboots, plan)
		require.Contains(t, plan.String(), "up to 12")
		started, err := rollouts.StartPlan(ctx, plan)
		require.NoError(t, err)
		deadline := time.Now().Add(24 * time.Hour)
		for {
			now, err := rollouts.Get(ctx, started.ID)
			require.NoError(t, err)
			if now.State.Status == rolling.StatusDone {
				break
			}
			require.Equal(t, rolling.StatusRunning, now.State.Status, now.State.Reason)
			require.True(t, time.Now().Before(deadline), "the rollout did not end in time")
			time.Sleep(time.Minute)
		}
		for i, s := range servers[:3] {
			running, staged := s.Version()
			require.Equal(t, "202610150000", running, s.Name())
			require.Empty(t, staged)
			require.Equal(t, 1+i, s.Reboots(), s.Name())
		}

		// The operator follows the recommendations by hand.
		var done []lifecycle.Action
		for len(done) < 40 {
			info, err := registry.Server(ctx, "s3")
			require.NoError(t, err)
			r := info.Recommendation()
			if info.State.Status == lifecycle.StatusReady && info.State.Operation == nil {
				if r.Action == lifecycle.ActionNone {
					break
				}
				if r.Action == lifecycle.ActionReboot && len(done) < 6 {
					require.Contains(t, r.Reason, "Secure Boot key")
				}
				require.NoError(t, planner.Act(ctx, "s3", r.Action))
				done = append(done, r.Action)
			}
			time.Sleep(10 * time.Minute)
		}
		require.Equal(t, 4, servers[3].Reboots(), done)
		running, _ := servers[3].Version()
		require.Equal(t, "202610150000", running)
	})
}
