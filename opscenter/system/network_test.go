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

// TestNetworkIsRead: with its ETag, without its secrets.
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

// TestMove: a server gets another address, is found there, and told so; its record follows.
func TestMove(t *testing.T) {
	for _, muted := range []bool{false, true} { // with and without its self update
		p := newPlane(t, system.Options{}).run()
		a := p.boot(incusostest.Options{Name: "a"})
		a.SetMuted(muted)
		host := spare()
		n := p.network("a")
		n.Config.Interfaces[0].Addresses = []string{host + "/8"}
		ctx := opscenter.By(t.Context(), "alice")
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
		require.False(t, a.NetworkPending(), "it was confirmed")
		require.Contains(t, string(a.NetworkConfig()), "c2ltdWxhdGVkLXByaXZhdGUta2V5", "what was hidden is what it was")
		require.NotContains(t, string(a.NetworkConfig()), "confirmation_timeout")
		require.Equal(t, *c, *p.last("a"))
		a.SetMuted(false)
		p.ready("a", at(a, host))
		p.free("a")
		entries := p.audited(audit.Query{Server: "a"})
		require.Len(t, entries, 1)
		require.Equal(t, "alice", entries[0].By)
		require.Equal(t, audit.Done, entries[0].Outcome)
		events, err := p.registry.Events(t.Context(), opscenter.EventFilter{Server: "a", Limit: 1000})
		require.NoError(t, err)
		var kinds []string
		for _, e := range events {
			if e.Kind == event.ConfigurationChange && strings.HasPrefix(e.Reason, "network") {
				kinds = append(kinds, e.Reason)
			}
		}
		require.Len(t, kinds, 4, "%q", kinds)
		// The same once more changes nothing.
		c, err = p.systems.ApplyNetwork(t.Context(), "a", p.network("a").Config, system.ApplyOptions{})
		require.NoError(t, err)
		require.Nil(t, c)
	}
}

// TestStays: a change that does not move the server is confirmed where it is.
func TestStays(t *testing.T) {
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
	p.free("a")
}

// TestPortAndLease: where only the server itself can say where it is, its self update tells.
func TestPortAndLease(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	lease := spare()
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

// TestLockedOut: changes after which nobody could reach the server are undone, by the server
// itself, and its record is where it is.
func TestLockedOut(t *testing.T) {
	for name, break_ := range map[string]func(p *plane, a *incusostest.Server, host string){
		"an address nobody reaches": func(_ *plane, a *incusostest.Server, host string) { a.KillAddress(host, true) },
		"without a self update, too": func(_ *plane, a *incusostest.Server, host string) {
			a.KillAddress(host, true)
			a.SetMuted(true)
		},
		"and it takes its time to go there": func(_ *plane, a *incusostest.Server, host string) {
			a.KillAddress(host, true)
			a.OnMove(func() { time.Sleep(300 * time.Millisecond) }, nil)
		},
		"another machine is there": func(p *plane, a *incusostest.Server, host string) {
			a.KillAddress(host, true)
			other := p.boot(incusostest.Options{Name: "other", Address: host + ":8443"})
			require.Equal(p.t, at(a, host), other.URL())
		},
		"it comes up with another certificate": func(_ *plane, a *incusostest.Server, host string) {
			a.OnMove(func() { _ = a.SetFault(incusostest.Fault{Kind: incusostest.FaultWrongCertificate}) }, func() { _ = a.SetFault(incusostest.Fault{}) })
		},
		"it answers, and tells nothing": func(_ *plane, a *incusostest.Server, host string) {
			a.OnMove(func() {
				_ = a.SetFault(incusostest.Fault{Kind: incusostest.FaultGarbage, Path: "/os/1.0/system/network"})
			}, func() { _ = a.SetFault(incusostest.Fault{}) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlane(t, system.Options{})
			a := p.boot(incusostest.Options{Name: "a"})
			before, home := a.NetworkConfig(), a.URL()
			host := spare()
			break_(p, a, host)
			c, err := p.systems.ApplyNetwork(t.Context(), "a", p.moved("a", host), system.ApplyOptions{Timeout: 700 * time.Millisecond})
			require.ErrorIs(t, err, system.ErrRolledBack)
			require.Equal(t, system.StatusRolledBack, c.Status)
			require.Equal(t, home, c.URL)
			same(t, before, a)
			require.Equal(t, home, p.server("a").ConnectionURL)
			p.free("a")
			require.NoError(t, a.SetFault(incusostest.Fault{}))
			p.ready("a", home)
			require.Equal(t, audit.Failed, p.audited(audit.Query{Server: "a"})[0].Outcome)
		})
	}
}

// TestNotTheNewAddress: a server that is seen, but not where its new configuration puts it, is
// not confirmed: it is only the old way in that is still open.
func TestNotTheNewAddress(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	before, home := a.NetworkConfig(), a.URL()
	a.SetStaying(true)
	c, err := p.systems.ApplyNetwork(t.Context(), "a", p.moved("a", spare()), system.ApplyOptions{Timeout: 500 * time.Millisecond})
	require.ErrorIs(t, err, system.ErrRolledBack)
	require.Contains(t, c.Reason, "none of its new addresses")
	same(t, before, a)
	require.Equal(t, home, p.server("a").ConnectionURL)
}

// TestTakesEffectLate: a change that works at first, and not for long, is undone.
func TestTakesEffectLate(t *testing.T) {
	p := newPlane(t, system.Options{Steady: 300 * time.Millisecond})
	a := p.boot(incusostest.Options{Name: "a"})
	before, home := a.NetworkConfig(), hostOf(t, a.URL())
	a.OnMove(func() { time.AfterFunc(150*time.Millisecond, func() { a.KillAddress(home, true) }) }, func() { a.KillAddress(home, false) })
	_, err := p.systems.EditNetwork(t.Context(), "a", network.Edit{DNS: &network.DNSEdit{Domain: new("example.org")}}, system.ApplyOptions{Timeout: 1500 * time.Millisecond})
	require.ErrorIs(t, err, system.ErrRolledBack)
	same(t, before, a)
}

// TestLostAnswers: whatever is lost on the way, the outcome is that of the server.
func TestLostAnswers(t *testing.T) {
	put, confirm := "/os/1.0/system/network", "/os/1.0/system/network/:confirm"
	for name, fault := range map[string]incusostest.Fault{
		"of the change":           {Kind: incusostest.FaultReset, Path: put, Method: "PUT", Times: 1},
		"of the change, cut":      {Kind: incusostest.FaultTruncated, Path: put, Method: "PUT", Times: 1},
		"of the confirmation":     {Kind: incusostest.FaultReset, Path: confirm, Method: "POST", Times: 2},
		"of several looks":        {Kind: incusostest.FaultReset, Path: "/os/1.0", Method: "GET", Times: 7},
		"the confirmation itself": {Kind: incusostest.FaultError, Path: confirm, Method: "POST", Times: 3},
	} {
		t.Run(name, func(t *testing.T) {
			for _, move := range []bool{false, true} {
				p := newPlane(t, system.Options{})
				a := p.boot(incusostest.Options{Name: "a"})
				host := hostOf(t, a.URL())
				if move {
					host = spare()
				}
				config := p.moved("a", host)
				config.DNS.Nameservers = []string{"127.0.0.54"}
				after := fault
				if fault.Method == "GET" { // the first ones are before anything is done
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
		config := p.moved("a", spare())
		a.SetStuck(true) // it answers, and does nothing
		c, err := p.systems.ApplyNetwork(t.Context(), "a", config, system.ApplyOptions{Timeout: 500 * time.Millisecond})
		require.ErrorIs(t, err, system.ErrRolledBack)
		require.Equal(t, system.StatusRolledBack, c.Status)
		same(t, before, a)
	})
}

// TestNotSent: what the server refuses, or was never asked, changes nothing, and is over at once.
func TestNotSent(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	before := a.NetworkConfig()
	apply := func(config *network.Config, options system.ApplyOptions) (*system.Change, error) {
		return p.systems.ApplyNetwork(t.Context(), "a", config, options)
	}
	config := p.moved("a", spare())
	_, err := apply(config, system.ApplyOptions{IfMatch: "other"})
	require.ErrorIs(t, err, opscenter.ErrPrecondition)
	_, err = apply(nil, system.ApplyOptions{})
	require.ErrorIs(t, err, network.ErrInvalid)
	_, err = apply(config, system.ApplyOptions{Timeout: 2 * time.Hour})
	require.ErrorIs(t, err, opscenter.ErrInvalidOptions)
	bad := p.moved("a", spare())
	bad.Interfaces[1].MTU = 12
	_, err = apply(bad, system.ApplyOptions{})
	require.ErrorIs(t, err, network.ErrInvalid)
	require.ErrorContains(t, err, "interfaces[1].mtu")
	bad = p.moved("a", spare())
	bad.Interfaces[0].Addresses = nil
	_, err = apply(bad, system.ApplyOptions{})
	require.ErrorContains(t, err, "interfaces[0].addresses: no device with role management")

	// The server refuses.
	require.NoError(t, a.SetFault(incusostest.Fault{Kind: incusostest.FaultError, Path: "/os/1.0/system/network", Method: "PUT"}))
	c, err := apply(config, system.ApplyOptions{Timeout: 300 * time.Millisecond})
	require.ErrorIs(t, err, system.ErrRolledBack, "it may have done some of it")
	require.Contains(t, c.Reason, "Something is wrong inside")
	require.NoError(t, a.SetFault(incusostest.Fault{}))

	// Somebody else has a change pending there.
	other := newStranger(t, a)
	a.SetApplying(time.Second)
	var putting sync.WaitGroup
	putting.Go(func() { other.put(t, a.NetworkConfig(), "1m") })
	require.Eventually(t, func() bool { return p.network("a").Pending }, patience, time.Millisecond, "while it is made, it shows")
	_, err = apply(config, system.ApplyOptions{})
	require.ErrorIs(t, err, opscenter.ErrBusy)
	putting.Wait()
	a.SetApplying(0)
	require.False(t, p.network("a").Pending, "while it waits, it does not")
	c, err = apply(config, system.ApplyOptions{})
	require.ErrorIs(t, err, opscenter.ErrRefused, "a second change while one is pending is answered 400")
	require.Contains(t, c.Reason, "already waiting")
	require.True(t, a.NetworkPending(), "what is somebody else's is not confirmed by us")
	other.confirm(t)

	// It is away.
	a.Crash()
	_, err = apply(config, system.ApplyOptions{})
	require.ErrorIs(t, err, opscenter.ErrUnreachable)
	a.PowerOn()
	same(t, before, a)
	p.free("a")
}

// TestReleases: the network of a server on a release of any age can be read, planned and changed. A
// machine ID that it does not tell is no other machine, and a release that can't undo says so.
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

// TestLegacy: a release that can't undo a change is not changed, unless the caller says so.
func TestLegacy(t *testing.T) {
	p := newPlane(t, system.Options{ConfirmationTimeout: 300 * time.Millisecond, Grace: 300 * time.Millisecond})
	a := p.boot(incusostest.Options{Name: "a", LegacyNetwork: true})
	before := a.NetworkConfig()
	host := spare()
	was := p.server("a").State
	c, err := p.systems.ApplyNetwork(t.Context(), "a", p.moved("a", host), system.ApplyOptions{})
	require.ErrorIs(t, err, system.ErrNoRollBack)
	require.Nil(t, c, "it is refused before anything is recorded")
	changes, err := p.systems.Changes(t.Context(), "a", "", 10)
	require.NoError(t, err)
	require.Empty(t, changes)
	require.Equal(t, was.LastOperation, p.server("a").State.LastOperation)
	same(t, before, a)
	p.free("a")
	p.ready("a", a.URL())
	c, err = p.systems.ApplyNetwork(t.Context(), "a", p.moved("a", host), system.ApplyOptions{AcceptRisk: true})
	require.NoError(t, err)
	require.Equal(t, system.StatusDone, c.Status)
	require.Zero(t, c.Timeout)
	require.Equal(t, at(a, host), p.server("a").ConnectionURL)
	p.ready("a", at(a, host))
	// And that is the risk.
	dark := spare()
	a.KillAddress(dark, true)
	c, err = p.systems.ApplyNetwork(t.Context(), "a", p.moved("a", dark), system.ApplyOptions{AcceptRisk: true})
	require.ErrorIs(t, err, system.ErrLost)
	require.Equal(t, system.StatusLost, c.Status)
	p.free("a")
	require.Equal(t, lifecycle.DetailUnresponsive, p.server("a").State.StatusDetail, "nobody takes it for a healthy one")
	// It is off, and stays so if it is forced to do what it can't.
	_, err = p.systems.EditNetwork(t.Context(), "a", network.Edit{DNS: &network.DNSEdit{Nameservers: []string{}}}, system.ApplyOptions{Force: true})
	require.ErrorIs(t, err, opscenter.ErrUnreachable)
	require.ErrorIs(t, p.systems.Reboot(t.Context(), "a", system.PowerOptions{}), opscenter.ErrNotReady)
	require.Error(t, p.systems.Reboot(t.Context(), "a", system.PowerOptions{Force: true}))
	s := p.server("a").State
	require.Equal(t, lifecycle.StatusOffline, s.Status)
	require.Equal(t, lifecycle.DetailUnresponsive, s.StatusDetail)
	a.KillAddress(dark, false)
	require.NoError(t, p.registry.Write(t.Context(), func(tx *opscenter.Tx) error { return tx.Move(p.server("a"), at(a, dark), "somebody went there") }))
	p.ready("a", at(a, dark))
}

// TestGivenUp: who stops waiting does not stop the change: Run goes on with it.
func TestGivenUp(t *testing.T) {
	p := newPlane(t, system.Options{}).run()
	a := p.boot(incusostest.Options{Name: "a"})
	host := spare()
	ctx, cancel := context.WithCancel(t.Context())
	a.OnMove(cancel, nil)
	config := p.moved("a", host)
	_, err := p.systems.ApplyNetwork(ctx, "a", config, system.ApplyOptions{})
	if err != nil { // it may have been quicker
		require.ErrorIs(t, err, opscenter.ErrOutcomeUnknown)
	}
	require.Eventually(t, func() bool { return p.last("a").Status == system.StatusDone }, patience, 10*time.Millisecond)
	require.Equal(t, at(a, host), p.server("a").ConnectionURL)
	p.ready("a", at(a, host))
	p.free("a")
	require.Eventually(t, func() bool { return p.audited(audit.Query{Server: "a"})[0].Outcome == audit.Done }, patience, 10*time.Millisecond)
}
