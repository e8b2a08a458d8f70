// Package incusos talks to servers: IncusOS's own API, and Incus's, over the Incus client
// library. It implements the interfaces that packages poller and opscenter declare, and
// nothing else of the SDK opens a connection to a server.
package incusos

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	incus "github.com/lxc/incus/v6/client"
	"github.com/lxc/incus/v6/shared/api"

	"github.com/opscenter-go/sdk/opscenter"
)

// Defaults of Options.
const (
	DefaultTimeout           = 10 * time.Second
	DefaultCallTimeout       = 30 * time.Second
	DefaultListTimeout       = 2 * time.Minute
	DefaultMaxBody           = 4 << 20
	DefaultMaxObject         = 1 << 20
	DefaultMaxList           = 1 << 30
	DefaultMaxConnsPerServer = 4
	DefaultMaxIdleConns      = 512
	DefaultMaxSessions       = 100_000
	DefaultSessionLifetime   = 24 * time.Hour
)

// Options of New. The zero value, but for the Certificate, is what most programs want.
type Options struct {
	// Certificate is the control plane's client certificate, which servers learn when they register.
	Certificate *tls.Certificate
	// Timeout bounds a dial with its handshake, where the call's context doesn't end sooner, and the wait for the headers of an answer. Default 10 s.
	Timeout time.Duration
	// CallTimeout bounds a call with the body of its answer, where its context doesn't end
	// it sooner. Default 30 s, at least Timeout.
	CallTimeout time.Duration
	// ListTimeout bounds the wait for a list of the inventory to begin: a daemon looks at each
	// running instance before it answers. It bounds the wait for the answer to a change of a
	// server's configuration, too: IncusOS answers once its network is up. Default 2 minutes, at
	// least Timeout.
	ListTimeout time.Duration
	// MaxBody bounds an answer, in bytes; a part of the facts is bounded by four times its limit, too. Default 4 MiB.
	MaxBody int64
	// MaxObject bounds an object of the inventory, by itself or as an entry of a list, in bytes: an
	// instance comes with its snapshots. Of more than inventory.MaxObjectSize the largest members are left
	// out all the same. Default 1 MiB.
	MaxObject int64
	// MaxList bounds a list of the inventory, of which one entry is held at a time, in bytes.
	// Default 1 GiB.
	MaxList int64
	// MaxConnsPerServer bounds the connections to one server; those that read lists of the
	// inventory, and listen to events, are apart. Default 4.
	MaxConnsPerServer int
	// MaxIdleConns bounds the connections that are kept open, unused, for all servers
	// together. An Incus daemon closes them after 30 s: more than polls come within that time
	// are of no use. Default 512, 40 KiB of memory each.
	MaxIdleConns int
	// MaxSessions bounds for how many servers a TLS session is kept, 1.1 KiB each (BenchmarkSessions). At the
	// least as many as there are servers, or each poll is a full handshake. Default 100,000.
	MaxSessions int
	// SessionLifetime is for how long a server's TLS session is gone on with before it has to show
	// its certificate again, in a full handshake: until then a server that changes its certificate
	// without giving up its sessions is not found out. Default 24 hours.
	SessionLifetime time.Duration
	// Roots are the authorities whose certificates are accepted for the host of a server's
	// public connection URL. Default: the system's.
	Roots *x509.CertPool
	// AllowAddress, if set, is asked before each connection whether a server may be at an address, and its error is why
	// it is not connected to. See opscenter.AddressRules. Default: any.
	AllowAddress func(netip.Addr) error
	// KeepSecrets leaves recovery keys, private keys and passwords in the facts that are read.
	KeepSecrets bool
}

// Client talks to servers. It keeps connections and TLS sessions, both bounded for all
// servers together. All methods may be called concurrently. It implements poller.Prober,
// opscenter.Actuator, cluster.Incus, inventory.Incus and system.OS.
type Client struct {
	options Options
	fleet   *fleet
}

// New returns a Client. Close it when it is not used any more.
func New(options Options) *Client {
	if options.Timeout <= 0 {
		options.Timeout = DefaultTimeout
	}
	if options.CallTimeout <= 0 {
		options.CallTimeout = DefaultCallTimeout
	}
	options.CallTimeout = max(options.CallTimeout, options.Timeout)
	if options.ListTimeout <= 0 {
		options.ListTimeout = DefaultListTimeout
	}
	options.ListTimeout = max(options.ListTimeout, options.Timeout)
	if options.MaxList <= 0 {
		options.MaxList = DefaultMaxList
	}
	if options.MaxObject <= 0 {
		options.MaxObject = DefaultMaxObject
	}
	if options.MaxBody <= 0 {
		options.MaxBody = DefaultMaxBody
	}
	if options.MaxConnsPerServer <= 0 {
		options.MaxConnsPerServer = DefaultMaxConnsPerServer
	}
	if options.MaxIdleConns <= 0 {
		options.MaxIdleConns = DefaultMaxIdleConns
	}
	if options.SessionLifetime <= 0 {
		options.SessionLifetime = DefaultSessionLifetime
	}
	if options.MaxSessions <= 0 {
		options.MaxSessions = DefaultMaxSessions
	}
	return &Client{options: options, fleet: newFleet(options)}
}

// ErrClosed: the Client is closed.
var ErrClosed = errors.New("the client is closed")

// Close ends dials under way, and closes all idle connections; those in use close when their
// calls end. Later calls fail with ErrClosed.
func (c *Client) Close() error {
	c.fleet.close()
	c.fleet.base.CloseIdleConnections()
	c.fleet.patient.CloseIdleConnections()
	return nil
}

// Stats tells of connections, since New.
type Stats struct {
	// Open is how many connections there are now, idle ones included.
	Open int64
	// Dials is how many were begun; of those that came to it, FullHandshakes were new TLS
	// sessions, and ResumedHandshakes went on with an old one.
	Dials, FullHandshakes, ResumedHandshakes int64
	// Sessions is for how many servers there is a TLS session to go on with.
	Sessions int
}

// Stats returns how many connections there are and were.
func (c *Client) Stats() Stats {
	f := c.fleet
	return Stats{Open: f.open.Load(), Dials: f.dialled.Load(), FullHandshakes: f.full.Load(), ResumedHandshakes: f.resumed.Load(), Sessions: f.sessions.len()}
}

// Connect returns an Incus client for the server, bound to ctx in all its later requests.
// It opens no connection by itself.
func (c *Client) Connect(ctx context.Context, target opscenter.Target) (incus.InstanceServer, error) {
	p, err := c.fleet.peer(target)
	if err != nil {
		return nil, err
	}
	return connect(ctx, target, p)
}

func connect(ctx context.Context, target opscenter.Target, p *peer) (incus.InstanceServer, error) {
	return incus.ConnectIncusWithContext(ctx, target.ConnectionURL, &incus.ConnectionArgs{
		UserAgent:        "opscenter",
		SkipGetServer:    true,
		SkipGetEvents:    true,
		Proxy:            func(*http.Request) (*url.URL, error) { return nil, nil },
		TransportWrapper: func(*http.Transport) incus.HTTPTransporter { return p },
	})
}

// session is a number of requests to one server.
type session struct {
	incus.InstanceServer
}

// get reads the metadata of an answer into out.
func (s session) get(path string, out any) error {
	answer, err := s.call(http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer.Metadata, out); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

var (
	errAnswer    = errors.New("not an answer of this API")
	errForeign   = errors.New("") // marks what a gateway between says, and not the API
	errUntrusted = errors.New("the server does not trust the control plane's certificate")
)

func (s session) call(method, path string, data any) (*api.Response, error) {
	answer, _, err := s.RawQuery(method, path, data, "")
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if answer.Type != api.SyncResponse && answer.Type != api.AsyncResponse {
		return nil, fmt.Errorf("%s %s: %w: type %q", method, path, errAnswer, answer.Type)
	}
	return answer, nil
}

// isStatus reports whether the server answered with that HTTP status.
func isStatus(err error, status int) bool { return api.StatusErrorCheck(err, status) }
