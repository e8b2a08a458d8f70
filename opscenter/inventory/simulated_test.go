package inventory_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/internal/page"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
)

// TestEveryKind creates, changes, renames and removes an object of every kind, also of those that need a hypervisor, OVN
// or MinIO. The inventory must follow through events alone.
func TestEveryKind(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		t.Run(fmt.Sprint("legacy volumes ", legacy), func(t *testing.T) {
			t.Parallel()
			s := controltest.Server(t, incusostest.Options{Name: "sim", Standalone: true, LegacyVolumes: legacy})
			everyKind(t, s)
		})
	}
}

func everyKind(t *testing.T, s *incusostest.Server) {
	p := newPlane(t, inventory.Options{})
	require.Equal(t, []string{"sim"}, p.adopt(t, s, ""))
	p.run(t)
	before := p.following(t, "sim", 10*time.Second)
	require.Equal(t, map[inventory.Kind]string{inventory.KindClusterMember: "the server is in no cluster"}, before.Skipped)
	o := newOperator(t, s)
	for _, step := range []struct {
		method, path string
		body         any
	}{
		{"POST", "storage-pools", object{"name": "local", "driver": "zfs"}},
		{"POST", "projects", object{"name": "p1"}},
		{"POST", "networks", object{"name": "ovn0", "type": "ovn", "config": object{"ipv4.address": "10.1.0.1/24"}}},
		{"POST", "networks/ovn0/forwards", object{"listen_address": "192.0.2.1"}},
		{"PATCH", "networks/ovn0/forwards/192.0.2.1", object{"description": "x"}},
		{"POST", "networks/ovn0/load-balancers", object{"listen_address": "192.0.2.2"}},
		{"PATCH", "networks/ovn0/load-balancers/192.0.2.2", object{"description": "x"}},
		{"POST", "networks/ovn0/peers", object{"name": "east", "target_integration": "i1"}},
		{"PATCH", "networks/ovn0/peers/east", object{"description": "x"}},
		{"POST", "network-integrations", object{"name": "i1", "type": "ovn"}},
		{"POST", "network-integrations/i1", object{"name": "i2"}},
		{"POST", "network-address-sets", object{"name": "set", "addresses": []string{"192.0.2.0/24"}}},
		{"PATCH", "network-address-sets/set", object{"addresses": []string{"192.0.2.0/25"}}},
		{"POST", "network-address-sets/set", object{"name": "set2"}},
		{"POST", "network-acls?project=p1", object{"name": "acl"}},
		{"POST", "network-zones", object{"name": "example.net"}},
		{"POST", "storage-pools/local/buckets", object{"name": "bucket1"}},
		{"PATCH", "storage-pools/local/buckets/bucket1", object{"description": "x"}},
		{"POST", "storage-pools/local/volumes/custom", object{"name": "v1"}},
		{"POST", "storage-pools/local/volumes/custom/v1/snapshots", object{"name": "s1"}},
		{"PATCH", "storage-pools/local/volumes/custom/v1/snapshots/s1", object{"description": "x"}},
		{"POST", "storage-pools/local/volumes/custom/v1", object{"name": "v2"}},
		{"POST", "storage-pools/local/volumes/custom/v2/snapshots", object{"name": "s2"}},
		{"POST", "storage-pools/local/volumes/custom/v2/snapshots/s2", object{"name": "s3"}},
		{"DELETE", "storage-pools/local/volumes/custom/v2/snapshots/s1", nil},
		{"POST", "images", object{"fingerprint": strings.Repeat("ab", 32)}},
		{"POST", "profiles?project=p1", object{"name": "small"}},
		{"POST", "profiles/small?project=p1", object{"name": "tiny"}},
		{"POST", "instances?project=p1", object{"name": "c1", "profiles": []string{"tiny"}}},
		{"POST", "profiles/tiny?project=p1", object{"name": "nano"}},
		{"PUT", "instances/c1/state?project=p1", object{"action": "start"}},
		{"POST", "instances/c1/snapshots?project=p1", object{"name": "s1"}},
		{"PATCH", "instances/c1?project=p1", object{"config": object{"user.x": "1"}}},
		{"POST", "instances/c1?project=p1", object{"name": "c2"}},
		{"DELETE", "instances/c2?project=p1", nil},
		{"POST", "networks/ovn0", object{"name": "ovn1"}},
		{"DELETE", "networks/ovn1/forwards/192.0.2.1", nil},
		{"DELETE", "networks/ovn1/load-balancers/192.0.2.2", nil},
		{"DELETE", "networks/ovn1/peers/east", nil},
		{"DELETE", "networks/ovn1", nil},
		{"DELETE", "network-integrations/i2", nil},
		{"DELETE", "network-address-sets/set2", nil},
		{"DELETE", "network-zones/example.net", nil},
		{"DELETE", "storage-pools/local/buckets/bucket1", nil},
		{"DELETE", "storage-pools/local/volumes/custom/v2", nil},
		{"DELETE", "images/" + strings.Repeat("ab", 32), nil},
		{"DELETE", "storage-pools/local", nil},
	} {
		o.must(step.method, step.path, step.body)
		agrees(t, p.objects, "sim", o.get, within, step.method+" "+step.path)
	}
	require.Equal(t, before.Scans, p.following(t, "sim", time.Second).Scans, "through events alone")
}

// TestModel changes a cluster of two at random. Meanwhile streams are cut, members crash, and unknown or too
// many events come. The inventory agrees after each round.
func TestModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	a, b := boot(t, "a"), boot(t, "b")
	require.NoError(t, incusostest.Cluster(a, b))
	p := newPlane(t, inventory.Options{MaxPending: 8, MaxBackoff: time.Second, MembersInterval: 300 * time.Millisecond, Debounce: 20 * time.Millisecond, MaxHistory: 5})
	require.ElementsMatch(t, []string{"a", "b"}, p.adopt(t, a, "c1"))
	p.run(t)
	p.following(t, "c1", 10*time.Second)
	operators := []*operator{newOperator(t, a), newOperator(t, b)}
	o := operators[0]
	o.must("POST", "storage-pools", object{"name": "local"})
	o.must("POST", "networks", object{"name": "net", "type": "ovn"})
	done, rounds := 0, 12
	for round := range rounds {
		for range 5 + random.IntN(20) {
			if randomly(random, operators[random.IntN(2)]) {
				done++
			}
			if random.IntN(12) == 0 {
				[]func(){a.Cut, b.Cut, func() { a.Emit("something-new", "/1.0/what") }, func() { b.Emit("network-updated", "%%%") }}[random.IntN(4)]()
			}
		}
		switch round {
		case rounds / 3:
			b.Crash()
			randomly(random, o)
			b.PowerOn()
		case 2 * rounds / 3:
			a.Crash()
			randomly(random, operators[1])
			a.PowerOn()
		}
		agrees(t, p.objects, "c1", o.get, 20*time.Second, fmt.Sprintf("round %d", round))
	}
	require.Greater(t, done, 30, "most changes were possible")
	total := 0
	for object, err := range p.objects.Objects(t.Context(), inventory.Query{}) {
		require.NoError(t, err)
		history, err := p.objects.History(t.Context(), object.UUID)
		require.NoError(t, err)
		require.LessOrEqual(t, len(history), 5)
		total += len(history)
	}
	require.NotZero(t, total)
}

// randomly makes a random change, and reports whether it was possible.
func randomly(random *rand.Rand, o *operator) bool {
	name := func(prefix string) string { return fmt.Sprint(prefix, random.IntN(6)) }
	project := []string{"default", "p0", "p1"}[random.IntN(3)]
	list := []struct{ collection, prefix, extra string }{{"profiles", "pr", ""}, {"network-acls", "acl", ""}, {"networks", "n", `"type":"ovn"`}, {"storage-pools/local/volumes/custom", "v", ""},
		{"network-zones", "z", ""}, {"networks/net/peers", "peer", ""}, {"storage-pools/local/buckets", "bucket", ""}, {"instances", "c", ""}, {"instances", "c", ""}, {"instances", "c", ""}}
	kind := list[random.IntN(len(list))]
	query := "?project=" + project
	if strings.HasPrefix(kind.collection, "networks/net") {
		query = ""
	}
	path := "/1.0/" + kind.collection + "/" + name(kind.prefix) + query
	switch random.IntN(8) {
	case 0, 1, 2:
		body := fmt.Sprintf(`{"name":%q,"description":"made"`, name(kind.prefix))
		if kind.extra != "" {
			body += "," + kind.extra
		}
		return o.do("POST", "/1.0/"+kind.collection+query, json.RawMessage(body+"}"), nil) == nil
	case 3:
		return o.do("PATCH", path, object{"description": fmt.Sprint(random.IntN(100))}, nil) == nil
	case 4:
		return o.do("POST", path, object{"name": name(kind.prefix)}, nil) == nil
	case 5:
		return o.do("DELETE", path, nil, nil) == nil
	case 6:
		return o.do("PUT", "/1.0/instances/"+name("c")+"/state?project="+project, object{"action": []string{"start", "stop"}[random.IntN(2)]}, nil) == nil
	default:
		if random.IntN(3) > 0 {
			return o.do("POST", "/1.0/projects", object{"name": project}, nil) == nil
		}
		return o.do("DELETE", "/1.0/projects/"+project, nil, nil) == nil
	}
}

// TestMemberDown: when a member is back, the inventory finds the changes without events, and the state of its
// instances.
func TestMemberDown(t *testing.T) {
	a, b := boot(t, "a"), boot(t, "b")
	require.NoError(t, incusostest.Cluster(a, b))
	p := newPlane(t, inventory.Options{MaxBackoff: time.Second, MembersInterval: 200 * time.Millisecond})
	p.adopt(t, a, "c1")
	b.AddInstance("default", "web", true)
	p.run(t)
	p.following(t, "c1", 10*time.Second)
	o := newOperator(t, a)
	state := func() string {
		page, err := p.objects.List(t.Context(), inventory.Query{Kinds: []inventory.Kind{inventory.KindInstance}, Filter: `object.status == "Running"`})
		require.NoError(t, err)
		if len(page.Objects) == 1 {
			return "Running"
		}
		return "Error"
	}
	require.Equal(t, "Running", state())
	// Of the entries that Incus makes up for the instances of a member that is down, only the status counts.
	web := func() *inventory.Object {
		page, err := p.objects.List(t.Context(), inventory.Query{Kinds: []inventory.Kind{inventory.KindInstance}, Name: "web"})
		require.NoError(t, err)
		require.Len(t, page.Objects, 1)
		return page.Objects[0]
	}
	without := func(o *inventory.Object) (rest map[string]any) {
		require.NoError(t, json.Unmarshal(o.Object, &rest))
		delete(rest, "status")
		delete(rest, "status_code")
		return rest
	}
	before := web()
	changes, err := p.objects.Changes(t.Context(), 0, 0)
	require.NoError(t, err)
	counted := len(changes)
	b.Crash()
	require.Eventually(t, func() bool { return state() == "Error" }, 10*time.Second, 10*time.Millisecond)
	agrees(t, p.objects, "c1", o.get, 10*time.Second, "b is down")
	require.Equal(t, without(before), without(web()))
	require.Equal(t, before.UUID, web().UUID)
	require.NoError(t, p.objects.ResyncCluster(t.Context(), "c1"))
	revision := func() (at uint64) {
		require.NoError(t, p.Store().View(t.Context(), func(tx storage.ReadTx) error { at = tx.Revision(); return nil }))
		return at
	}
	since := revision()
	for range 3 {
		require.NoError(t, p.objects.ResyncCluster(t.Context(), "c1"))
	}
	if until := revision(); until > since { // polls also write
		for batch, err := range p.Store().Watch(t.Context(), since) {
			require.NoError(t, err)
			for _, c := range batch.Changes {
				require.NotEqual(t, "inventory_objects", c.Table, "the same made-up entry is no change")
			}
			if batch.Revision >= until {
				break
			}
		}
	}
	b.PowerOn()
	agrees(t, p.objects, "c1", o.get, 10*time.Second, "b is back")
	require.Equal(t, without(before), without(web()))
	changes, err = p.objects.Changes(t.Context(), 0, 0)
	require.NoError(t, err)
	for _, c := range changes[counted:] {
		if c.Kind == inventory.KindInstance {
			require.Equal(t, inventory.ChangeUpdated, c.Action)
			for _, f := range c.Fields {
				require.Contains(t, []string{"status", "status_code"}, f.Path)
			}
		}
	}
	p.following(t, "c1", 10*time.Second)
	newOperator(t, b).must("POST", "profiles", object{"name": "made-on-b"}) // a does not listen to b so far
	agrees(t, p.objects, "c1", o.get, within, "profile created on b")
	require.Equal(t, "Running", state())
	p.following(t, "c1", 10*time.Second)
}

// TestUnchangedScanWritesNothing: a scan without changes commits nothing.
func TestUnchangedScanWritesNothing(t *testing.T) {
	s := boot(t, "sim")
	s.Furnish(300)
	p := newPlane(t, inventory.Options{MembersInterval: time.Hour})
	p.adopt(t, s, "")
	stop := controltest.Background(t, p.Polls.Run)
	require.Eventually(t, func() bool {
		info, err := p.Server(t.Context(), "sim")
		return err == nil && info.State.Status == lifecycle.StatusReady
	}, 10*time.Second, 10*time.Millisecond)
	stop()
	controltest.Background(t, p.objects.Run)
	p.following(t, "sim", 10*time.Second)
	measured := p.Store().(storage.Measured)
	before := measured.Stats()
	for range 3 {
		require.NoError(t, p.objects.ResyncCluster(t.Context(), "sim"))
	}
	require.Equal(t, before.Commits, measured.Stats().Commits)
	changes, err := p.objects.Changes(t.Context(), 0, 0)
	require.NoError(t, err)
	require.Len(t, changes, 1, "objects of the first scan are no changes")
	require.Equal(t, inventory.ChangeClusterAdded, changes[0].Action)
	require.Equal(t, 4, p.following(t, "sim", time.Second).Scans)
	status := p.following(t, "sim", time.Second)
	require.Equal(t, "requested", status.ScanReason)
	require.Error(t, p.objects.ResyncCluster(t.Context(), "unknown"))
}

// TestHistory: changes of an object are kept with their requestor, and a renamed object keeps its UUID.
func TestHistory(t *testing.T) {
	s := boot(t, "sim")
	p := newPlane(t, inventory.Options{MaxHistory: 4})
	p.adopt(t, s, "")
	p.run(t)
	p.following(t, "sim", 10*time.Second)
	after, err := p.objects.LastChange(t.Context())
	require.NoError(t, err)
	o := newOperator(t, s)
	step := func(method, path string, body any) {
		o.must(method, path, body)
		agrees(t, p.objects, "sim", o.get, within, path)
	}
	step("POST", "networks", object{"name": "n1", "type": "ovn", "config": object{"ipv4.address": "10.0.0.1/24"}})
	step("PATCH", "networks/n1", object{"config": object{"ipv4.address": "10.0.1.1/24", "ipv6.address": "none"}})
	step("POST", "networks/n1", object{"name": "n2"})
	page, err := p.objects.List(t.Context(), inventory.Query{Kinds: []inventory.Kind{inventory.KindNetwork}, Name: "n2"})
	require.NoError(t, err)
	require.Len(t, page.Objects, 1)
	id := page.Objects[0].UUID
	history, err := p.objects.History(t.Context(), id)
	require.NoError(t, err)
	require.Len(t, history, 3)
	require.Equal(t, inventory.ChangeRenamed, history[0].Action)
	require.Equal(t, []inventory.FieldChange{{Path: "name", From: []byte(`"n1"`), To: []byte(`"n2"`)}}, history[0].Fields)
	require.Equal(t, inventory.ChangeUpdated, history[1].Action)
	require.Equal(t, "network-updated", history[1].Event)
	require.Equal(t, "tls/operator", history[1].Requestor)
	require.Equal(t, inventory.SourceEvent, history[1].Source)
	require.Equal(t, "sim", history[1].Cluster)
	require.Equal(t, []inventory.FieldChange{{Path: `config["ipv4.address"]`, From: []byte(`"10.0.0.1/24"`), To: []byte(`"10.0.1.1/24"`)}, {Path: `config["ipv6.address"]`, To: []byte(`"none"`)}}, history[1].Fields)
	require.Equal(t, inventory.ChangeCreated, history[2].Action)
	for n := range 4 {
		step("PATCH", "networks/n2", object{"description": fmt.Sprint(n)})
	}
	history, err = p.objects.History(t.Context(), id)
	require.NoError(t, err)
	require.Len(t, history, 4, "MaxHistory")
	step("DELETE", "networks/n2", nil)
	history, err = p.objects.History(t.Context(), id)
	require.NoError(t, err, "a removed object still has a history")
	require.Equal(t, inventory.ChangeDeleted, history[0].Action)
	_, err = p.objects.Get(t.Context(), id)
	require.ErrorIs(t, err, opscenter.ErrNotFound)
	_, err = p.objects.History(t.Context(), "none")
	require.ErrorIs(t, err, opscenter.ErrNotFound)

	// Secrets are not stored.
	o.must("POST", "networks", object{"name": "n3", "type": "ovn", "config": object{"bgp.peers.x.password": "hunter2", "bgp.peers.x.address": "10.0.0.9"}})
	require.Eventually(t, func() bool {
		page, err = p.objects.List(t.Context(), inventory.Query{Name: "n3"})
		require.NoError(t, err)
		return len(page.Objects) == 1
	}, within, 10*time.Millisecond)
	require.Contains(t, string(page.Objects[0].Object), "bgp.peers.x.address")
	require.NotContains(t, string(page.Objects[0].Object), "hunter2")

	// The stream yields the kept changes with gaps for dropped ones, and then new changes.
	o.must("POST", "projects", object{"name": "later"})
	var last uint64
	for c, err := range p.objects.WatchChanges(t.Context(), after) {
		require.NoError(t, err)
		require.Greater(t, c.Sequence, last)
		last = c.Sequence
		if c.Kind == inventory.KindProject && c.Name == "later" {
			break
		}
	}
}

// TestMovingInstance: an instance that is missing for a moment, as during a move between members, stays the
// same object. A deleted instance is removed.
func TestMovingInstance(t *testing.T) {
	s := boot(t, "sim")
	s.Furnish(60)
	p := newPlane(t, inventory.Options{MaxBackoff: time.Second})
	require.NoError(t, incusostest.Cluster(s))
	p.adopt(t, s, "")
	p.run(t)
	p.following(t, "sim", 10*time.Second)
	page, err := p.objects.List(t.Context(), inventory.Query{Kinds: []inventory.Kind{inventory.KindInstance}})
	require.NoError(t, err)
	moving := page.Objects[0]
	path := "/1.0/instances/" + moving.Name
	require.NoError(t, s.SetFault(incusostest.Fault{Kind: incusostest.FaultNotFound, Path: path, Times: 1}))
	require.Eventually(t, func() bool { // the streams were cut
		err := p.objects.Resync(t.Context(), moving.UUID)
		return err == nil && s.Requests(path) > 1
	}, 10*time.Second, 10*time.Millisecond)
	again, err := p.objects.Get(t.Context(), moving.UUID)
	require.NoError(t, err)
	require.Equal(t, moving.Name, again.Name)
	p.following(t, "sim", 10*time.Second)

	newOperator(t, s).must("DELETE", "instances/"+moving.Name+"?project="+moving.Project, nil)
	require.Eventually(t, func() bool {
		_, err := p.objects.Get(t.Context(), moving.UUID)
		return errors.Is(err, opscenter.ErrNotFound)
	}, 5*time.Second, 10*time.Millisecond)
}

// TestQueries uses all fields of Query.
func TestQueries(t *testing.T) {
	p := newPlane(t, inventory.Options{})
	for _, name := range []string{"east", "west"} {
		s := boot(t, name)
		s.Furnish(60)
		p.adopt(t, s, "")
	}
	p.run(t)
	p.following(t, "east", 10*time.Second)
	p.following(t, "west", 10*time.Second)
	names := func(q inventory.Query) (out []string) {
		for page := ""; ; {
			q.Cursor = page
			found, err := p.objects.List(t.Context(), q)
			require.NoError(t, err, q)
			for _, o := range found.Objects {
				out = append(out, o.Cluster+"/"+string(o.Kind)+"/"+o.Project+"/"+o.Name)
			}
			if page = found.Next; page == "" {
				return out
			}
		}
	}
	all := names(inventory.Query{Limit: 7})
	require.Equal(t, all, names(inventory.Query{}), "pages")
	require.Len(t, slices.Compact(slices.Sorted(slices.Values(all))), len(all))
	kinds := []inventory.Kind{inventory.KindStorageVolume, inventory.KindProfile}
	require.Equal(t, names(inventory.Query{Kinds: kinds, Limit: 5}), names(inventory.Query{Kinds: kinds}))
	counts, err := p.objects.Count(t.Context(), inventory.Query{})
	require.NoError(t, err)
	require.Equal(t, len(all), counts.Total)
	require.Equal(t, counts.ByCluster["east"], counts.ByCluster["west"])
	require.Len(t, counts.ByKind, len(inventory.Kinds)-1, "all kinds but cluster members")
	require.NotZero(t, counts.ByProject["web"])

	// Several values of one field select objects with any of them.
	sorted := func(list ...[]string) []string { return slices.Sorted(slices.Values(slices.Concat(list...))) }
	require.Equal(t, sorted(all), sorted(names(inventory.Query{Clusters: []string{"west", "east", "west", "none"}, Limit: 7})))
	both := inventory.Query{Kinds: kinds, Projects: []string{"web", "default"}, Limit: 5}
	require.Equal(t, sorted(names(inventory.Query{Kinds: kinds, Project: "web"}), names(inventory.Query{Kinds: kinds, Project: "default"})), sorted(names(both)))
	require.Equal(t, sorted(names(inventory.Query{Server: "east"}), names(inventory.Query{Server: "west"})), sorted(names(inventory.Query{Servers: []string{"east", "west"}})))
	onEast := names(inventory.Query{Cluster: "east", Server: "east"})
	withNone := names(inventory.Query{Cluster: "east", Server: "east", ServerOrNone: true, Limit: 3})
	require.Equal(t, names(inventory.Query{Cluster: "east"}), withNone, "all objects that are on no other server")
	require.Less(t, len(onEast), len(withNone))
	require.Equal(t, names(inventory.Query{Cluster: "east"}), names(inventory.Query{Cluster: "east", ServerOrNone: true, ProjectOrNone: true}), "they have no effect without a list")
	require.Greater(t, len(names(inventory.Query{Kinds: []inventory.Kind{inventory.KindProfile, inventory.KindStoragePool}, Project: "web", ProjectOrNone: true})), len(names(inventory.Query{Kinds: kinds[1:], Project: "web"})))

	for text, want := range map[string]int{
		`project == "web" and storage_pool_name == "local" and name == "data0004"`:                                                   0,
		`project == "default" and storage_pool_name == "local" and name == "data0004"`:                                               2,
		`object.config["ipv4.address"] == "10.115.25.1/24"`:                                                                          2,
		`cluster == "east" and kind == "network"`:                                                                                    1,
		`"/1.0/instances/c0001?project=web" in object.used_by`:                                                                       2 * 2, // project and profile; no pool has that name
		`kind == "instance" and object.config["user.role"] == "db"`:                                                                  0,
		`server == "west" and kind == "instance" and name == "c0002"`:                                                                1,
		`kind == "network_acl" and any(object.ingress, .destination_port == "443")`:                                                  2,
		`parent_name == "net0" and kind == "network_forward"`:                                                                        2,
		`object.nothing.at.all == 1`:                                                                                                 0,
		`last_updated < first_seen`:                                                                                                  0,
		`len(uuid) == 36 and type == "custom" and project_name == project and parent == "local" and first_seen > date("2026-01-01")`: -1,
	} {
		got := len(names(inventory.Query{Filter: text}))
		switch text {
		case `"/1.0/instances/c0001?project=web" in object.used_by`:
			require.NotZero(t, got, text)
		case `kind == "instance" and object.config["user.role"] == "db"`:
			require.NotZero(t, got, text)
		default:
			if want < 0 {
				require.NotZero(t, got, text)
			} else {
				require.Equal(t, want, got, text)
			}
		}
		require.Equal(t, names(inventory.Query{Filter: text}), names(inventory.Query{Filter: text, Limit: 1}), text)
	}
	require.Len(t, names(inventory.Query{Search: "C0002"}), 2*2, "the instance and its volume")
	require.Len(t, names(inventory.Query{Search: "0004 data", Cluster: "east"}), 1)
	require.NotEmpty(t, names(inventory.Query{Project: "default", Parent: "local", Type: "custom"}))
	require.NotEmpty(t, names(inventory.Query{Server: "east", Kinds: []inventory.Kind{inventory.KindInstance}, Project: "web", Limit: 2}))
	require.Empty(t, names(inventory.Query{Cluster: "unknown"}))
	for _, q := range []inventory.Query{{Filter: `nmae == "x"`}, {Filter: `name ==`}, {Kinds: []inventory.Kind{"x"}}, {Filter: `object.config > 3`}, {Filter: `object.name > 3`}} {
		_, err := p.objects.List(t.Context(), q)
		require.ErrorIs(t, err, inventory.ErrInvalidQuery, q)
		if q.Filter != "" {
			require.ErrorContains(t, err, "column")
		}
	}
	for _, cursor := range []string{"!", "AAAA", "YWJj", page.Encode("no key")} {
		_, err := p.objects.List(t.Context(), inventory.Query{Cursor: cursor})
		require.ErrorIs(t, err, opscenter.ErrInvalidCursor)
	}
	first, err := p.objects.List(t.Context(), inventory.Query{Limit: 1})
	require.NoError(t, err)
	got, err := p.objects.Get(t.Context(), first.Objects[0].UUID)
	require.NoError(t, err)
	require.Equal(t, first.Objects[0], got)
	require.NoError(t, p.objects.Resync(t.Context(), got.UUID))
	require.ErrorIs(t, p.objects.Resync(t.Context(), "none"), opscenter.ErrNotFound)

	idle, err := inventory.New(p.Registry, p.Client, inventory.Options{})
	require.NoError(t, err)
	require.ErrorIs(t, idle.Resync(t.Context(), got.UUID), inventory.ErrNotRunning)
	require.ErrorIs(t, p.objects.Run(t.Context()), inventory.ErrRunning)
}
