package opscenter_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage/memstore"
)

func TestClusters(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		for i := range 4 {
			w.ready(t, i)
		}
		require.NoError(t, w.SetChannel(t.Context(), "testing", ""))
		members := func(cluster string) (out []string) {
			for info, err := range w.Servers(t.Context(), opscenter.ServerFilter{Cluster: cluster}) {
				require.NoError(t, err)
				out = append(out, info.Name)
			}
			return out
		}
		c, err := w.CreateCluster(t.Context(), "c1", opscenter.ClusterSpec{Channel: "testing", Properties: map[string]string{"site": "a"}}, "server00", "server01")
		require.NoError(t, err)
		require.Equal(t, opscenter.ClusterPending, c.Status)
		require.Equal(t, []string{"server00", "server01"}, members("c1"))
		require.Equal(t, "testing", w.get(t, "server00").Channel, "the cluster's channel is its members'")

		_, err = w.CreateCluster(t.Context(), "C1", opscenter.ClusterSpec{})
		require.ErrorIs(t, err, opscenter.ErrClusterTaken)
		_, err = w.CreateCluster(t.Context(), "c2", opscenter.ClusterSpec{}, "server02", "server01")
		require.ErrorIs(t, err, opscenter.ErrClustered, "a server belongs to at most one")
		_, err = w.Cluster(t.Context(), "c2")
		require.ErrorIs(t, err, opscenter.ErrNotFound, "all or nothing")
		_, err = w.CreateCluster(t.Context(), "c2", opscenter.ClusterSpec{}, "missing")
		require.ErrorIs(t, err, opscenter.ErrNotFound)
		_, err = w.CreateCluster(t.Context(), "c 2", opscenter.ClusterSpec{})
		require.ErrorIs(t, err, opscenter.ErrInvalidName)
		for _, spec := range []opscenter.ClusterSpec{{PostRestoreDelay: -1}, {RestoreMode: "x"}} {
			_, err = w.CreateCluster(t.Context(), "c2", spec)
			require.ErrorIs(t, err, opscenter.ErrInvalidOptions)
		}
		_, err = w.CreateCluster(t.Context(), "c2", opscenter.ClusterSpec{Channel: "none"})
		require.ErrorIs(t, err, opscenter.ErrNotFound)
		_, err = w.CreateCluster(t.Context(), "c2", opscenter.ClusterSpec{ConnectionURL: "http://x"})
		require.ErrorIs(t, err, opscenter.ErrInvalidURL)

		// A member is not renamed, moved to another channel, or removed alone.
		require.ErrorIs(t, w.RenameServer(t.Context(), "server00", "other", nil), opscenter.ErrClustered)
		require.ErrorIs(t, w.DeleteServer(t.Context(), "server00", false), opscenter.ErrClustered)
		require.ErrorIs(t, w.UpdateServer(t.Context(), "server00", opscenter.ServerSpec{Channel: "stable"}, nil), opscenter.ErrClustered)

		require.NoError(t, w.AddClusterMembers(t.Context(), "c1", "server02", "server00"))
		require.Equal(t, []string{"server00", "server01", "server02"}, members("c1"))
		require.NoError(t, w.UpdateCluster(t.Context(), "c1", opscenter.ClusterSpec{Channel: "stable", Description: "d"}, nil))
		require.Equal(t, "stable", w.get(t, "server02").Channel)
		stop := errors.New("stop")
		require.ErrorIs(t, w.UpdateCluster(t.Context(), "c1", opscenter.ClusterSpec{}, func(c *opscenter.Cluster) error {
			require.Equal(t, "d", c.Description)
			return stop
		}), stop)

		// Its certificate is accepted of all members, and of later ones.
		require.NoError(t, w.Write(t.Context(), func(tx *opscenter.Tx) error { return tx.SetClusterCertificate("c1", certificate(50)) }))
		fingerprint := opscenter.Fingerprint(certificate(50))
		require.Equal(t, fingerprint, w.get(t, "server01").Target().ServedFingerprint)
		require.NoError(t, w.AddClusterMembers(t.Context(), "c1", "server03"))
		require.Equal(t, fingerprint, w.get(t, "server03").ServedFingerprint)
		w.add(t, 4)
		require.NoError(t, w.AddClusterMembers(t.Context(), "c1", "server04"))
		require.NoError(t, w.RemoveClusterMembers(t.Context(), "c1", opscenter.MemberRemoval{}, "server03", "server04"))
		require.Equal(t, fingerprint, w.get(t, "server03").ServedFingerprint, "it is a member of the Incus cluster still")
		require.Empty(t, w.get(t, "server04").ServedFingerprint, "it was never a member")
		require.Empty(t, w.get(t, "server03").Cluster)

		require.NoError(t, w.RenameCluster(t.Context(), "c1", "c9", nil))
		require.Equal(t, []string{"server00", "server01", "server02"}, members("c9"))
		require.ErrorIs(t, w.DeleteCluster(t.Context(), "c9", false), opscenter.ErrHasMembers)

		// A cluster that a rollout has claimed can't be changed.
		claim := opscenter.Claim{Unit: "c9", Cluster: true, Owner: "r1", What: "a rollout", Since: time.Now()}
		require.NoError(t, w.Write(t.Context(), func(tx *opscenter.Tx) error { return tx.Claim(claim) }))
		other := claim
		other.Owner = "r2"
		require.ErrorIs(t, w.Write(t.Context(), func(tx *opscenter.Tx) error { return tx.Claim(other) }), opscenter.ErrBusy)
		require.ErrorIs(t, w.RenameCluster(t.Context(), "c9", "c8", nil), opscenter.ErrBusy)
		require.ErrorIs(t, w.RemoveClusterMembers(t.Context(), "c9", opscenter.MemberRemoval{}, "server00"), opscenter.ErrBusy)
		require.ErrorIs(t, w.AddClusterMembers(t.Context(), "c9", "server03"), opscenter.ErrBusy)
		require.NoError(t, w.RemoveClusterMembers(t.Context(), "c9", opscenter.MemberRemoval{Force: true}, "server01"))
		require.Equal(t, fingerprint, w.get(t, "server01").ServedFingerprint, "by force it stays reachable, too")
		require.Equal(t, "server01", w.get(t, "server01").State.MemberName)
		require.ErrorIs(t, w.DeleteCluster(t.Context(), "c9", true), opscenter.ErrBusy)
		require.ErrorIs(t, w.UpdateCluster(t.Context(), "c9", opscenter.ClusterSpec{Channel: "testing"}, nil), opscenter.ErrBusy)
		_, _, err = w.BeginAction(t.Context(), "server00", lifecycle.ActionReboot)
		require.ErrorIs(t, err, opscenter.ErrBusy)
		require.NoError(t, w.Write(t.Context(), func(tx *opscenter.Tx) error { return tx.Release("r2", "c9", true) }), "not his: nothing happens")
		require.ErrorIs(t, w.DeleteCluster(t.Context(), "c9", true), opscenter.ErrBusy)
		require.NoError(t, w.Write(t.Context(), func(tx *opscenter.Tx) error { return tx.Release("r1", "c9", true) }))

		require.NoError(t, w.DeleteCluster(t.Context(), "c9", true))
		require.Empty(t, w.get(t, "server00").Cluster)
		require.Equal(t, fingerprint, w.get(t, "server00").ServedFingerprint)
		page, err := w.ListClusters(t.Context(), opscenter.ClusterFilter{}, opscenter.Page{})
		require.NoError(t, err)
		require.Empty(t, page.Clusters)
	})
}

// A certificate that an operator replaced is not accepted again when the server leaves its cluster.
func TestAcceptedInstead(t *testing.T) {
	w := memoryWorld(t)
	for i := range 2 {
		w.add(t, i)
	}
	x, y := strings.Repeat("aa", 32), strings.Repeat("bb", 32)
	require.NoError(t, w.AcceptCertificate(t.Context(), "server00", x))
	require.NoError(t, w.AcceptCertificate(t.Context(), "server01", x))
	_, err := w.CreateCluster(t.Context(), "c1", opscenter.ClusterSpec{}, "server00", "server01")
	require.NoError(t, err)
	require.NoError(t, w.Write(t.Context(), func(tx *opscenter.Tx) error { return tx.SetClusterCertificate("c1", certificate(50)) }))
	require.NoError(t, w.AcceptCertificate(t.Context(), "server00", y))
	require.NoError(t, w.AcceptCertificate(t.Context(), "server00", opscenter.Fingerprint(certificate(50))))
	require.NoError(t, w.RemoveClusterMembers(t.Context(), "c1", opscenter.MemberRemoval{Left: true}, "server00", "server01"))
	require.Empty(t, w.get(t, "server00").ServedFingerprint)
	require.Equal(t, x, w.get(t, "server01").ServedFingerprint)
}

func TestClusterPages(t *testing.T) {
	w := memoryWorld(t)
	var want, got []string
	for _, name := range []string{"b", "a", "d", "c"} {
		_, err := w.CreateCluster(t.Context(), name, opscenter.ClusterSpec{})
		require.NoError(t, err)
		want = append(want, name)
	}
	slices.Sort(want)
	for page := (opscenter.Page{Limit: 3}); ; {
		found, err := w.ListClusters(t.Context(), opscenter.ClusterFilter{}, page)
		require.NoError(t, err)
		for _, c := range found.Clusters {
			got = append(got, c.Name)
		}
		if page.Cursor = found.Next; page.Cursor == "" {
			break
		}
	}
	require.Equal(t, want, got)
}

// TestDiscovery: a server that turns out to be a member of a known cluster is shown as one;
// it is adopted when the operator, or an option, says so.
func TestDiscovery(t *testing.T) {
	for _, adopt := range []bool{false, true} {
		w := newWorld(t, memstore.New(memstore.Options{DetectMutation: true}), opscenter.Options{AdoptMembers: adopt})
		w.ready(t, 0)
		info := w.ready(t, 1)
		_, err := w.CreateCluster(t.Context(), "c1", opscenter.ClusterSpec{}, "server00")
		require.NoError(t, err)
		require.NoError(t, w.Write(t.Context(), func(tx *opscenter.Tx) error { return tx.SetClusterCertificate("c1", certificate(50)) }))
		presented := opscenter.Fingerprint(certificate(50))

		// It joined: it presents the cluster's certificate, which was not accepted for it.
		w.observe(t, lifecycle.Observation{Server: "server01", ID: info.ID, At: time.Now(), Presented: presented,
			Failure: &lifecycle.Failure{Kind: lifecycle.FailureCertificate, Message: "another certificate"}})
		accepted := w.get(t, "server01").ServedFingerprint
		if !adopt {
			require.Empty(t, accepted)
			require.NoError(t, w.AcceptCertificate(t.Context(), "server01", presented))
		} else {
			require.Equal(t, presented, accepted)
		}
		o := answer(info)
		name := "server01"
		o.Presented, o.MemberName, o.MemberRoles = presented, &name, []string{"database"}
		w.observe(t, o)
		now := w.get(t, "server01")
		if adopt { // nothing tells which machine that is
			require.Empty(t, now.Cluster)
			require.Contains(t, w.warnings(t)["server01"], warning.Identity)
			require.Empty(t, now.Target().ServedFingerprint)
			o.MachineID = info.MachineID
			w.observe(t, o)
			now = w.get(t, "server01")
		}
		require.Equal(t, "server01", now.State.MemberName)
		require.Contains(t, w.events(t, event.ClusterDiscovered)[1].Reason, "is member server01 of an Incus cluster")
		require.Equal(t, []string{"database"}, now.State.MemberRoles)
		if !adopt {
			require.Empty(t, now.Cluster)
			require.NoError(t, w.AddClusterMembers(t.Context(), "c1", "server01"))
			now = w.get(t, "server01")
		}
		require.Equal(t, "c1", now.Cluster)
		require.Len(t, w.events(t, event.ClusterMemberAdded), 2)
	}
}

// alone is an Incus server in no cluster.
type alone struct {
	actuator
	mu      sync.Mutex
	running []lifecycle.Instance
	started []lifecycle.Instance
	fails   map[string]error // by instance
	before  func()           // each stop
}

func (a *alone) RunningInstances(context.Context, opscenter.Target) ([]lifecycle.Instance, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.running), nil
}

func (a *alone) StopInstance(_ context.Context, _ opscenter.Target, i lifecycle.Instance) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.before != nil {
		a.before()
	}
	if err := a.fails[i.Name]; err != nil {
		return err
	}
	a.running = slices.DeleteFunc(a.running, func(other lifecycle.Instance) bool { return other == i })
	return nil
}

func (a *alone) StartInstance(_ context.Context, _ opscenter.Target, i lifecycle.Instance) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.started = append(a.started, i)
	return a.fails[i.Name]
}

// TestStandaloneEvacuation: the running instances are remembered before they are stopped, and
// exactly those are started again, through failures, a restart of the controller, and polls.
func TestStandaloneEvacuation(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		info := w.ready(t, 0)
		o := answer(info)
		none, online := "", lifecycle.NotInMaintenance
		o.MemberName, o.Maintenance = &none, &online
		w.observe(t, o)
		one, two := lifecycle.Instance{Project: "default", Name: "one"}, lifecycle.Instance{Project: "p", Name: "two"}
		a := &alone{running: []lifecycle.Instance{one, two}, fails: map[string]error{"two": errors.New("it does not stop")}}
		a.before = func() {
			s := w.get(t, "server00").State
			require.NotNil(t, s.Stopped, "remembered before anything is stopped")
			require.Len(t, s.Stopped.Instances, 2)
		}
		planner := opscenter.NewUpdatePlanner(w.Registry, a)
		require.ErrorContains(t, planner.Act(t.Context(), "server00", lifecycle.ActionEvacuate), "instance two of project p: it does not stop")
		require.Equal(t, lifecycle.NotInMaintenance, w.get(t, "server00").State.Maintenance)
		require.True(t, w.get(t, "server00").Rolling().Moving, "half of it is stopped")
		require.NotEmpty(t, w.get(t, "server00").State.LastOperation.Failed)

		a.fails = nil
		require.NoError(t, planner.Act(t.Context(), "server00", lifecycle.ActionEvacuate))
		require.Empty(t, a.running)
		for range 2 {
			w.observe(t, o) // Incus doesn't know of it
			s := w.get(t, "server00").State
			require.Equal(t, lifecycle.MaintenanceEvacuated, s.Maintenance)
			require.ElementsMatch(t, []lifecycle.Instance{one, two}, s.Stopped.Instances, "with the one that was stopped first")
			require.Equal(t, lifecycle.ActionRestore, w.get(t, "server00").Recommendation().Action)
		}
		a.fails = map[string]error{"one": errors.New("it does not start")}
		require.ErrorContains(t, planner.Act(t.Context(), "server00", lifecycle.ActionRestore), "it does not start")
		require.Equal(t, lifecycle.MaintenanceEvacuated, w.get(t, "server00").State.Maintenance)
		a.fails, a.started = nil, nil
		require.NoError(t, planner.Act(t.Context(), "server00", lifecycle.ActionRestore))
		require.ElementsMatch(t, []lifecycle.Instance{one, two}, a.started)
		s := w.get(t, "server00").State
		require.Nil(t, s.Stopped)
		require.Equal(t, lifecycle.NotInMaintenance, s.Maintenance)
		require.Positive(t, s.Took[lifecycle.ActionRestore])
	})
}

// TestPlan plans out of the registry.
func TestPlan(t *testing.T) {
	w := memoryWorld(t)
	for i := range 3 {
		w.ready(t, i)
	}
	_, err := w.CreateCluster(t.Context(), "c1", opscenter.ClusterSpec{PostRestoreDelay: time.Minute}, "server00", "server01", "server02")
	require.NoError(t, err)
	require.NoError(t, w.Channels().Publish(t.Context(), "stable", "202610150000", "os", "incus"))
	planner := opscenter.NewUpdatePlanner(w.Registry, nil)
	plan, err := planner.Plan(t.Context(), rolling.Selector{All: true}, rolling.Policy{})
	require.NoError(t, err)
	require.Empty(t, plan.Blockers, plan.String())
	require.Len(t, plan.Steps, 12, plan.String())
	again, err := planner.Plan(t.Context(), rolling.Selector{Clusters: []string{"c1"}}, rolling.Policy{})
	require.NoError(t, err)
	require.Empty(t, plan.Difference(again))
	require.NoError(t, w.Write(t.Context(), func(tx *opscenter.Tx) error {
		return tx.Claim(opscenter.Claim{Unit: "c1", Cluster: true, Owner: "r1", What: "rollout", Since: time.Now()})
	}))
	plan, err = planner.Plan(t.Context(), rolling.Selector{All: true}, rolling.Policy{})
	require.NoError(t, err)
	require.Equal(t, []rolling.Blocker{{Unit: "c1", Reason: "another operation is running: rollout (r1)"}}, plan.Blocked())
	_, err = planner.Plan(t.Context(), rolling.Selector{}, rolling.Policy{})
	require.ErrorIs(t, err, rolling.ErrInvalid)
}
