package system_test

import (
	"context"
	"encoding/json"
	"strings"
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
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// TestSettings reads and sets each section, keeps unknown fields, and names invalid ones.
func TestSettings(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	ctx := opscenter.WithPrincipal(t.Context(), "bob")
	newOtherClient(t, a).send(t, "PUT", "/os/1.0/system/kernel", map[string]any{"config": map[string]any{"future": map[string]any{"x": 1.5}, "cpu": map[string]any{"scaling_governor": "powersave", "later": true}}})

	k, err := p.systems.Kernel(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, "powersave", k.Config.CPU.ScalingGovernor)
	k.Config.CPU.ScalingGovernor = "performance"
	k.Config.BlacklistModules = []string{"floppy"}
	c, err := p.systems.SetKernel(ctx, "a", *k.Config, system.SetOptions{IfMatch: k.ETag})
	require.NoError(t, err)
	require.Equal(t, system.StatusDone, c.Status)
	require.Equal(t, "bob", c.By)
	_, err = p.systems.SetKernel(ctx, "a", *k.Config, system.SetOptions{IfMatch: k.ETag})
	require.ErrorIs(t, err, opscenter.ErrPrecondition)
	k, err = p.systems.Kernel(ctx, "a")
	require.NoError(t, err)
	data, err := json.Marshal(k.Config)
	require.NoError(t, err)
	require.JSONEq(t, `{"future":{"x":1.5},"cpu":{"scaling_governor":"performance","later":true},"blacklist_modules":["floppy"]}`, string(data))
	c, err = p.systems.SetKernel(ctx, "a", *k.Config, system.SetOptions{})
	require.NoError(t, err)
	require.Nil(t, c, "the server already has the settings")

	l, err := p.systems.Logging(ctx, "a")
	require.NoError(t, err)
	l.Config.Syslog = &system.Syslog{Address: "127.0.0.9:514", Protocol: "tcp"}
	_, err = p.systems.SetLogging(ctx, "a", *l.Config, system.SetOptions{IfMatch: l.ETag})
	require.NoError(t, err)

	s, err := p.systems.Storage(ctx, "a")
	require.NoError(t, err)
	require.NotEmpty(t, s.State)
	s.Config.Pools = append(s.Config.Pools, system.Pool{Name: "data", Type: "zfs-raid1", Devices: []string{"/dev/disk/by-id/x", "/dev/disk/by-id/y"}})
	_, err = p.systems.SetStorage(ctx, "a", *s.Config, system.SetOptions{})
	require.NoError(t, err)
	for want, pools := range map[string][]system.Pool{
		"pools[0].name: a name is wanted":         {{}},
		"pools[1].name: x is used twice":          {{Name: "x"}, {Name: "x"}},
		`pools[0].type: zfs-raid9 is not known`:   {{Name: "x", Type: "zfs-raid9"}},
		`pools[1]: device d is in pool x as well`: {{Name: "x", Devices: []string{"d"}}, {Name: "y", Cache: []string{"d"}}},
	} {
		_, err = p.systems.SetStorage(ctx, "a", system.StorageConfig{Pools: pools}, system.SetOptions{})
		require.ErrorIs(t, err, system.ErrInvalid)
		require.ErrorContains(t, strippedQuotes(err), want)
	}

	pr, err := p.systems.Provider(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, network.Hidden, pr.Config.Config["server_token"])
	require.Equal(t, network.Secret(p.url), pr.Config.Config["server_url"])
	moved := *pr.Config
	moved.Config = map[string]network.Secret{"server_url": "https://127.0.0.1:1", "server_token": network.Hidden}
	_, err = p.systems.SetProvider(ctx, "a", moved, system.SetOptions{})
	require.ErrorIs(t, err, system.ErrInvalid, "a token is not sent elsewhere")
	moved.Config["server_token"] = "5e2f3c3a-0000-4000-8000-000000000001"
	_, err = p.systems.SetProvider(ctx, "a", moved, system.SetOptions{})
	require.NoError(t, err)
	// A token that is left out stays. Only network.Removed removes it.
	moved.Config = map[string]network.Secret{"server_url": "https://127.0.0.1:1"}
	_, err = p.systems.SetProvider(ctx, "a", moved, system.SetOptions{})
	require.NoError(t, err)
	pr, err = p.systems.Provider(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, network.Hidden, pr.Config.Config["server_token"])
	moved.Config["server_token"] = network.Removed
	_, err = p.systems.SetProvider(ctx, "a", moved, system.SetOptions{})
	require.NoError(t, err)
	pr, err = p.systems.Provider(ctx, "a")
	require.NoError(t, err)
	require.Empty(t, pr.Config.Config["server_token"])
	_, err = p.systems.SetProvider(ctx, "a", system.ProviderConfig{}, system.SetOptions{})
	require.ErrorIs(t, err, system.ErrInvalid)
	for _, e := range p.audited(audit.Query{}) {
		text, err := json.Marshal(e)
		require.NoError(t, err)
		require.NotContains(t, string(text), "5e2f3c3a")
	}
	require.Len(t, p.audited(audit.Query{By: "bob", Action: "kernel.apply"}), 3)
	p.requireIdle("a")
}

func strippedQuotes(err error) error { return stripped(strings.ReplaceAll(err.Error(), `"`, "")) }

type stripped string

func (s stripped) Error() string { return string(s) }

// TestSettingsLost: if the answer is lost, the configuration of the server shows the outcome.
func TestSettingsLost(t *testing.T) {
	p := newPlane(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	config := system.KernelConfig{BlacklistModules: []string{"floppy"}}
	path := "/os/1.0/system/kernel"
	require.NoError(t, a.SetFault(incusostest.Fault{Kind: incusostest.FaultReset, Path: path, Method: "PUT", Times: 1}))
	c, err := p.systems.SetKernel(t.Context(), "a", config, system.SetOptions{})
	require.NoError(t, err)
	require.Equal(t, system.StatusDone, c.Status)
	require.Equal(t, "the server has it", c.Reason)
	// The server answers, but does not make the change.
	config.BlacklistModules = []string{"other"}
	p.Client.Close()
	p2 := newPlane(t, system.Options{})
	b := p2.boot(incusostest.Options{Name: "b"})
	require.NoError(t, b.SetFault(incusostest.Fault{Kind: incusostest.FaultGarbage, Path: path, Method: "PUT"}))
	c, err = p2.systems.SetKernel(t.Context(), "b", config, system.SetOptions{})
	require.ErrorIs(t, err, system.ErrRolledBack)
	require.Equal(t, system.StatusRolledBack, c.Status)
	require.NoError(t, b.SetFault(incusostest.Fault{Kind: incusostest.FaultError, Path: path, Method: "PUT"}))
	_, err = p2.systems.SetKernel(t.Context(), "b", config, system.SetOptions{})
	require.ErrorIs(t, err, opscenter.ErrRefused)
	p2.requireIdle("b")
}

// TestManagedUpdates: a server gets the managed settings when it registers, and again after another client has
// changed them. A warning is open until they are put back.
func TestManagedUpdates(t *testing.T) {
	p := newManaged(t, system.Options{}).run()
	require.NoError(t, p.Registry.Channels().Create(t.Context(), "testing", ""))
	a := p.boot(incusostest.Options{Name: "a"})
	is := func(channel string) {
		t.Helper()
		require.Eventually(t, func() bool {
			u, err := p.systems.Update(t.Context(), "a")
			return err == nil && u.Config.Channel == channel && !u.Config.AutoReboot && u.Config.CheckFrequency == "never"
		}, patience, 10*time.Millisecond)
	}
	is("stable")
	p.ready("a", a.URL())
	warnings := func() []*warning.Warning {
		page, err := p.Registry.Warnings().List(t.Context(), opscenter.WarningFilter{Server: "a", Kind: warning.UpdateSettings}, opscenter.Page{})
		require.NoError(t, err)
		return page.Warnings
	}
	require.Empty(t, warnings(), "settings that were never sent are no drift")
	newOtherClient(t, a).send(t, "PUT", "/os/1.0/system/update", map[string]any{"config": map[string]any{"auto_reboot": true, "channel": "daily", "check_frequency": "1h"}})
	require.NoError(t, p.Registry.Observer().RequestPoll(t.Context(), "a"))
	is("stable")
	require.Eventually(t, func() bool {
		events, err := p.Registry.ListEvents(t.Context(), opscenter.EventFilter{Server: "a", Limit: 1000})
		require.NoError(t, err)
		raised, cleared, back := false, false, false
		for _, e := range events {
			raised = raised || e.Kind == event.WarningRaised && strings.Contains(e.Reason, "channel is daily, not stable, auto_reboot is true, not false, check_frequency is 1h, not never")
			cleared = cleared || e.Kind == event.WarningCleared
			back = back || e.Kind == event.ConfigurationChange && strings.HasPrefix(e.Reason, "update: put back")
		}
		return raised && cleared && back && len(warnings()) == 0
	}, patience, 10*time.Millisecond)
	// A new channel of the record is no drift.
	require.NoError(t, p.Registry.EditServer(t.Context(), "a", func(_ *opscenter.ServerInfo, spec *opscenter.ServerSpec) error {
		*spec = opscenter.ServerSpec{Channel: "testing"}
		return nil
	}))
	is("testing")
	require.Empty(t, warnings())
	// Managed settings can't be changed, the others can.
	u, err := p.systems.Update(t.Context(), "a")
	require.NoError(t, err)
	for field, change := range map[string]func(*system.UpdateConfig){
		"channel":         func(c *system.UpdateConfig) { c.Channel = "stable" },
		"auto_reboot":     func(c *system.UpdateConfig) { c.AutoReboot = true },
		"check_frequency": func(c *system.UpdateConfig) { c.CheckFrequency = "6h" },
	} {
		config := *u.Config
		change(&config)
		_, err := p.systems.SetUpdate(t.Context(), "a", config, system.SetOptions{})
		require.ErrorIs(t, err, system.ErrManaged)
		require.ErrorContains(t, err, field)
	}
	u.Config.MaintenanceWindows = []system.MaintenanceWindow{{StartHour: 25}}
	_, err = p.systems.SetUpdate(t.Context(), "a", *u.Config, system.SetOptions{})
	require.ErrorIs(t, err, system.ErrInvalid)
	u.Config.MaintenanceWindows = []system.MaintenanceWindow{{StartHour: 2, EndHour: 4}}
	p.ready("a", a.URL())
	_, err = p.systems.SetUpdate(t.Context(), "a", *u.Config, system.SetOptions{})
	require.NoError(t, err)
	is("testing")
}

// TestLeaveUpdates: with this option the control plane leaves update settings alone, and they can be set.
func TestLeaveUpdates(t *testing.T) {
	p := newPlane(t, system.Options{LeaveUpdates: true}).run()
	p.boot(incusostest.Options{Name: "a"})
	u, err := p.systems.Update(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, "6h", u.Config.CheckFrequency)
	u.Config.CheckFrequency = "soon"
	_, err = p.systems.SetUpdate(t.Context(), "a", *u.Config, system.SetOptions{})
	require.ErrorIs(t, err, system.ErrInvalid)
	u.Config.CheckFrequency = "1h"
	_, err = p.systems.SetUpdate(t.Context(), "a", *u.Config, system.SetOptions{})
	require.NoError(t, err)
}

// TestRemovedServerIsForgotten: the stored settings of a removed server are dropped when Run starts.
func TestRemovedServerIsForgotten(t *testing.T) {
	p := newManaged(t, system.Options{})
	told := func(want int) {
		t.Helper()
		require.Eventually(t, func() bool {
			n, err := p.systems.Told(t.Context())
			return err == nil && n == want
		}, patience, 10*time.Millisecond)
	}
	run := func(wait func()) {
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = p.systems.Run(ctx)
		}()
		wait()
		stop()
		<-ended
	}
	a := p.boot(incusostest.Options{Name: "a"})
	run(func() {
		told(1)
		p.ready("a", a.URL())
	})
	require.NoError(t, p.Registry.DeleteServer(t.Context(), "a", false))
	run(func() { told(0) })
}

// TestPutBackFails: settings that can't be put back are tried again, and do not delay other servers.
func TestPutBackFails(t *testing.T) {
	p := newManaged(t, system.Options{}).run()
	a := p.boot(incusostest.Options{Name: "a"})
	require.NoError(t, a.SetFault(incusostest.Fault{Kind: incusostest.FaultError, Path: "/os/1.0/system/update", Method: "PUT"}))
	b := p.boot(incusostest.Options{Name: "b"})
	managed := func(name string) func() bool {
		return func() bool {
			u, err := p.systems.Update(t.Context(), name)
			return err == nil && u.Config.CheckFrequency == "never"
		}
	}
	require.Eventually(t, managed("b"), patience, 10*time.Millisecond)
	require.NotNil(t, b)
	require.NoError(t, a.SetFault(incusostest.Fault{}))
	require.Eventually(t, managed("a"), patience, 10*time.Millisecond)
}

// TestSettingsNotKept: a server that accepts its settings, but does not keep them, gets them less and less often.
func TestSettingsNotKept(t *testing.T) {
	p := newManaged(t, system.Options{RetryInterval: 200 * time.Millisecond}).run()
	a := p.boot(incusostest.Options{Name: "a"})
	a.SetForgetful(true)
	require.NoError(t, p.Registry.Observer().RequestPoll(t.Context(), "a"))
	path := "/os/1.0/system/update"
	require.Eventually(t, func() bool { // each poll shows a drift, and the settings are sent again
		_, err := p.Polls.Poll(t.Context(), "a")
		require.NoError(t, err)
		page, err := p.Registry.Warnings().List(t.Context(), opscenter.WarningFilter{Server: "a", Kind: warning.UpdateSettings}, opscenter.Page{})
		require.NoError(t, err)
		return len(page.Warnings) == 1 && a.Requests("PUT "+path) >= 3
	}, patience, 10*time.Millisecond)
	begun, before := time.Now(), a.Requests("PUT "+path)
	for time.Since(begun) < time.Second {
		_, err := p.Polls.Poll(t.Context(), "a")
		require.NoError(t, err)
	}
	require.LessOrEqual(t, a.Requests("PUT "+path)-before, 3)
}

// TestPower: polls find the end of a reboot, a power off and a suspend.
func TestPower(t *testing.T) {
	p := newPlane(t, system.Options{}).run()
	a := p.boot(incusostest.Options{Name: "a"})
	p.ready("a", a.URL())
	require.NoError(t, p.systems.Reboot(opscenter.WithPrincipal(t.Context(), "carol"), "a", system.PowerOptions{}))
	require.Error(t, p.systems.Reboot(t.Context(), "a", system.PowerOptions{}), "a second action is refused meanwhile")
	require.Eventually(t, func() bool { return a.Reboots() == 1 && p.server("a").State.Operation == nil }, patience, 10*time.Millisecond)
	p.ready("a", a.URL())
	require.Equal(t, 1, a.Reboots())
	for _, down := range []func() error{
		func() error { return p.systems.Suspend(t.Context(), "a", system.PowerOptions{}) },
		func() error { return p.systems.PowerOff(t.Context(), "a", system.PowerOptions{}) },
	} {
		require.NoError(t, down())
		require.Eventually(t, func() bool {
			s := p.server("a").State
			o, err := p.Polls.Poll(t.Context(), "a")
			return err == nil && o.Failure != nil && s.Status == lifecycle.StatusOffline && s.StatusDetail == lifecycle.DetailShutDown && s.Operation == nil
		}, patience, 10*time.Millisecond)
		a.PowerOn()
		p.ready("a", a.URL())
	}
	require.Equal(t, "carol", p.audited(audit.Query{Action: "system.reboot", Oldest: true})[0].By)
	require.Equal(t, audit.Failed, p.audited(audit.Query{Action: "system.reboot"})[0].Outcome)
}

// TestFactoryReset: the server comes back with another certificate and its former network. The record stays, and
// the token is gone.
func TestFactoryReset(t *testing.T) {
	p := newPlane(t, system.Options{}).run()
	a := p.boot(incusostest.Options{Name: "a", Standalone: true})
	_, err := p.systems.EditNetwork(t.Context(), "a", network.Edit{DNS: &network.DNSEdit{Domain: new("kept.example.org")}}, system.ApplyOptions{})
	require.NoError(t, err)
	p.ready("a", a.URL())
	before := p.server("a")
	require.NoError(t, p.systems.FactoryReset(opscenter.WithPrincipal(t.Context(), "dave"), "a", system.ResetOptions{Seeds: map[string]json.RawMessage{"incus": []byte(`{"apply_defaults":true,"version":"1"}`)}}))
	require.Eventually(t, func() bool {
		info := p.server("a")
		return info.Fingerprint != before.Fingerprint && info.State.Status == lifecycle.StatusReady && info.State.Operation == nil
	}, patience, 10*time.Millisecond)
	after := p.server("a")
	require.Equal(t, before.ID, after.ID)
	require.False(t, after.ReinstallAllowed)
	require.Equal(t, "kept.example.org", p.network("a").Config.DNS.Domain)
	tokens := func() []opscenter.Token {
		page, err := p.Registry.ListTokens(t.Context(), opscenter.Page{})
		require.NoError(t, err)
		return page.Tokens
	}
	require.Eventually(t, func() bool { return len(tokens()) == 1 }, patience, 10*time.Millisecond, "only the token of the test is left")
	require.Eventually(t, func() bool { return p.audited(audit.Query{By: "dave"})[0].Outcome == audit.Done }, patience, 10*time.Millisecond)
	page, err := p.Registry.Warnings().List(t.Context(), opscenter.WarningFilter{Server: "a"}, opscenter.Page{})
	require.NoError(t, err)
	for _, w := range page.Warnings {
		t.Errorf("%s: %s", w.Kind, w.Message)
	}
}

// TestFactoryResetFails: after a failure, no other machine can register as this server.
func TestFactoryResetFails(t *testing.T) {
	p := newPlane(t, system.Options{ResetTimeout: 2 * time.Second}).run()
	a := p.boot(incusostest.Options{Name: "a", Standalone: true})
	left := func() {
		t.Helper()
		require.Eventually(t, func() bool {
			page, err := p.Registry.ListTokens(t.Context(), opscenter.Page{})
			require.NoError(t, err)
			info := p.server("a")
			return len(page.Tokens) == 1 && !info.ReinstallAllowed && info.State.Operation == nil
		}, patience, 10*time.Millisecond)
	}
	p.ready("a", a.URL())
	// The server refuses.
	require.NoError(t, a.SetFault(incusostest.Fault{Kind: incusostest.FaultError, Path: "/os/1.0/system/:factory-reset"}))
	require.ErrorIs(t, p.systems.FactoryReset(t.Context(), "a", system.ResetOptions{}), system.ErrFailed)
	require.NoError(t, a.SetFault(incusostest.Fault{}))
	left()
	p.ready("a", a.URL())
	// The server accepts, but does not come back.
	a.SetTrouble(incusostest.TroubleReset)
	require.NoError(t, p.systems.FactoryReset(t.Context(), "a", system.ResetOptions{}))
	left()
	p.ready("a", a.URL())
	require.Eventually(t, func() bool { return p.audited(audit.Query{Action: "system.factory-reset"})[0].Outcome == audit.Failed }, patience, 10*time.Millisecond)
	// Invalid options are refused.
	require.ErrorIs(t, p.systems.FactoryReset(t.Context(), "a", system.ResetOptions{Token: "5e2f3c3a-0000-4000-8000-000000000001"}), opscenter.ErrTokenUnknown)
	require.ErrorIs(t, p.systems.FactoryReset(t.Context(), "a", system.ResetOptions{Seeds: map[string]json.RawMessage{"incus": []byte("{")}}), system.ErrInvalid)
	bare, err := system.New(p.Registry, p.Client, system.Options{})
	require.NoError(t, err)
	require.ErrorIs(t, bare.FactoryReset(t.Context(), "a", system.ResetOptions{}), opscenter.ErrInvalidOptions)
	left()
}

// TestOptions: invalid options are refused, and defaults are filled in.
func TestOptions(t *testing.T) {
	p := newPlane(t, system.Options{})
	for _, o := range []system.Options{{Interval: -1}, {MaxChanges: -1}, {ConfirmationTimeout: 2 * time.Hour}, {Grace: -1}} {
		_, err := system.New(p.Registry, p.Client, o)
		require.ErrorIs(t, err, opscenter.ErrInvalidOptions)
	}
	m, err := system.New(p.Registry, p.Client, system.Options{})
	require.NoError(t, err)
	o := m.Options()
	require.Equal(t, system.DefaultConfirmationTimeout, o.ConfirmationTimeout)
	require.Equal(t, system.DefaultMaxChanges, o.MaxChanges)
	require.Equal(t, system.DefaultResetTimeout, o.ResetTimeout)
}

// TestMaxChanges: the oldest changes beyond MaxChanges are dropped.
func TestMaxChanges(t *testing.T) {
	p := newPlane(t, system.Options{MaxChanges: 2})
	a := p.boot(incusostest.Options{Name: "a"})
	for _, module := range []string{"x", "y", "z"} {
		_, err := p.systems.SetKernel(t.Context(), "a", system.KernelConfig{BlacklistModules: []string{module}}, system.SetOptions{})
		require.NoError(t, err)
		p.ready("a", a.URL())
	}
	list, err := p.systems.Changes(t.Context(), "a", "", 0)
	require.NoError(t, err)
	require.Len(t, list, 2)
	page, err := p.systems.Changes(t.Context(), "", list[0].ID, 1)
	require.NoError(t, err)
	require.Equal(t, list[1].ID, page[0].ID)
	_, err = p.systems.Change(t.Context(), "none")
	require.ErrorIs(t, err, opscenter.ErrNotFound)
}

// TestPutBackAnswerLost: settings whose answer was lost are read again, and the server is free long before the
// operation's deadline.
func TestPutBackAnswerLost(t *testing.T) {
	p := newManaged(t, system.Options{})
	a := p.boot(incusostest.Options{Name: "a"})
	require.NoError(t, a.SetFault(incusostest.Fault{Kind: incusostest.FaultReset, Path: "/os/1.0/system/update", Method: "PUT", Times: 1}))
	begun := time.Now()
	p.run()
	require.Eventually(t, func() bool {
		info := p.server("a")
		return a.Requests("PUT /os/1.0/system/update") == 1 && info.State.Operation == nil && info.State.Update != nil && *info.State.Update == lifecycle.ManagedUpdates("stable")
	}, patience, 10*time.Millisecond)
	require.Less(t, time.Since(begun), 20*time.Second)
	require.Equal(t, lifecycle.StatusReady, p.server("a").State.Status)
}

// TestResetSeeds: a reset server gets the seeds of its former state, or those of a named seed of the token.
func TestResetSeeds(t *testing.T) {
	p := newPlane(t, system.Options{LeaveUpdates: true}).run()
	a := p.boot(incusostest.Options{Name: "a", Standalone: true, Application: "incus-lts-7.0"})
	a.SetUpdateSettings(true, "stable", "12h")
	p.ready("a", a.URL())
	back := func(before *opscenter.ServerInfo) {
		require.Eventually(t, func() bool {
			info := p.server("a")
			return info.Fingerprint != before.Fingerprint && info.State.Status == lifecycle.StatusReady && info.State.Operation == nil && len(info.State.Versions.Applications) > 0
		}, patience, 10*time.Millisecond)
	}
	primary := func() string {
		for _, application := range p.server("a").State.Versions.Applications {
			if application.Primary {
				return application.Name
			}
		}
		return ""
	}
	require.Eventually(t, func() bool { u := p.server("a").State.Update; return u != nil && u.CheckFrequency == "12h" }, patience, 10*time.Millisecond)
	before := p.server("a")
	require.NoError(t, p.systems.FactoryReset(t.Context(), "a", system.ResetOptions{}))
	back(before)
	require.Equal(t, "incus-lts-7.0", primary())
	require.Eventually(t, func() bool {
		u := p.server("a").State.Update
		return u != nil && u.AutoReboot && u.CheckFrequency == "12h"
	}, patience, 10*time.Millisecond)

	token, err := p.Registry.CreateToken(t.Context(), opscenter.TokenSpec{Uses: 2})
	require.NoError(t, err)
	_, err = p.Registry.TokenSeeds().Create(t.Context(), token.UUID, "manager", opscenter.TokenSeedSpec{Files: map[string]json.RawMessage{"install": []byte(`{"force_install":true}`), "applications": []byte(`{"applications":[{"name":"migration-manager"}]}`)}})
	require.NoError(t, err)
	before = p.server("a")
	require.ErrorIs(t, p.systems.FactoryReset(t.Context(), "a", system.ResetOptions{Token: token.UUID, TokenSeed: "none"}), opscenter.ErrNotFound)
	for _, bad := range []string{`{"applications":[{"name":"incus"},{"name":"migration-manager"}]}`, `{"application":"incus"}`} {
		err := p.systems.FactoryReset(t.Context(), "a", system.ResetOptions{Seeds: map[string]json.RawMessage{"applications": []byte(bad)}})
		require.ErrorIs(t, err, system.ErrInvalid, bad)
	}
	err = p.systems.FactoryReset(t.Context(), "a", system.ResetOptions{Seeds: map[string]json.RawMessage{"install": []byte(`{}`)}})
	require.ErrorIs(t, err, system.ErrInvalid, "the server would boot as an installer")
	short, err := p.Registry.CreateToken(t.Context(), opscenter.TokenSpec{ExpireAt: time.Now().Add(time.Minute)})
	require.NoError(t, err)
	err = p.systems.FactoryReset(t.Context(), "a", system.ResetOptions{Token: short.UUID})
	require.ErrorIs(t, err, opscenter.ErrTokenExpired, "the token expires before the server can be back")
	require.Nil(t, p.server("a").State.Operation, "a refused reset starts no operation")
	require.NoError(t, p.systems.FactoryReset(t.Context(), "a", system.ResetOptions{Token: token.UUID, TokenSeed: "manager"}))
	back(before)
	require.Equal(t, "migration-manager", primary())

	// Without its application in the feed, the server would wait for ever.
	require.NoError(t, p.Registry.Write(t.Context(), func(tx *opscenter.Tx) error {
		return tx.SetOffer("stable", opscenter.Offer{"": {"incus": "202611010000", "os": "202611010000"}, "x86_64": {"incus": "202611010000", "os": "202611010000"}}, 0, "for the test")
	}))
	err = p.systems.FactoryReset(t.Context(), "a", system.ResetOptions{})
	require.ErrorIs(t, err, opscenter.ErrBlocked)
	require.ErrorContains(t, err, "application migration-manager, which channel stable does not offer")
	require.Nil(t, p.server("a").State.Operation)
}
