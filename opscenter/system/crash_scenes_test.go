package system_test

import (
	"context"
	"fmt"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/poller"
)

// scene is the work during which a controller is killed.
type scene struct {
	name string
	// cluster: the servers form a cluster.
	cluster bool
	// managed: the controller manages update settings.
	managed bool
	// dark: the new addresses are unreachable, so the change is undone.
	dark bool
	// change asks for the change. Nil: the scene asks for none.
	change func(ctx context.Context, c *controller) error
	// changed reports whether a server has the wanted configuration. Nil: the scene stores no system.Change.
	changed func(ctx context.Context, c *controller, i int) (bool, error)
	// open describes unfinished work besides changes; empty: there is none.
	open func(ctx context.Context, c *controller) (string, error)
}

// controller is one of the controllers that run on a site, one after another.
type controller struct {
	site     *site
	registry *opscenter.Registry
	polls    *poller.Poller
	systems  *system.Manager
	client   *incusos.Client // acts as another client, and can't be killed
	log      *audit.Log
}

// A change that is to be confirmed gets a long timeout, one that is to be undone a short one.
var (
	shortTimeout = system.ApplyOptions{Timeout: 800 * time.Millisecond}
	longTimeout  = system.ApplyOptions{Timeout: 5 * time.Second}
)

var scenes = []scene{
	{name: "move", change: func(ctx context.Context, c *controller) error { return c.move(ctx, longTimeout) }, changed: moved},
	{name: "locked out", dark: true, change: func(ctx context.Context, c *controller) error { return c.move(ctx, shortTimeout) }, changed: moved},
	{name: "kernel",
		change: func(ctx context.Context, c *controller) error {
			_, err := c.systems.SetKernel(ctx, "a", system.KernelConfig{BlacklistModules: []string{"floppy"}}, system.SetOptions{})
			return err
		},
		changed: func(ctx context.Context, c *controller, _ int) (bool, error) {
			k, err := c.systems.Kernel(ctx, "a")
			return err == nil && len(k.Config.BlacklistModules) == 1, err
		}},
	{name: "cluster", cluster: true,
		change: func(ctx context.Context, c *controller) error {
			_, err := c.systems.EditClusterNetwork(ctx, "c1", network.Edit{Interface: "inst0", AddVLANTags: []int{300}}, longTimeout)
			return err
		},
		changed: func(ctx context.Context, c *controller, i int) (bool, error) {
			n, err := c.systems.Network(ctx, c.site.servers[i].Name())
			return err == nil && len(n.Config.Interfaces[2].VLANTags) == 3, err
		}},
	{name: "factory reset",
		change: func(ctx context.Context, c *controller) error {
			return c.systems.FactoryReset(ctx, "a", system.ResetOptions{})
		},
		open: resetting},
	{name: "update settings", managed: true, open: drifting},
}

func (c *controller) move(ctx context.Context, options system.ApplyOptions) error {
	n, err := c.systems.Network(ctx, "a")
	if err != nil {
		return err
	}
	n.Config.Interfaces[0].Addresses = []string{c.site.hosts[0] + "/8"}
	_, err = c.systems.ApplyNetwork(ctx, "a", n.Config, options)
	return err
}

func moved(ctx context.Context, c *controller, i int) (bool, error) {
	n, err := c.systems.Network(ctx, c.site.servers[i].Name())
	return err == nil && n.Config.Interfaces[0].Addresses[0] == c.site.hosts[i]+"/8", err
}

// resetting waits until a server, reset or not, has its former record, and the reset has ended. Then no token is
// left that admits another machine in its place.
func resetting(ctx context.Context, c *controller) (string, error) {
	if _, err := c.polls.Poll(ctx, "a"); err != nil {
		return "", err
	}
	info, err := c.registry.Server(ctx, "a")
	if err != nil {
		return "", err
	}
	page, err := c.registry.ListTokens(ctx, opscenter.Page{})
	switch {
	case err != nil:
		return "", err
	case info.Fingerprint != opscenter.Fingerprint(c.site.servers[0].Certificate()):
		return "the record has another certificate", nil
	case info.ReinstallAllowed:
		return "a reinstallation is still allowed", nil
	case info.State.Operation != nil, info.State.Status != lifecycle.StatusReady:
		return fmt.Sprintf("the server is %+v", info.State), nil
	case len(page.Tokens) != 1:
		return fmt.Sprintf("there are %d tokens", len(page.Tokens)), nil
	}
	return "", nil
}

// drifting changes the managed update settings as another client, and waits until they are put back.
func drifting(ctx context.Context, c *controller) (string, error) {
	if _, err := c.polls.Poll(ctx, "a"); err != nil {
		return "", err
	}
	info, err := c.registry.Server(ctx, "a")
	if err != nil {
		return "", err
	}
	s := &info.State
	warnings, err := c.registry.Warnings().List(ctx, opscenter.WarningFilter{Server: "a", Kind: warning.UpdateSettings}, opscenter.Page{})
	switch {
	case err != nil:
		return "", err
	case s.Operation != nil, s.Update == nil, *s.Update != lifecycle.ManagedUpdates(info.Channel), s.Status != lifecycle.StatusReady:
		return fmt.Sprintf("the server is %+v, with %+v", s, s.Update), nil
	case !c.site.interfered:
		c.site.interfered = true
		return "another client has changed the settings", c.client.WriteSystem(ctx, info.Target(), system.SectionUpdate, []byte(`{"config":{"auto_reboot":true,"channel":"daily","check_frequency":"1h"}}`))
	case len(warnings.Warnings) > 0:
		return "a warning is left: " + warnings.Warnings[0].Message, nil
	}
	return "", nil
}
