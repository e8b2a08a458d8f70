package incusos

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// The certificate is also verified when a session is resumed. Here the session belongs to another
// certificate, which the cache by itself would prevent.
func TestResumedSessionsAreVerified(t *testing.T) {
	identity, err := selfsigned.New("server")
	require.NoError(t, err)
	other, err := selfsigned.New("other")
	require.NoError(t, err)
	web := httptest.NewUnstartedServer(http.NotFoundHandler())
	web.TLS = &tls.Config{Certificates: []tls.Certificate{identity}, MinVersion: tls.VersionTLS13}
	web.StartTLS()
	defer web.Close()
	client := New(Options{})
	defer client.Close()
	where := opscenter.Target{Name: "s", ID: "s", ConnectionURL: web.URL, Fingerprint: opscenter.Fingerprint(identity.Leaf)}
	right, err := client.fleet.peer(where)
	require.NoError(t, err)
	where.Fingerprint = opscenter.Fingerprint(other.Leaf)
	wrong, err := client.fleet.peer(where)
	require.NoError(t, err)
	require.NotEqual(t, right.session, wrong.session)

	require.NotNil(t, client.Probe(t.Context(), opscenter.Target{Name: "s", ID: "s", ConnectionURL: web.URL, Fingerprint: opscenter.Fingerprint(identity.Leaf)}).Failure, "the answer is invalid, but the connection works")
	client.fleet.base.CloseIdleConnections()
	require.Equal(t, 1, client.fleet.sessions.len())
	dial := func(p *peer) error {
		c, err := client.fleet.dial(context.WithValue(t.Context(), callKey{}, call{peer: p}), "tcp")
		if err == nil {
			c.Close()
		}
		return err
	}
	require.NoError(t, dial(right))
	require.EqualValues(t, 1, client.fleet.resumed.Load())
	wrong.session = right.session
	require.ErrorIs(t, dial(wrong), ErrCertificate)
}

// A server changes its certificate, and keeps its sessions. The client notices that at the next full
// handshake, after SessionLifetime.
func TestSessionLifetime(t *testing.T) {
	identity, err := selfsigned.New("server")
	require.NoError(t, err)
	other, err := selfsigned.New("other")
	require.NoError(t, err)
	var swapped atomic.Bool
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		_, _ = w.Write([]byte(`{"type":"sync","metadata":{"environment":{"uptime":1000}}}`))
	}), ErrorLog: log.New(io.Discard, "", 0)}
	go web.Serve(tls.NewListener(listener, &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if swapped.Load() {
			return &other, nil
		}
		return &identity, nil
	}}))
	defer web.Close()
	where := opscenter.Target{Name: "s", ID: "s", ConnectionURL: "https://" + listener.Addr().String(), Fingerprint: opscenter.Fingerprint(identity.Leaf), Light: true}
	client := New(Options{})
	defer client.Close()
	short := New(Options{SessionLifetime: time.Nanosecond})
	defer short.Close()
	for range 2 {
		require.Nil(t, client.Probe(t.Context(), where).Failure)
		require.Nil(t, short.Probe(t.Context(), where).Failure)
	}
	require.EqualValues(t, 1, client.Stats().FullHandshakes)
	require.Zero(t, short.Stats().ResumedHandshakes)
	swapped.Store(true)
	require.Nil(t, client.Probe(t.Context(), where).Failure, "the session proves that the server is the same")
	o := short.Probe(t.Context(), where)
	require.NotNil(t, o.Failure)
	require.Equal(t, lifecycle.FailureCertificate, o.Failure.Kind)
	require.Equal(t, opscenter.Fingerprint(other.Leaf), o.Presented)
	// The age of a session counts from its full handshake, even after it was resumed.
	peer, err := client.fleet.peer(where)
	require.NoError(t, err)
	_, proven := client.fleet.sessions.get(peer.session)
	client.fleet.sessions.lifetime = time.Since(proven) - time.Nanosecond
	require.Equal(t, lifecycle.FailureCertificate, client.Probe(t.Context(), where).Failure.Kind)
}

// Each action uses a new connection, and leaves none open.
func TestActionsDialOnce(t *testing.T) {
	identity, err := selfsigned.New("server")
	require.NoError(t, err)
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"type":"sync","status_code":200,"metadata":{}}`))
	}))
	web.TLS = &tls.Config{Certificates: []tls.Certificate{identity}, MinVersion: tls.VersionTLS13}
	web.StartTLS()
	defer web.Close()
	where := opscenter.Target{Name: "s", ID: "s", ConnectionURL: web.URL, Fingerprint: opscenter.Fingerprint(identity.Leaf)}
	client := New(Options{})
	defer client.Close()
	for range 5 {
		require.NoError(t, client.Reboot(t.Context(), where))
	}
	require.EqualValues(t, 5, client.Stats().Dials)
	require.Eventually(t, func() bool { return client.Stats().Open == 0 }, 5*time.Second, time.Millisecond)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	err = client.Reboot(over, where)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, opscenter.ErrOutcomeUnknown, "no command was sent")
	require.NoError(t, client.Close())
	require.NotErrorIs(t, client.Reboot(t.Context(), where), opscenter.ErrOutcomeUnknown)
}

// A dial ends with its probe. The next probe dials again.
func TestDialsEndWithTheirProbe(t *testing.T) {
	identity, err := selfsigned.New("server")
	require.NoError(t, err)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	client := New(Options{Timeout: time.Minute, MaxConnsPerServer: 1})
	defer client.Close()
	where := opscenter.Target{Name: "s", ID: "s", ConnectionURL: "https://" + silent.Addr().String(), Fingerprint: opscenter.Fingerprint(identity.Leaf)}
	for n := range 4 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		require.NotNil(t, client.Probe(ctx, where).Failure)
		cancel()
		require.EqualValues(t, n+1, client.Stats().Dials, "no probe waits for an earlier dial")
		time.Sleep(time.Millisecond) // let the transport notice the end of the dial
	}
}

// The cache drops old sessions, and ignores damaged ones.
func TestSessionCache(t *testing.T) {
	s := newSessions(2, time.Hour)
	get := func(key uint64) *tls.ClientSessionState {
		session, _ := s.get(key)
		return session
	}
	require.Nil(t, get(1))
	s.put(1, &tls.ClientSessionState{}, time.Now())
	require.Nil(t, get(1), "an empty session is not stored")
	for key, tail := range [][]byte{{}, {1}, {200}, {1, 'x', 0, 0}, {0xff, 0xff, 0xff, 0xff, 0x7f}} {
		s.lru.Add(uint64(key), append(binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano())), tail...))
		require.Nil(t, get(uint64(key)), "a damaged session is ignored")
	}
	require.Equal(t, 2, s.len())
	s.put(4, nil, time.Now())
	require.Equal(t, 1, s.len())
}
