package system_test

import (
	"encoding/json"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/network"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds each wait of a test.
const patience = 30 * time.Second

// plane is a control plane with its endpoint and its registered servers.
type plane struct {
	*controltest.Plane
	t       *testing.T
	systems *system.Manager
	log     *audit.Log
	url     string
	servers map[string]*incusostest.Server
	token   string
}

// withShortTimes fills in short times for simulated servers.
func withShortTimes(o system.Options) system.Options {
	for _, d := range []struct {
		value *time.Duration
		def   time.Duration
	}{{&o.Interval, 10 * time.Millisecond}, {&o.LookTimeout, 2 * time.Second}, {&o.Steady, 30 * time.Millisecond}, {&o.ConfirmationTimeout, 20 * time.Second}, {&o.MinTimeout, 50 * time.Millisecond}, {&o.ApplyTime, 50 * time.Millisecond}, {&o.Grace, 20 * time.Second}, {&o.SettleTimeout, 500 * time.Millisecond}, {&o.RetryInterval, 100 * time.Millisecond}} {
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	return o
}

// newPlane returns a control plane that leaves update settings alone. newManaged returns one that manages them.
func newPlane(t *testing.T, options system.Options) *plane {
	t.Helper()
	options.LeaveUpdates = true
	return newManaged(t, options)
}

func newManaged(t *testing.T, options system.Options) *plane {
	t.Helper()
	return newPlaneOver(t, nil, options)
}

func newPlaneOver(t *testing.T, store storage.Store, options system.Options) *plane {
	t.Helper()
	p := &plane{t: t, servers: map[string]*incusostest.Server{}, Plane: controltest.NewPlane(t, controltest.PlaneOptions{
		Store: store, Client: incusos.Options{Timeout: 2 * time.Second},
		Poller: poller.Options{Interval: time.Minute, FastInterval: 20 * time.Millisecond, RetryInterval: 50 * time.Millisecond, Timeout: 2 * time.Second}})}
	var err error
	p.log, err = audit.New(p.Registry, audit.Options{})
	require.NoError(t, err)
	handler, err := httpapi.New(p.Registry, httpapi.Options{ClientCertificate: p.Identity.Leaf, FailuresPerMinute: -1})
	require.NoError(t, err)
	listener, url := controltest.Listen(t)
	p.url = url
	controltest.Serve(t, listener, handler, p.Identity, nil)
	options = withShortTimes(options)
	options.Audit = p.log
	options.Provider = system.Provider{ServerURL: p.url, Certificate: p.Identity.Leaf}
	p.systems, err = system.New(p.Registry, p.Client, options)
	require.NoError(t, err)
	token, err := p.Registry.CreateToken(t.Context(), opscenter.TokenSpec{Uses: 100})
	require.NoError(t, err)
	p.token = token.UUID
	return p
}

func (p *plane) run() *plane {
	controltest.Background(p.t, p.Polls.Run, p.systems.Run)
	return p
}

// boot starts a server that registers, and waits until it was polled.
func (p *plane) boot(options incusostest.Options) *incusostest.Server {
	p.t.Helper()
	server := controltest.Server(p.t, options)
	require.NoError(p.t, server.Register(p.t.Context(), incusostest.Provider{ServerURL: p.url, Token: p.token, Certificate: p.Identity.Leaf}))
	p.servers[server.Name()] = server
	p.Poll(p.t, server.Name())
	return server
}

func (p *plane) server(name string) *opscenter.ServerInfo {
	p.t.Helper()
	info, err := p.Registry.Server(p.t.Context(), name)
	require.NoError(p.t, err)
	return info
}

// ready waits until a server counts as ready at that URL.
func (p *plane) ready(name, at string) {
	p.t.Helper()
	require.Eventually(p.t, func() bool {
		o, err := p.Polls.Poll(p.t.Context(), name)
		info := p.server(name)
		return err == nil && o.Failure == nil && info.State.Status == lifecycle.StatusReady && info.State.StatusDetail == lifecycle.DetailNone && info.ConnectionURL == at
	}, patience, 20*time.Millisecond, "%s: %+v", name, p.server(name).State)
}

func (p *plane) network(name string) *system.Network {
	p.t.Helper()
	n, err := p.systems.Network(p.t.Context(), name)
	require.NoError(p.t, err)
	return n
}

// unusedAddress returns a random loopback address, on which no server listens.
func unusedAddress() string {
	return fmt.Sprintf("127.%d.%d.%d", 240+mrand.IntN(14), mrand.IntN(250)+1, mrand.IntN(250)+1)
}

func hostOf(t *testing.T, place string) string {
	u, err := url.Parse(place)
	require.NoError(t, err)
	return u.Hostname()
}

// moved returns a server's configuration with another management address.
func (p *plane) moved(name, host string) *network.Config {
	config := p.network(name).Config
	config.Interfaces[0].Addresses = []string{host + "/8"}
	return config
}

func at(server *incusostest.Server, host string) string {
	u, _ := url.Parse(server.URL())
	return "https://" + net.JoinHostPort(host, u.Port())
}

// last returns the last change of a server as it is stored.
func (p *plane) last(name string) *system.Change {
	p.t.Helper()
	list, err := p.systems.Changes(p.t.Context(), name, "", 1)
	require.NoError(p.t, err)
	require.NotEmpty(p.t, list)
	return list[0]
}

// requireIdle requires that no claim and no operation is left.
func (p *plane) requireIdle(names ...string) {
	p.t.Helper()
	require.NoError(p.t, p.Registry.Read(p.t.Context(), func(s *opscenter.Snapshot) error {
		for _, name := range names {
			info, err := s.Server(name)
			require.NoError(p.t, err)
			require.Nil(p.t, info.State.Operation, name)
			claim, err := s.ClaimOf(info.ID, false)
			require.NoError(p.t, err)
			require.Nil(p.t, claim, name)
			if info.Cluster != "" {
				claim, err = s.ClaimOf(info.Cluster, true)
				require.NoError(p.t, err)
				require.Nil(p.t, claim, name)
			}
		}
		return nil
	}))
}

// requireNetwork requires that a server has that network configuration.
func requireNetwork(t *testing.T, want json.RawMessage, server *incusostest.Server) {
	t.Helper()
	require.JSONEq(t, string(want), string(server.NetworkConfig()))
}

func (p *plane) audited(query audit.Query) []audit.Entry {
	p.t.Helper()
	page, err := p.log.List(p.t.Context(), query)
	require.NoError(p.t, err)
	return page.Entries
}

// cluster boots a cluster of simulated servers.
func (p *plane) cluster(name string, names ...string) {
	p.t.Helper()
	var list []*incusostest.Server
	for _, member := range names {
		list = append(list, p.boot(incusostest.Options{Name: member}))
	}
	require.NoError(p.t, incusostest.Cluster(list...))
	_, err := p.Registry.CreateCluster(p.t.Context(), name, opscenter.ClusterSpec{}, names...)
	require.NoError(p.t, err)
	require.NoError(p.t, p.Registry.Write(p.t.Context(), func(tx *opscenter.Tx) error { return tx.SetClusterCertificate(name, list[0].ClusterCertificate().Leaf) }))
	for _, server := range list {
		p.ready(server.Name(), server.URL())
	}
}
