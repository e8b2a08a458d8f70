package system_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/incustest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/cluster"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/system"
)

// TestRealPlainIncus: a real daemon without IncusOS is ErrNotApplicable.
func TestRealPlainIncus(t *testing.T) {
	daemon := incustest.Start(t)
	p := newPlane(t, system.Options{}).run()
	names, err := p.Client.Adopt(t.Context(), p.Registry, daemon.URL, daemon.TrustToken(), incusos.AdoptOptions{Name: "solo"})
	require.NoError(t, err)
	require.Equal(t, []string{"solo"}, names)
	p.ready("solo", daemon.URL)
	_, err = p.systems.Network(t.Context(), "solo")
	require.ErrorIs(t, err, opscenter.ErrNotApplicable)
	require.ErrorContains(t, err, "not on IncusOS")
	_, err = p.systems.Update(t.Context(), "solo")
	require.ErrorIs(t, err, opscenter.ErrNotApplicable)
	require.Nil(t, p.server("solo").State.Update, "the control plane does not manage its update settings")
	p.requireIdle("solo")
}

// TestRealNetwork changes the networks of members of a real Incus cluster behind simulated IncusOS. A change is
// confirmed only if the real cluster still sees its member.
func TestRealNetwork(t *testing.T) {
	p := newPlane(t, system.Options{LeaveUpdates: true, LookTimeout: 5 * time.Second})
	names := []string{"m1", "m2"}
	addresses := map[string]string{}
	daemons := map[string]*incustest.Daemon{}
	for i, name := range names {
		d := incustest.StartOn(t, fmt.Sprintf("127.0.0.%d", i+1))
		daemons[name], addresses[name] = d, strings.TrimPrefix(d.URL, "https://")
	}
	for _, name := range names {
		p.boot(incusostest.Options{Name: name, Backend: daemons[name].Socket})
	}
	former := cluster.New(p.Registry, p.Client, cluster.Options{Address: func(s *opscenter.ServerInfo) string { return addresses[s.Name] }})
	require.NoError(t, former.Form(t.Context(), "c1", names...))
	pair, err := daemons["m1"].ClusterKeyPair()
	require.NoError(t, err)
	for _, name := range names {
		require.NoError(t, p.servers[name].Present(&pair))
		p.ready(name, p.servers[name].URL())
		require.Equal(t, name, p.server(name).State.MemberName)
	}
	b, err := p.systems.EditClusterNetwork(t.Context(), "c1", network.Edit{Interface: "inst0", AddVLANTags: []int{300}}, system.ApplyOptions{})
	require.NoError(t, err)
	require.Empty(t, b.Failed)
	for _, name := range names {
		p.ready(name, p.servers[name].URL())
	}
	host := unusedAddress()
	c, err := p.systems.ApplyNetwork(t.Context(), "m2", p.moved("m2", host), system.ApplyOptions{})
	require.NoError(t, err)
	require.Equal(t, at(p.servers["m2"], host), c.URL)
	p.ready("m2", c.URL)

	// A change that stops Incus on the member is undone.
	before := p.servers["m2"].NetworkConfig()
	stopped := make(chan struct{})
	p.servers["m2"].OnMove(func() {
		defer close(stopped)
		daemons["m2"].Stop(false)
	}, nil)
	_, err = p.systems.EditNetwork(t.Context(), "m2", network.Edit{Interface: "stor", AddVLANTags: []int{7}}, system.ApplyOptions{Timeout: 4 * time.Second})
	require.ErrorIs(t, err, system.ErrRolledBack)
	<-stopped
	requireNetwork(t, before, p.servers["m2"])
	require.NoError(t, daemons["m2"].Revive())
	p.servers["m2"].OnMove(nil, nil)
	p.ready("m2", p.servers["m2"].URL())
	p.requireIdle(names...)
}
