package cluster_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/cluster"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/poller"
)

// site is a control plane with simulated servers in no cluster.
type site struct {
	*controltest.Plane
	servers map[string]*incusostest.Server
}

func newSite(t *testing.T, options map[string]incusostest.Options, names ...string) *site {
	t.Helper()
	s := &site{Plane: controltest.NewPlane(t, controltest.PlaneOptions{Poller: poller.Options{Timeout: 20 * time.Second}}), servers: map[string]*incusostest.Server{}}
	for _, name := range names {
		o := options[name]
		o.Name, o.Standalone = name, true
		s.servers[name] = controltest.Server(t, o)
		s.Enroll(t, s.servers[name])
	}
	return s
}

func (s *site) poll(t *testing.T, name string) *opscenter.ServerInfo {
	t.Helper()
	s.Poll(t, name)
	info, err := s.Server(t.Context(), name)
	require.NoError(t, err)
	return info
}

// TestForm forms a cluster, adds a server, and removes it.
func TestForm(t *testing.T) {
	s := newSite(t, nil, "a", "b", "c", "d")
	m := cluster.New(s.Registry, s.Client, cluster.Options{})
	require.NoError(t, m.Form(t.Context(), "c1", "a", "b", "c"))
	record, err := s.Cluster(t.Context(), "c1")
	require.NoError(t, err)
	require.Equal(t, opscenter.ClusterReady, record.Status)
	require.Equal(t, opscenter.Fingerprint(s.servers["a"].ClusterCertificate().Leaf), record.Fingerprint)
	for _, name := range []string{"a", "b", "c"} {
		s.servers[name].Cut() // as a daemon cuts idle connections
		info := s.poll(t, name)
		require.Equal(t, "c1", info.Cluster)
		require.Equal(t, name, info.State.MemberName)
		require.Equal(t, record.Fingerprint, info.State.Presented, "the server answers with the cluster's certificate, which is accepted")
		require.NotEmpty(t, info.State.MemberRoles)
	}
	require.NoError(t, m.Form(t.Context(), "c1", "a", "b", "c"), "again is no error")
	require.ErrorIs(t, m.Form(t.Context(), "c1", "a", "d"), cluster.ErrUnsuitable)

	require.NoError(t, m.AddServers(t.Context(), "c1", "d"))
	require.NoError(t, m.AddServers(t.Context(), "c1", "d"))
	require.Equal(t, "d", s.poll(t, "d").State.MemberName)

	s.servers["d"].AddInstance("default", "one", true)
	require.ErrorContains(t, m.RemoveServer(t.Context(), "c1", "d"), "instance one is on it")
	require.Equal(t, "c1", s.poll(t, "d").Cluster)
	require.NoError(t, s.Client.Evacuate(t.Context(), s.poll(t, "d").Target(), "auto"))
	require.NoError(t, m.RemoveServer(t.Context(), "c1", "d"))
	info, err := s.Server(t.Context(), "d")
	require.NoError(t, err)
	require.Empty(t, info.Cluster)
	o, err := s.Polls.Poll(t.Context(), "d")
	require.NoError(t, err)
	require.NotNil(t, o.Failure, "the server was reset, and trusts no client")
	require.ErrorIs(t, m.RemoveServer(t.Context(), "c1", "d"), opscenter.ErrNotFound)
}

// TestUnsuitable: unsuitable servers are refused with all problems, and nothing is recorded.
func TestUnsuitable(t *testing.T) {
	s := newSite(t, map[string]incusostest.Options{"old": {Version: "202609010000"}, "other": {Application: "migration-manager"}}, "a", "old", "other", "gone", "away", "taken")
	m := cluster.New(s.Registry, s.Client, cluster.Options{})
	require.NoError(t, s.Channels().Publish(t.Context(), "stable", "202610010000", "os"))
	require.NoError(t, s.Channels().Create(t.Context(), "testing", ""))
	require.NoError(t, s.EditServer(t.Context(), "away", func(_ *opscenter.ServerInfo, spec *opscenter.ServerSpec) error {
		*spec = opscenter.ServerSpec{Channel: "testing"}
		return nil
	}))
	_, err := s.CreateCluster(t.Context(), "c0", opscenter.ClusterSpec{}, "taken")
	require.NoError(t, err)
	s.servers["gone"].Crash()
	for range 3 {
		_, err := s.Polls.Poll(t.Context(), "gone")
		require.NoError(t, err)
	}
	err = m.Form(t.Context(), "c1", "a", "old", "other", "gone", "away", "taken")
	require.ErrorIs(t, err, cluster.ErrUnsuitable)
	for _, text := range []string{"server old: its versions are os 202609010000", "server old: an update is pending", "server other: it is of type migration-manager",
		"server gone: it is offline unresponsive", "server away: it follows channel testing", "server taken: it is a member of cluster c0"} {
		require.ErrorContains(t, err, text)
	}
	_, err = s.Cluster(t.Context(), "c1")
	require.ErrorIs(t, err, opscenter.ErrNotFound, "all servers are checked before the first step")
	require.ErrorIs(t, m.Form(t.Context(), "c1"), cluster.ErrUnsuitable)
	require.ErrorIs(t, m.Form(t.Context(), "c1", "a", "a"), cluster.ErrUnsuitable)
	require.ErrorIs(t, m.Form(t.Context(), "c1", "missing"), opscenter.ErrNotFound)
	require.ErrorIs(t, m.AddServers(t.Context(), "c1", "a"), opscenter.ErrNotFound)
}

// flaky is a client whose n-th call fails, before or after the server gets it.
type flaky struct {
	cluster.Incus
	left  int
	after bool
}

var errCut = errors.New("the line was cut")

func (f *flaky) do(call func() error) error {
	f.left--
	if f.left == 0 && !f.after {
		return errCut
	}
	err := call()
	if f.left == 0 {
		return errCut
	}
	return err
}

func (f *flaky) ClusterState(ctx context.Context, t opscenter.Target) (out cluster.State, err error) {
	return out, f.do(func() error { out, err = f.Incus.ClusterState(ctx, t); return err })
}
func (f *flaky) SetClusterAddress(ctx context.Context, t opscenter.Target, address string) error {
	return f.do(func() error { return f.Incus.SetClusterAddress(ctx, t, address) })
}
func (f *flaky) Bootstrap(ctx context.Context, t opscenter.Target, name string) (out *x509.Certificate, err error) {
	return out, f.do(func() error { out, err = f.Incus.Bootstrap(ctx, t, name); return err })
}
func (f *flaky) JoinToken(ctx context.Context, t opscenter.Target, name string) (out string, err error) {
	return out, f.do(func() error { out, err = f.Incus.JoinToken(ctx, t, name); return err })
}
func (f *flaky) MemberConfig(ctx context.Context, t opscenter.Target) (out []cluster.Config, err error) {
	return out, f.do(func() error { out, err = f.Incus.MemberConfig(ctx, t); return err })
}
func (f *flaky) Contents(ctx context.Context, t opscenter.Target) (out string, err error) {
	return out, f.do(func() error { out, err = f.Incus.Contents(ctx, t); return err })
}
func (f *flaky) Join(ctx context.Context, t opscenter.Target, join cluster.Join) error {
	return f.do(func() error { return f.Incus.Join(ctx, t, join) })
}

// TestFormContinues: a failure at any call names the steps that are done, and the same call continues. An operator must
// accept the cluster's certificate only if the answer with that certificate was lost.
func TestFormContinues(t *testing.T) {
	for n := 1; n <= 9; n++ {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprint(n, after), func(t *testing.T) {
				t.Parallel()
				s := newSite(t, nil, "a", "b")
				err := cluster.New(s.Registry, &flaky{Incus: s.Client, left: n, after: after}, cluster.Options{}).Form(t.Context(), "c1", "a", "b")
				require.ErrorIs(t, err, errCut)
				var failed *cluster.Error
				require.ErrorAs(t, err, &failed)
				require.NotEmpty(t, failed.Step)
				require.Equal(t, n > 3, slices.Contains(failed.Done, "record the cluster"), err)
				m := cluster.New(s.Registry, s.Client, cluster.Options{})
				if err = m.Form(t.Context(), "c1", "a", "b"); err != nil {
					o, err := s.Polls.Poll(t.Context(), "a")
					require.NoError(t, err)
					require.NotNil(t, o.Failure)
					require.Equal(t, lifecycle.FailureCertificate, o.Failure.Kind)
					require.NoError(t, s.AcceptCertificate(t.Context(), "a", o.Presented))
					s.poll(t, "a")
					require.NoError(t, m.Form(t.Context(), "c1", "a", "b"))
				}
				require.Equal(t, "b", s.poll(t, "b").State.MemberName)
				require.Len(t, mustState(t, s, "a").Members, 2)
			})
		}
	}
}

// refusing is a client whose server refuses looks for a while after it has joined. It counts them.
type refusing struct {
	cluster.Incus
	left, looks int
	joined      bool
}

func (r *refusing) Join(ctx context.Context, t opscenter.Target, join cluster.Join) error {
	r.joined = true
	return r.Incus.Join(ctx, t, join)
}

func (r *refusing) ClusterState(ctx context.Context, t opscenter.Target) (cluster.State, error) {
	if r.joined {
		if r.looks++; r.left > 0 {
			r.left--
			return cluster.State{}, fmt.Errorf("%w: failed to get dqlite client", opscenter.ErrRefused)
		}
	}
	return r.Incus.ClusterState(ctx, t)
}

// TestLooksAgainAfterJoin: a server may refuse for a moment after it has joined, and a look is repeated within
// Options.Settle.
func TestLooksAgainAfterJoin(t *testing.T) {
	for _, c := range []struct {
		name        string
		settle      time.Duration
		left, looks int
		fails       bool
	}{
		{"default", 0, 3, 3 + 2, false},
		{"one look", -1, 1, 1, true},
		{"too long", 500 * time.Millisecond, 100, 3, true}, // at 0, 100 and 300 ms
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil, "a", "b")
			incus := &refusing{Incus: s.Client, left: c.left}
			err := cluster.New(s.Registry, incus, cluster.Options{Settle: c.settle}).Form(t.Context(), "c1", "a", "b")
			if require.Equal(t, c.looks, incus.looks); !c.fails {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, opscenter.ErrRefused)
			require.NoError(t, cluster.New(s.Registry, s.Client, cluster.Options{}).Form(t.Context(), "c1", "a", "b"), "the same call continues")
		})
	}
}

func mustState(t *testing.T, s *site, name string) cluster.State {
	state, err := s.Client.ClusterState(t.Context(), s.poll(t, name).Target())
	require.NoError(t, err)
	return state
}

// TestContentsAreKept: a server with contents, and a member of another cluster, are refused. A record never becomes that of
// another cluster.
func TestContentsAreKept(t *testing.T) {
	s := newSite(t, nil, "a", "b", "c", "d", "e", "f")
	m := cluster.New(s.Registry, s.Client, cluster.Options{})
	s.servers["b"].AddInstance("default", "precious", true)
	err := m.Form(t.Context(), "c1", "a", "b")
	require.ErrorIs(t, err, cluster.ErrUnsuitable)
	require.ErrorContains(t, err, "instances (precious), which would be lost")
	require.Len(t, s.servers["b"].Instances(), 1)
	_, err = s.Cluster(t.Context(), "c1")
	require.ErrorIs(t, err, opscenter.ErrNotFound, "nothing was recorded")
	require.Empty(t, mustState(t, s, "a").Name, "no step was done")

	require.NoError(t, incusostest.Cluster(s.servers["c"], s.servers["d"]))
	for _, name := range []string{"c", "d"} {
		require.NoError(t, s.AcceptCertificate(t.Context(), name, opscenter.Fingerprint(s.servers["c"].ClusterCertificate().Leaf)))
		s.poll(t, name)
	}
	require.ErrorContains(t, m.Form(t.Context(), "c2", "c", "e"), "with d, which is not one of these servers")
	// All members together are recorded as they are.
	require.NoError(t, m.Form(t.Context(), "c2", "e", "d", "c"))
	require.Len(t, mustState(t, s, "e").Members, 3)
	// A server that is recorded, but never joined, is no member of the cluster.
	require.NoError(t, s.AddClusterMembers(t.Context(), "c2", "f"))
	require.ErrorContains(t, m.Form(t.Context(), "c2", "c", "d", "e"), "other members, such as f")
	require.NoError(t, m.AddServers(t.Context(), "c2", "f"))
	require.Len(t, mustState(t, s, "c").Members, 4)
}

// TestUndo: a failure in the middle is undone by RemoveServers or DeleteCluster, and all servers can form another cluster.
func TestUndo(t *testing.T) {
	for n := 4; n <= 9; n++ {
		for _, byRecord := range []bool{false, true} {
			t.Run(fmt.Sprint(n, byRecord), func(t *testing.T) {
				t.Parallel()
				s := newSite(t, nil, "a", "b")
				err := cluster.New(s.Registry, &flaky{Incus: s.Client, left: n}, cluster.Options{}).Form(t.Context(), "c1", "a", "b")
				require.ErrorIs(t, err, errCut)
				require.ErrorContains(t, err, "to undo it, remove the servers")
				m := cluster.New(s.Registry, s.Client, cluster.Options{})
				if byRecord {
					require.NoError(t, s.DeleteCluster(t.Context(), "c1", false))
				} else {
					require.NoError(t, m.RemoveServers(t.Context(), "c1", cluster.RemoveOptions{}, "a", "b"))
					require.NoError(t, s.DeleteCluster(t.Context(), "c1", false))
				}
				for _, name := range []string{"a", "b"} {
					s.servers[name].Cut()
					info := s.poll(t, name)
					require.Empty(t, info.Cluster)
				}
				require.NoError(t, m.Form(t.Context(), "c2", "a", "b"), "another cluster can be formed")
			})
		}
	}
}

// TestRemovedMeanwhile: a server that is removed from the record while its cluster is being formed
// does not join, and the error says so.
func TestRemovedMeanwhile(t *testing.T) {
	s := newSite(t, nil, "a", "b", "c")
	m := cluster.New(s.Registry, &meanwhile{s.Client, func() { require.NoError(t, s.RemoveClusterMembers(t.Context(), "c1", opscenter.MemberRemoval{}, "c")) }}, cluster.Options{})
	err := m.Form(t.Context(), "c1", "a", "b", "c")
	require.ErrorIs(t, err, cluster.ErrUnsuitable)
	require.ErrorContains(t, err, "removed from the record meanwhile")
	var middle *cluster.Error
	require.ErrorAs(t, err, &middle)
	require.True(t, middle.Recorded)
	require.Empty(t, mustState(t, s, "c").Name)
	require.ErrorIs(t, m.RemoveServers(t.Context(), "c1", cluster.RemoveOptions{}, "c"), opscenter.ErrNotFound)
}

// meanwhile calls do while a server joins.
type meanwhile struct {
	cluster.Incus
	do func()
}

func (m *meanwhile) Join(ctx context.Context, target opscenter.Target, join cluster.Join) error {
	m.do()
	return m.Incus.Join(ctx, target, join)
}

// TestForcedRecord: servers whose record is deleted by force stay reachable with either certificate.
func TestForcedRecord(t *testing.T) {
	s := newSite(t, nil, "a", "b")
	m := cluster.New(s.Registry, s.Client, cluster.Options{})
	require.NoError(t, m.Form(t.Context(), "c1", "a", "b"))
	for _, name := range []string{"a", "b"} {
		s.servers[name].Cut()
		s.poll(t, name)
	}
	require.ErrorIs(t, s.DeleteCluster(t.Context(), "c1", false), opscenter.ErrHasMembers)
	require.NoError(t, s.DeleteCluster(t.Context(), "c1", true))
	for _, name := range []string{"a", "b"} {
		s.servers[name].Cut()
		require.Empty(t, s.poll(t, name).Cluster)
		require.NoError(t, s.servers[name].Present(nil))
	}
	own := s.servers["a"].Certificate()
	info := s.poll(t, "a")
	require.Equal(t, opscenter.Fingerprint(own), info.Fingerprint, "its own certificate is expected again")
}

// TestRemoveRefused: an invalid removal is refused before the first server is removed. A lost member is removed by force.
func TestRemoveRefused(t *testing.T) {
	s := newSite(t, nil, "a", "b", "c", "d")
	m := cluster.New(s.Registry, s.Client, cluster.Options{})
	require.NoError(t, m.Form(t.Context(), "c1", "a", "b", "c"))
	for _, name := range []string{"a", "b", "c"} {
		s.poll(t, name)
	}
	members := func() int { return len(mustState(t, s, "a").Members) }
	require.ErrorIs(t, m.RemoveServers(t.Context(), "c1", cluster.RemoveOptions{}, "b", "missing"), opscenter.ErrNotFound)
	require.ErrorIs(t, m.RemoveServers(t.Context(), "c1", cluster.RemoveOptions{}, "b", "d"), opscenter.ErrNotFound)
	require.ErrorIs(t, m.RemoveServers(t.Context(), "c1", cluster.RemoveOptions{}, "a", "b", "c"), cluster.ErrUnsuitable)
	require.ErrorContains(t, m.RemoveServers(t.Context(), "c1", cluster.RemoveOptions{Force: true}, "b"), "remove it without force")
	claim := opscenter.Claim{Unit: "c1", Cluster: true, Owner: "r1", What: "a rollout", Since: time.Now()}
	require.NoError(t, s.Write(t.Context(), func(tx *opscenter.Tx) error { return tx.Claim(claim) }))
	require.ErrorIs(t, m.RemoveServers(t.Context(), "c1", cluster.RemoveOptions{}, "b"), opscenter.ErrBusy)
	require.Equal(t, 3, members())

	s.servers["c"].AddInstance("default", "lost", true)
	s.servers["c"].Crash()
	for range 3 {
		_, err := s.Polls.Poll(t.Context(), "c")
		require.NoError(t, err)
	}
	require.NoError(t, m.RemoveServers(t.Context(), "c1", cluster.RemoveOptions{Force: true}, "c"), "in spite of the rollout that holds the cluster")
	require.Equal(t, 2, members())
	info, err := s.Server(t.Context(), "c")
	require.NoError(t, err)
	require.Empty(t, info.Cluster)
	require.Empty(t, info.State.MemberName)
	require.NoError(t, s.DeleteServer(t.Context(), "c", false))
}

// TestDeadNewcomer: a server that was recorded, never joined, and died, is removed from the record with and without force.
func TestDeadNewcomer(t *testing.T) {
	for _, force := range []bool{false, true} {
		s := newSite(t, nil, "a", "b", "c")
		m := cluster.New(s.Registry, s.Client, cluster.Options{})
		require.NoError(t, m.Form(t.Context(), "c1", "a", "b"))
		for _, name := range []string{"a", "b", "c"} {
			s.poll(t, name)
		}
		require.NoError(t, s.AddClusterMembers(t.Context(), "c1", "c"))
		s.servers["c"].Crash()
		for range 3 {
			_, err := s.Polls.Poll(t.Context(), "c")
			require.NoError(t, err)
		}
		require.NoError(t, m.RemoveServers(t.Context(), "c1", cluster.RemoveOptions{Force: force}, "c"))
		info, err := s.Server(t.Context(), "c")
		require.NoError(t, err)
		require.Empty(t, info.Cluster)
		require.Len(t, mustState(t, s, "a").Members, 2)
		require.NoError(t, s.DeleteServer(t.Context(), "c", false))
	}
}

// TestRetiredCertificate: a server that leaves is not accepted with a former certificate of the cluster.
func TestRetiredCertificate(t *testing.T) {
	s := newSite(t, nil, "a", "b")
	m := cluster.New(s.Registry, s.Client, cluster.Options{})
	require.NoError(t, m.Form(t.Context(), "c1", "a", "b"))
	record, err := s.Cluster(t.Context(), "c1")
	require.NoError(t, err)
	renewed, err := selfsigned.New("renewed")
	require.NoError(t, err)
	require.NoError(t, s.Write(t.Context(), func(tx *opscenter.Tx) error { return tx.SetClusterCertificate("c1", renewed.Leaf) }))
	require.NoError(t, s.RemoveClusterMembers(t.Context(), "c1", opscenter.MemberRemoval{Left: true}, "b"))
	info, err := s.Server(t.Context(), "b")
	require.NoError(t, err)
	require.NotEqual(t, record.Fingerprint, info.ServedFingerprint)
}
