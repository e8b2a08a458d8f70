package cluster_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/internal/incustest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/cluster"
	"github.com/opscenter-go/sdk/poller"
)

// TestRealForm forms a cluster of real daemons, without a simulated IncusOS in front of them. From then on they answer with
// the cluster's certificate. Form learns it on a connection to the verified first daemon, and pins it without an operator.
func TestRealForm(t *testing.T) {
	options := controltest.PlaneOptions{Poller: poller.Options{Timeout: 20 * time.Second}}
	s := &site{Plane: controltest.NewPlane(t, options)}
	token, err := s.CreateToken(t.Context(), opscenter.TokenSpec{Uses: 3})
	require.NoError(t, err)
	own := map[string]string{}
	for name, host := range map[string]string{"a": "127.0.0.1", "b": "127.0.0.2", "c": "127.0.0.3"} {
		daemon := incustest.StartOn(t, host)
		daemon.Trust(s.Identity.Leaf)
		_, err := s.Register(t.Context(), opscenter.Registration{Token: token.UUID, Certificate: daemon.Certificate, Name: name, ConnectionURL: daemon.URL})
		require.NoError(t, err)
		own[name] = s.poll(t, name).State.Presented
	}
	m := cluster.New(s.Registry, s.Client, cluster.Options{})
	require.NoError(t, m.Form(t.Context(), "c1", "a", "b"))
	require.NoError(t, m.AddServers(t.Context(), "c1", "c"))
	record, err := s.Cluster(t.Context(), "c1")
	require.NoError(t, err)
	require.Equal(t, opscenter.ClusterReady, record.Status)
	s.Client.Close() // new connections, new sessions
	s.Reconnect(t, options)
	for name, before := range own {
		info := s.poll(t, name)
		require.NotEqual(t, before, info.State.Presented)
		require.Equal(t, record.Fingerprint, info.State.Presented)
		require.Equal(t, name, info.State.MemberName)
		require.NotEmpty(t, info.State.MemberRoles)
	}
	m = cluster.New(s.Registry, s.Client, cluster.Options{})
	require.NoError(t, m.Form(t.Context(), "c1", "a", "b", "c"), "forming it again is no error")
	require.NoError(t, m.RemoveServer(t.Context(), "c1", "c"))
	state, err := s.Client.ClusterState(t.Context(), s.poll(t, "a").Target())
	require.NoError(t, err)
	require.Len(t, state.Members, 2)
	require.Eventually(t, func() bool {
		o, err := s.Polls.Poll(t.Context(), "c")
		return err == nil && o.Failure != nil
	}, time.Minute, 200*time.Millisecond, "the daemon is reset, and trusts no client")
}
