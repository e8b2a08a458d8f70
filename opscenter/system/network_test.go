package system_test

import (
	"cmp"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/system"
)

// TestNetworkIsRead: Network returns the configuration with its ETag, without secrets.
func TestNetworkIsRead(t *testing.T) {
	p := newPlane(t, system.Options{})
	p.boot(incusostest.Options{Name: "a"})
	n := p.network("a")
	require.Equal(t, "mgmt", n.Config.Interfaces[0].Name)
	require.Equal(t, network.Hidden, n.Config.WireGuard[0].PrivateKey)
	require.NotEmpty(t, n.ETag)
	require.NotEmpty(t, n.State.Interfaces["mgmt"].Addresses)
	require.Equal(t, n.ETag, p.network("a").ETag)
	_, err := p.systems.Network(t.Context(), "none")
	require.ErrorIs(t, err, opscenter.ErrNotFound)
	p.servers["a"].Crash()
	_, err = p.systems.Network(t.Context(), "a")
	require.ErrorIs(t, err, opscenter.ErrUnreachable)
}

// TestMove: a server moves to another address, is confirmed there, and its record gets the new URL.
func TestMove(t *testing.T) {
	for _, muted := range []bool{false, true} { // with and without its self update
		p := newPlane(t, system.Options{}).run()
		a := p.boot(incusostest.Options{Name: "a"})
		a.SetMuted(muted)
		host := unusedAddress()
		n := p.network("a")
		n.Config.Interfaces[0].Addresses = []string{host + "/8"}
		ctx := opscenter.WithPrincipal(t.Context(), "alice")
		plan, err := p.systems.PlanNetwork(ctx, "a", n.Config, system.ApplyOptions{IfMatch: n.ETag})
		require.NoError(t, err)
		require.True(t, plan.Moves)
		require.Len(t, plan.Changes, 1)
		require.Contains(t, plan.Changes[0].String(), "~ interfaces[mgmt].addresses")
		c, err := p.systems.ApplyNetwork(ctx, "a", n.Config, system.ApplyOptions{IfMatch: n.ETag})
		require.NoError(t, err)
		require.Equal(t, system.StatusDone, c.Status)
		require.Equal(t, at(a, host), c.URL)
		require.Equal(t, at(a, host), a.URL())
		require.False(t, a.NetworkPending(), "the change was confirmed")
		require.Contains(t, string(a.NetworkConfig()), "c2ltdWxhdGVkLXByaXZhdGUta2V5", "the server keeps the hidden secret")
		require.NotContains(t, string(a.NetworkConfig()), "confirmation_timeout")
		require.Equal(t, *c, *p.last("a"))
		a.SetMuted(false)
		p.ready("a", at(a, host))
		p.requireIdle("a")
		entries := p.audited(audit.Query{Server: "a"})
		require.Len(t, entries, 1)
		require.Equal(t, "alice", entries[0].By)
		require.Equal(t, audit.Done, entries[0].Outcome)
		events, err := p.Registry.ListEvents(t.Context(), opscenter.EventFilter{Server: "a", Limit: 1000})
		require.NoError(t, err)
		var kinds []string
		for _, e := range events {
			if e.Kind == event.ConfigurationChange && strings.HasPrefix(e.Reason, "network") {
				kinds = append(kinds, e.Reason)
			}
		}
		require.Len(t, kinds, 4, "%q", kinds)
		// The same configuration again changes nothing.
		c, err = p.systems.ApplyNetwork(t.Context(), "a", p.network("a").Config, system.ApplyOptions{})
		require.NoError(t, err)
		require.Nil(t, c)
	}
}

// TestChangeWithoutMove: a change that does not move the server is confirmed at its old address.
func TestChangeWithoutMove(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	before := a.URL()
	c, err := p.systems.EditNetwork(t.Context(), "a", network.Edit{DNS: &network.DNSEdit{Nameservers: []string{"127.0.0.54"}}}, system.ApplyOptions{})
	require.NoError(t, err)
	require.Equal(t, system.StatusDone, c.Status)
	require.False(t, c.Moves)
	require.Equal(t, before, p.server("a").ConnectionURL)
	require.Equal(t, []string{"127.0.0.54"}, p.network("a").Config.DNS.Nameservers)
	c, err = p.systems.EditNetwork(t.Context(), "a", network.Edit{Interface: "inst0", AddVLANTags: []int{300}, RemoveVLANTags: []int{100}}, system.ApplyOptions{})
	require.NoError(t, err)
	require.Equal(t, []int{200, 300}, p.network("a").Config.Interfaces[2].VLANTags)
	require.Equal(t, system.StatusDone, c.Status)
	p.requireIdle("a")
}

// TestPortAndLease: a self update reports a new port, and a new address from DHCP.
func TestPortAndLease(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	lease := unusedAddress()
	a.SetLease(lease)
	a.SetPort("8444")
	config := p.network("a").Config
	config.Interfaces[0].Addresses = []string{"dhcp4"}
	config.Interfaces[0].Routes = nil
	c, err := p.systems.ApplyNetwork(t.Context(), "a", config, system.ApplyOptions{})
	require.NoError(t, err)
	require.Equal(t, "https://"+lease+":8444", c.URL)
	require.Equal(t, c.URL, p.server("a").ConnectionURL)
}

// TestLockedOut: the server undoes a change after which the control plane can't reach it, and its record keeps the
// old URL.
func TestLockedOut(t *testing.T) {
	for name, lockOut := range map[string]func(p *plane, a *incusostest.Server, host string){
		"unreachable address": func(_ *plane, a *incusostest.Server, host string) { a.KillAddress(host, true) },
		"unreachable address, no self update": func(_ *plane, a *incusostest.Server, host string) {
			a.KillAddress(host, true)
			a.SetMuted(true)
		},
		"unreachable address, slow move": func(_ *plane, a *incusostest.Server, host string) {
			a.KillAddress(host, true)
			a.OnMove(func() { time.Sleep(300 * time.Millisecond) }, nil)
		},
		"another machine at the address": func(p *plane, a *incusostest.Server, host string) {
			a.KillAddress(host, true)
			other := p.boot(incusostest.Options{Name: "other", Address: host + ":8443"})
			require.Equal(p.t, at(a, host), other.URL())
		},
		"another certificate": func(_ *plane, a *incusostest.Server, host string) {
			a.OnMove(func() { _ = a.SetFault(incusostest.Fault{Kind: incusostest.FaultWrongCertificate}) }, func() { _ = a.SetFault(incusostest.Fault{}) })
		},
		"answers without content": func(_ *plane, a *incusostest.Server, host string) {
			a.OnMove(func() {
				_ = a.SetFault(incusostest.Fault{Kind: incusostest.FaultGarbage, Path: "/os/1.0/system/network"})
			}, func() { _ = a.SetFault(incusostest.Fault{}) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlane(t, system.Options{})
			a := p.boot(incusostest.Options{Name: "a"})
			before, home := a.NetworkConfig(), a.URL()
			host := unusedAddress()
			lockOut(p, a, host)
			c, err := p.systems.ApplyNetwork(t.Context(), "a", p.moved("a", host), system.ApplyOptions{Timeout: 700 * time.Millisecond})
			require.ErrorIs(t, err, system.ErrRolledBack)
			require.Equal(t, system.StatusRolledBack, c.Status)
			require.Equal(t, home, c.URL)
			requireNetwork(t, before, a)
			require.Equal(t, home, p.server("a").ConnectionURL)
			p.requireIdle("a")
			require.NoError(t, a.SetFault(incusostest.Fault{}))
			p.ready("a", home)
			require.Equal(t, audit.Failed, p.audited(audit.Query{Server: "a"})[0].Outcome)
		})
	}
}

// TestOldAddressIsNoProof: a change that moves the server is not confirmed at the old address, which may
// only still be open.
func TestOldAddressIsNoProof(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	before, home := a.NetworkConfig(), a.URL()
	a.SetStaying(true)
	c, err := p.systems.ApplyNetwork(t.Context(), "a", p.moved("a", unusedAddress()), system.ApplyOptions{Timeout: 500 * time.Millisecond})
	require.ErrorIs(t, err, system.ErrRolledBack)
	require.Contains(t, c.Reason, "none of its new addresses")
	requireNetwork(t, before, a)
	require.Equal(t, home, p.server("a").ConnectionURL)
}

// TestChangeBreaksLate: a change that breaks the network after a moment is undone.
func TestChangeBreaksLate(t *testing.T) {
	p := newPlane(t, system.Options{Steady: 300 * time.Millisecond})
	a := p.boot(incusostest.Options{Name: "a"})
	before, home := a.NetworkConfig(), hostOf(t, a.URL())
	a.OnMove(func() { time.AfterFunc(150*time.Millisecond, func() { a.KillAddress(home, true) }) }, func() { a.KillAddress(home, false) })
	_, err := p.systems.EditNetwork(t.Context(), "a", network.Edit{DNS: &network.DNSEdit{Domain: new("example.org")}}, system.ApplyOptions{Timeout: 1500 * time.Millisecond})
	require.ErrorIs(t, err, system.ErrRolledBack)
	requireNetwork(t, before, a)
}

// TestLostAnswers: the outcome is that of the server, whichever answer is lost.
func TestLostAnswers(t *testing.T) {
	put, confirm := "/os/1.0/system/network", "/os/1.0/system/network/:confirm"
	for name, fault := range map[string]incusostest.Fault{
		"answer to the change":            {Kind: incusostest.FaultReset, Path: put, Method: "PUT", Times: 1},
		"answer to the change, truncated": {Kind: incusostest.FaultTruncated, Path: put, Method: "PUT", Times: 1},
		"answer to the confirmation":      {Kind: incusostest.FaultReset, Path: confirm, Method: "POST", Times: 2},
		"answers to several probes":       {Kind: incusostest.FaultReset, Path: "/os/1.0", Method: "GET", Times: 7},
		"the confirmation itself":         {Kind: incusostest.FaultError, Path: confirm, Method: "POST", Times: 3},
	} {
		t.Run(name, func(t *testing.T) {
			for _, move := range []bool{false, true} {
				p := newPlane(t, system.Options{})
				a := p.boot(incusostest.Options{Name: "a"})
				host := hostOf(t, a.URL())
				if move {
					host = unusedAddress()
				}
				config := p.moved("a", host)
				config.DNS.Nameservers = []string{"127.0.0.54"}
				after := fault
				if fault.Method == "GET" { // the first GETs come before the change
					after = incusostest.Fault{}
					a.OnMove(func() { _ = a.SetFault(fault) }, nil)
				}
				require.NoError(t, a.SetFault(after))
				c, err := p.systems.ApplyNetwork(t.Context(), "a", config, system.ApplyOptions{})
				require.NoError(t, err)
				require.Equal(t, system.StatusDone, c.Status, c.Reason)
				require.False(t, a.NetworkPending())
				require.Equal(t, at(a, host), p.server("a").ConnectionURL)
			}
		})
	}
	t.Run("the change itself", func(t *testing.T) {
		p := newPlane(t, system.Options{})
		a := p.boot(incusostest.Options{Name: "a"})
		before := a.NetworkConfig()
		config := p.moved("a", unusedAddress())
		a.SetStuck(true) // it accepts the change, and does nothing
		c, err := p.systems.ApplyNetwork(t.Context(), "a", config, system.ApplyOptions{Timeout: 500 * time.Millisecond})
		require.ErrorIs(t, err, system.ErrRolledBack)
		require.Equal(t, system.StatusRolledBack, c.Status)
		requireNetwork(t, before, a)
	})
}

// TestNotSent: a change that is refused, or not sent, ends at once and leaves the server unchanged.
func TestNotSent(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	before := a.NetworkConfig()
	apply := func(config *network.Config, options system.ApplyOptions) (*system.Change, error) {
		return p.systems.ApplyNetwork(t.Context(), "a", config, options)
	}
	config := p.moved("a", unusedAddress())
	_, err := apply(config, system.ApplyOptions{IfMatch: "other"})
	require.ErrorIs(t, err, opscenter.ErrPrecondition)
	_, err = apply(nil, system.ApplyOptions{})
	require.ErrorIs(t, err, network.ErrInvalid)
	_, err = apply(config, system.ApplyOptions{Timeout: 2 * time.Hour})
	require.ErrorIs(t, err, opscenter.ErrInvalidOptions)
	bad := p.moved("a", unusedAddress())
	bad.Interfaces[1].MTU = 12
	_, err = apply(bad, system.ApplyOptions{})
	require.ErrorIs(t, err, network.ErrInvalid)
	require.ErrorContains(t, err, "interfaces[1].mtu")
	bad = p.moved("a", unusedAddress())
	bad.Interfaces[0].Addresses = nil
	_, err = apply(bad, system.ApplyOptions{})
	require.ErrorContains(t, err, "interfaces[0].addresses: no device with role management")

	// The server refuses.
	require.NoError(t, a.SetFault(incusostest.Fault{Kind: incusostest.FaultError, Path: "/os/1.0/system/network", Method: "PUT"}))
	c, err := apply(config, system.ApplyOptions{Timeout: 300 * time.Millisecond})
	require.ErrorIs(t, err, system.ErrRolledBack, "the server may have made a part of the change")
	require.Contains(t, c.Reason, "Something is wrong inside")
	require.NoError(t, a.SetFault(incusostest.Fault{}))

	// Another client has a pending change on the server.
	other := newOtherClient(t, a)
	a.SetApplying(time.Second)
	var putting sync.WaitGroup
	putting.Go(func() { other.put(t, a.NetworkConfig(), "1m") })
	require.Eventually(t, func() bool { return p.network("a").Pending }, patience, time.Millisecond, "the server reports a change that it applies")
	_, err = apply(config, system.ApplyOptions{})
	require.ErrorIs(t, err, opscenter.ErrBusy)
	putting.Wait()
	a.SetApplying(0)
	require.False(t, p.network("a").Pending, "the server does not report a change that waits for its confirmation")
	c, err = apply(config, system.ApplyOptions{})
	require.ErrorIs(t, err, opscenter.ErrRefused, "a second change while one is pending is answered 400")
	require.Contains(t, c.Reason, "already waiting")
	require.True(t, a.NetworkPending(), "the change of the other client is not confirmed")
	other.confirm(t)

	// The server is down.
	a.Crash()
	_, err = apply(config, system.ApplyOptions{})
	require.ErrorIs(t, err, opscenter.ErrUnreachable)
	a.PowerOn()
	requireNetwork(t, before, a)
	p.requireIdle("a")
}

// TestReleases: the network can be read, planned and changed on releases of any age. A missing machine ID is no
// other machine. A release that can't undo changes is ErrNoRollBack.
func TestReleases(t *testing.T) {
	for _, release := range []string{"202510010000", "202512010000", "202604300000", "202606010000", "202607160000", ""} {
		p := newPlane(t, system.Options{})
		p.boot(incusostest.Options{Name: "a", Release: release, Version: cmp.Or(release, "202610010000")})
		_, err := p.systems.Network(t.Context(), "a")
		require.NoError(t, err, release)
		edit := network.Edit{DNS: &network.DNSEdit{Nameservers: []string{"192.0.2.53"}}}
		_, err = p.systems.PlanNetworkEdit(t.Context(), "a", edit, system.ApplyOptions{})
		require.NoError(t, err, release)
		c, err := p.systems.EditNetwork(t.Context(), "a", edit, system.ApplyOptions{})
		if release != "" && release < "202602010000" { // see release.Confirmation
			require.ErrorIs(t, err, system.ErrNoRollBack, release)
			continue
		}
		require.NoError(t, err, release)
		require.Equal(t, system.StatusDone, c.Status)
	}
}

// TestReleaseWithoutRollBack: a release that can't undo a change is changed only with AcceptRisk.
func TestReleaseWithoutRollBack(t *testing.T) {
	p := newPlane(t, system.Options{ConfirmationTimeout: 300 * time.Millisecond, Grace: 300 * time.Millisecond})
	a := p.boot(incusostest.Options{Name: "a", LegacyNetwork: true})
	before := a.NetworkConfig()
	host := unusedAddress()
	was := p.server("a").State
	c, err := p.systems.ApplyNetwork(t.Context(), "a", p.moved("a", host), system.ApplyOptions{})
	require.ErrorIs(t, err, system.ErrNoRollBack)
	require.Nil(t, c, "refused before a change is stored")
	changes, err := p.systems.Changes(t.Context(), "a", "", 10)
	require.NoError(t, err)
	require.Empty(t, changes)
	require.Equal(t, was.LastOperation, p.server("a").State.LastOperation)
	requireNetwork(t, before, a)
	p.requireIdle("a")
	p.ready("a", a.URL())
	c, err = p.systems.ApplyNetwork(t.Context(), "a", p.moved("a", host), system.ApplyOptions{AcceptRisk: true})
	require.NoError(t, err)
	require.Equal(t, system.StatusDone, c.Status)
	require.Zero(t, c.Timeout)
	require.Equal(t, at(a, host), p.server("a").ConnectionURL)
	p.ready("a", at(a, host))
	// A change to an unreachable address shows the risk: the server is lost.
	dark := unusedAddress()
	a.KillAddress(dark, true)
	c, err = p.systems.ApplyNetwork(t.Context(), "a", p.moved("a", dark), system.ApplyOptions{AcceptRisk: true})
	require.ErrorIs(t, err, system.ErrLost)
	require.Equal(t, system.StatusLost, c.Status)
	p.requireIdle("a")
	require.Equal(t, lifecycle.DetailUnresponsive, p.server("a").State.StatusDetail, "the server does not count as healthy")
	// A failed forced action leaves the server offline.
	_, err = p.systems.EditNetwork(t.Context(), "a", network.Edit{DNS: &network.DNSEdit{Nameservers: []string{}}}, system.ApplyOptions{Force: true})
	require.ErrorIs(t, err, opscenter.ErrUnreachable)
	require.ErrorIs(t, p.systems.Reboot(t.Context(), "a", system.PowerOptions{}), opscenter.ErrNotReady)
	require.Error(t, p.systems.Reboot(t.Context(), "a", system.PowerOptions{Force: true}))
	s := p.server("a").State
	require.Equal(t, lifecycle.StatusOffline, s.Status)
	require.Equal(t, lifecycle.DetailUnresponsive, s.StatusDetail)
	a.KillAddress(dark, false)
	require.NoError(t, p.Registry.Write(t.Context(), func(tx *opscenter.Tx) error {
		return tx.Move(p.server("a"), at(a, dark), "an operator repaired it on site")
	}))
	p.ready("a", at(a, dark))
}

// TestChangeContinuesWithoutCaller: Run continues a change after the caller gave up.
func TestChangeContinuesWithoutCaller(t *testing.T) {
	p := newPlane(t, system.Options{}).run()
	a := p.boot(incusostest.Options{Name: "a"})
	host := unusedAddress()
	ctx, cancel := context.WithCancel(t.Context())
	a.OnMove(cancel, nil)
	config := p.moved("a", host)
	_, err := p.systems.ApplyNetwork(ctx, "a", config, system.ApplyOptions{})
	if err != nil { // nil: the change ended before the cancellation
		require.ErrorIs(t, err, opscenter.ErrOutcomeUnknown)
	}
	require.Eventually(t, func() bool { return p.last("a").Status == system.StatusDone }, patience, 10*time.Millisecond)
	require.Equal(t, at(a, host), p.server("a").ConnectionURL)
	p.ready("a", at(a, host))
	p.requireIdle("a")
	require.Eventually(t, func() bool { return p.audited(audit.Query{Server: "a"})[0].Outcome == audit.Done }, patience, 10*time.Millisecond)
}
