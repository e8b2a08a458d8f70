// Package incusos connects to IncusOS and Incus servers. It reads their state, and performs actions on them.
//
// Its main type is Client. New makes one from Options, of which only the Certificate is needed in
// practice. Close ends it. Give the Client to the other packages of the SDK, which declare the
// interfaces that it implements:
//
//   - poller.Prober: Probe
//   - opscenter.Actuator: Update, Reboot, Evacuate, Restore and others
//   - cluster.Incus, inventory.Incus and system.OS
//
// Adopt takes existing Incus servers, which do not register themselves, into a Registry.
//
// A server is identified by its certificate: the Client connects only to a server that presents the
// certificate of the Target. No other package of the SDK opens connections to servers.
//
// IncusOS releases before 2026-08-16 mark the recovery keys as taken whenever system/security is read. The Client does not read it there.
//
// # Performance
//
// A TLS session takes 1.1 KiB of heap, measured with 100,000 sessions.
//
//	go test -run '^$' -bench Sessions ./opscenter/incusos
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
	DefaultMaxBody           = 4 << 20 // bytes
	DefaultMaxObject         = 1 << 20 // bytes
	DefaultMaxList           = 1 << 30 // bytes
	DefaultMaxConnsPerServer = 4
	DefaultMaxIdleConns      = 512
	DefaultMaxSessions       = 100_000
	DefaultSessionLifetime   = 24 * time.Hour
)

// Options configures New. Most programs set only the Certificate. A value of 0 or less means the default.
type Options struct {
	// Certificate is the control plane's client certificate. Servers learn it when they register, and
	// trust it. Default: none, so that servers refuse most requests.
	Certificate *tls.Certificate
	// Timeout bounds a dial with its TLS handshake, and the wait for the header of an answer. Default 10 s.
	Timeout time.Duration
	// CallTimeout bounds a request until the end of its answer. The context of a call may end it
	// sooner. Default 30 s, at least Timeout.
	CallTimeout time.Duration
	// ListTimeout bounds the wait for two slow kinds of answers. A daemon inspects each running
	// instance before it sends a list of the inventory. IncusOS answers a change of its network
	// once the network is up. Default 2 minutes, at least Timeout.
	ListTimeout time.Duration
	// MaxBody bounds an answer, in bytes. An answer with a part of the facts is also bounded by four
	// times the limit of that part, such as lifecycle.MaxHardwareSize. Default 4 MiB.
	MaxBody int64
	// MaxObject bounds an object of the inventory in bytes, by itself or as an entry of a list. An
	// instance includes its snapshots. The inventory drops the largest members of objects over
	// inventory.MaxObjectSize. Default 1 MiB.
	MaxObject int64
	// MaxList bounds a list of the inventory, and a forwarded answer, in bytes. The Client holds one
	// entry of a list at a time. Default 1 GiB.
	MaxList int64
	// MaxConnsPerServer bounds the connections to one server. Connections for lists of the
	// inventory have a bound of the same size of their own. Connections for events, commands and
	// forwarded requests do not count. Default 4.
	MaxConnsPerServer int
	// MaxIdleConns bounds the idle connections to all servers together. An Incus daemon closes idle
	// connections after 30 s, so more connections than polls in 30 s are of no use. Each takes 40
	// KiB of memory. Default 512.
	MaxIdleConns int
	// MaxSessions bounds the number of servers whose TLS session is kept. A session takes 1.1 KiB
	// (BenchmarkSessions). With fewer sessions than servers, most polls need a full handshake.
	// Default 100,000.
	MaxSessions int
	// SessionLifetime is how long the Client resumes a TLS session after its full handshake. Only a
	// full handshake shows the certificate: until then the Client does not notice a server that
	// changed its certificate and kept its sessions. Default 24 hours.
	SessionLifetime time.Duration
	// CurvePreferences are the key exchanges that the Client offers, see tls.Config. Default: those of crypto/tls, with
	// the post-quantum ones first. []tls.CurveID{tls.X25519} saves CPU time in each handshake; an attacker who records
	// the traffic may then read it with a quantum computer.
	CurvePreferences []tls.CurveID
	// Roots are the authorities for the host of a server's public connection URL. The Client accepts
	// a certificate of theirs in place of the registered one. Default: the system's.
	Roots *x509.CertPool
	// AllowAddress, if set, is called before each connection. If it returns an error, the Client does
	// not connect to the address. It must be safe for concurrent use. See opscenter.AddressRules.
	// Default: all addresses are allowed.
	AllowAddress func(netip.Addr) error
	// KeepSecrets leaves recovery keys, private keys and passwords in the facts. By default the
	// Client removes them.
	KeepSecrets bool
}

// Client sends requests to servers. It keeps idle connections and TLS sessions, each bounded for all
// servers together. All methods may be called concurrently. It implements poller.Prober,
// opscenter.Actuator, cluster.Incus, inventory.Incus and system.OS.
type Client struct {
	options Options
	fleet   *fleet
}

// New returns a Client. It opens no connection. Call Close when the Client is no longer needed.
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

// ErrClosed means that the Client is closed.
var ErrClosed = errors.New("the client is closed")

// Close ends active dials and event streams, and closes idle connections. Connections in use close
// when their calls end. Later calls fail with ErrClosed. The error is always nil.
func (c *Client) Close() error {
	c.fleet.close()
	c.fleet.base.CloseIdleConnections()
	c.fleet.patient.CloseIdleConnections()
	return nil
}

// Stats counts connections since New.
type Stats struct {
	// Open is the number of open connections, idle ones included.
	Open int64
	// Dials is the number of connection attempts. Of the successful ones, FullHandshakes began a new
	// TLS session, and ResumedHandshakes resumed one.
	Dials, FullHandshakes, ResumedHandshakes int64
	// Sessions is the number of TLS sessions that can be resumed.
	Sessions int
}

// Stats returns the current figures.
func (c *Client) Stats() Stats {
	f := c.fleet
	return Stats{Open: f.open.Load(), Dials: f.dialled.Load(), FullHandshakes: f.full.Load(), ResumedHandshakes: f.resumed.Load(), Sessions: f.sessions.len()}
}

// Connect returns an Incus client for the server. All its later requests are bound to ctx. Connect
// itself opens no connection. Errors: opscenter.ErrNotReady, opscenter.ErrInvalidURL and
// opscenter.ErrInvalidCertificate, if the target lacks a valid URL or fingerprint.
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

// session sends requests to one server with the Incus client.
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
	errAnswer    = errors.New("the answer does not have the form of this API")
	errForeign   = errors.New("") // marks the answer of a gateway or proxy, as opposed to the API
	errUntrusted = errors.New("the server does not trust the control plane's certificate")
)

// call sends a request, and returns an answer of type sync or async.
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
