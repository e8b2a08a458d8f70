package inventory_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/lxc/incus/v6/shared/api"
	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/inventory"
)

// TestInterpret lists the effects of events.
func TestInterpret(t *testing.T) {
	for _, c := range []struct {
		event   inventory.Event
		scan    string
		names   string
		lists   string // one of them
		renamed string
	}{
		{event: inventory.Event{Action: "instance-started", Source: "/1.0/instances/c1?project=p1", Project: "p1"}, names: "instance|p1|||c1"},
		{event: inventory.Event{Action: "instance-created", Source: "/1.0/instances/c%201"}, names: "instance|default|||c 1", lists: "storage_volume|"},
		{event: inventory.Event{Action: "instance-renamed", Source: "/1.0/instances/c2", Project: "p9", OldName: "c1"}, names: "instance|p9|||c2", renamed: "c1", lists: "project|"},
		{event: inventory.Event{Action: "instance-backup-renamed", Source: "/1.0/instances/e2/backups/b1", OldName: "e1/b0"}, names: "instance|default|||e2"},
		{event: inventory.Event{Action: "instance-snapshot-created", Source: "/1.0/instances/e1/snapshots/s0"}, names: "instance|default|||e1", lists: "storage_volume|"},
		{event: inventory.Event{Action: "storage-volume-created", Source: "/1.0/storage-pools/local/volumes/custom/default_v1"}, names: "storage_volume|default|local|custom|v1 storage_volume|default|local|custom|default_v1", lists: "storage_pool|"},
		{event: inventory.Event{Action: "storage-volume-renamed", Source: "/1.0/storage-pools/local/volumes/custom/p1_v2?project=p1", OldName: "v1"}, names: "storage_volume|p1|local|custom|v2 storage_volume|p1|local|custom|p1_v2", renamed: "v1", lists: "storage_volume|local"},
		{event: inventory.Event{Action: "storage-volume-snapshot-created", Source: "/1.0/storage-pools/local/volumes/custom/v1/snapshots/s0"}, names: "storage_volume|default|local|custom|v1/s0"},
		{event: inventory.Event{Action: "network-forward-updated", Source: "/1.0/networks/br0/forwards/10.0.0.1"}, names: "network_forward|default|br0||10.0.0.1", lists: "network|"},
		{event: inventory.Event{Action: "network-deleted", Source: "/1.0/networks/br0"}, names: "network|default|||br0", lists: "network_forward|br0"},
		{event: inventory.Event{Action: "network-renamed", Source: "/1.0/networks/br1", OldName: "br0"}, names: "network|default|||br1", lists: "network_forward|", renamed: "br0"},
		{event: inventory.Event{Action: "network-integration-deleted", Source: "/1.0/network-integrations/west", OldName: "east"}, names: "network_integration||||west", renamed: "east"},
		{event: inventory.Event{Action: "network-zone-record-created", Source: "/1.0/network-zones/example.net/records/r1"}, names: "network_zone|default|||example.net"},
		{event: inventory.Event{Action: "image-alias-created", Source: "/1.0/images/aliases/busybox"}, lists: "image|"},
		{event: inventory.Event{Action: "instance-exec", Source: "/1.0/instances/c1"}},
		{event: inventory.Event{Action: "project-deleted", Source: "/1.0/projects/p1"}, scan: "project-deleted", names: "project||||p1"},
		{event: inventory.Event{Action: "project-renamed", Source: "/1.0/projects/p2", OldName: "p1"}, scan: "project-renamed", names: "project||||p2", renamed: "p1"},
		{event: inventory.Event{Action: "storage-volume-snapshot-renamed", Source: "/1.0/storage-pools/local/volumes/custom/v1/snapshots/s1", OldName: "s0"}, names: "storage_volume|default|local|custom|v1/s1", renamed: "v1/s0"},
		{event: inventory.Event{Action: "storage-volume-snapshot-renamed", Source: "/1.0/storage-pools/local/volumes/custom/v1/snapshots/s0", OldName: "s0"}, names: "storage_volume|default|local|custom|v1/s0 storage_volume|default|local|custom|v1", lists: "storage_volume|local"},
		{event: inventory.Event{Action: "cluster-member-removed", Source: "/1.0/cluster/members/a"}, scan: "event cluster-member-removed"},
		{event: inventory.Event{Action: "network-teleported", Source: "/1.0/networks/br0"}, scan: "event network-teleported"},
		{event: inventory.Event{Action: "instance-created", Source: "/2.0/instances/c1"}, scan: "event instance-created about /2.0/instances/c1"},
		{event: inventory.Event{Action: "instance-created", Source: "%zz"}, scan: "event instance-created about %zz"},
		{event: inventory.Event{Action: "storage-volume-created", Source: "/1.0/storage-pools/local/volumes/custom"}, scan: "event storage-volume-created about /1.0/storage-pools/local/volumes/custom"},
	} {
		scan, names, lists, renamed := inventory.Interpret(&c.event)
		what := fmt.Sprint(c.event)
		require.Equal(t, c.scan, scan, what)
		require.Equal(t, c.names, strings.Join(names, " "), what)
		require.Equal(t, c.renamed, renamed, what)
		if c.lists != "" {
			require.Contains(t, lists, c.lists, what)
		} else {
			require.True(t, c.scan != "" || len(lists) == 0 || strings.Contains(what, "-backup-") || strings.Contains(what, "snapshot") || strings.Contains(what, "integration") || strings.Contains(what, "zone"), what)
		}
	}
}

// TestRest: the pause after a scan is in proportion to the scan. It is at most MaxBackoff, and at least the duration
// of the scan.
func TestRest(t *testing.T) {
	o := inventory.Options{MaxBackoff: 5 * time.Minute}
	for took, want := range map[time.Duration]time.Duration{
		0: 0, time.Second: 10 * time.Second, 30 * time.Second: 5 * time.Minute, time.Minute: 5 * time.Minute, 12 * time.Minute: 12 * time.Minute,
	} {
		require.Equal(t, want, inventory.Rest(o, took), took)
	}
}

// TestPhased: each unit has its own constant phase.
func TestPhased(t *testing.T) {
	const interval = time.Hour
	phases := map[time.Duration]bool{}
	for n := range 20 {
		id := fmt.Sprint("unit", n)
		wait := inventory.Phased(id, interval)
		require.Positive(t, wait)
		require.LessOrEqual(t, wait, interval)
		at := time.Now().Add(wait)
		again := time.Now().Add(inventory.Phased(id, interval))
		require.WithinDuration(t, at, again, 10*time.Second)
		phases[time.Duration(at.UnixNano()%int64(interval)).Truncate(time.Minute)] = true
	}
	require.Greater(t, len(phases), 10, "the units are spread")
}

// TestIsSecret checks configuration keys of Incus with secrets, and similar ones without.
func TestIsSecret(t *testing.T) {
	for key, want := range map[string]bool{
		"bgp.peers.x.password": true, "core.bgp.password": true, "peers.ns1.key": true, "ovn.client_key": true, "loki.auth.password": true,
		"powerflex.user.password": true, "linstor.satellite.api_key": true, "oidc.client.secret": true,
		"systemd.credential.db": true, "systemd.credential-binary.db": true, "cloud-init.user-data": true, "cloud-init.vendor-data": true,
		"user.user-data": true, "user.vendor-data": true, "environment.DB_PASSWORD": true, "environment.API_TOKEN": true, "environment.AWS_SECRET_ACCESS_KEY": true,
		"environment.HOME": false, "environment.KEYBOARD": false, "user.x": false, "cloud-init.network-config": false, "user.meta-data": false, "peers.ns1.address": false, "ovn.client_cert": false,
		"security.secureboot": false, "limits.cpu": false, "systemd.credentials": false, "boot.autostart": false,
	} {
		require.Equal(t, want, inventory.IsSecret(key), key)
	}
}

// TestKnownActionsHaveEffects checks the actions of the Incus client. Each causes a reading or a scan, or is
// known to change nothing.
func TestKnownActionsHaveEffects(t *testing.T) {
	source := map[string]string{"instance": "/1.0/instances/x", "image": "/1.0/images/x", "profile": "/1.0/profiles/x", "network-forward": "/1.0/networks/n/forwards/x",
		"network-load-balancer": "/1.0/networks/n/load-balancers/x", "network-peer": "/1.0/networks/n/peers/x", "network-acl": "/1.0/network-acls/x",
		"network-address-set": "/1.0/network-address-sets/x", "network-integration": "/1.0/network-integrations/x", "network-zone": "/1.0/network-zones/x",
		"network": "/1.0/networks/x", "storage-pool": "/1.0/storage-pools/x", "storage-volume": "/1.0/storage-pools/p/volumes/custom/x", "storage-bucket": "/1.0/storage-pools/p/buckets/x"}
	quiet := regexp.MustCompile(`^(certificate|warning|cluster-(token|certificate)|operation|.*-(retrieved|exec|console|console-reset)$|image-secret|instance-(file|log|metadata)|storage-(volume|bucket)-(backup|file|key))`)
	for _, action := range []string{api.EventLifecycleInstanceCreated, api.EventLifecycleInstanceMigrated, api.EventLifecycleInstanceSnapshotUpdated, api.EventLifecycleInstanceExec,
		api.EventLifecycleInstanceFilePushed, api.EventLifecycleNetworkACLRenamed, api.EventLifecycleNetworkAddressSetUpdated, api.EventLifecycleNetworkPeerDeleted, api.EventLifecycleNetworkLoadBalancerCreated,
		api.EventLifecycleNetworkIntegrationRenamed, api.EventLifecycleNetworkZoneRecordUpdated, api.EventLifecycleStorageVolumeRestored, api.EventLifecycleStorageBucketUpdated, api.EventLifecycleStoragePoolDeleted,
		api.EventLifecycleImageRefreshed, api.EventLifecycleImageAliasRenamed, api.EventLifecycleProfileRenamed, api.EventLifecycleProjectRenamed, api.EventLifecycleConfigUpdated, api.EventLifecycleClusterMemberEvacuated,
		api.EventLifecycleClusterGroupUpdated, api.EventLifecycleCertificateCreated, api.EventLifecycleWarningReset, api.EventLifecycleStorageBucketKeyCreated, api.EventLifecycleInstanceShutdown, api.EventLifecycleInstanceReady,
		api.EventLifecycleStorageVolumeSnapshotRenamed, api.EventLifecycleStorageVolumeBackupCreated, api.EventLifecycleInstanceConsoleReset, api.EventLifecycleOperationCancelled, api.EventLifecycleImageSecretCreated} {
		at := ""
		for prefix, path := range source {
			if strings.HasPrefix(action, prefix+"-") && len(path) > len(at) {
				at = path
			}
		}
		scan, names, lists, _ := inventory.Interpret(&inventory.Event{Action: action, Source: at})
		require.Equal(t, quiet.MatchString(action), scan == "" && len(names)+len(lists) == 0, action)
	}
}

// TestPending: events about the same object cause one reading, and too many events cause a scan.
func TestPending(t *testing.T) {
	about := func(action, name, old string) *inventory.Event {
		return &inventory.Event{Action: action, Source: "/1.0/profiles/" + name, OldName: old}
	}
	tasks, lists, scan := inventory.Pending(10, about("profile-created", "a", ""), about("profile-updated", "a", ""), about("profile-updated", "a", ""))
	require.Equal(t, 1, tasks)
	require.Equal(t, 6, lists)
	require.Empty(t, scan)
	tasks, _, _ = inventory.Pending(20, about("profile-created", "a", ""), about("profile-renamed", "b", "a"), about("profile-created", "a", ""))
	require.Equal(t, 4, tasks, "a, the rename from a to b, a and b; the last event needs no further task")
	var many []*inventory.Event
	for i := range 12 {
		many = append(many, about("profile-updated", fmt.Sprint(i), ""))
	}
	tasks, lists, scan = inventory.Pending(10, many...)
	require.LessOrEqual(t, tasks+lists, 10, "later objects are read until the scan")
	require.Contains(t, scan, "more events than can be followed")
}

// TestNormalize: documents lose secrets and members that change all the time, and equal objects give equal documents.
func TestNormalize(t *testing.T) {
	listed := `{"name":"c1", "status":"Running","config":{"user.x":"1","a.password":"hunter2"},"used_by":["b","a"],"project":"",
		"state":{"status":"Running","cpu":{"usage":7},"pid":4,"network":{"eth0":{"addresses":[{"address":"10.0.0.1"}],"counters":{"bytes_sent":9},"state":"up"}}},"location":"none"}`
	one, name, _, err := inventory.Normalize(inventory.KindInstance, []byte(listed))
	require.NoError(t, err)
	require.Equal(t, "c1", name)
	other, _, _, err := inventory.Normalize(inventory.KindInstance, []byte(strings.NewReplacer(`"usage":7`, `"usage":8`, `"bytes_sent":9`, `"bytes_sent":10`, `["b","a"]`, `[ "a","b"]`, `,"project":""`, ``).Replace(listed)))
	require.NoError(t, err)
	require.Equal(t, string(one), string(other))
	require.JSONEq(t, `{"name":"c1","status":"Running","config":{"user.x":"1"},"used_by":["a","b"],"project":"default","location":"none",
		"state":{"status":"Running","network":{"eth0":{"addresses":[{"address":"10.0.0.1"}],"state":"up"}}}}`, string(one))
	for _, bad := range []string{`{}`, `[]`, `{"name":7}`, `{"name":"x"`, ``} {
		_, _, _, err := inventory.Normalize(inventory.KindProfile, []byte(bad))
		require.Error(t, err, bad)
	}
	fields, same := inventory.Diff([]byte(`{"a":1,"used_by":[]}`), []byte(`{"used_by":["x"],"a":1}`))
	require.Empty(t, fields)
	require.False(t, same)
	_, same = inventory.Diff([]byte(`{"a":1,"b":2}`), []byte(`{"b":2,"a":1}`))
	require.True(t, same, "the order of members is no change")
	from, to := map[string]any{}, map[string]any{}
	for i := range 2 * inventory.MaxFields {
		from[fmt.Sprint("f", i)], to[fmt.Sprint("f", i)] = strings.Repeat("x", inventory.MaxValue), i
	}
	before, _ := json.Marshal(from)
	after, _ := json.Marshal(to)
	fields, _ = inventory.Diff(before, after)
	require.Len(t, fields, inventory.MaxFields)
	require.Empty(t, fields[0].From, "MaxValue")
	require.NotEmpty(t, fields[0].To)
}

// FuzzInterpret: any event has an effect without a panic.
func FuzzInterpret(f *testing.F) {
	f.Add("instance-created", "/1.0/instances/c1?project=p1", "p1", "")
	f.Add("storage-volume-renamed", "/1.0/storage-pools/local/volumes/custom/p1_v2?project=p1", "p1", "v1")
	f.Add("network-peer-updated", "/1.0/networks/%2f/peers/..", "", "x")
	f.Fuzz(func(t *testing.T, action, source, project, old string) {
		scan, names, lists, _ := inventory.Interpret(&inventory.Event{Action: action, Source: source, Project: project, OldName: old})
		if scan == "" && len(names) == 0 && len(lists) > 0 {
			require.True(t, strings.HasPrefix(action, "image-alias-") || strings.HasPrefix(action, "cluster-"))
		}
	})
}

// FuzzNormalize: any document gives an error or valid JSON with a name.
func FuzzNormalize(f *testing.F) {
	f.Add("instance", `{"name":"c1","state":{"network":{"eth0":{}}},"config":{"x":"y"},"used_by":["b","a"]}`)
	f.Add("network", `{"name":"n","managed":false}`)
	f.Add("storage_volume", `{"name":"v/s","type":"custom","location":"a"}`)
	f.Fuzz(func(t *testing.T, kind, text string) {
		if !strings.Contains(fmt.Sprint(inventory.Kinds), kind) || kind == "" || strings.Contains(kind, " ") {
			return
		}
		known := false
		for _, k := range inventory.Kinds {
			known = known || string(k) == kind
		}
		if !known {
			return
		}
		object, name, truncated, err := inventory.Normalize(inventory.Kind(kind), []byte(text))
		if err != nil {
			return
		}
		require.NotEmpty(t, name)
		require.True(t, json.Valid(object), "%s", object)
		again, _, _, err := inventory.Normalize(inventory.Kind(kind), object)
		if len(truncated) == 0 && err == nil {
			require.Equal(t, string(object), string(again), "normalizing again changes nothing")
		}
	})
}

// TestDocsNameAllKinds: README names all kinds.
func TestDocsNameAllKinds(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	require.NoError(t, err)
	for _, kind := range inventory.Kinds {
		require.Contains(t, string(text), strings.ReplaceAll(string(kind), "_", " "), kind)
	}
}

// FuzzDiff: a document equals itself, and differences are symmetric.
func FuzzDiff(f *testing.F) {
	f.Add([]byte(`{"a":1,"config":{"x.y":"1"}}`), []byte(`{"a":2,"config":{"x.y":"2","z":null}}`))
	f.Add([]byte(`{"list":[1,{"a":2}]}`), []byte(`{"list":[1]}`))
	f.Add([]byte(`null`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if fields, same := inventory.Diff(a, a); len(fields) > 0 || !same {
			t.Fatalf("%q differs from itself: %v", a, fields)
		}
		there, _ := inventory.Diff(a, b)
		back, _ := inventory.Diff(b, a)
		if (len(there) > 0) != (len(back) > 0) {
			t.Fatalf("%q and %q: %v, and back %v", a, b, there, back)
		}
		if len(there) > inventory.MaxFields+1 {
			t.Fatalf("%d fields", len(there))
		}
		for _, field := range there {
			if len(field.From) > inventory.MaxValue || len(field.To) > inventory.MaxValue {
				t.Fatalf("a value of %d and %d bytes", len(field.From), len(field.To))
			}
		}
	})
}
