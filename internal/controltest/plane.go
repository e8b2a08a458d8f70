package controltest

import (
	"crypto/tls"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/poller"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// Plane is a control plane without an endpoint. It has no judgement of flapping and no guard, unless its options set them.
type Plane struct {
	*opscenter.Registry
	Client *incusos.Client
	Polls  *poller.Poller
	// Identity is the certificate that Client presents. It is valid as a server at 127.0.0.1, too.
	Identity tls.Certificate
}

// PlaneOptions configures the parts of a Plane.
type PlaneOptions struct {
	Store    storage.Store // in memory by default, where it detects modified rows
	Registry opscenter.Options
	Client   incusos.Options // NewPlane sets Certificate
	Poller   poller.Options
}

// NewPlane returns a Plane whose poller does not run.
func NewPlane(t testing.TB, options PlaneOptions) *Plane {
	t.Helper()
	identity, err := selfsigned.New("control-plane", "127.0.0.1")
	require.NoError(t, err)
	if options.Store == nil {
		options.Store = memstore.New(memstore.Options{DetectMutation: true})
	}
	if options.Registry.FlapThreshold == 0 {
		options.Registry.FlapThreshold = -1
	}
	if options.Registry.GuardShare == 0 {
		options.Registry.GuardShare = -1
	}
	p := &Plane{Identity: identity}
	p.Registry, err = opscenter.NewRegistry(options.Store, options.Registry)
	require.NoError(t, err)
	p.Reconnect(t, options)
	return p
}

// Reconnect gives p a new client and a new poller, which have no connection yet.
func (p *Plane) Reconnect(t testing.TB, options PlaneOptions) {
	t.Helper()
	options.Client.Certificate = &p.Identity
	p.Client = Client(t, options.Client)
	var err error
	p.Polls, err = poller.New(p.Registry, p.Client, options.Poller)
	require.NoError(t, err)
}

// Enroll has simulated servers trust p, registers them, and polls each.
func (p *Plane) Enroll(t testing.TB, servers ...*incusostest.Server) {
	t.Helper()
	token, err := p.CreateToken(t.Context(), opscenter.TokenSpec{Uses: int64(len(servers))})
	require.NoError(t, err)
	for _, s := range servers {
		s.Trust(p.Identity.Leaf)
		_, err = p.Register(t.Context(), opscenter.Registration{Token: token.UUID, Certificate: s.Certificate(), Name: s.Name(), ConnectionURL: s.URL(), MachineID: s.MachineID()})
		require.NoError(t, err)
		p.Poll(t, s.Name())
	}
}

// Poll polls a server, which must answer.
func (p *Plane) Poll(t testing.TB, name string) lifecycle.Observation {
	t.Helper()
	return Poll(t, p.Polls, name)
}
