package incusos

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
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
		c, err := client.fleet.dial(context.WithValue(t.Context(), peerKey{}, p), "tcp")
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

// What is kept of a session is small, and good for nothing once it is damaged.
func TestSessionCache(t *testing.T) {
	s := newSessions(2)
	_, ok := s.get(1)
	require.False(t, ok)
	s.put(1, &tls.ClientSessionState{})
	_, ok = s.get(1)
	require.False(t, ok, "an empty session is none")
	for key := range uint64(5) {
		s.lru.Add(key, []byte{1, 'x', 0, 0})
	}
	require.Equal(t, 2, s.len())
	_, ok = s.get(4)
	require.False(t, ok, "what can't be read is none")
	s.put(4, nil)
	require.Equal(t, 1, s.len())
}
