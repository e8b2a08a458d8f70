package httpapi_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/poller"
)

// releases of IncusOS. Each reports less than the one after it. Empty: the newest.
var releases = []string{"202510010000", "202510290000", "202512010000", "202603010000", "202604300000", "202606010000", "202607160000", "202608200000", ""}

// TestEveryRelease: a fleet on a release of any age is registered, polled, recommended an update, and rolled.
func TestEveryRelease(t *testing.T) {
	for _, release := range releases {
		t.Run("release "+release, func(t *testing.T) {
			t.Parallel()
			var client *incusos.Client
			var polls *poller.Poller
			var rollouts *rollout.Manager
			p := startWith(t, func(p *plane, o *httpapi.Options) {
				client = controltest.Client(t, incusos.Options{Certificate: &p.own})
				var err error
				polls, err = poller.New(p.registry, client, poller.Options{Interval: 200 * time.Millisecond})
				require.NoError(t, err)
				rollouts, err = rollout.New(opscenter.NewUpdatePlanner(p.registry, client), rollout.Options{Poller: polls, PollInterval: 30 * time.Millisecond})
				require.NoError(t, err)
				o.Rollouts = rollouts
			})
			version := release
			if version == "" {
				version = "202610010000"
			}
			const next = "202610150000"
			var members, all []*incusostest.Server
			for i, application := range []string{"incus", "incus", "incus-lts-7.0", "migration-manager"} {
				server := controltest.Server(t, incusostest.Options{Name: fmt.Sprintf("s%d", i), Release: release, Version: version, Application: application, Standalone: true})
				server.AddInstance("default", fmt.Sprintf("i%d", i), true)
				if all = append(all, server); i < 2 {
					members = append(members, server)
				}
			}
			require.NoError(t, incusostest.Cluster(members...))
			for _, server := range all {
				require.NoError(t, server.Register(t.Context(), incusostest.Provider{ServerURL: p.url, Token: p.token(1), Certificate: p.own.Leaf}))
			}
			_, err := p.registry.CreateCluster(t.Context(), "c1", opscenter.ClusterSpec{}, "s0", "s1")
			require.NoError(t, err)
			require.NoError(t, p.registry.Write(t.Context(), func(tx *opscenter.Tx) error {
				return tx.SetClusterCertificate("c1", members[0].ClusterCertificate().Leaf)
			}))

			look := func(server *incusostest.Server) *opscenter.ServerInfo {
				o := controltest.Poll(t, polls, server.Name())
				require.Empty(t, o.Unread, "a section that the release lacks is no failure")
				info, err := p.registry.Server(t.Context(), server.Name())
				require.NoError(t, err)
				return info
			}
			for i, server := range all {
				info := look(server)
				require.Equal(t, lifecycle.StatusReady, info.State.Status)
				kind, application := lifecycle.TypeIncus, "incus"
				switch i {
				case 2:
					application = "incus-lts-7.0"
				case 3:
					kind, application = lifecycle.TypeMigrationManager, "migration-manager"
				}
				require.Equal(t, kind, info.State.Type)
				require.Equal(t, version, info.State.Versions.OS.Version)
				require.False(t, info.State.Versions.OS.NeedsReboot)
				require.Equal(t, application, info.State.Versions.Applications[0].Name)
				require.True(t, info.State.Versions.Applications[0].Primary)
				require.Equal(t, "stable", info.State.Versions.UpdateChannel)
				require.Equal(t, lifecycle.ActionNone, info.Recommendation().Action, "it runs the newest version")
				warnings, err := p.registry.Warnings().List(t.Context(), opscenter.WarningFilter{}, opscenter.Page{})
				require.NoError(t, err)
				require.Empty(t, warnings.Warnings, "nothing is wrong")
			}
			require.NoError(t, p.registry.Channels().Publish(t.Context(), "stable", next, "os", "incus", "incus-lts-7.0", "migration-manager"))
			for _, server := range all {
				server.Offer(next)
				require.Equal(t, lifecycle.ActionUpdate, look(server).Recommendation().Action)
			}

			controltest.Background(t, polls.Run, rollouts.Run)
			operator := p.client(&p.operator)
			var started struct {
				UUID string `json:"uuid"`
			}
			p.call(operator, "POST", "/1.0/provisioning/rollouts?dry-run=0", `{"selector":{"all":true},"policy":{"parallel":3}}`).decode(t, &started)
			var now struct {
				Status string `json:"status"`
				Reason string `json:"status_reason"`
			}
			require.Eventually(t, func() bool {
				p.call(operator, "GET", "/1.0/provisioning/rollouts/"+started.UUID, "").decode(t, &now)
				return now.Status == "done" || now.Status == "paused"
			}, 60*time.Second, 50*time.Millisecond)
			require.Equal(t, "done", now.Status, now.Reason)
			for i, server := range all {
				info := look(server)
				require.Equal(t, next, info.State.Versions.OS.Version)
				require.Equal(t, lifecycle.ActionNone, info.Recommendation().Action, info.Recommendation().Reason)
				require.Equal(t, 1, server.Reboots())
				for _, instance := range server.Instances() {
					if instance.Name == fmt.Sprintf("i%d", i) {
						require.True(t, instance.Running)
						require.Equal(t, server.Name(), instance.Location)
					}
				}
			}
		})
	}
}
