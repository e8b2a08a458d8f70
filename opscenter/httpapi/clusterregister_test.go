package httpapi_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/poller"
)

// TestClusterBeforeOrAfterRegister: simulated servers become a cluster before or after they register, from standalone servers or not.
// Their instances stay.
func TestClusterBeforeOrAfterRegister(t *testing.T) {
	for _, before := range []bool{true, false} {
		for _, standalone := range []bool{true, false} {
			t.Run(fmt.Sprintf("before %t standalone %t", before, standalone), func(t *testing.T) {
				p := start(t, func(*httpapi.Options) {})
				client := incusos.New(incusos.Options{Certificate: &p.own})
				defer client.Close()
				polls, err := poller.New(p.registry, client, poller.Options{})
				require.NoError(t, err)
				var servers []*incusostest.Server
				for _, name := range []string{"a", "b", "c"} {
					server := controltest.Server(t, incusostest.Options{Name: name, Standalone: standalone})
					server.AddInstance("default", "on-"+name, true)
					servers = append(servers, server)
				}
				register := func() {
					for _, s := range servers {
						require.NoError(t, s.Register(t.Context(), incusostest.Provider{ServerURL: p.url, Token: p.token(1), Certificate: p.own.Leaf}))
					}
				}
				if !before {
					register()
					for _, s := range servers {
						controltest.Poll(t, polls, s.Name())
					}
				}
				require.NoError(t, incusostest.Cluster(servers...))
				if before {
					register()
				}
				_, err = p.registry.CreateCluster(t.Context(), "c1", opscenter.ClusterSpec{}, "a", "b", "c")
				require.NoError(t, err)
				require.NoError(t, p.registry.Write(t.Context(), func(tx *opscenter.Tx) error {
					return tx.SetClusterCertificate("c1", servers[0].ClusterCertificate().Leaf)
				}))
				for _, s := range servers {
					require.NoError(t, s.SelfUpdate(t.Context(), "system-is-ready"), "it is known by its own certificate")
					o, err := polls.Poll(t.Context(), s.Name())
					require.NoError(t, err)
					require.Nil(t, o.Failure, "and expected with the cluster's")
					require.Equal(t, s.Name(), *o.MemberName)
				}
				places := map[string]string{}
				for _, i := range servers[2].Instances() {
					places[i.Name] = i.Location
				}
				require.Equal(t, map[string]string{"on-a": "a", "on-b": "b", "on-c": "c"}, places)
				servers[0].AddInstance("default", "later", true)
				require.Len(t, servers[1].Instances(), 4)
			})
		}
	}
}
