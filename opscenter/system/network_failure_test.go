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

// TestRebootKeepsUnconfirmedChange: a server that reboots before the confirmation keeps the new
// configuration. The change is done if the server can be reached, and else lost. Reboot refuses
// meanwhile, even by force.
func TestRebootKeepsUnconfirmedChange(t *testing.T) {
	for _, dark := range []bool{false, true} {
		p := newPlane(t, system.Options{Grace: 500 * time.Millisecond, Steady: 200 * time.Millisecond})
		a, b := p.boot(incusostest.Options{Name: "a"}), p.boot(incusostest.Options{Name: "b", Standalone: true})
		host := unusedAddress()
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
		p.requireIdle("a")
		require.Equal(t, 1, b.Requests("POST /os/1.0/system/:reboot"))
	}
}

// TestReinstalledMeanwhile: a change is lost if the server is reinstalled meanwhile, and its reason says so.
func TestReinstalledMeanwhile(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	host := unusedAddress()
	a.KillAddress(host, true)
	a.OnMove(func() {
		identity, err := selfsigned.New("another")
		if err == nil {
			err = p.Registry.AllowReinstall(context.Background(), "a", true)
		}
		if err == nil {
			_, err = p.Registry.Register(context.Background(), opscenter.Registration{Token: p.token, Certificate: identity.Leaf, Name: "a", ConnectionURL: "https://127.0.0.1:1",
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
	p.requireIdle("a")
}

// TestReportedFailure: a change is never confirmed after the server reported a failure.
func TestReportedFailure(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	before, home := a.NetworkConfig(), a.URL()
	a.SetFailing(true)
	c, err := p.systems.ApplyNetwork(t.Context(), "a", p.moved("a", unusedAddress()), system.ApplyOptions{Timeout: 500 * time.Millisecond})
	require.ErrorIs(t, err, system.ErrRolledBack)
	require.Contains(t, c.Reason, "DNS check failed")
	requireNetwork(t, before, a)
	require.Equal(t, home, p.server("a").ConnectionURL)
	p.requireIdle("a")
}

// TestStoredConfigurationIsNoProof: a stored configuration may not be in force. A change without a move that
// the server does not report is undone.
func TestStoredConfigurationIsNoProof(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	before := a.NetworkConfig()
	require.NoError(t, a.SelfUpdate(t.Context(), string(lifecycle.CauseNetworkConfigChanged))) // about an earlier change
	a.SetMuted(true)
	require.NoError(t, a.SetFault(incusostest.Fault{Kind: incusostest.FaultReset, Path: "/os/1.0/system/network", Method: "PUT", Times: 1}))
	c, err := p.systems.EditNetwork(t.Context(), "a", network.Edit{DNS: &network.DNSEdit{Domain: new("example.org")}}, system.ApplyOptions{Timeout: 500 * time.Millisecond})
	require.ErrorIs(t, err, system.ErrRolledBack)
	require.Contains(t, c.Reason, "has not reported that it applied")
	requireNetwork(t, before, a)
}

// TestFailureAfterMove: a server at its new address may still report a failure, so the change is not confirmed before
// the server answers.
func TestFailureAfterMove(t *testing.T) {
	p := newPlane(t, system.Options{ApplyTime: 10 * time.Second})
	a := p.boot(incusostest.Options{Name: "a"})
	before := a.NetworkConfig()
	a.SetFailing(true)
	a.SetApplying(300 * time.Millisecond)
	host := unusedAddress()
	moved := false
	a.OnMove(func() { moved = true }, nil)
	c, err := p.systems.ApplyNetwork(t.Context(), "a", p.moved("a", host), system.ApplyOptions{Timeout: 2 * time.Second})
	require.ErrorIs(t, err, system.ErrRolledBack)
	require.Contains(t, c.Reason, "DNS check failed")
	require.True(t, moved)
	require.Zero(t, a.Requests("POST /os/1.0/system/network/:confirm"))
	requireNetwork(t, before, a)
	a.SetFailing(false)
	p.ready("a", a.URL())
	// Without a failure the change is confirmed when the server answers.
	c, err = p.systems.ApplyNetwork(t.Context(), "a", p.moved("a", host), system.ApplyOptions{})
	require.NoError(t, err)
	require.Equal(t, at(a, host), c.URL)
	require.Equal(t, 1, a.Requests("POST /os/1.0/system/network/:confirm"))
}

// TestRequestOutlivesChange: the request of a change that is done goes on, until the server answers or Run ends.
func TestRequestOutlivesChange(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	options := p.systems.Options()
	options.ApplyTime = time.Minute
	s := &slow{Client: p.Client, answer: make(chan struct{}), ended: make(chan error, 2)}
	systems, err := system.New(p.Registry, s, options)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	running := make(chan struct{})
	go func() {
		defer close(running)
		_ = systems.Run(ctx)
	}()
	c, err := systems.ApplyNetwork(t.Context(), "a", p.moved("a", unusedAddress()), system.ApplyOptions{}) // done by the self update, before the answer
	require.NoError(t, err)
	require.Equal(t, system.StatusDone, c.Status)
	select {
	case err := <-s.ended:
		t.Fatalf("the request was cancelled: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(s.answer)
	require.NoError(t, <-s.ended)

	s.answer = make(chan struct{})
	p.ready("a", a.URL())
	_, err = systems.ApplyNetwork(t.Context(), "a", p.moved("a", unusedAddress()), system.ApplyOptions{})
	require.NoError(t, err)
	cancel()
	<-running
	select {
	case err := <-s.ended:
		require.ErrorIs(t, err, context.Canceled)
	default:
		t.Fatal("Run has ended, but a request goes on")
	}
}

// slow is a client whose servers answer late.
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

// TestFailureThenReboot: a server that reported a failure, and rebooted before it undid the change, keeps the new
// configuration. Its record gets the new URL, and the change is done.
func TestFailureThenReboot(t *testing.T) {
	p := newPlane(t, system.Options{Grace: 500 * time.Millisecond})
	a := p.boot(incusostest.Options{Name: "a"})
	a.SetFailing(true)
	host := unusedAddress()
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
	p.requireIdle("a")
}

// TestServerAddsDefaults: defaults that IncusOS adds to a configuration do not prevent the confirmation.
func TestServerAddsDefaults(t *testing.T) {
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

// plain returns the rules without the fields that jsonkeep holds.
func plain(rules []network.ProxyRule) (out []network.ProxyRule) {
	for _, r := range rules {
		out = append(out, network.ProxyRule{Destination: r.Destination, Target: r.Target})
	}
	return out
}
