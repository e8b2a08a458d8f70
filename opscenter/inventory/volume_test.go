package inventory_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lxc/incus/v6/shared/api"
	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/inventory"
)

// TestSnapshotsListedApart: a daemon may list the snapshots of volumes apart. Scans and events about volumes read them. Other
// events that cause a list of volumes do not. Snapshots that can't be read stay stored.
func TestSnapshotsListedApart(t *testing.T) {
	p, s, server := single(t, inventory.Options{MaxBackoff: time.Second}, 0)
	o := newOperator(t, server)
	o.must("POST", "storage-pools", object{"name": "local", "driver": "zfs"})
	const base = "/1.0/storage-pools/local/volumes/custom/"
	for _, name := range []string{"v1", "v2", "v3"} {
		o.must("POST", "storage-pools/local/volumes/custom", object{"name": name})
		o.must("POST", "storage-pools/local/volumes/custom/"+name+"/snapshots", object{"name": "s1"})
	}
	p.run(t)
	p.following(t, "sim", 10*time.Second)
	agrees(t, p.objects, "sim", o.get, within, "scanned")
	reads := func() (out [3]int) {
		for i, name := range []string{"v1", "v2", "v3"} {
			out[i] = s.count(base + name + "/snapshots")
		}
		return out
	}
	require.Equal(t, [3]int{1, 1, 1}, reads())
	before := p.named(t, inventory.KindStorageVolume, "v2/s1")
	o.must("POST", "instances", object{"name": "c1"})
	agrees(t, p.objects, "sim", o.get, within, "instance")
	require.Equal(t, [3]int{1, 1, 1}, reads(), "an event about an instance reads no snapshots")
	o.must("PATCH", "storage-pools/local/volumes/custom/v2/snapshots/s1", object{"description": "x"})
	agrees(t, p.objects, "sim", o.get, within, "snapshot")
	require.GreaterOrEqual(t, reads()[1], 2)
	o.must("POST", "storage-pools/local/volumes/custom/v2/snapshots/s1", object{"name": "s2"})
	agrees(t, p.objects, "sim", o.get, within, "renamed")
	require.Equal(t, before.UUID, p.named(t, inventory.KindStorageVolume, "v2/s2").UUID)
	s.set(func() {
		s.answer = func(path string) error {
			if path == base+"v2/snapshots" {
				return api.StatusErrorf(http.StatusInternalServerError, "the member is away")
			}
			return nil
		}
	})
	require.ErrorIs(t, p.objects.ResyncCluster(t.Context(), "sim"), inventory.ErrUnread)
	require.Equal(t, before.UUID, p.named(t, inventory.KindStorageVolume, "v2/s2").UUID)
	s.set(func() { s.answer = nil })
	p.following(t, "sim", 20*time.Second)
	o.must("DELETE", "storage-pools/local/volumes/custom/v2/snapshots/s2", nil)
	o.must("DELETE", "storage-pools/local/volumes/custom/v3/snapshots/s1", nil)
	o.must("DELETE", "storage-pools/local/volumes/custom/v3", nil)
	agrees(t, p.objects, "sim", o.get, within, "removed")
}

// TestVolumeRenamed: the snapshots of a renamed volume are renamed without an event, also together with other changes. They
// keep their UUIDs.
func TestVolumeRenamed(t *testing.T) {
	p, s, server := single(t, inventory.Options{MaxBackoff: time.Second, Debounce: 300 * time.Millisecond}, 0)
	o := newOperator(t, server)
	o.must("POST", "storage-pools", object{"name": "local", "driver": "zfs"})
	for i := range 20 {
		o.must("POST", "storage-pools/local/volumes/custom", object{"name": fmt.Sprint("other", i)})
	}
	o.must("POST", "storage-pools/local/volumes/custom", object{"name": "v1"})
	o.must("POST", "storage-pools/local/volumes/custom/v1/snapshots", object{"name": "s1"})
	p.run(t)
	p.following(t, "sim", 10*time.Second)
	agrees(t, p.objects, "sim", o.get, within, "scanned")
	before := p.named(t, inventory.KindStorageVolume, "v1/s1")
	o.must("POST", "instances", object{"name": "c1"})
	o.must("POST", "storage-pools/local/volumes/custom/v1", object{"name": "v2"})
	agrees(t, p.objects, "sim", o.get, within, "renamed")
	require.Equal(t, before.UUID, p.named(t, inventory.KindStorageVolume, "v2/s1").UUID)
	require.Equal(t, 1, s.count("/1.0/storage-pools/local/volumes/custom/other7/snapshots"), "the snapshots of other volumes are not read")
	o.must("DELETE", "storage-pools/local/volumes/custom/v2/snapshots/s1", nil)
	agrees(t, p.objects, "sim", o.get, within, "removed")
	require.Equal(t, 1, s.count("/1.0/storage-pools/local/volumes/custom/other7/snapshots"))
}

// TestMembersNotFound: a list of members that is answered with 404 removes no member.
func TestMembersNotFound(t *testing.T) {
	p, s, _ := pair(t, inventory.Options{MembersInterval: time.Hour})
	member := p.named(t, inventory.KindClusterMember, "b")
	s.set(func() {
		s.answer = func(path string) error {
			if path == "/1.0/cluster/members" {
				return notFound()
			}
			return nil
		}
	})
	require.ErrorIs(t, p.objects.Resync(t.Context(), member.UUID), inventory.ErrUnread)
	require.Equal(t, member.UUID, p.named(t, inventory.KindClusterMember, "b").UUID)
}

// TestSnapshotsOfMemberDown: the snapshots on a member that is down stay stored. They are not read
// meanwhile, and the rest of the cluster is current.
func TestSnapshotsOfMemberDown(t *testing.T) {
	p, s, servers := pair(t, inventory.Options{MaxBackoff: time.Second, MembersInterval: 200 * time.Millisecond})
	o := newOperator(t, servers[0])
	o.must("POST", "storage-pools", object{"name": "local", "driver": "zfs"})
	for i := range 5 {
		name := fmt.Sprint("v", i)
		o.must("POST", "storage-pools/local/volumes/custom?target=b", object{"name": name})
		o.must("POST", "storage-pools/local/volumes/custom/"+name+"/snapshots?target=b", object{"name": "s1"})
	}
	agrees(t, p.objects, "c1", o.get, 10*time.Second, "made")
	before := p.named(t, inventory.KindStorageVolume, "v3/s1")
	asked := func() (n int) {
		for i := range 5 {
			n += s.count(fmt.Sprintf("/1.0/storage-pools/local/volumes/custom/v%d/snapshots", i))
		}
		return n
	}
	// Before the member is known to be down, each scan tries one volume.
	s.set(func() {
		s.answer = func(path string) error {
			if strings.HasSuffix(path, "/snapshots") {
				return api.StatusErrorf(http.StatusServiceUnavailable, "no connection to the member")
			}
			return nil
		}
	})
	n := asked()
	require.ErrorIs(t, p.objects.ResyncCluster(t.Context(), "c1"), inventory.ErrUnread)
	require.Equal(t, n+1, asked())
	s.set(func() { s.answer = nil })
	p.following(t, "c1", 10*time.Second)

	servers[1].Crash()
	require.Eventually(t, func() bool {
		return strings.Contains(string(p.named(t, inventory.KindClusterMember, "b").Object), "Offline")
	}, 10*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool { return p.objects.ResyncCluster(t.Context(), "c1") == nil }, 10*time.Second, 10*time.Millisecond)
	n = asked()
	require.NoError(t, p.objects.ResyncCluster(t.Context(), "c1"))
	require.Equal(t, n, asked())
	require.Equal(t, before.UUID, p.named(t, inventory.KindStorageVolume, "v3/s1").UUID)
	o.must("POST", "profiles", object{"name": "new"})
	require.Eventually(t, func() bool { return p.named(t, inventory.KindProfile, "new") != nil }, within, 10*time.Millisecond)
	servers[1].PowerOn()
	p.following(t, "c1", 20*time.Second)
	agrees(t, p.objects, "c1", o.get, 10*time.Second, "the member is back")
}

// TestSnapshotsNotFound: the snapshots of a volume that was removed since it was listed are removed. Those of an
// existing volume stay after a 404.
func TestSnapshotsNotFound(t *testing.T) {
	p, s, server := single(t, inventory.Options{MaxBackoff: time.Second}, 0)
	o := newOperator(t, server)
	o.must("POST", "storage-pools", object{"name": "local", "driver": "zfs"})
	const base = "/1.0/storage-pools/local/volumes/custom/"
	for _, name := range []string{"v1", "v2"} {
		o.must("POST", "storage-pools/local/volumes/custom", object{"name": name})
		o.must("POST", "storage-pools/local/volumes/custom/"+name+"/snapshots", object{"name": "s1"})
	}
	p.run(t)
	p.following(t, "sim", 10*time.Second)
	gone := func(paths ...string) {
		s.set(func() {
			s.answer = func(path string) error {
				if slices.Contains(paths, path) {
					return notFound()
				}
				return nil
			}
		})
	}
	gone(base + "v1/snapshots")
	require.ErrorIs(t, p.objects.ResyncCluster(t.Context(), "sim"), inventory.ErrUnread)
	require.NotNil(t, p.named(t, inventory.KindStorageVolume, "v1/s1"))
	gone(base+"v1/snapshots", base+"v1")
	require.NoError(t, p.objects.ResyncCluster(t.Context(), "sim"))
	require.Nil(t, p.named(t, inventory.KindStorageVolume, "v1/s1"))
	require.NotNil(t, p.named(t, inventory.KindStorageVolume, "v2/s1"))
}
