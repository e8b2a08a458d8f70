package cluster_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/internal/incustest"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/cluster"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// TestRealForm forms a cluster of real daemons, without a simulated IncusOS in front of them. From then on they answer with
// the cluster's certificate. Form learns it on a connection to the verified first daemon, and pins it without an operator.
func TestRealForm(t *testing.T) {
	identity, err := selfsigned.New("control-plane")
	require.NoError(t, err)
	registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{FlapThreshold: -1, GuardShare: -1})
	require.NoError(t, err)
	client := controltest.Client(t, incusos.Options{Certificate: &identity})
	s := &site{Registry: registry, client: client}
	s.polls, err = poller.New(registry, client, poller.Options{Timeout: 20 * time.Second})
	require.NoError(t, err)
	token, err := registry.CreateToken(t.Context(), opscenter.TokenSpec{Uses: 3})
	require.NoError(t, err)
	own := map[string]string{}
	for name, host := range map[string]string{"a": "127.0.0.1", "b": "127.0.0.2", "c": "127.0.0.3"} {
		daemon := incustest.StartOn(t, host)
		daemon.Trust(identity.Leaf)
		_, err := registry.Register(t.Context(), opscenter.Registration{Token: token.UUID, Certificate: daemon.Certificate, Name: name, ConnectionURL: daemon.URL})
		require.NoError(t, err)
		own[name] = s.poll(t, name).State.Presented
	}
	m := cluster.New(registry, client, cluster.Options{})
	require.NoError(t, m.Form(t.Context(), "c1", "a", "b"))
	require.NoError(t, m.AddServers(t.Context(), "c1", "c"))
	record, err := registry.Cluster(t.Context(), "c1")
	require.NoError(t, err)
	require.Equal(t, opscenter.ClusterReady, record.Status)
	client.Close() // new connections, new sessions
	s.client = controltest.Client(t, incusos.Options{Certificate: &identity})
	s.polls, err = poller.New(registry, s.client, poller.Options{Timeout: 20 * time.Second})
	require.NoError(t, err)
	for name, before := range own {
		info := s.poll(t, name)
		require.NotEqual(t, before, info.State.Presented)
		require.Equal(t, record.Fingerprint, info.State.Presented)
		require.Equal(t, name, info.State.MemberName)
		require.NotEmpty(t, info.State.MemberRoles)
	}
	m = cluster.New(registry, s.client, cluster.Options{})
	require.NoError(t, m.Form(t.Context(), "c1", "a", "b", "c"), "forming it again is no error")
	require.NoError(t, m.RemoveServer(t.Context(), "c1", "c"))
	state, err := s.client.ClusterState(t.Context(), s.poll(t, "a").Target())
	require.NoError(t, err)
	require.Len(t, state.Members, 2)
	require.Eventually(t, func() bool {
		o, err := s.polls.Poll(t.Context(), "c")
		return err == nil && o.Failure != nil
	}, time.Minute, 200*time.Millisecond, "the daemon is reset, and trusts no client")
}
