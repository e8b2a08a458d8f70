package incusos

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
)

// Errors of connections.
var (
	// ErrCertificate: the server presents another certificate than the one it is registered with.
	ErrCertificate = errors.New("the server presents another certificate than the registered one")
	// ErrBodyTooLarge: an answer is larger than Options.MaxBody.
	ErrBodyTooLarge = errors.New("the answer is too large")
	// ErrRedirect: the server sends requests elsewhere, which no server of ours does.
	ErrRedirect = errors.New("the server redirects to another place")

	errDial      = errors.New("no connection")
	errHandshake = errors.New("TLS handshake failed")
)

// transport is the connection pool of one server. It replaces the one the Incus client makes
// for each connection, which has no deadlines and keeps nothing alive.
type transport struct {
	base    *http.Transport
	host    string
	maxBody int64
	timeout time.Duration // of a call with its body
	closing chan struct{}
	once    sync.Once
}

// idleTimeout is below the 30 s after which an Incus daemon closes idle connections.
const idleTimeout = 25 * time.Second

func newTransport(host string, pinned *x509.Certificate, identity *tls.Certificate, options Options) *transport {
	t := &transport{host: host, maxBody: options.MaxBody, timeout: options.CallTimeout, closing: make(chan struct{})}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The pin below takes the place of names and authorities: the certificate itself
		// is the identity. VerifyConnection runs on resumed sessions too.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 || !state.PeerCertificates[0].Equal(pinned) {
				return ErrCertificate
			}
			return nil
		},
		ClientSessionCache: tls.NewLRUClientSessionCache(1),
	}
	if identity != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return identity, nil }
	}
	t.base = &http.Transport{
		Proxy: nil,
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return t.dial(ctx, network, address, config, options.Timeout)
		},
		MaxIdleConnsPerHost:   1,
		MaxConnsPerHost:       options.MaxConnsPerServer,
		IdleConnTimeout:       idleTimeout,
		ResponseHeaderTimeout: options.Timeout,
		ForceAttemptHTTP2:     false,
	}
	return t
}

// dial connects and shakes hands under one deadline of its own: net/http lets a dial outlive
// the request it was begun for.
func (t *transport) dial(ctx context.Context, network, address string, config *tls.Config, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	go func() {
		select {
		case <-t.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDial, err)
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("%w: %w", errHandshake, err)
	}
	return conn, nil
}

// Transport implements the Incus client's HTTPTransporter.
func (t *transport) Transport() *http.Transport { return t.base }

// RoundTrip sends a request to the server of this transport, and to no other.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" || req.URL.Host != t.host {
		return nil, ErrRedirect
	}
	ctx, cancel := context.WithTimeout(req.Context(), t.timeout)
	resp, err := t.base.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &body{ReadCloser: resp.Body, left: t.maxBody, cancel: cancel}
	return resp, nil
}

func (t *transport) close() {
	t.once.Do(func() { close(t.closing) })
	t.base.CloseIdleConnections()
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
func failure(err error) *opscenter.Failure {
	f := &opscenter.Failure{Kind: opscenter.FailureAnswer, Message: limited(err.Error(), maxMessage)}
	var timeout net.Error
	timedOut := errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
	var operation *net.OpError
	switch {
	case errors.Is(err, ErrCertificate):
		f.Kind = opscenter.FailureCertificate
	case isStatus(err, http.StatusForbidden), errors.Is(err, errUntrusted),
		errors.As(err, &operation) && operation.Op == "remote error": // a TLS alert: it refuses our certificate
		f.Kind = opscenter.FailureUntrusted
	case errors.Is(err, errDial):
		f.Kind = opscenter.FailureConnect
	case timedOut:
		f.Kind = opscenter.FailureTimeout
	}
	return f
}
