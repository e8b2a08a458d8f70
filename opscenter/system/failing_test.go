package system_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/system"
)

// TestRebootKeeps: a server that reboots before it is told that all is well keeps what it was
// given, as real ones do: if it can be reached, that is so, and if not it is said to be lost.
// And nobody reboots it meanwhile, not even by force.
func TestRebootKeeps(t *testing.T) {
	for _, dark := range []bool{false, true} {
		p := newPlane(t, system.Options{Grace: 500 * time.Millisecond, Steady: 200 * time.Millisecond})
		a, b := p.boot(incusostest.Options{Name: "a"}), p.boot(incusostest.Options{Name: "b", Standalone: true})
		host := spare()
		a.KillAddress(host, dark)
		ended := make(chan struct{})
		a.OnMove(func() {
			go func() {
				defer close(ended)
				if err := p.systems.Reboot(context.Background(), "a", system.PowerOptions{Force: true}); !errors.Is(err, opscenter.ErrBusy) {
					t.Errorf("a forced reboot: %v", err)
				}
				if err := p.systems.Reboot(context.Background(), "b", system.PowerOptions{}); err != nil {
					t.Errorf("a reboot of another: %v", err)
				}
				a.Crash()
				a.PowerOn()
			}()
		}, nil)
		timeout := 10 * time.Second
		if dark {
			timeout = time.Second
		}
		c, err := p.systems.ApplyNetwork(t.Context(), "a", p.moved("a", host), system.ApplyOptions{Timeout: timeout})
		<-ended
		if dark {
			require.ErrorIs(t, err, system.ErrLost)
		} else {
			require.NoError(t, err)
			require.Equal(t, at(a, host), c.URL)
			require.Equal(t, at(a, host), p.server("a").ConnectionURL)
		}
		p.free("a")
		require.Equal(t, 1, b.Requests("POST /os/1.0/system/:reboot"))
	}
}

// TestInstalledAnew: a server that is installed anew while its network changes is another one: the change is lost,
// and says why.
func TestInstalledAnew(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	host := spare()
	a.KillAddress(host, true)
	a.OnMove(func() {
		identity, err := selfsigned.New("another")
		if err == nil {
			err = p.registry.AllowReinstall(context.Background(), "a", true)
		}
		if err == nil {
			_, err = p.registry.Register(context.Background(), opscenter.Registration{Token: p.token, Certificate: identity.Leaf, Name: "a", ConnectionURL: "https://127.0.0.1:1",
				MachineID: a.MachineID(), SystemUUID: a.SystemUUID()})
		}
		if err != nil {
			t.Error(err)
		}
	}, nil)
	c, err := p.systems.ApplyNetwork(t.Context(), "a", p.moved("a", host), system.ApplyOptions{Timeout: 20 * time.Second})
	require.ErrorIs(t, err, system.ErrLost)
	require.Contains(t, c.Reason, "installed anew")
	require.Equal(t, "https://127.0.0.1:1", p.server("a").ConnectionURL)
	p.free("a")
}

// TestFails: a server that says that it has failed is never told that all is well, however it looks.
func TestFails(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	before, home := a.NetworkConfig(), a.URL()
	a.SetFailing(true)
	c, err := p.systems.ApplyNetwork(t.Context(), "a", p.moved("a", spare()), system.ApplyOptions{Timeout: 500 * time.Millisecond})
	require.ErrorIs(t, err, system.ErrRolledBack)
	require.Contains(t, c.Reason, "DNS check failed")
	same(t, before, a)
	require.Equal(t, home, p.server("a").ConnectionURL)
	p.free("a")
}

// TestUnproven: that a configuration is stored is no proof that it is in force. Without a word of
// the server, and without a move, it is undone.
func TestUnproven(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	before := a.NetworkConfig()
	require.NoError(t, a.SelfUpdate(t.Context(), string(lifecycle.CauseNetworkConfigChanged))) // of something before
	a.SetMuted(true)
	require.NoError(t, a.SetFault(incusostest.Fault{Kind: incusostest.FaultReset, Path: "/os/1.0/system/network", Method: "PUT", Times: 1}))
	c, err := p.systems.EditNetwork(t.Context(), "a", network.Edit{DNS: &network.DNSEdit{Domain: new("example.org")}}, system.ApplyOptions{Timeout: 500 * time.Millisecond})
	require.ErrorIs(t, err, system.ErrRolledBack)
	require.Contains(t, c.Reason, "has not said that it has applied")
	same(t, before, a)
}

// TestFailsAfterItMoved: a server that is at its new address is not told that all is well before it has said so, as
// it may say that it has failed.
func TestFailsAfterItMoved(t *testing.T) {
	p := newPlane(t, system.Options{ApplyTime: 10 * time.Second})
	a := p.boot(incusostest.Options{Name: "a"})
	before := a.NetworkConfig()
	a.SetFailing(true)
	a.SetApplying(300 * time.Millisecond)
	host := spare()
	moved := false
	a.OnMove(func() { moved = true }, nil)
	c, err := p.systems.ApplyNetwork(t.Context(), "a", p.moved("a", host), system.ApplyOptions{Timeout: 2 * time.Second})
	require.ErrorIs(t, err, system.ErrRolledBack)
	require.Contains(t, c.Reason, "DNS check failed")
	require.True(t, moved)
	require.Zero(t, a.Requests("POST /os/1.0/system/network/:confirm"))
	same(t, before, a)
	a.SetFailing(false)
	p.ready("a", a.URL())
	// One that does not fail is told when it answers.
	c, err = p.systems.ApplyNetwork(t.Context(), "a", p.moved("a", host), system.ApplyOptions{})
	require.NoError(t, err)
	require.Equal(t, at(a, host), c.URL)
	require.Equal(t, 1, a.Requests("POST /os/1.0/system/network/:confirm"))
}

// TestSpared: a change that is done is not cut off in the server that is at it still; but at the end of Run it is.
func TestSpared(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	options := p.systems.Options()
	options.ApplyTime = time.Minute
	s := &slow{Client: p.client, answer: make(chan struct{}), ended: make(chan error, 2)}
	systems, err := system.New(p.registry, s, options)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	running := make(chan struct{})
	go func() {
		defer close(running)
		_ = systems.Run(ctx)
	}()
	c, err := systems.ApplyNetwork(t.Context(), "a", p.moved("a", spare()), system.ApplyOptions{}) // its self update tells
	require.NoError(t, err)
	require.Equal(t, system.StatusDone, c.Status)
	select {
	case err := <-s.ended:
		t.Fatalf("it was cut off: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(s.answer)
	require.NoError(t, <-s.ended)

	s.answer = make(chan struct{})
	p.ready("a", a.URL())
	_, err = systems.ApplyNetwork(t.Context(), "a", p.moved("a", spare()), system.ApplyOptions{})
	require.NoError(t, err)
	cancel()
	<-running
	select {
	case err := <-s.ended:
		require.ErrorIs(t, err, context.Canceled)
	default:
		t.Fatal("Run has ended, and a request goes on")
	}
}

// slow is a client whose servers keep their answers back.
type slow struct {
	*incusos.Client
	answer chan struct{}
	ended  chan error
}

func (s *slow) WriteSystem(ctx context.Context, t opscenter.Target, section string, body []byte) (err error) {
	if err := s.Client.WriteSystem(ctx, t, section, body); err != nil {
		return err
	}
	select {
	case <-s.answer:
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.ended <- err
	return err
}

// TestFailsAndReboots: a server that said it has failed, and rebooted before it undid that, has its new configuration
// for good: its record is where it is, and it does not count as lost.
func TestFailsAndReboots(t *testing.T) {
	p := newPlane(t, system.Options{Grace: 500 * time.Millisecond})
	a := p.boot(incusostest.Options{Name: "a"})
	a.SetFailing(true)
	host := spare()
	a.OnMove(func() {
		go func() {
			time.Sleep(100 * time.Millisecond)
			a.Crash()
			a.PowerOn()
		}()
	}, nil)
	c, err := p.systems.ApplyNetwork(t.Context(), "a", p.moved("a", host), system.ApplyOptions{Timeout: time.Second})
	require.NoError(t, err)
	require.Contains(t, c.Reason, "has kept it")
	require.Contains(t, c.Reason, "DNS check failed")
	info := p.server("a")
	require.Equal(t, at(a, host), info.ConnectionURL)
	require.Equal(t, lifecycle.StatusReady, info.State.Status)
	p.free("a")
}

// TestFilledIn: what IncusOS makes of a configuration by itself is no reason to undo it.
func TestFilledIn(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	config := p.network("a").Config
	config.Proxy.Rules = nil
	config.Proxy.Servers["second"] = network.ProxyServer{Host: "http://proxy2.example.org", Auth: "anonymous"}
	config.Interfaces = append(config.Interfaces, network.Interface{Name: "enx00e04c680001", Hwaddr: "enx00e04c680001", Addresses: []string{"dhcp4"}})
	config.WireGuard = append(config.WireGuard, network.WireGuard{Name: "wg1", Addresses: []string{"fd01::1/64"}, Port: 51821})
	_, err := p.systems.ApplyNetwork(t.Context(), "a", config, system.ApplyOptions{})
	require.NoError(t, err)
	have := p.network("a").Config
	require.Equal(t, []network.ProxyRule{{Destination: "*", Target: "main"}}, plain(have.Proxy.Rules))
	require.Equal(t, "00e04c680001", have.Interfaces[3].Name)
	require.Contains(t, have.Interfaces[3].Hwaddr, ":")
	require.Equal(t, network.Hidden, have.WireGuard[1].PrivateKey)
	require.False(t, a.NetworkPending())
}

// plain are rules without what was read of them.
func plain(rules []network.ProxyRule) (out []network.ProxyRule) {
	for _, r := range rules {
		out = append(out, network.ProxyRule{Destination: r.Destination, Target: r.Target})
	}
	return out
}
