package system_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/system"
)

func (p *plane) tags(name string) []int { return p.network(name).Config.Interfaces[2].VLANTags }

// TestCluster: members are changed one after another, and a failure leaves the members after it unchanged.
func TestCluster(t *testing.T) {
	p := newPlane(t, system.Options{LeaveUpdates: true}).run()
	p.cluster("c1", "a", "b", "c")
	add := network.Edit{Interface: "inst0", AddVLANTags: []int{300}}
	b, err := p.systems.EditClusterNetwork(opscenter.WithPrincipal(t.Context(), "alice"), "c1", add, system.ApplyOptions{})
	require.NoError(t, err)
	require.Empty(t, b.Failed)
	for i, name := range []string{"a", "b", "c"} {
		require.Equal(t, []int{100, 200, 300}, p.tags(name))
		require.Equal(t, system.StatusDone, b.Members[i].Status)
		if i > 0 { // each member starts after the end of the one before
			one, err := p.systems.Change(t.Context(), b.Members[i-1].Change)
			require.NoError(t, err)
			next, err := p.systems.Change(t.Context(), b.Members[i].Change)
			require.NoError(t, err)
			require.False(t, next.StartedAt.Before(one.EndedAt))
			require.Equal(t, b.ID, next.Batch)
		}
		p.ready(name, p.servers[name].URL())
	}
	entries := p.audited(audit.Query{Cluster: "c1"})
	require.Len(t, entries, 1)
	require.Equal(t, audit.Done, entries[0].Outcome)
	require.Empty(t, entries[0].Server, "the entry of a batch names no server")
	// The same edit again changes nothing.
	b, err = p.systems.EditClusterNetwork(t.Context(), "c1", add, system.ApplyOptions{})
	require.NoError(t, err)
	require.Equal(t, system.StatusUnchanged, b.Members[0].Status)

	// The second member locks itself out.
	configs := map[string]*network.Config{}
	hosts := map[string]string{}
	for _, name := range []string{"a", "b", "c"} {
		hosts[name] = unusedAddress()
		configs[name] = p.moved(name, hosts[name])
	}
	p.servers["b"].KillAddress(hosts["b"], true)
	home := map[string]string{"b": p.servers["b"].URL(), "c": p.servers["c"].URL()}
	b, err = p.systems.ApplyClusterNetwork(t.Context(), "c1", configs, system.ApplyOptions{Timeout: 3 * time.Second})
	require.ErrorIs(t, err, system.ErrRolledBack)
	require.NotEmpty(t, b.Failed)
	require.Equal(t, []system.Status{system.StatusDone, system.StatusRolledBack, ""}, []system.Status{b.Members[0].Status, b.Members[1].Status, b.Members[2].Status})
	require.Equal(t, at(p.servers["a"], hosts["a"]), p.server("a").ConnectionURL)
	for name, url := range home {
		require.Equal(t, url, p.server(name).ConnectionURL, name)
		require.Equal(t, url, p.servers[name].URL(), name)
	}
	stored, err := p.systems.Batch(t.Context(), b.ID)
	require.NoError(t, err)
	require.Equal(t, b.Failed, stored.Failed)
	for _, name := range []string{"a", "b", "c"} {
		p.ready(name, p.servers[name].URL())
	}
	p.requireIdle("a", "b", "c")

	// All members are checked before the first is changed.
	bad := network.Edit{Interface: "inst0", AddVLANTags: []int{5000}}
	_, err = p.systems.EditClusterNetwork(t.Context(), "c1", bad, system.ApplyOptions{})
	require.ErrorIs(t, err, network.ErrInvalid)
	p.servers["c"].Crash()
	_, err = p.systems.EditClusterNetwork(t.Context(), "c1", network.Edit{Interface: "inst0", AddVLANTags: []int{400}}, system.ApplyOptions{})
	require.ErrorIs(t, err, opscenter.ErrUnreachable)
	require.Equal(t, []int{100, 200, 300}, p.tags("a"))
	p.servers["c"].PowerOn()
	p.ready("c", p.servers["c"].URL())
	_, err = p.systems.EditClusterNetwork(t.Context(), "none", add, system.ApplyOptions{})
	require.ErrorIs(t, err, opscenter.ErrNotFound)
	_, err = p.systems.ApplyClusterNetwork(t.Context(), "c1", map[string]*network.Config{"x": nil}, system.ApplyOptions{})
	require.ErrorIs(t, err, opscenter.ErrNotFound)

	whole, err := p.systems.SetClusterKernel(t.Context(), "c1", system.KernelConfig{BlacklistModules: []string{"floppy"}}, system.SetOptions{})
	require.NoError(t, err)
	require.Len(t, whole.Members, 3)
	for _, name := range []string{"a", "b", "c"} {
		k, err := p.systems.Kernel(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, []string{"floppy"}, k.Config.BlacklistModules)
	}
	_, err = p.systems.SetClusterLogging(t.Context(), "c1", system.LoggingConfig{Syslog: &system.Syslog{Address: "127.0.0.9:514"}}, system.SetOptions{})
	require.NoError(t, err)
	p.requireIdle("a", "b", "c")
}

// TestClusterBusy: two operations can't change a cluster at the same time, unless forced.
func TestClusterBusy(t *testing.T) {
	p := newPlane(t, system.Options{LeaveUpdates: true}).run()
	p.cluster("c1", "a", "b")
	require.NoError(t, p.Registry.Write(t.Context(), func(tx *opscenter.Tx) error {
		return tx.Claim(opscenter.Claim{Unit: "c1", Cluster: true, Owner: "r1", What: "rollout", Since: time.Now()})
	}))
	edit := network.Edit{Interface: "inst0", AddVLANTags: []int{300}}
	_, err := p.systems.EditClusterNetwork(t.Context(), "c1", edit, system.ApplyOptions{})
	require.ErrorIs(t, err, opscenter.ErrBusy)
	_, err = p.systems.EditNetwork(t.Context(), "a", edit, system.ApplyOptions{})
	require.ErrorIs(t, err, opscenter.ErrBusy)
	require.ErrorIs(t, p.systems.FactoryReset(t.Context(), "a", system.ResetOptions{}), opscenter.ErrClustered)
	_, err = p.systems.EditClusterNetwork(t.Context(), "c1", edit, system.ApplyOptions{Force: true})
	require.NoError(t, err)
	require.Equal(t, []int{100, 200, 300}, p.tags("b"))
}

// TestMemberOffline: a change is undone if the cluster no longer sees its member.
func TestMemberOffline(t *testing.T) {
	p := newPlane(t, system.Options{LeaveUpdates: true})
	p.cluster("c1", "a", "b")
	a := p.servers["a"]
	before := a.NetworkConfig()
	a.OnMove(func() {
		_ = a.SetFault(incusostest.Fault{Kind: incusostest.FaultError, Path: "/1.0/cluster/members/a"})
	}, func() { _ = a.SetFault(incusostest.Fault{}) })
	_, err := p.systems.EditNetwork(t.Context(), "a", network.Edit{Interface: "stor", AddVLANTags: []int{7}}, system.ApplyOptions{Timeout: 500 * time.Millisecond})
	require.ErrorIs(t, err, system.ErrRolledBack)
	requireNetwork(t, before, a)
}

// TestBatchContinuesWithoutCaller: Run changes the remaining members after the caller gave up.
func TestBatchContinuesWithoutCaller(t *testing.T) {
	p := newPlane(t, system.Options{LeaveUpdates: true}).run()
	p.cluster("c1", "a", "b")
	ctx, cancel := context.WithCancel(t.Context())
	p.servers["a"].OnMove(cancel, nil)
	_, err := p.systems.EditClusterNetwork(ctx, "c1", network.Edit{Interface: "inst0", AddVLANTags: []int{300}}, system.ApplyOptions{})
	require.ErrorIs(t, err, opscenter.ErrOutcomeUnknown)
	require.Eventually(t, func() bool {
		list, err := p.systems.Batches(t.Context(), "", 1)
		return err == nil && !list[0].EndedAt.IsZero()
	}, patience, 10*time.Millisecond)
	require.Equal(t, []int{100, 200, 300}, p.tags("a"))
	require.Equal(t, []int{100, 200, 300}, p.tags("b"))
	require.Eventually(t, func() bool { return p.audited(audit.Query{Cluster: "c1"})[0].Outcome == audit.Done }, patience, 10*time.Millisecond)
}

// TestSharedAddress: a member can't get an address that another member has, or will have.
func TestSharedAddress(t *testing.T) {
	p := newPlane(t, system.Options{})
	p.cluster("c1", "a", "b", "c")
	host := unusedAddress()
	of := func(name string) string { return hostOf(t, p.servers[name].URL()) }
	for _, configs := range []map[string]*network.Config{
		{"a": p.moved("a", host), "b": p.moved("b", host)},    // both would get it
		{"a": p.moved("a", of("c"))},                          // a member that is not changed has it
		{"a": p.moved("a", of("b")), "b": p.moved("b", host)}, // a later member gives it up
		{"a": p.moved("a", host), "b": p.moved("b", of("a"))}, // an earlier member gives it up, but may fail
	} {
		b, err := p.systems.ApplyClusterNetwork(t.Context(), "c1", configs, system.ApplyOptions{})
		require.ErrorIs(t, err, network.ErrInvalid)
		require.ErrorContains(t, err, "is used by server")
		require.Nil(t, b)
	}
	for _, name := range []string{"a", "b", "c"} {
		require.Empty(t, p.servers[name].Requests("PUT /os/1.0/system/network"))
	}
	// Each member may have the same link-local address.
	configs := map[string]*network.Config{"a": p.network("a").Config, "b": p.network("b").Config}
	for _, config := range configs {
		config.Interfaces[1].Addresses = append(config.Interfaces[1].Addresses, "fe80::53/64")
	}
	_, err := p.systems.ApplyClusterNetwork(t.Context(), "c1", configs, system.ApplyOptions{})
	require.NoError(t, err)
	p.requireIdle("a", "b", "c")
}
