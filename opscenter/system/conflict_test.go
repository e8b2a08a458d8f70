package system_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/system"
)

// TestConflict: IfMatch keeps a change that another client made after the configuration was read.
func TestConflict(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	n := p.network("a")
	other := newOtherClient(t, a)
	changed := strings.Replace(string(a.NetworkConfig()), `"timezone":"UTC"`, `"timezone":"Europe/Berlin"`, 1)
	other.put(t, []byte(changed), "")
	n.Config.DNS.Domain = "example.org"
	_, err := p.systems.ApplyNetwork(t.Context(), "a", n.Config, system.ApplyOptions{IfMatch: n.ETag})
	require.ErrorIs(t, err, opscenter.ErrPrecondition)
	// An edit changes the current configuration.
	_, err = p.systems.EditNetwork(t.Context(), "a", network.Edit{DNS: &network.DNSEdit{Domain: new("example.org")}}, system.ApplyOptions{})
	require.NoError(t, err)
	after := p.network("a").Config
	require.Equal(t, "Europe/Berlin", after.Time.Timezone)
	require.Equal(t, "example.org", after.DNS.Domain)
	p.requireIdle("a")
}

// interferingOS calls interfere before the second probe, or the second reading of a section.
type interferingOS struct {
	*incusos.Client
	looks     atomic.Int32
	interfere func()
}

func (m *interferingOS) again() {
	if m.looks.Add(1) == 2 {
		m.interfere()
	}
}

func (m *interferingOS) Look(ctx context.Context, target opscenter.Target) (*system.Probe, error) {
	m.again()
	return m.Client.Look(ctx, target)
}

func (m *interferingOS) ReadSystem(ctx context.Context, target opscenter.Target, section string) (json.RawMessage, error) {
	m.again()
	return m.Client.ReadSystem(ctx, target, section)
}

// TestChangeAfterPlan: a change that another client makes after the plan, and before the server is asked, stays.
func TestChangeAfterPlan(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	other := newOtherClient(t, a)
	changed := strings.Replace(string(a.NetworkConfig()), `"timezone":"UTC"`, `"timezone":"Europe/Berlin"`, 1)
	m := &interferingOS{Client: p.Client, interfere: func() { other.put(t, []byte(changed), "") }}
	options := p.systems.Options()
	systems, err := system.New(p.Registry, m, options)
	require.NoError(t, err)
	c, err := systems.EditNetwork(t.Context(), "a", network.Edit{DNS: &network.DNSEdit{Domain: new("example.org")}}, system.ApplyOptions{})
	require.ErrorIs(t, err, opscenter.ErrPrecondition)
	require.Equal(t, system.StatusNotSent, c.Status)
	require.JSONEq(t, changed, string(a.NetworkConfig()))
	p.requireIdle("a")
	p.ready("a", a.URL())
	m.looks.Store(0)
	m.interfere = func() {
		other.send(t, "PUT", "/os/1.0/system/kernel", map[string]any{"config": map[string]any{"blacklist_modules": []string{"theirs"}}})
	}
	_, err = systems.SetKernel(t.Context(), "a", system.KernelConfig{BlacklistModules: []string{"ours"}}, system.SetOptions{})
	require.ErrorIs(t, err, opscenter.ErrPrecondition)
	k, err := p.systems.Kernel(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, []string{"theirs"}, k.Config.BlacklistModules)
	p.requireIdle("a")
}

// TestConcurrentCallers: ten callers change one server at the same time. Each change runs alone, or is refused. The server
// ends with the configuration of the last change that ran.
func TestConcurrentCallers(t *testing.T) {
	p := newPlane(t, system.Options{}).run()
	a := p.boot(incusostest.Options{Name: "a"})
	var group sync.WaitGroup
	hosts := make([]string, 10)
	results := make([]error, 10)
	done := make([]*system.Change, 10)
	configs := make([]*network.Config, 10)
	for i := range 10 {
		hosts[i] = unusedAddress()
		configs[i] = p.moved("a", hosts[i])
	}
	for i := range 10 {
		group.Go(func() {
			done[i], results[i] = p.systems.ApplyNetwork(t.Context(), "a", configs[i], system.ApplyOptions{})
		})
	}
	group.Wait()
	won := 0
	var last *system.Change
	for i, err := range results {
		if err != nil {
			require.True(t, errors.Is(err, opscenter.ErrBusy) || errors.Is(err, opscenter.ErrNotReady) || errors.Is(err, opscenter.ErrPrecondition) ||
				errors.Is(err, opscenter.ErrUnreachable), "%v", err)
			continue
		}
		won++
		if last == nil || done[i].EndedAt.After(last.EndedAt) {
			last = done[i]
		}
	}
	require.NotZero(t, won)
	require.Equal(t, last.URL, a.URL())
	require.False(t, a.NetworkPending())
	p.ready("a", last.URL)
	p.requireIdle("a")
}

// TestServerBusy: two operations can't change a server at the same time, unless forced.
func TestServerBusy(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a", Standalone: true})
	require.NoError(t, p.Registry.Write(t.Context(), func(tx *opscenter.Tx) error {
		return tx.Claim(opscenter.Claim{Unit: p.server("a").ID, Owner: "r1", What: "rollout", Since: time.Now()})
	}))
	edit := network.Edit{DNS: &network.DNSEdit{Domain: new("example.org")}}
	for name, change := range map[string]func(force bool) error{
		"network": func(force bool) error {
			_, err := p.systems.EditNetwork(t.Context(), "a", edit, system.ApplyOptions{Force: force})
			return err
		},
		"kernel": func(force bool) error {
			_, err := p.systems.SetKernel(t.Context(), "a", system.KernelConfig{BlacklistModules: []string{"floppy"}}, system.SetOptions{Force: force})
			return err
		},
		"reboot": func(force bool) error { return p.systems.Reboot(t.Context(), "a", system.PowerOptions{Force: force}) },
	} {
		require.ErrorIs(t, change(false), opscenter.ErrBusy, name)
		p.ready("a", a.URL())
		require.NoError(t, change(true), name)
		p.ready("a", a.URL())
	}
	require.NoError(t, p.Registry.Read(t.Context(), func(s *opscenter.Snapshot) error {
		claim, err := s.ClaimOf(p.server("a").ID, false)
		require.Equal(t, "r1", claim.Owner, "the forced change leaves the claim of the other operation")
		return err
	}))
}

// TestForeignConfiguration: a configuration that another client set is neither confirmed nor undone.
func TestForeignConfiguration(t *testing.T) {
	p := newPlane(t, system.Options{Grace: 300 * time.Millisecond})
	a := p.boot(incusostest.Options{Name: "a"})
	other := newOtherClient(t, a)
	a.SetStuck(true)
	changed := strings.Replace(string(a.NetworkConfig()), `"timezone":"UTC"`, `"timezone":"Europe/Berlin"`, 1)
	_, err := p.systems.SetKernel(t.Context(), "a", system.KernelConfig{BlacklistModules: []string{"x"}}, system.SetOptions{}) // p.last needs a change
	require.NoError(t, err)
	p.ready("a", a.URL())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for c := p.last("a"); c.Section != "network" || c.Status != system.StatusWaiting; c = p.last("a") {
			time.Sleep(time.Millisecond)
		}
		a.SetStuck(false)
		other.put(t, []byte(changed), "")
	}()
	c, err := p.systems.EditNetwork(t.Context(), "a", network.Edit{DNS: &network.DNSEdit{Domain: new("example.org")}}, system.ApplyOptions{Timeout: 500 * time.Millisecond})
	<-done
	require.ErrorIs(t, err, system.ErrLost)
	require.Contains(t, c.Reason, "another configuration than the wanted one: dns")
	require.Equal(t, "Europe/Berlin", p.network("a").Config.Time.Timezone, "the foreign configuration stays")
	require.Equal(t, lifecycle.StatusReady, p.server("a").State.Status, "the change is lost, but the server is ready")
	p.requireIdle("a")
}
