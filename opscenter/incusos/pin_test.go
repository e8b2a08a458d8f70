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

// The pin is checked on a session that is gone on with, too: here one that was begun with
// another pin, which the cache would not give out by itself.
func TestThePinHoldsOnResumedSessions(t *testing.T) {
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

	require.NotNil(t, client.Probe(t.Context(), opscenter.Target{Name: "s", ID: "s", ConnectionURL: web.URL, Fingerprint: opscenter.Fingerprint(identity.Leaf)}).Failure, "it is no server, but its connection stands")
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

// A server that changes its certificate, and goes on with its sessions, is found out when it
// has to show its certificate again.
func TestSessionsEnd(t *testing.T) {
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
	require.Nil(t, client.Probe(t.Context(), where).Failure, "its session proves that it is the same server")
	o := short.Probe(t.Context(), where)
	require.NotNil(t, o.Failure)
	require.Equal(t, lifecycle.FailureCertificate, o.Failure.Kind)
	require.Equal(t, opscenter.Fingerprint(other.Leaf), o.Presented)
	// However often it was gone on with, a session is as old as its full handshake.
	peer, err := client.fleet.peer(where)
	require.NoError(t, err)
	_, proven := client.fleet.sessions.get(peer.session)
	client.fleet.sessions.lifetime = time.Since(proven) - time.Nanosecond
	require.Equal(t, lifecycle.FailureCertificate, client.Probe(t.Context(), where).Failure.Kind)
}

// Actions leave nothing in the transport, each on a connection of its own.
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
	require.NotErrorIs(t, err, opscenter.ErrOutcomeUnknown, "nothing was asked")
	require.NoError(t, client.Close())
	require.NotErrorIs(t, client.Reboot(t.Context(), where), opscenter.ErrOutcomeUnknown)
}

// A dial does not outlive the poll it was begun for: the next poll begins anew.
func TestDialsEndWithTheirPoll(t *testing.T) {
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
		require.EqualValues(t, n+1, client.Stats().Dials, "none waits for the dial of the one before")
		time.Sleep(time.Millisecond) // the transport hears of the end of the dial
	}
}

// What is kept of a session is small, and good for nothing once it is damaged.
func TestSessionCache(t *testing.T) {
	s := newSessions(2, time.Hour)
	get := func(key uint64) *tls.ClientSessionState {
		session, _ := s.get(key)
		return session
	}
	require.Nil(t, get(1))
	s.put(1, &tls.ClientSessionState{}, time.Now())
	require.Nil(t, get(1), "an empty session is none")
	for key, tail := range [][]byte{{}, {1}, {200}, {1, 'x', 0, 0}, {0xff, 0xff, 0xff, 0xff, 0x7f}} {
		s.lru.Add(uint64(key), append(binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano())), tail...))
		require.Nil(t, get(uint64(key)), "what can't be read is none")
	}
	require.Equal(t, 2, s.len())
	s.put(4, nil, time.Now())
	require.Equal(t, 1, s.len())
}
