package incusos_test

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// A stranger, and another member of the cluster, claim the address of the member "victim" in another notation. Actions
// on the records of these two never reach the victim. This holds for releases with and without a machine ID.
func TestClaimedAddresses(t *testing.T) {
	for _, release := range []string{"", "202604010000"} {
		t.Run("release "+release, func(t *testing.T) {
			identity, err := selfsigned.New("control plane")
			require.NoError(t, err)
			client := newClient(t, incusos.Options{Certificate: &identity})
			registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{AdoptMembers: true})
			require.NoError(t, err)
			token, err := registry.CreateToken(t.Context(), opscenter.TokenSpec{Uses: 3})
			require.NoError(t, err)
			options := incusostest.Options{Release: release}
			if release != "" {
				options.Version = release
			}
			start := func(name string) *incusostest.Server {
				options.Name = name
				s, err := incusostest.New(options)
				require.NoError(t, err)
				t.Cleanup(s.Close)
				s.Trust(identity.Leaf)
				return s
			}
			register := func(s *incusostest.Server, where string) {
				_, err := registry.Register(t.Context(), opscenter.Registration{Token: token.UUID, Name: s.Name(), Certificate: s.Certificate(),
					ConnectionURL: where, PublicConnectionURL: where, MachineID: s.MachineID(), SystemUUID: s.SystemUUID()})
				require.NoError(t, err)
			}
			poll := func(name string) *opscenter.ServerInfo {
				for range 4 {
					info, err := registry.Server(t.Context(), name)
					require.NoError(t, err)
					require.NoError(t, registry.Observer().Record(t.Context(), client.Probe(t.Context(), info.ProbeTarget())))
				}
				info, err := registry.Server(t.Context(), name)
				require.NoError(t, err)
				return info
			}
			warned := func(name string) bool {
				page, err := registry.Warnings().List(t.Context(), opscenter.WarningFilter{Server: name, Kind: warning.Identity}, opscenter.Page{})
				require.NoError(t, err)
				return len(page.Warnings) > 0
			}
			victim, member, stranger := start("victim"), start("member"), start("stranger")
			require.NoError(t, incusostest.Cluster(victim, member))
			register(victim, victim.URL())
			register(member, member.URL())
			_, err = registry.CreateCluster(t.Context(), "c1", opscenter.ClusterSpec{}, "victim", "member")
			require.NoError(t, err)
			require.NoError(t, registry.Write(t.Context(), func(tx *opscenter.Tx) error { return tx.SetClusterCertificate("c1", victim.ClusterCertificate().Leaf) }))
			for _, name := range []string{"victim", "member"} {
				require.Equal(t, lifecycle.StatusReady, poll(name).State.Status, name)
			}
			planner := opscenter.NewUpdatePlanner(registry, client)
			u, err := url.Parse(victim.URL())
			require.NoError(t, err)
			claimed := "https://[::ffff:" + u.Hostname() + "]:" + u.Port()

			register(stranger, claimed)
			require.NotEqual(t, lifecycle.StatusReady, poll("stranger").State.Status)
			require.True(t, warned("stranger"))
			require.Error(t, planner.Act(t.Context(), "stranger", lifecycle.ActionReboot))

			require.NoError(t, registry.SelfUpdate(t.Context(), member.Certificate(), opscenter.SelfUpdate{ConnectionURL: claimed}))
			require.Error(t, planner.Act(t.Context(), "member", lifecycle.ActionEvacuate), "before any poll")
			poll("member")
			require.True(t, warned("member"))
			require.Error(t, planner.Act(t.Context(), "member", lifecycle.ActionEvacuate))
			require.Zero(t, victim.Reboots())
			require.False(t, warned("victim"))
			require.Equal(t, lifecycle.StatusReady, poll("victim").State.Status)

			require.NoError(t, registry.SelfUpdate(t.Context(), member.Certificate(), opscenter.SelfUpdate{ConnectionURL: member.URL()}))
			poll("member")
			require.False(t, warned("member"), "the warning ends with the claim")
		})
	}
}
