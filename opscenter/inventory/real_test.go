package inventory_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/internal/incustest"
	"github.com/opscenter-go/sdk/opscenter/cluster"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage"
)

// within bounds the time until the inventory must agree with a daemon.
const within = 2 * time.Second

// plane is a control plane with an inventory.
type plane struct {
	*controltest.Plane
	objects *inventory.Manager
}

func newPlane(t *testing.T, options inventory.Options) *plane {
	t.Helper()
	return newPlaneOver(t, nil, options)
}

func newPlaneOver(t *testing.T, store storage.Store, options inventory.Options) *plane {
	t.Helper()
	p := &plane{Plane: controltest.NewPlane(t, controltest.PlaneOptions{Store: store,
		Poller: poller.Options{Interval: time.Second, RetryInterval: 200 * time.Millisecond, Timeout: 5 * time.Second}})}
	var err error
	p.objects, err = inventory.New(p.Registry, p.Client, options)
	require.NoError(t, err)
	return p
}

// run runs the poller and the inventory until the test ends.
func (p *plane) run(t *testing.T) {
	t.Helper()
	controltest.Background(t, p.Polls.Run, p.objects.Run)
}

// following waits until a cluster's inventory is current.
func (p *plane) following(t *testing.T, cluster string, timeout time.Duration) inventory.Status {
	t.Helper()
	var out inventory.Status
	for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		all, err := p.objects.Status(t.Context())
		require.NoError(t, err)
		for _, s := range all {
			if out = s; s.Cluster == cluster && s.Following {
				return out
			}
		}
		require.Less(t, time.Since(begun), timeout, "%s is not followed: %+v", cluster, all)
	}
}

// TestRealInventory creates, changes, renames and removes every kind of object that Debian's daemon can create here. The
// inventory must agree after each step, through events alone.
func TestRealInventory(t *testing.T) {
	daemon := incustest.Start(t)
	var log controltest.Log
	p := newPlane(t, inventory.Options{Logger: slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	names, err := p.Client.Adopt(t.Context(), p.Registry, daemon.URL, daemon.TrustToken(), incusos.AdoptOptions{Name: "solo"})
	require.NoError(t, err)
	require.Equal(t, []string{"solo"}, names)
	p.run(t)
	p.following(t, "solo", 20*time.Second)
	daemon.Furnish()
	agrees(t, p.objects, "solo", daemon.Get, 5*time.Second, "furnishing")
	scanned := p.following(t, "solo", time.Second).Scans
	furnished := len(log.String())
	for _, step := range everything() {
		step.do(daemon)
		took := agrees(t, p.objects, "solo", daemon.Get, within, step.name)
		t.Logf("%-40s %s", step.name, took.Round(time.Millisecond))
		switch step.name {
		case "project changed", "project renamed", "project removed":
			// A scan reads each of these. The inventory may agree before the scan ends. The next step could then make the
			// scan incomplete, and cause another one.
			scanned++
			require.Eventually(t, func() bool { return p.following(t, "solo", 5*time.Second).Scans >= scanned }, 10*time.Second, 10*time.Millisecond, step.name)
		}
	}
	after := p.following(t, "solo", time.Second)
	t.Logf("%+v", after)
	var reasons []string
	for line := range strings.Lines(log.String()[furnished:]) {
		var entry struct{ Msg, Reason string }
		require.NoError(t, json.Unmarshal([]byte(line), &entry))
		// After a refusal by the daemon itself, a scan is right.
		if entry.Msg == "a unit is scanned" && !strings.Contains(entry.Reason, "bad file descriptor") {
			reasons = append(reasons, entry.Reason)
		}
	}
	require.Equal(t, []string{"project-updated", "project-renamed", "project-deleted"}, reasons, "events tell of the rest")
	renamed := map[inventory.Kind]bool{}
	for _, c := range p.changes(t) {
		if c.Action == inventory.ChangeRenamed {
			renamed[c.Kind] = true
		}
	}
	require.Equal(t, map[inventory.Kind]bool{inventory.KindProfile: true, inventory.KindNetwork: true, inventory.KindNetworkACL: true, inventory.KindNetworkIntegration: true,
		inventory.KindStorageVolume: true, inventory.KindInstance: true, inventory.KindProject: true}, renamed)
}

// TestRealCuts does the same steps while connections are cut at random moments, and the daemon is killed and restarted
// in the middle. The inventory finds the missed changes.
func TestRealCuts(t *testing.T) {
	daemon := incustest.Start(t)
	between := newProxy(t, strings.TrimPrefix(daemon.URL, "https://"))
	p := newPlane(t, inventory.Options{MaxBackoff: 2 * time.Second})
	_, err := p.Client.Adopt(t.Context(), p.Registry, between.url(), daemon.TrustToken(), incusos.AdoptOptions{Name: "solo"})
	require.NoError(t, err)
	p.run(t)
	p.following(t, "solo", 20*time.Second)
	daemon.Furnish()
	random := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	controltest.Background(t, func(ctx context.Context) error {
		for {
			select {
			case <-time.After(time.Duration(20+random.IntN(500)) * time.Millisecond):
				between.cut()
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	steps := everything()
	kill := len(steps) / 2
	for i, step := range steps {
		if i == kill {
			daemon.Stop(true)
			require.NoError(t, daemon.Revive())
		}
		step.do(daemon)
		if i%10 == 9 || i == kill {
			took := agrees(t, p.objects, "solo", daemon.Get, 30*time.Second, step.name)
			t.Logf("%-40s %s", step.name, took.Round(time.Millisecond))
		}
	}
	t.Logf("%d cuts, %+v", between.cuts.Load(), p.following(t, "solo", 20*time.Second))
}

// TestRealClusterInventory keeps the inventory of a cluster of three. Several members have volumes of one name,
// instances move, and members die and come back.
func TestRealClusterInventory(t *testing.T) {
	p := newPlane(t, inventory.Options{MaxBackoff: 2 * time.Second, MembersInterval: time.Second})
	var daemons []*incustest.Daemon
	for i, name := range []string{"a", "b", "c"} {
		daemon := incustest.StartOn(t, fmt.Sprintf("127.0.0.%d", i+1))
		_, err := p.Client.Adopt(t.Context(), p.Registry, daemon.URL, daemon.TrustToken(), incusos.AdoptOptions{Name: name})
		require.NoError(t, err)
		daemons = append(daemons, daemon)
	}
	p.run(t)
	for _, name := range []string{"a", "b", "c"} {
		p.following(t, name, 20*time.Second)
		require.Eventually(t, func() bool {
			info, err := p.Server(t.Context(), name)
			return err == nil && info.State.Status == lifecycle.StatusReady && info.State.Versions.OS.Version != ""
		}, 20*time.Second, 10*time.Millisecond, name)
	}
	require.NoError(t, cluster.New(p.Registry, p.Client, cluster.Options{}).Form(t.Context(), "c1", "a", "b", "c"))
	p.following(t, "c1", 30*time.Second)
	leader := daemons[0]
	agree := func(limit time.Duration, what string) {
		t.Helper()
		took := agrees(t, p.objects, "c1", leader.Get, limit, what)
		t.Logf("%-40s %s", what, took.Round(time.Millisecond))
	}
	agree(10*time.Second, "formed")
	leader.Furnish("a", "b", "c")
	agree(5*time.Second, "furnished")
	for _, member := range []string{"a", "b", "c"} {
		leader.MustDo(http.MethodPost, "/1.0/storage-pools/default/volumes/custom?target="+member, object{"name": "data", "type": "custom"})
		agree(within, "volume on "+member)
	}
	leader.MustDo(http.MethodPatch, "/1.0/storage-pools/default/volumes/custom/data?target=b", object{"description": "b's"})
	agree(within, "volume on b changed")
	leader.MustDo(http.MethodDelete, "/1.0/storage-pools/default/volumes/custom/data?target=a", nil)
	agree(within, "volume on a removed")
	page, err := p.objects.List(t.Context(), inventory.Query{Kinds: []inventory.Kind{inventory.KindStorageVolume}, Name: "data", Server: "b"})
	require.NoError(t, err)
	require.Len(t, page.Objects, 1)
	require.Contains(t, string(page.Objects[0].Object), "b's")
	for _, member := range []string{"b", "c"} {
		leader.Launch("web-"+member, member)
		agree(within, "container on "+member)
	}
	history, err := p.objects.List(t.Context(), inventory.Query{Kinds: []inventory.Kind{inventory.KindInstance}, Name: "web-b"})
	require.NoError(t, err)
	require.Equal(t, "b", history.Objects[0].Server)

	leader.MustDo(http.MethodPost, "/1.0/cluster/members/b/state", object{"action": "evacuate", "mode": "auto"})
	agree(2*within, "b evacuated")
	moved, err := p.objects.Get(t.Context(), history.Objects[0].UUID)
	require.NoError(t, err)
	require.NotEqual(t, "b", moved.Server)
	leader.MustDo(http.MethodPost, "/1.0/cluster/members/b/state", object{"action": "restore"})
	agree(2*within, "b restored")

	// First the member of the session, and then each of the others, dies and comes back. The inventory finds the
	// changes that happen meanwhile.
	for i := range daemons {
		begun := time.Now()
		step := func(what string) {
			t.Logf("    %-36s %s", what, time.Since(begun).Round(time.Millisecond))
		}
		through := p.following(t, "c1", 30*time.Second).Server
		step("followed through " + through)
		victim := daemons[(strings.Index("abc", through)+i)%3]
		if leader = daemons[0]; victim == leader {
			leader = daemons[1]
		}
		victim.Stop(true)
		step("killed")
		require.Eventually(t, func() bool { // the others elect a new leader of their database first
			err := leader.Do(http.MethodPost, "/1.0/projects", object{"name": fmt.Sprintf("p%d", i)})
			return err == nil || strings.Contains(err.Error(), "already exists")
		}, 30*time.Second, 100*time.Millisecond)
		step("project created")
		require.NoError(t, victim.Revive())
		step("revived")
		agree(60*time.Second, fmt.Sprintf("member %d killed and back", i))
	}

	// A second control plane adopts the existing cluster.
	second := newPlane(t, inventory.Options{})
	names, err := second.Client.Adopt(t.Context(), second.Registry, "", daemons[1].TrustToken(), incusos.AdoptOptions{Name: "late"})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"a", "b", "c"}, names)
	second.run(t)
	second.following(t, "late", 30*time.Second)
	agrees(t, second.objects, "late", daemons[1].Get, 10*time.Second, "adopted")
	for _, name := range names {
		require.Eventually(t, func() bool {
			info, err := second.Server(t.Context(), name)
			require.NoError(t, err)
			return info.State.Status == lifecycle.StatusReady && info.State.MemberName == name
		}, 20*time.Second, 50*time.Millisecond, name)
	}
	counts, err := second.objects.Count(t.Context(), inventory.Query{})
	require.NoError(t, err)
	require.Equal(t, 3, counts.ByKind[inventory.KindClusterMember])
}

// step is one change on a daemon.
type step struct {
	name string
	do   func(*incustest.Daemon)
}

func call(name, method, path string, body any) step {
	return step{name, func(d *incustest.Daemon) {
		if fields, ok := body.(object); ok && fields["target"] == "IMAGE" {
			fields["target"] = d.Image
		}
		d.MustDo(method, "/1.0/"+strings.ReplaceAll(path, "IMAGE", d.Image), body)
	}}
}

type object = map[string]any

// everything returns steps for every kind of object, in order.
func everything() []step {
	bridge := fmt.Sprintf("t%dbr", os.Getpid()%100000)
	cow := object{"name": "web", "type": "container", "source": object{"type": "image", "alias": "busybox"}}
	return []step{
		call("project created", http.MethodPost, "projects", object{"name": "p1", "config": object{"features.networks": "true", "features.networks.zones": "true"}}),
		call("project without profiles created", http.MethodPost, "projects", object{"name": "p3", "config": object{"features.profiles": "false", "features.images": "false", "features.storage.volumes": "false"}}),
		call("project changed", http.MethodPatch, "projects/p1", object{"description": "first"}),
		call("profile created", http.MethodPost, "profiles", object{"name": "small", "config": object{"limits.cpu": "1"}}),
		call("profile in a project", http.MethodPost, "profiles?project=p1", object{"name": "small"}),
		call("profile changed", http.MethodPatch, "profiles/small", object{"description": "1 CPU"}),
		call("profile renamed", http.MethodPost, "profiles/small", object{"name": "tiny"}),
		call("bridge created", http.MethodPost, "networks", object{"name": bridge, "type": "bridge", "config": object{"ipv4.address": "10.115.25.1/24", "ipv6.address": "none", "ipv4.nat": "false"}}),
		call("bridge changed", http.MethodPatch, "networks/"+bridge, object{"description": "a bridge", "config": object{"ipv4.dhcp": "false"}}),
		call("forward created", http.MethodPost, "networks/"+bridge+"/forwards", object{"listen_address": "10.115.25.10", "config": object{}}),
		call("forward changed", http.MethodPatch, "networks/"+bridge+"/forwards/10.115.25.10", object{"description": "web"}),
		call("forward removed", http.MethodDelete, "networks/"+bridge+"/forwards/10.115.25.10", nil),
		call("macvlan created", http.MethodPost, "networks", object{"name": "mv0", "type": "macvlan", "config": object{"parent": "lo"}}),
		call("macvlan renamed", http.MethodPost, "networks/mv0", object{"name": "mv1"}),
		call("ACL created", http.MethodPost, "network-acls", object{"name": "web", "ingress": []object{{"action": "allow", "protocol": "tcp", "destination_port": "80", "state": "enabled"}}}),
		call("ACL in a project", http.MethodPost, "network-acls?project=p1", object{"name": "web"}),
		call("ACL changed", http.MethodPatch, "network-acls/web", object{"description": "port 80"}),
		call("ACL renamed", http.MethodPost, "network-acls/web", object{"name": "web80"}),
		call("ACL used", http.MethodPatch, "networks/"+bridge, object{"config": object{"security.acls": "web80"}}),
		call("ACL not used", http.MethodPut, "networks/"+bridge, object{"description": "", "config": object{"ipv4.address": "10.115.25.1/24", "ipv6.address": "none", "ipv4.nat": "false", "ipv4.dhcp": "false"}}),
		call("zone created", http.MethodPost, "network-zones", object{"name": "example.net"}),
		call("zone changed", http.MethodPatch, "network-zones/example.net", object{"description": "names"}),
		call("zone's record created", http.MethodPost, "network-zones/example.net/records", object{"name": "www", "entries": []object{{"type": "A", "value": "10.0.0.1", "ttl": 300}}}),
		call("zone used", http.MethodPatch, "networks/"+bridge, object{"config": object{"dns.zone.forward": "example.net"}}),
		call("bridge removed", http.MethodDelete, "networks/"+bridge, nil),
		call("zone removed", http.MethodDelete, "network-zones/example.net", nil),
		call("integration created", http.MethodPost, "network-integrations", object{"name": "east", "type": "ovn", "config": object{"ovn.northbound_connection": "tcp:127.0.0.1:6641", "ovn.transit.pattern": "ts-{{ networkName }}"}}),
		call("integration changed", http.MethodPut, "network-integrations/east", object{"description": "east", "config": object{"ovn.northbound_connection": "tcp:127.0.0.1:6642", "ovn.transit.pattern": "ts-{{ networkName }}"}}),
		call("integration renamed", http.MethodPost, "network-integrations/east", object{"name": "west"}),
		call("integration removed", http.MethodDelete, "network-integrations/west", nil),
		call("pool created", http.MethodPost, "storage-pools", object{"name": "second", "driver": "dir"}),
		call("pool changed", http.MethodPatch, "storage-pools/second", object{"description": "another"}),
		call("volume created", http.MethodPost, "storage-pools/second/volumes/custom", object{"name": "data", "type": "custom"}),
		call("volume in a project", http.MethodPost, "storage-pools/second/volumes/custom?project=p1", object{"name": "data", "type": "custom"}),
		call("volume in a project without", http.MethodPost, "storage-pools/second/volumes/custom?project=p3", object{"name": "p3_data", "type": "custom"}),
		call("volume of an odd name", http.MethodPost, "storage-pools/second/volumes/custom", object{"name": "default_data", "type": "custom"}),
		call("volume changed", http.MethodPatch, "storage-pools/second/volumes/custom/data", object{"description": "some"}),
		call("volume of an odd name changed", http.MethodPatch, "storage-pools/second/volumes/custom/default_data", object{"description": "odd"}),
		call("volume's snapshot created", http.MethodPost, "storage-pools/second/volumes/custom/data/snapshots", object{"name": "s0"}),
		call("volume's snapshot changed", http.MethodPut, "storage-pools/second/volumes/custom/data/snapshots/s0", object{"description": "before"}),
		call("volume's snapshot renamed", http.MethodPost, "storage-pools/second/volumes/custom/data/snapshots/s0", object{"name": "s1"}),
		call("volume renamed", http.MethodPost, "storage-pools/second/volumes/custom/data", object{"name": "more"}),
		call("empty instance created", http.MethodPost, "instances", object{"name": "empty", "type": "container", "source": object{"type": "none"}}),
		call("instance in a project", http.MethodPost, "instances?project=p1", object{"name": "empty", "type": "container", "source": object{"type": "none"}, "devices": object{"root": object{"type": "disk", "path": "/", "pool": "second"}}}),
		call("instance in a project without profiles", http.MethodPost, "instances?project=p3", object{"name": "third", "type": "container", "source": object{"type": "none"}}),
		call("container created", http.MethodPost, "instances", cow),
		call("container started", http.MethodPut, "instances/web/state", object{"action": "start", "timeout": 20}),
		call("container changed", http.MethodPatch, "instances/web", object{"description": "a web server", "config": object{"user.role": "web"}}),
		call("container given a volume", http.MethodPatch, "instances/web", object{"devices": object{"more": object{"type": "disk", "pool": "second", "source": "more", "path": "/mnt"}}}),
		call("container given a profile", http.MethodPatch, "instances/web", object{"profiles": []string{"default", "tiny"}}),
		call("profile changed under a container", http.MethodPatch, "profiles/tiny", object{"config": object{"user.tier": "1"}}),
		call("container's snapshot created", http.MethodPost, "instances/web/snapshots", object{"name": "snap0"}),
		call("container's snapshot renamed", http.MethodPost, "instances/web/snapshots/snap0", object{"name": "snap1"}),
		call("container's backup created", http.MethodPost, "instances/web/backups", object{"name": "b0", "compression_algorithm": "none"}),
		call("container's backup renamed", http.MethodPost, "instances/web/backups/b0", object{"name": "b1"}),
		call("container's backup removed", http.MethodDelete, "instances/web/backups/b1", nil),
		call("container frozen", http.MethodPut, "instances/web/state", object{"action": "freeze", "timeout": 20}),
		call("container thawed", http.MethodPut, "instances/web/state", object{"action": "unfreeze", "timeout": 20}),
		call("container stopped", http.MethodPut, "instances/web/state", object{"action": "stop", "timeout": 20, "force": true}),
		call("container restored", http.MethodPut, "instances/web", object{"restore": "snap1"}),
		call("container renamed", http.MethodPost, "instances/web", object{"name": "shop"}),
		call("container's snapshot removed", http.MethodDelete, "instances/shop/snapshots/snap1", nil),
		call("image's alias changed", http.MethodPatch, "images/aliases/busybox", object{"description": "small"}),
		call("image's alias created", http.MethodPost, "images/aliases", object{"name": "bb", "target": "IMAGE"}),
		call("image changed", http.MethodPatch, "images/IMAGE", object{"properties": object{"release": "1"}}),
		call("container removed", http.MethodDelete, "instances/shop", nil),
		call("instance renamed", http.MethodPost, "instances/empty", object{"name": "void"}),
		call("instance removed", http.MethodDelete, "instances/void", nil),
		call("instance in a project removed", http.MethodDelete, "instances/empty?project=p1", nil),
		call("instance of the third project removed", http.MethodDelete, "instances/third?project=p3", nil),
		call("volume's snapshot removed", http.MethodDelete, "storage-pools/second/volumes/custom/more/snapshots/s1", nil),
		call("volume removed", http.MethodDelete, "storage-pools/second/volumes/custom/more", nil),
		call("volume of an odd name removed", http.MethodDelete, "storage-pools/second/volumes/custom/default_data", nil),
		call("volume of the third project removed", http.MethodDelete, "storage-pools/second/volumes/custom/p3_data", nil),
		call("volume in a project removed", http.MethodDelete, "storage-pools/second/volumes/custom/data?project=p1", nil),
		call("pool removed", http.MethodDelete, "storage-pools/second", nil),
		call("ACL in a project removed", http.MethodDelete, "network-acls/web?project=p1", nil),
		call("ACL removed", http.MethodDelete, "network-acls/web80", nil),
		call("macvlan removed", http.MethodDelete, "networks/mv1", nil),
		call("profile removed", http.MethodDelete, "profiles/tiny", nil),
		call("profile in a project removed", http.MethodDelete, "profiles/small?project=p1", nil),
		call("project renamed", http.MethodPost, "projects/p1", object{"name": "p2"}),
		call("project removed", http.MethodDelete, "projects/p2", nil),
		call("image removed", http.MethodDelete, "images/IMAGE", nil),
	}
}
