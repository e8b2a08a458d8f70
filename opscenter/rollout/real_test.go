package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/internal/incustest"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/cluster"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

// controllerVariable is the environment variable that turns the test binary into a controller. Its value is the directory
// of the store.
const controllerVariable = "OPSCENTER_TEST_CONTROLLER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(controllerVariable); dir != "" {
		if err := controller(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// plane is a control plane with its store in a directory.
type plane struct {
	controltest.Plane
	manager *rollout.Manager
	close   func() error
}

func openPlane(dir string) (*plane, error) {
	identity, err := selfsigned.Load(dir, "client")
	if err != nil {
		return nil, err
	}
	store, err := badgerstore.Open(filepath.Join(dir, "store"), badgerstore.Options{MinFree: 1})
	if err != nil {
		return nil, err
	}
	registry, err := opscenter.NewRegistry(store, opscenter.Options{FlapThreshold: -1, GuardShare: -1})
	if err != nil {
		return nil, err
	}
	p := &plane{Plane: controltest.Plane{Registry: registry, Identity: identity, Client: incusos.New(incusos.Options{Certificate: &identity, CallTimeout: time.Minute})}}
	p.close = func() error { return errors.Join(p.Client.Close(), registry.Close(), store.Close()) }
	if p.Polls, err = poller.New(registry, p.Client, poller.Options{Timeout: 20 * time.Second}); err != nil {
		return nil, err
	}
	p.manager, err = rollout.New(opscenter.NewUpdatePlanner(registry, p.Client), rollout.Options{Poller: p.Polls, PollInterval: 300 * time.Millisecond, Lease: time.Second})
	return p, err
}

// controller carries out the newest rollout until it has ended or is paused.
func controller(dir string) error {
	p, err := openPlane(dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- p.manager.Run(ctx) }()
	for {
		page, err := p.manager.List(ctx, "", 1)
		if err != nil {
			return err
		}
		if s := page.Rollouts[0].State; s.Status.Ended() || s.Status == rolling.StatusPaused {
			cancel()
			<-ended
			return errors.Join(p.close(), map[bool]error{true: fmt.Errorf("the rollout is %s: %s", s.Status, s.Reason)}[s.Status != rolling.StatusDone])
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			list, _ := p.manager.Units(context.Background(), page.Rollouts[0].ID, 0, 0)
			for _, u := range list {
				err = errors.Join(err, fmt.Errorf("%s %s: %s %+v", u.Name, u.Status, u.Waiting, u.Members))
			}
			return errors.Join(ctx.Err(), err)
		}
	}
}

// spawn starts a controller in a process of its own.
func spawn(t *testing.T, dir string) (*exec.Cmd, chan error) {
	command := exec.Command(os.Args[0], "-test.run=^$")
	command.Env = append(os.Environ(), controllerVariable+"="+dir)
	command.Stderr = testWriter{t}
	require.NoError(t, command.Start())
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	return command, ended
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("controller: %s", p)
	return len(p), nil
}

var _ io.Writer = testWriter{}

// front puts a simulated IncusOS in front of a real daemon. A reboot restarts the daemon.
func front(t *testing.T, name string, daemon *incustest.Daemon, options incusostest.Options) *incusostest.Server {
	options.Name, options.Backend, options.Version = name, daemon.Socket, oldVersion
	options.WhileDown = func() {
		if err := daemon.Restart(); err != nil {
			t.Errorf("restarting the daemon of %s: %v", name, err)
		}
	}
	server := controltest.Server(t, options)
	server.Offer(newVersion)
	return server
}

// TestRealRollingUpdate forms a cluster of three real daemons with package cluster, with running and stopped
// containers. It updates the cluster, with evacuations, restarts of the daemons and restores. The controller is killed in
// the middle, twice. At most one member is out at any time. At the end all containers are where they were, in
// their former state.
func TestRealRollingUpdate(t *testing.T) {
	var daemons []*incustest.Daemon
	var servers []*incusostest.Server
	names := []string{"m1", "m2", "m3"}
	addresses := map[string]string{}
	for i, name := range names {
		d := incustest.StartOn(t, fmt.Sprintf("127.0.0.%d", i+1))
		daemons = append(daemons, d)
		addresses[name] = strings.TrimPrefix(d.URL, "https://")
	}
	for i, name := range names {
		servers = append(servers, front(t, name, daemons[i], incusostest.Options{}))
	}
	dir := t.TempDir()
	p, err := openPlane(dir)
	require.NoError(t, err)
	p.Enroll(t, servers...)
	former := cluster.New(p.Registry, p.Client, cluster.Options{Address: func(s *opscenter.ServerInfo) string { return addresses[s.Name] }})
	begun := time.Now()
	require.NoError(t, former.Form(t.Context(), "c1", names...))
	require.NoError(t, former.Form(t.Context(), "c1", names...), "forming it again is no error")
	t.Logf("formed in %s", time.Since(begun))
	record, err := p.Registry.Cluster(t.Context(), "c1")
	require.NoError(t, err)
	pair, err := daemons[1].ClusterKeyPair()
	require.NoError(t, err)
	require.Equal(t, opscenter.Fingerprint(pair.Leaf), record.Fingerprint, "the pin is the real cluster's certificate")
	for _, s := range servers {
		require.NoError(t, s.Present(&pair), "as a daemon without a simulator in front of it does")
	}

	daemons[0].Furnish(names...)
	for i, name := range names {
		daemons[0].Launch(fmt.Sprintf("run%d", i+1), name)
		daemons[0].Empty(fmt.Sprintf("off%d", i+1), name)
	}
	daemons[0].MustDo(http.MethodPost, "/1.0/projects", map[string]any{"name": "p1"})
	daemons[0].MustDo(http.MethodPost, "/1.0/storage-pools/default/volumes/custom?target=m2", map[string]any{"name": "v1"})
	before, err := daemons[0].Instances()
	require.NoError(t, err)
	require.Len(t, before, 6)

	for _, name := range names {
		p.Poll(t, name)
	}
	require.NoError(t, p.Registry.Channels().Publish(t.Context(), "stable", newVersion, "os"))
	r, err := p.manager.Start(t.Context(), everything, rolling.Policy{Backoff: time.Second, RebootTimeout: 2 * time.Minute})
	require.NoError(t, err)
	require.Equal(t, 12, r.State.Steps)
	require.NoError(t, p.close())

	watched, stop := context.WithCancel(t.Context())
	most, looks := watchMembers(watched, daemons, names)
	child, ended := spawn(t, dir)
	require.Eventually(t, func() bool { return servers[0].Reboots() == 1 }, 2*time.Minute, 5*time.Millisecond)
	require.NoError(t, child.Process.Kill())
	<-ended
	// The controller is killed again as soon as the next member shows as evacuated. The daemon shows that before
	// the operation ends, so the next controller must wait for the operation.
	child, ended = spawn(t, dir)
	require.Eventually(t, func() bool { return slices.Contains(evacuated(daemons), "m2") }, 2*time.Minute, 5*time.Millisecond)
	require.NoError(t, child.Process.Kill())
	<-ended
	_, ended = spawn(t, dir)
	require.NoError(t, <-ended)
	stop()
	require.LessOrEqual(t, most.Load(), int32(1), "members out at a time")
	require.Greater(t, looks.Load(), int32(20))
	require.EventuallyWithT(t, func(t *assert.CollectT) { // a member shows instances of a member that answers late as "Error"
		after, err := daemons[0].Instances()
		assert.NoError(t, err)
		assert.ElementsMatch(t, before, after, "all containers are where they were, in their former state")
	}, time.Minute, time.Second)
	require.Empty(t, evacuated(daemons))
	for _, s := range servers {
		require.Equal(t, 1, s.Reboots(), s.Name())
		running, _ := s.Version()
		require.Equal(t, newVersion, running)
	}
	t.Logf("updated in %s, looked at %d times", time.Since(begun), looks.Load())
}

// evacuated returns the members that are evacuated or being evacuated.
func evacuated(daemons []*incustest.Daemon) (out []string) {
	for _, d := range daemons {
		var members []struct {
			Name   string `json:"server_name"`
			Status string `json:"status"`
		}
		if d.Call(http.MethodGet, "/1.0/cluster/members?recursion=1", nil, &members) != nil {
			continue
		}
		for _, m := range members {
			if strings.HasPrefix(m.Status, "Evacuat") {
				out = append(out, m.Name)
			}
		}
		break
	}
	return out
}

// watchMembers reads the members all the time, and returns the highest number of members that were out: evacuated, or not
// answering. A member that another one reports as offline does not count: on a busy machine heartbeats are late.
func watchMembers(ctx context.Context, daemons []*incustest.Daemon, names []string) (most, looks *atomic.Int32) {
	most, looks = &atomic.Int32{}, &atomic.Int32{}
	go func() {
		for ctx.Err() == nil {
			begun, out := time.Now(), map[string]bool{}
			for _, name := range evacuated(daemons) {
				out[name] = true
			}
			for i, d := range daemons {
				if d.Call(http.MethodGet, "/1.0", nil, nil) != nil {
					out[names[i]] = true
				}
			}
			if time.Since(begun) < time.Second { // a longer reading does not show one moment
				most.Store(max(most.Load(), int32(len(out))))
				looks.Add(1)
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	return most, looks
}

// TestRealStandalone updates a daemon in no cluster, and kills the controller in the middle. The evacuation stops the
// running containers, and the restore starts exactly those.
func TestRealStandalone(t *testing.T) {
	daemon := incustest.Start(t)
	server := front(t, "alone", daemon, incusostest.Options{Standalone: true})
	daemon.Furnish()
	daemon.Launch("run1", "")
	daemon.Launch("run2", "")
	daemon.Empty("off1", "")
	before, err := daemon.Instances()
	require.NoError(t, err)
	dir := t.TempDir()
	p, err := openPlane(dir)
	require.NoError(t, err)
	p.Enroll(t, server)
	require.NoError(t, p.Registry.Channels().Publish(t.Context(), "stable", newVersion, "os"))
	_, err = p.manager.Start(t.Context(), everything, rolling.Policy{Backoff: time.Second, RebootTimeout: 2 * time.Minute})
	require.NoError(t, err)
	require.NoError(t, p.close())
	running := func() (n int) {
		list, err := daemon.Instances()
		if err != nil {
			return -1
		}
		for _, i := range list {
			if i.Status == "Running" {
				n++
			}
		}
		return n
	}
	require.Equal(t, 2, running())
	child, ended := spawn(t, dir)
	require.Eventually(t, func() bool { n := running(); return n == 0 || n == 1 }, time.Minute, time.Millisecond)
	require.NoError(t, child.Process.Kill())
	<-ended
	_, ended = spawn(t, dir)
	require.NoError(t, <-ended)
	after, err := daemon.Instances()
	require.NoError(t, err)
	require.ElementsMatch(t, before, after)
	require.Equal(t, 1, server.Reboots())
}
