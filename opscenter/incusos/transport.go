package incusos

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Errors of connections.
var (
	// ErrCertificate means that the server presents neither its registered certificate nor another accepted one.
	ErrCertificate = errors.New("the server presents another certificate than the registered one")
	// ErrBodyTooLarge means that an answer is larger than Options.MaxBody, MaxObject or MaxList. It also applies to a
	// part of the facts over four times its limit, and to an event stream whose header is over 64 KiB.
	ErrBodyTooLarge = errors.New("the answer is too large")
	// ErrRedirect means that the server redirects to another URL. The Client follows no redirects.
	ErrRedirect = errors.New("the server redirects to another place")

	errDial      error = notReached("the server could not be reached: no connection")
	errHandshake error = notReached("the server could not be reached: TLS handshake failed")
)

// notReached is an error that wraps opscenter.ErrUnreachable.
type notReached string

func (n notReached) Error() string { return string(n) }
func (n notReached) Unwrap() error { return opscenter.ErrUnreachable }

// fleet holds the connections to all servers. All servers share each http.Transport, which bounds the idle
// connections of all of them together. Each server has a host name of its own in the transports, so a
// request never uses a connection that was verified for another server.
type fleet struct {
	base     *http.Transport
	once     *http.Transport // connections for one request each
	patient  *http.Transport // answers may take ListTimeout to begin
	changes  *http.Transport // both of these
	forward  *http.Transport // connections for one request each; the caller bounds the wait
	seed     maphash.Seed    // of the host names; secret, so that no server can choose another's name
	options  Options
	sessions *sessions
	closing  context.Context
	close    context.CancelFunc

	open, dialled, full, resumed atomic.Int64

	begun     time.Time
	connected atomic.Int64 // time of the last connection to any server, since begun
}

// maxListTime bounds a list, a change or a forwarded request, if its context has no sooner deadline.
const maxListTime = time.Hour

// maxHeader bounds the header of an answer, in bytes.
const maxHeader = 64 << 10

// idleTimeout is shorter than the 30 s after which an Incus daemon closes idle connections.
const idleTimeout = 25 * time.Second

func newFleet(options Options) *fleet {
	f := &fleet{begun: time.Now(), options: options, seed: maphash.MakeSeed(), sessions: newSessions(options.MaxSessions, options.SessionLifetime)}
	f.closing, f.close = context.WithCancel(context.Background())
	f.base = &http.Transport{
		Proxy:                  nil,
		DialTLSContext:         func(ctx context.Context, network, _ string) (net.Conn, error) { return f.dial(ctx, network) },
		MaxIdleConns:           options.MaxIdleConns,
		MaxIdleConnsPerHost:    1,
		MaxConnsPerHost:        options.MaxConnsPerServer,
		IdleConnTimeout:        idleTimeout,
		ResponseHeaderTimeout:  options.Timeout,
		ForceAttemptHTTP2:      false,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
	}
	f.once = &http.Transport{
		Proxy:                  nil,
		DialTLSContext:         f.base.DialTLSContext,
		DisableKeepAlives:      true,
		ResponseHeaderTimeout:  options.Timeout,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
	}
	f.patient = &http.Transport{
		Proxy:                  nil,
		DialTLSContext:         f.base.DialTLSContext,
		MaxIdleConns:           options.MaxIdleConns,
		MaxIdleConnsPerHost:    1,
		MaxConnsPerHost:        options.MaxConnsPerServer,
		IdleConnTimeout:        idleTimeout,
		ResponseHeaderTimeout:  options.ListTimeout,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
	}
	f.changes = f.once.Clone()
	f.changes.ResponseHeaderTimeout = options.ListTimeout
	f.forward = f.once.Clone()
	f.forward.ResponseHeaderTimeout = 0
	return f
}

// peer sends requests to one server. It implements HTTPTransporter of the Incus client.
type peer struct {
	fleet     *fleet
	name      string               // host name of its connections in the transports
	session   uint64               // key of its TLS session
	host      string               // of its URL, with the port
	server    string               // of its URL, without the port
	pins      [2][sha256.Size]byte // fingerprints of the registered and the accepted certificate
	pinned    [2]bool
	public    string // host for which a publicly trusted certificate is accepted
	alone     bool   // each request uses a new connection
	object    bool   // answers are objects of the inventory: MaxObject applies
	patient   bool   // answers may take ListTimeout; unless alone, they are lists: MaxList applies
	large     bool   // answers are forwarded: MaxList applies
	maxAnswer int64  // limit of an answer in bytes, if lower than that of Options; 0: none
}

// call has the data of a request that a dial needs. net/http passes the values of the request's context to
// a dial, but neither its end nor its deadline.
type call struct {
	*peer
	deadline time.Time
}

type callKey struct{}

// peer returns the peer of a target, with the certificates that are accepted for it.
func (f *fleet) peer(target opscenter.Target) (*peer, error) {
	u, err := url.Parse(target.ConnectionURL)
	if target.ConnectionURL == "" {
		return nil, fmt.Errorf("server %q has no connection URL yet: %w: %w", target.Name, opscenter.ErrNotReady, opscenter.ErrInvalidURL)
	}
	if err != nil || u.Host == "" || u.Scheme != "https" {
		return nil, fmt.Errorf("connection URL of server %q: %w", target.Name, opscenter.ErrInvalidURL)
	}
	p := &peer{fleet: f, host: u.Host, server: u.Hostname()}
	for i, fingerprint := range []string{target.Fingerprint, target.ServedFingerprint} {
		if fingerprint == "" {
			continue
		}
		if n, err := hex.Decode(p.pins[i][:], []byte(fingerprint)); err != nil || n != sha256.Size {
			return nil, fmt.Errorf("fingerprint of server %q: %w", target.Name, opscenter.ErrInvalidCertificate)
		}
		p.pinned[i] = true
	}
	if !p.pinned[0] {
		return nil, fmt.Errorf("server %q has not registered, and has no certificate: %w: %w", target.Name, opscenter.ErrNotReady, opscenter.ErrInvalidCertificate)
	}
	if target.PublicConnectionURL != "" {
		if public, err := url.Parse(target.PublicConnectionURL); err == nil {
			p.public = public.Hostname()
		}
	}
	var h maphash.Hash
	h.SetSeed(f.seed)
	for _, part := range [...]string{target.ID, target.ConnectionURL, target.Fingerprint, target.ServedFingerprint, p.public} {
		_, _ = h.WriteString(part)
		_ = h.WriteByte(0)
	}
	p.session = h.Sum64()
	p.name = strconv.FormatUint(p.session, 16)
	return p, nil
}

// conn is a connection to a server whose certificate was verified.
type conn struct {
	*tls.Conn
	fleet     *fleet
	presented string // fingerprint of the certificate
	trust     string // why the certificate is accepted; "" for the registered one
	closed    atomic.Bool
	proven    time.Time // time of the full handshake of its session
}

func (c *conn) Close() error {
	if !c.closed.Swap(true) {
		c.fleet.open.Add(-1)
	}
	return c.Conn.Close()
}

// certificateError is an ErrCertificate with the fingerprint of the presented certificate.
type certificateError struct{ presented string }

func (e *certificateError) Error() string {
	return fmt.Sprintf("%v: fingerprint %s", ErrCertificate, e.presented)
}
func (e *certificateError) Unwrap() error { return ErrCertificate }

// check verifies the certificate of a server. The certificate itself is the identity: names and authorities
// count only for the public connection URL. crypto/tls calls it for resumed sessions, too, which it does
// not do with VerifyPeerCertificate.
func (p *peer) check(chain []*x509.Certificate) (presented, trust string, err error) {
	if len(chain) == 0 {
		return "", "", ErrCertificate
	}
	sum := sha256.Sum256(chain[0].Raw)
	presented = hex.EncodeToString(sum[:])
	switch {
	case p.pinned[0] && sum == p.pins[0]:
		return presented, "", nil
	case p.pinned[1] && sum == p.pins[1]:
		return presented, "it was accepted beside the registered one", nil
	case p.public != "":
		others := x509.NewCertPool()
		for _, c := range chain[1:] {
			others.AddCert(c)
		}
		if _, err := chain[0].Verify(x509.VerifyOptions{DNSName: p.public, Roots: p.fleet.options.Roots, Intermediates: others}); err == nil {
			return presented, "it is publicly trusted for " + p.public, nil
		}
	}
	return presented, "", &certificateError{presented}
}

// control refuses an address if Options.AllowAddress does. It runs for each dial, because a host name may resolve to
// another address than at registration.
func (f *fleet) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	if f.options.AllowAddress == nil {
		return nil
	}
	where, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return f.options.AllowAddress(where.Addr())
}

// dial connects to a server, with the TLS handshake. It has the deadline of its request, because net/http
// lets a dial outlive the request that began it.
func (f *fleet) dial(ctx context.Context, network string) (net.Conn, error) {
	p, ok := ctx.Value(callKey{}).(call)
	if !ok {
		return nil, fmt.Errorf("%w: the request names no server", errDial)
	}
	ctx, cancel := context.WithTimeout(ctx, f.options.Timeout)
	defer cancel()
	if !p.deadline.IsZero() {
		ctx, cancel = context.WithDeadline(ctx, p.deadline)
		defer cancel()
	}
	stop := context.AfterFunc(f.closing, cancel)
	defer stop()
	f.dialled.Add(1)
	dialer := net.Dialer{ControlContext: f.control}
	raw, err := dialer.DialContext(ctx, network, p.host)
	switch {
	case err != nil && f.networkDown(err):
		return nil, fmt.Errorf("%w: %w: %w", errDial, errNoNetwork, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errDial, err)
	}
	f.connected.Store(int64(time.Since(f.begun)))
	c := &conn{fleet: f}
	config := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		CurvePreferences:   f.options.CurvePreferences,
		ServerName:         p.server,
		InsecureSkipVerify: true, // VerifyConnection verifies the certificate
		VerifyConnection: func(state tls.ConnectionState) (err error) {
			c.presented, c.trust, err = p.check(state.PeerCertificates)
			return err
		},
		ClientSessionCache: sessionOf{f.sessions, p.session, c},
	}
	if identity := f.options.Certificate; identity != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return identity, nil }
	}
	c.Conn = tls.Client(raw, config)
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("%w: %w", errHandshake, err)
	}
	if c.ConnectionState().DidResume {
		f.resumed.Add(1)
	} else {
		f.full.Add(1)
		c.proven = time.Now()
	}
	f.open.Add(1)
	return c, nil
}

// Transport implements HTTPTransporter of the Incus client.
func (p *peer) Transport() *http.Transport { return p.fleet.base }

// RoundTrip sends a request to this server. A request for another host is an ErrRedirect.
func (p *peer) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" || req.URL.Host != p.host {
		return nil, ErrRedirect
	}
	if p.fleet.closing.Err() != nil {
		return nil, ErrClosed
	}
	transport, timeout, limit := p.fleet.base, p.fleet.options.CallTimeout, p.fleet.options.MaxBody
	switch {
	case p.large:
		transport, timeout, limit = p.fleet.forward, maxListTime, p.fleet.options.MaxList
	case p.alone && p.patient:
		transport, timeout = p.fleet.changes, maxListTime
	case p.alone:
		transport = p.fleet.once
	case p.object:
		limit = p.fleet.options.MaxObject
	case p.patient:
		transport, timeout, limit = p.fleet.patient, maxListTime, p.fleet.options.MaxList
	}
	if p.maxAnswer > 0 {
		limit = min(limit, p.maxAnswer)
	}
	ctx, cancel := context.WithTimeout(req.Context(), timeout)
	deadline, _ := ctx.Deadline()
	named := req.WithContext(context.WithValue(ctx, callKey{}, call{p, deadline}))
	where := *req.URL
	where.Host = p.name
	named.URL, named.Host = &where, p.host
	resp, err := transport.RoundTrip(named)
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &body{ReadCloser: resp.Body, left: limit, cancel: cancel}
	return resp, nil
}

// body limits the size of an answer. Its Close reads the rest of a short answer, so that the connection can
// be used again.
type body struct {
	io.ReadCloser
	left   int64
	failed error
	cancel context.CancelFunc
}

// Close reads at most drain bytes, for at most drainTimeout. Beyond that, a new connection is cheaper.
const (
	drain        = 64 << 10
	drainTimeout = 200 * time.Millisecond
)

func (b *body) Read(p []byte) (int, error) {
	if b.failed != nil {
		return 0, b.failed
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		n, err = n-1, ErrBodyTooLarge
	}
	b.failed = err
	return n, err
}

func (b *body) Close() error {
	defer b.cancel()
	if b.failed == nil {
		// A server may never end its answer.
		stop := time.AfterFunc(drainTimeout, b.cancel)
		_, _ = io.CopyN(io.Discard, b.ReadCloser, drain)
		stop.Stop()
	}
	return b.ReadCloser.Close()
}

// failure classifies the error of a probe.
func failure(err error) *lifecycle.Failure {
	f := &lifecycle.Failure{Kind: lifecycle.FailureAnswer, Message: truncate.Text(err.Error(), maxMessage)}
	var timeout net.Error
	timedOut := errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
	switch {
	case isLocal(err):
		f.Kind = lifecycle.FailureLocal
	case errors.Is(err, ErrCertificate):
		f.Kind = lifecycle.FailureCertificate
	case isStatus(err, http.StatusForbidden), errors.Is(err, errUntrusted), rejectsCertificate(err):
		f.Kind = lifecycle.FailureUntrusted
	case errors.Is(err, errDial):
		f.Kind = lifecycle.FailureConnect
	case timedOut:
		f.Kind = lifecycle.FailureTimeout
	}
	return f
}

// isLocal reports whether an error has its cause in this system: no descriptors, memory, ports or network. dial
// decides whether the network is down, with the connections to other servers in mind.
func isLocal(err error) bool {
	for _, reason := range []error{errNoNetwork, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}

// errNoNetwork means that there is no route to the server, and that no other server was reached lately.
var errNoNetwork = errors.New("this system has no network")

// networkTime is the time without any connection after which a missing route counts as a fault of this system. Before,
// it counts as a fault of the server, which may have registered with an address that has no route.
const networkTime = 30 * time.Second

// networkDown reports whether an error shows that this system has no network.
func (f *fleet) networkDown(err error) bool {
	if !errors.Is(err, syscall.ENETDOWN) && !errors.Is(err, syscall.ENETUNREACH) {
		return false
	}
	return time.Since(f.begun)-time.Duration(f.connected.Load()) > networkTime
}

// rejectsCertificate reports whether an error is a TLS alert that rejects the control plane's certificate.
func rejectsCertificate(err error) bool {
	var operation *net.OpError
	if !errors.As(err, &operation) || operation.Op != "remote error" {
		return false
	}
	alert := operation.Err.Error() // its type is not exported
	return strings.Contains(alert, "certificate") || strings.Contains(alert, "access denied")
}
