package incusos_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/inventory"
)

// A part of the facts that is far over its limit is not read. The rest of the observation counts.
func TestHostileFacts(t *testing.T) {
	s, identity := boot(t, incusostest.Options{Name: "sim", Standalone: true})
	require.NoError(t, s.SetHostile(incusostest.HostileFacts))
	o := newClient(t, incusos.Options{Certificate: identity}).Probe(t.Context(), target(s))
	require.Nil(t, o.Failure)
	require.True(t, o.Ready)
	require.NotNil(t, o.Versions)
	require.Len(t, o.Unread, 4)
	for _, reason := range o.Unread {
		require.Contains(t, reason, incusos.ErrBodyTooLarge.Error())
	}
	require.Zero(t, o.Facts.Size())
}

// An event with names that are too long is reported without its object.
func TestHostileEvents(t *testing.T) {
	s, identity := boot(t, incusostest.Options{Name: "sim", Standalone: true})
	require.NoError(t, s.SetHostile(incusostest.HostileNames))
	stream, err := newClient(t, incusos.Options{Certificate: identity}).Events(t.Context(), target(s))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, stream.Close()) })
	for range 3 {
		e, err := stream.Next()
		require.NoError(t, err)
		require.Equal(t, "profile-renamed", e.Action)
		require.Empty(t, e.Source+e.Project+e.Location+e.OldName)
		require.LessOrEqual(t, len(e.Requestor), 300)
	}
	e, err := incusos.ParseEvent([]byte(`{"type":"lifecycle","metadata":{"action":"` + strings.Repeat("a", 5000) + `","source":"/1.0/profiles/` + strings.Repeat("n", inventory.MaxNameLength) + `"}}`))
	require.NoError(t, err)
	require.Less(t, len(e.Action), 300)
	require.Equal(t, "/1.0/profiles/"+strings.Repeat("n", inventory.MaxNameLength), e.Source)
}

// The rate of events is limited, even if the server sends them faster.
func TestEventRate(t *testing.T) {
	s, identity := boot(t, incusostest.Options{Name: "sim", Standalone: true})
	require.NoError(t, s.SetHostile(incusostest.HostileEvents))
	stream, err := newClient(t, incusos.Options{Certificate: identity}).Events(t.Context(), target(s))
	require.NoError(t, err)
	begun, n := time.Now(), 0
	for ; time.Since(begun) < 2*time.Second; n++ {
		_, err := stream.Next()
		require.NoError(t, err)
	}
	require.NoError(t, stream.Close())
	require.Greater(t, n, 1000)
	require.Less(t, n, 4000+1000*3, "a burst of 4,000, then 1,000 per second")
}

// An answer with an endless header is read up to the limit of a header.
func TestEndlessHeader(t *testing.T) {
	identity, err := selfsigned.New("server")
	require.NoError(t, err)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{identity}, ClientAuth: tls.RequestClientCert})
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	var sent atomic.Int64
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go endless(conn, &sent)
		}
	}()
	certificate, err := x509.ParseCertificate(identity.Certificate[0])
	require.NoError(t, err)
	at := opscenter.Target{Name: "s", ID: "s", ConnectionURL: "https://" + listener.Addr().String(), Fingerprint: opscenter.Fingerprint(certificate)}
	client := newClient(t, incusos.Options{Certificate: &identity, Timeout: time.Minute})
	for name, ask := range map[string]func(context.Context) error{
		"object": func(ctx context.Context) error { _, err := client.ReadObject(ctx, at, "/1.0"); return err },
		"list":   func(ctx context.Context) error { return client.ReadList(ctx, at, "/1.0/profiles", nil) },
		"events": func(ctx context.Context) error { _, err := client.Events(ctx, at); return err },
	} {
		sent.Store(0)
		begun := time.Now()
		require.Error(t, ask(t.Context()), name)
		require.Less(t, time.Since(begun), 20*time.Second, name)
		require.Less(t, sent.Load(), int64(8<<20), "%s: more than the buffers of the system hold", name)
	}
}

// endless answers a request with a header that never ends, and counts the bytes.
func endless(conn net.Conn, sent *atomic.Int64) {
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 4<<10)); err != nil {
		return
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
	line := append(append([]byte("X-Filler: "), bytes.Repeat([]byte("x"), 1000)...), "\r\n"...)
	for {
		n, err := conn.Write(line)
		sent.Add(int64(n))
		if err != nil {
			return
		}
	}
}
