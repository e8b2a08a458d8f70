package inventory_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// TestSlowClusterDelaysNoOther: a cluster that hangs in its scan, and one that is down, do not delay the others, even with
// one scan at a time.
func TestSlowClusterDelaysNoOther(t *testing.T) {
	p := newPlane(t, inventory.Options{MaxScans: 1, SlowAfter: 50 * time.Millisecond, MaxBackoff: time.Second})
	servers := map[string]*incusostest.Server{}
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		servers[name] = boot(t, name)
		servers[name].Furnish(50)
		p.adopt(t, servers[name], "")
	}
	require.NoError(t, servers["a"].SetFault(incusostest.Fault{Kind: incusostest.FaultHang, Path: "/1.0/instances"}))
	require.NoError(t, servers["b"].SetFault(incusostest.Fault{Kind: incusostest.FaultGarbage, Path: "/1.0/profiles"}))
	p.run(t)
	for _, name := range []string{"c", "d", "e"} {
		p.following(t, name, 10*time.Second)
	}
	require.NoError(t, servers["a"].SetFault(incusostest.Fault{}))
	require.NoError(t, servers["b"].SetFault(incusostest.Fault{}))
	p.following(t, "a", 20*time.Second)
	p.following(t, "b", 20*time.Second)
}

// TestUnreadableIsKept: objects that can't be read stay stored. An incomplete scan is repeated, and the status is not
// current until then.
func TestUnreadableIsKept(t *testing.T) {
	s := boot(t, "sim")
	s.Furnish(60)
	p := newPlane(t, inventory.Options{MaxBackoff: time.Second})
	p.adopt(t, s, "")
	p.run(t)
	p.following(t, "sim", 10*time.Second)
	before, err := kept(t.Context(), p.objects, "sim")
	require.NoError(t, err)
	status := func() inventory.Status {
		all, err := p.objects.Status(t.Context())
		require.NoError(t, err)
		require.Len(t, all, 1)
		return all[0]
	}
	for _, fault := range []incusostest.Fault{{Kind: incusostest.FaultNotFound, Path: "/1.0/storage-pools"}, {Kind: incusostest.FaultNotFound, Path: "/1.0/storage-pools/local/volumes"},
		{Kind: incusostest.FaultError, Path: "/1.0/networks"}, {Kind: incusostest.FaultGarbage, Path: "/1.0/profiles"}, {Kind: incusostest.FaultTruncated, Path: "/1.0/instances"}} {
		require.NoError(t, s.SetFault(fault))
		require.Eventually(t, func() bool { return p.objects.ResyncCluster(t.Context(), "sim") != nil }, 10*time.Second, 10*time.Millisecond, fault)
		require.Eventually(t, func() bool { return !status().Following && status().Failure != "" }, 10*time.Second, 10*time.Millisecond, fault)
		during, err := kept(t.Context(), p.objects, "sim")
		require.NoError(t, err)
		require.Empty(t, difference(before, during), fault)
		require.NoError(t, s.SetFault(incusostest.Fault{}))
		p.following(t, "sim", 20*time.Second)
	}
	after, err := kept(t.Context(), p.objects, "sim")
	require.NoError(t, err)
	require.Empty(t, difference(before, after))
	changes, err := p.objects.Changes(t.Context(), 0, 0)
	require.NoError(t, err)
	require.Len(t, changes, 1, "the only change is the first reading")
}

// TestLargeObjects: objects that are too large for a row lose their largest member, and the others are complete.
func TestLargeObjects(t *testing.T) {
	s := boot(t, "sim")
	p := newPlane(t, inventory.Options{MaxBackoff: time.Second})
	p.adopt(t, s, "")
	p.run(t)
	p.following(t, "sim", 10*time.Second)
	o := newOperator(t, s)
	for i := range 8 { // each of these characters takes six bytes in a row
		o.must("POST", "profiles", object{"name": fmt.Sprint("markup", i), "description": strings.Repeat("<", 150_000), "config": object{"user.x": strings.Repeat("&", 20_000)}})
	}
	o.must("POST", "profiles", object{"name": "last"})
	var found inventory.Page
	require.Eventually(t, func() bool {
		var err error
		found, err = p.objects.List(t.Context(), inventory.Query{Kinds: []inventory.Kind{inventory.KindProfile}, Search: "a"})
		require.NoError(t, err)
		return len(found.Objects) == 10
	}, 5*time.Second, 20*time.Millisecond)
	for _, profile := range found.Objects {
		if strings.HasPrefix(profile.Name, "markup") {
			require.Equal(t, []string{"description"}, profile.Truncated)
		}
	}
	require.NoError(t, p.objects.ResyncCluster(t.Context(), "sim"))
	p.following(t, "sim", time.Second)
}

// TestUnits: the inventory follows the registry. The objects of a server leave with it when it is removed, or joins a
// cluster.
func TestUnits(t *testing.T) {
	a, b := boot(t, "a"), boot(t, "b")
	a.Furnish(20)
	b.Furnish(600) // more than one transaction removes
	p := newPlane(t, inventory.Options{})
	p.adopt(t, a, "")
	p.adopt(t, b, "")
	p.run(t)
	p.following(t, "a", 10*time.Second)
	p.following(t, "b", 10*time.Second)
	count := func(cluster string) int {
		counts, err := p.objects.Count(t.Context(), inventory.Query{Cluster: cluster})
		require.NoError(t, err)
		return counts.Total
	}
	require.Greater(t, count("b"), 500)
	require.NoError(t, p.RenameServer(t.Context(), "a", "first", nil))
	before := count("first")
	require.NotZero(t, before)
	require.Zero(t, count("a"))
	require.NoError(t, p.DeleteServer(t.Context(), "b", false))
	gone := func() bool { return count("") == before }
	require.Eventually(t, gone, 10*time.Second, 20*time.Millisecond)
	require.NoError(t, incusostest.Cluster(a))
	_, err := p.CreateCluster(t.Context(), "c1", opscenter.ClusterSpec{}, "first")
	require.NoError(t, err)
	require.NoError(t, p.Write(t.Context(), func(tx *opscenter.Tx) error { return tx.SetClusterCertificate("c1", a.ClusterCertificate().Leaf) }))
	p.following(t, "c1", 20*time.Second)
	require.Equal(t, before+1, count("c1"), "the member is an object, too")
	require.Equal(t, before+1, count(""))
	require.NoError(t, p.RenameCluster(t.Context(), "c1", "c2", nil))
	require.Equal(t, before+1, count("c2"))
	status := p.following(t, "c2", 10*time.Second)
	require.Equal(t, "first", status.Server)
	var told []string
	require.Eventually(t, func() bool { // the removal of a unit is recorded after that of its last object
		told = nil
		for _, c := range p.changes(t) {
			if c.Kind == "" && c.ClusterID != "" {
				told = append(told, fmt.Sprint(c.Action, " ", c.Name, " ", c.Cluster))
			}
		}
		return len(told) >= 5
	}, 10*time.Second, 20*time.Millisecond, "%v", told)
	slices.Sort(told[:2])
	slices.Sort(told[2:]) // the removal of the server's unit runs beside the start of the cluster's
	require.Equal(t, []string{"cluster-added a ", "cluster-added b "}, told[:2])
	require.Equal(t, []string{"cluster-added c1 c2", "cluster-removed a ", "cluster-removed b "}, told[2:])
}

// TestFollowRegistry: a reset of the change feed makes the inventory read the whole registry.
func TestFollowRegistry(t *testing.T) {
	s := boot(t, "sim")
	p := newPlane(t, inventory.Options{})
	p.adopt(t, s, "")
	controltest.Background(t, p.Polls.Run)
	require.Eventually(t, func() bool {
		info, err := p.Server(t.Context(), "sim")
		return err == nil && info.State.Type == lifecycle.TypeIncus
	}, 10*time.Second, 10*time.Millisecond)
	for changed, want := range map[*opscenter.Changes]int{{}: 0, {Servers: []string{"unknown"}}: 0, {Reset: true}: 1} {
		kept, err := p.objects.Follow(t.Context(), changed)
		require.NoError(t, err)
		require.Equal(t, want, kept, "%+v", changed)
	}
}

// TestPrune: a lowered limit is applied by the next Run.
func TestPrune(t *testing.T) {
	p, _, server := single(t, inventory.Options{}, 0)
	controltest.Background(t, p.Polls.Run)
	stop := controltest.Background(t, p.objects.Run)
	p.following(t, "sim", 10*time.Second)
	o := newOperator(t, server)
	for n := range 300 {
		o.must("POST", "profiles", object{"name": fmt.Sprint("p", n)})
	}
	require.Eventually(t, func() bool {
		return len(p.changes(t)) >= 301
	}, 20*time.Second, 10*time.Millisecond)
	stop()
	last, err := p.objects.LastChange(t.Context())
	require.NoError(t, err)
	p.tamper(t, inventory.Options{MaxChanges: 5})
	controltest.Background(t, p.objects.Run)
	require.Eventually(t, func() bool { return len(p.changes(t)) == 5 }, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, last, p.changes(t)[4].Sequence, "the newest are left")
}

// TestLimits: objects, changes and streams beyond a limit are left out, and the status says so.
func TestLimits(t *testing.T) {
	s, other := boot(t, "sim"), boot(t, "other")
	p := newPlane(t, inventory.Options{MaxStreams: 1, MaxChanges: 3, MembersInterval: 100 * time.Millisecond})
	p.adopt(t, s, "")
	p.run(t)
	p.following(t, "sim", 10*time.Second)
	p.adopt(t, other, "")
	require.Eventually(t, func() bool {
		all, err := p.objects.Status(t.Context())
		require.NoError(t, err)
		return len(all) == 2 && all[0].Cluster == "other" && all[0].Scans == 1 && !all[0].Following && strings.Contains(all[0].Failure, "MaxStreams")
	}, 10*time.Second, 20*time.Millisecond, "MaxStreams: the unit is scanned, but has no stream")

	o := newOperator(t, s)
	o.must("POST", "networks", object{"name": "big", "type": "ovn", "description": strings.Repeat("x", inventory.MaxObjectSize)})
	var found []*inventory.Object
	require.Eventually(t, func() bool {
		page, err := p.objects.List(t.Context(), inventory.Query{Cluster: "sim", Name: "big"})
		require.NoError(t, err)
		found = page.Objects
		return len(found) == 1
	}, within, 20*time.Millisecond)
	require.Equal(t, []string{"description"}, found[0].Truncated, "MaxObjectSize")
	require.Contains(t, string(found[0].Object), `"type":"ovn"`)
	for n := range 5 {
		o.must("POST", "projects", object{"name": fmt.Sprint("p", n)})
	}
	require.Eventually(t, func() bool {
		counts, err := p.objects.Count(t.Context(), inventory.Query{Kinds: []inventory.Kind{inventory.KindProject}, Cluster: "sim"})
		require.NoError(t, err)
		return counts.Total == 6
	}, within, 20*time.Millisecond)
	require.NoError(t, p.objects.Trim(t.Context()), "as is done now and then")
	changes, err := p.objects.Changes(t.Context(), 0, 0)
	require.NoError(t, err)
	require.Len(t, changes, 3, "MaxChanges")
	require.NoError(t, p.DeleteServer(t.Context(), "sim", false))
	p.following(t, "other", 10*time.Second) // the stream of sim is free
	_, err = inventory.New(p.Registry, p.Client, inventory.Options{MaxScans: -1})
	require.ErrorIs(t, err, opscenter.ErrInvalidOptions)
}

// TestScansWithoutEvents: scheduled scans find new and removed objects of a unit without a stream. The
// history names the scan as the source.
func TestScansWithoutEvents(t *testing.T) {
	first, other := boot(t, "first"), boot(t, "other")
	p := newPlane(t, inventory.Options{MaxStreams: 1, ScanInterval: 200 * time.Millisecond})
	p.adopt(t, first, "")
	p.run(t)
	p.following(t, "first", 10*time.Second)
	p.adopt(t, other, "")
	o := newOperator(t, other)
	agrees(t, p.objects, "other", o.get, 10*time.Second, "adopted")
	scanned := func() bool {
		all, err := p.objects.Status(t.Context())
		require.NoError(t, err)
		return all[1].Cluster == "other" && all[1].Events == 0 && all[1].ScanReason == "scheduled"
	}
	require.Eventually(t, scanned, 10*time.Second, 10*time.Millisecond)
	o.must("POST", "profiles", object{"name": "short-lived"})
	agrees(t, p.objects, "other", o.get, 10*time.Second, "made")
	o.must("DELETE", "profiles/short-lived", nil)
	agrees(t, p.objects, "other", o.get, 10*time.Second, "removed")
	changes, err := p.objects.Changes(t.Context(), 0, 0)
	require.NoError(t, err)
	var got []string
	for _, c := range changes {
		if c.Name == "short-lived" {
			got = append(got, string(c.Action)+" "+string(c.Source))
		}
	}
	require.Equal(t, []string{"created scan", "deleted scan"}, got)
}
