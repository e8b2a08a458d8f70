package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/controlplane"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/updates"
)

// The demo: a fleet of simulated servers in motion.
const (
	demoClusters = 3
	demoMembers  = 4
	demoSingles  = 8

	demoInterval = 2 * time.Second  // between two polls of a server
	demoRelease  = 90 * time.Second // between two releases, each of which is rolled out
	demoTrouble  = 20 * time.Second // between two troubles
)

// demo is the simulated fleet, with the publisher of its releases.
type demo struct {
	publisher *incusostest.Publisher
	dir       string // for the files of updates; removed at the end
	servers   []*incusostest.Server
	clusters  [][]*incusostest.Server
	singles   []*incusostest.Server
}

// newDemo starts the publisher, and changes the options of a control plane to a demo's.
func newDemo(options *controlplane.Options) (d *demo, err error) {
	d = &demo{}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.dir, err = os.MkdirTemp("", "opscenter-demo"); err != nil {
		return nil, err
	}
	if d.publisher, err = incusostest.NewPublisher(); err == nil {
		err = d.publisher.Start()
	}
	if err != nil {
		return nil, err
	}
	options.UpdatesDir = filepath.Join(d.dir, "updates")
	options.Updates.Settings = &updates.Settings{Source: d.publisher.URL()}
	options.Updates.Trust = updates.Trust{Root: d.publisher.Root()}
	options.Rollouts.PollInterval = 200 * time.Millisecond
	options.Registry.FlapWindow = demoTrouble // an hour of the demo has many troubles
	options.HTTP.FailuresPerMinute = -1
	return d, nil
}

func (d *demo) close() {
	for _, s := range d.servers {
		s.Close()
	}
	if d.publisher != nil {
		d.publisher.Close()
	}
	if d.dir != "" {
		_ = os.RemoveAll(d.dir)
	}
}

// run boots the fleet, and moves it until ctx ends. The token of the provider is made here.
func (d *demo) run(ctx context.Context, cp *controlplane.ControlPlane, provider incusostest.Provider) error {
	token, err := cp.Registry.CreateToken(ctx, opscenter.TokenSpec{Description: "simulated servers", Uses: demoClusters*demoMembers + demoSingles})
	if err == nil {
		provider.Token = token.UUID
		err = d.boot(ctx, cp, provider)
	}
	if err == nil {
		group, running := errgroup.WithContext(ctx)
		group.Go(func() error { return every(running, demoRelease, func() error { return d.update(running, cp) }) })
		group.Go(func() error { return every(running, demoTrouble, func() error { d.trouble(running); return nil }) })
		err = group.Wait()
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// every calls a function at once, and then again and again.
func every(ctx context.Context, interval time.Duration, do func() error) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		if err := do(); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// version is that of a release at this time.
func version() string { return time.Now().UTC().Format("200601021504") }

// publish publishes a release, and fetches it.
func (d *demo) publish(ctx context.Context, cp *controlplane.ControlPlane, version string) error {
	if err := d.publisher.Publish(incusostest.Release{Version: version, Applications: []string{"incus"}, ISO: true, Packages: map[string]string{"linux": version, "systemd": "258"}}); err != nil {
		return err
	}
	for {
		err := cp.Updates.Refresh(ctx, updates.RefreshOptions{})
		if !errors.Is(err, updates.ErrRunning) {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond): // the hourly one is under way
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// boot boots the servers, and has them install themselves and register.
func (d *demo) boot(ctx context.Context, cp *controlplane.ControlPlane, provider incusostest.Provider) error {
	old := time.Now().UTC().AddDate(0, 0, -7).Format("200601021504")
	if err := d.publish(ctx, cp, old); err != nil {
		return err
	}
	for c := range demoClusters {
		var members []*incusostest.Server
		for m := range demoMembers {
			s, err := d.add(fmt.Sprintf("c%d-m%d", c+1, m+1), old, false)
			if err != nil {
				return err
			}
			members = append(members, s)
		}
		if err := incusostest.Cluster(members...); err != nil {
			return err
		}
		for i, s := range members {
			for _, name := range []string{"web", "db", "build"} {
				s.AddInstance("default", fmt.Sprintf("%s-%d%d", name, c+1, i+1), true)
			}
		}
		d.clusters = append(d.clusters, members)
	}
	for i := range demoSingles {
		s, err := d.add(fmt.Sprintf("edge-%d", i+1), old, true)
		if err != nil {
			return err
		}
		s.AddInstance("default", fmt.Sprintf("gateway-%d", i+1), true)
		d.singles = append(d.singles, s)
	}
	for _, s := range d.servers {
		if err := s.Install(ctx, provider); err != nil {
			return fmt.Errorf("%s: %w", s.Name(), err)
		}
	}
	for i, members := range d.clusters {
		var names []string
		for _, s := range members {
			names = append(names, s.Name())
		}
		cluster := fmt.Sprintf("c%d", i+1)
		if _, err := cp.Registry.CreateCluster(ctx, cluster, opscenter.ClusterSpec{Description: "a simulated cluster"}, names...); err != nil {
			return err
		}
		err := cp.Registry.Write(ctx, func(tx *opscenter.Tx) error {
			return tx.SetClusterCertificate(cluster, members[0].ClusterCertificate().Leaf)
		})
		if err != nil {
			return err
		}
	}
	for _, s := range d.servers {
		if _, err := cp.Poller.Poll(ctx, s.Name()); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) add(name, version string, standalone bool) (*incusostest.Server, error) {
	s, err := incusostest.New(incusostest.Options{Name: name, Version: version, Fresh: true, Standalone: standalone,
		UpdateDelay: 3 * time.Second, RebootDelay: 4 * time.Second, EvacuateDelay: 3 * time.Second})
	if err == nil {
		d.servers = append(d.servers, s)
	}
	return s, err
}

// update publishes a release, and rolls it out unless a rollout is under way.
func (d *demo) update(ctx context.Context, cp *controlplane.ControlPlane) error {
	if err := d.publish(ctx, cp, version()); err != nil {
		return err
	}
	page, err := cp.Rollouts.List(ctx, "", 1)
	if err != nil || len(page.Rollouts) > 0 && !page.Rollouts[0].State.Status.Ended() {
		return err
	}
	_, err = cp.Rollouts.Start(ctx, rolling.Selector{Clusters: []string{"c1", "c2", "c3"}}, rolling.Policy{Parallel: 2, Canaries: []string{"c1"}, RebootTimeout: time.Minute, SkipBlocked: true})
	return err
}

// trouble switches a server in no cluster off for a while, and adds an instance to another one.
func (d *demo) trouble(ctx context.Context) {
	s := d.singles[rand.IntN(len(d.singles)-1)+1] // edge-1 stays, to be tried out
	s.PowerOff("")
	other := d.clusters[rand.IntN(len(d.clusters))][0]
	other.AddInstance("default", "job-"+strings.ToLower(fmt.Sprintf("%x", rand.Uint32())), true)
	select {
	case <-time.After(demoTrouble * 3 / 4):
	case <-ctx.Done():
		return // a server that boots would wait for a control plane that has ended
	}
	s.PowerOn()
}
