// Package incusos talks to servers: IncusOS's own API, and Incus's, over the Incus client
// library. It implements the interfaces that packages poller and opscenter declare, and
// nothing else of the SDK opens a connection to a server.
package incusos

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	incus "github.com/lxc/incus/v6/client"
	"github.com/lxc/incus/v6/shared/api"

	"github.com/opscenter-go/sdk/opscenter"
)

// Defaults of Options.
const (
	DefaultTimeout           = 10 * time.Second
	DefaultCallTimeout       = 30 * time.Second
	DefaultMaxBody           = 4 << 20
	DefaultMaxConnsPerServer = 4
	DefaultForgetAfter       = time.Hour
)

// Options of New. The zero value, but for the Certificate, is what most programs want.
type Options struct {
	// Certificate is the control plane's client certificate, which servers learn when they register.
	Certificate *tls.Certificate
	// Timeout bounds a dial with its handshake, and the wait for the headers of an answer. Default 10 s.
	Timeout time.Duration
	// CallTimeout bounds a call with the body of its answer, where its context doesn't end
	// it sooner. Default 30 s, at least Timeout.
	CallTimeout time.Duration
	// MaxBody bounds an answer, in bytes. Default 4 MiB.
	MaxBody int64
	// MaxConnsPerServer bounds the connections to one server. Default 4.
	MaxConnsPerServer int
	// ForgetAfter is how long the connection state of a server is kept without being used. Default 1 hour.
	ForgetAfter time.Duration
	// KeepSecrets leaves recovery keys, private keys and passwords in the facts that are read.
	KeepSecrets bool
}

// Client talks to servers. It keeps one connection pool per server. All methods may be called
// concurrently. It implements poller.Prober and opscenter.Actuator.
type Client struct {
	options Options

	mu     sync.Mutex
	pools  map[string]*pool // by server ID
	swept  time.Time
	closed bool
}

type pool struct {
	url         string
	fingerprint string
	transport   *transport
	used        time.Time
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
	if options.MaxBody <= 0 {
		options.MaxBody = DefaultMaxBody
	}
	if options.MaxConnsPerServer <= 0 {
		options.MaxConnsPerServer = DefaultMaxConnsPerServer
	}
	if options.ForgetAfter <= 0 {
		options.ForgetAfter = DefaultForgetAfter
	}
	return &Client{options: options, pools: map[string]*pool{}, swept: time.Now()}
}

// ErrClosed: the Client is closed.
var ErrClosed = errors.New("the client is closed")

// Close ends dials under way, and closes all idle connections; those in use close when their
// calls end. Later calls fail with ErrClosed.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for id, p := range c.pools {
		p.transport.close()
		delete(c.pools, id)
	}
	return nil
}

// transport returns the connection pool of a server, a new one if it moved or was given another certificate.
func (c *Client) transport(target opscenter.Target) (*transport, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	at := time.Now()
	c.sweep(at)
	p := c.pools[target.ID]
	if p != nil && p.url == target.ConnectionURL && p.fingerprint == target.Fingerprint {
		p.used = at
		return p.transport, nil
	}
	if p != nil {
		p.transport.close()
		delete(c.pools, target.ID)
	}
	pinned, err := opscenter.ParseCertificate(target.Certificate)
	if err != nil {
		return nil, fmt.Errorf("certificate of server %q: %w", target.Name, err)
	}
	u, err := url.Parse(target.ConnectionURL)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("connection URL of server %q: %w", target.Name, opscenter.ErrInvalidURL)
	}
	p = &pool{url: target.ConnectionURL, fingerprint: target.Fingerprint, used: at,
		transport: newTransport(u.Host, pinned, c.options.Certificate, c.options)}
	c.pools[target.ID] = p
	return p.transport, nil
}

// sweep forgets the pools of servers that nobody has asked for in a while: deleted ones, most often.
func (c *Client) sweep(at time.Time) {
	if at.Sub(c.swept) < c.options.ForgetAfter/4 {
		return
	}
	c.swept = at
	for id, p := range c.pools {
		if at.Sub(p.used) > c.options.ForgetAfter {
			p.transport.close()
			delete(c.pools, id)
		}
	}
}

// Connect returns an Incus client for the server, bound to ctx in all its later requests.
// It opens no connection by itself.
func (c *Client) Connect(ctx context.Context, target opscenter.Target) (incus.InstanceServer, error) {
	t, err := c.transport(target)
	if err != nil {
		return nil, err
	}
	return incus.ConnectIncusWithContext(ctx, target.ConnectionURL, &incus.ConnectionArgs{
		UserAgent:        "opscenter",
		SkipGetServer:    true,
		SkipGetEvents:    true,
		TLSServerCert:    target.Certificate,
		Proxy:            func(*http.Request) (*url.URL, error) { return nil, nil },
		TransportWrapper: func(*http.Transport) incus.HTTPTransporter { return t },
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

// raw returns the metadata of an answer, which must be an object, as it is.
func (s session) raw(path string) (json.RawMessage, error) {
	answer, err := s.call(http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(string(answer.Metadata), "{") {
		return nil, fmt.Errorf("GET %s: %w: no object", path, errAnswer)
	}
	return answer.Metadata, nil
}

var (
	errAnswer    = errors.New("not an answer of this API")
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

// Pools returns for how many servers connection state is kept.
func (c *Client) Pools() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pools)
}
