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

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Errors of connections.
var (
	// ErrCertificate: the server presents a certificate that is not accepted.
	ErrCertificate = errors.New("the server presents another certificate than the registered one")
	// ErrBodyTooLarge: an answer is larger than Options.MaxBody or MaxObject, a part of the facts is over four times its
	// limit (lifecycle.MaxHardwareSize and the others), or the header of the stream of events is over 64 KiB.
	ErrBodyTooLarge = errors.New("the answer is too large")
	// ErrRedirect: the server sends requests elsewhere, which no server of ours does.
	ErrRedirect = errors.New("the server redirects to another place")

	errDial      error = notReached("the server could not be reached: no connection")
	errHandshake error = notReached("the server could not be reached: TLS handshake failed")
)

// notReached is an error that wraps opscenter.ErrUnreachable.
type notReached string

func (n notReached) Error() string { return string(n) }
func (n notReached) Unwrap() error { return opscenter.ErrUnreachable }

// fleet is the connections to all servers: one http.Transport, so that what it keeps open is
// bounded for all of them together, under a name of its own for each server, so that nobody
// gets a connection that was checked for another.
type fleet struct {
	base     *http.Transport
	once     *http.Transport // for connections that serve one request
	patient  *http.Transport // for answers that take long to begin
	changes  *http.Transport // for both
	forward  *http.Transport // and for what only the caller knows how long it takes
	seed     maphash.Seed    // of the names: who knew it could choose a server's to be another's
	options  Options
	sessions *sessions
	closing  context.Context
	close    context.CancelFunc

	open, dialled, full, resumed atomic.Int64

	begun     time.Time
	connected atomic.Int64 // when a server was last connected to, since begun
}

// maxListTime bounds the time for a list whose caller sets none.
const maxListTime = time.Hour

// maxHeader bounds the header of an answer, in bytes.
const maxHeader = 64 << 10

// idleTimeout is below the 30 s after which an Incus daemon closes idle connections.
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

// peer is a server as it is connected to. It implements the Incus client's HTTPTransporter.
type peer struct {
	fleet   *fleet
	name    string // under which its connections are kept
	session uint64
	host    string // of its URL, with the port
	server  string // without
	pins    [2][sha256.Size]byte
	pinned  [2]bool
	public  string // the host a publicly trusted certificate may be for
	alone   bool   // each request on a connection of its own
	object  bool   // answers are objects of the inventory
	patient bool   // answers may take long, and unless it is alone be long
	large   bool   // answers are handed on
	most    int64  // bytes of an answer, where that is less than Options say; 0: it isn't
}

// call is what a dial has to know of the request it is begun for: net/http hands it neither
// the end of its context nor its deadline.
type call struct {
	*peer
	deadline time.Time
}

type callKey struct{}

func (f *fleet) peer(target opscenter.Target) (*peer, error) {
	u, err := url.Parse(target.ConnectionURL)
	if target.ConnectionURL == "" {
		return nil, fmt.Errorf("server %q has no connection URL so far: %w: %w", target.Name, opscenter.ErrNotReady, opscenter.ErrInvalidURL)
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

// conn is a connection whose certificate was checked.
type conn struct {
	*tls.Conn
	fleet     *fleet
	presented string // fingerprint
	trust     string // why it is accepted, unless it is the registered one
	closed    atomic.Bool
	proven    time.Time // the full handshake its session goes back to
}

func (c *conn) Close() error {
	if !c.closed.Swap(true) {
		c.fleet.open.Add(-1)
	}
	return c.Conn.Close()
}

// certificateError tells what was presented.
type certificateError struct{ presented string }

func (e *certificateError) Error() string {
	return fmt.Sprintf("%v: fingerprint %s", ErrCertificate, e.presented)
}
func (e *certificateError) Unwrap() error { return ErrCertificate }

// check is the pin, which takes the place of names and authorities: the certificate itself is
// the identity. It runs on resumed sessions, too, unlike VerifyPeerCertificate.
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

// control refuses addresses that Options.AllowAddress does: a name may lead to another one than when it was told.
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

// dial connects and shakes hands under one deadline of its own: net/http lets a dial outlive
// the request it was begun for.
func (f *fleet) dial(ctx context.Context, network string) (net.Conn, error) {
	p, ok := ctx.Value(callKey{}).(call)
	if !ok {
		return nil, fmt.Errorf("%w: no server is named", errDial)
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
	case err != nil && f.lost(err):
		return nil, fmt.Errorf("%w: %w: %w", errDial, errNoNetwork, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errDial, err)
	}
	f.connected.Store(int64(time.Since(f.begun)))
	c := &conn{fleet: f}
	config := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		ServerName:         p.server,
		InsecureSkipVerify: true, // VerifyConnection does it
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

// Transport implements the Incus client's HTTPTransporter.
func (p *peer) Transport() *http.Transport { return p.fleet.base }

// RoundTrip sends a request to this server, and to no other.
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
	if p.most > 0 {
		limit = min(limit, p.most)
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

// body limits what is read of an answer, and reads what the Incus client leaves of it, so
// that the connection can be used again.
type body struct {
	io.ReadCloser
	left   int64
	failed error
	cancel context.CancelFunc
}

// How much is read for the sake of the connection, and for how long; beyond, a new one is cheaper.
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
		// A peer may keep an answer open for ever.
		stop := time.AfterFunc(drainTimeout, b.cancel)
		_, _ = io.CopyN(io.Discard, b.ReadCloser, drain)
		stop.Stop()
	}
	return b.ReadCloser.Close()
}

// limited cuts a text that comes from a server.
func limited(text string, limit int) string {
	if len(text) > limit {
		text = text[:limit] + "…"
	}
	return strings.ToValidUTF8(text, "�")
}

// failure says, in the terms of opscenter, why a server was not reached.
func failure(err error) *lifecycle.Failure {
	f := &lifecycle.Failure{Kind: lifecycle.FailureAnswer, Message: limited(err.Error(), maxMessage)}
	var timeout net.Error
	timedOut := errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
	switch {
	case ours(err):
		f.Kind = lifecycle.FailureLocal
	case errors.Is(err, ErrCertificate):
		f.Kind = lifecycle.FailureCertificate
	case isStatus(err, http.StatusForbidden), errors.Is(err, errUntrusted), refusesOurs(err):
		f.Kind = lifecycle.FailureUntrusted
	case errors.Is(err, errDial):
		f.Kind = lifecycle.FailureConnect
	case timedOut:
		f.Kind = lifecycle.FailureTimeout
	}
	return f
}

// ours reports whether a connection could not be made for a reason of this system: it has no descriptors, memory or
// ports. Where it has no network is told by dial, which knows of the other servers.
func ours(err error) bool {
	for _, reason := range []error{errNoNetwork, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}

// errNoNetwork: there is no way to the address, and there was none to any other lately.
var errNoNetwork = errors.New("this system has no network")

// networkTime is how long it must be since the last connection to any server for the lack of a way to one to be the
// control plane's own: a server may say that it is where no way leads.
const networkTime = 30 * time.Second

// lost reports whether an error tells that this system has no network.
func (f *fleet) lost(err error) bool {
	if !errors.Is(err, syscall.ENETDOWN) && !errors.Is(err, syscall.ENETUNREACH) {
		return false
	}
	return time.Since(f.begun)-time.Duration(f.connected.Load()) > networkTime
}

// refusesOurs reports whether a TLS alert says that the server does not accept our certificate.
func refusesOurs(err error) bool {
	var operation *net.OpError
	if !errors.As(err, &operation) || operation.Op != "remote error" {
		return false
	}
	alert := operation.Err.Error() // its type is not exported
	return strings.Contains(alert, "certificate") || strings.Contains(alert, "access denied")
}
