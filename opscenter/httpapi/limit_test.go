package httpapi_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
)

func TestLimits(t *testing.T) {
	p := start(t, func(o *httpapi.Options) { o.MaxBody, o.ReadTimeout = 1000, 300*time.Millisecond })
	identity := newCertificate(t, "server")
	client := p.client(&identity)
	a := p.call(client, "POST", registerPath(p.token(1)), `{"name":"`+strings.Repeat("x", 2000)+`"}`)
	require.Equal(t, 413, a.ErrorCode)
	require.Contains(t, a.Error, "1000")

	// The server does not wait for a body that does not come.
	roots := x509.NewCertPool()
	roots.AddCert(p.own.Leaf)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(p.url, "https://"), &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{identity}})
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "PUT /1.0/provisioning/servers/:self HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	begun := time.Now()
	_, err = io.ReadAll(conn)
	require.NoError(t, err, "answered, and closed")
	require.Less(t, time.Since(begun), 20*time.Second)

	server := httpapi.NewServer(p.handler, nil, nil)
	require.NotZero(t, server.ReadHeaderTimeout)
	require.NotZero(t, server.IdleTimeout)
	require.NotZero(t, server.MaxHeaderBytes)
	_, err = httpapi.New(p.registry, httpapi.Options{})
	require.ErrorIs(t, err, opscenter.ErrInvalidOptions)
}

func TestFailedRegistrationsAreLimited(t *testing.T) {
	p := start(t, func(o *httpapi.Options) { o.FailuresPerMinute = 5 })
	identity := newCertificate(t, "server")
	client := p.client(&identity)
	for range 5 {
		require.Equal(t, 403, p.call(client, "POST", registerPath("b32d0079-c48b-4957-b1cb-bef54125c861"), registration).ErrorCode)
	}
	a := p.call(client, "POST", registerPath("cccccccc-0000-0000-0000-000000000000"), registration)
	require.Equal(t, 429, a.ErrorCode)
	require.NotEmpty(t, a.http.Header.Get("Retry-After"))
	require.Equal(t, 429, p.call(client, "PUT", selfPath, `{}`).ErrorCode)
	// A client with a registered certificate, or with a valid token, is served at the same address.
	revoked := p.token(1)
	require.Equal(t, 201, p.call(client, "POST", registerPath(revoked), registration).http.StatusCode)
	require.NoError(t, p.registry.RevokeToken(t.Context(), revoked))
	require.Equal(t, 200, p.call(client, "PUT", selfPath, `{}`).StatusCode)
	require.Equal(t, 201, p.call(client, "POST", registerPath(revoked), registration).http.StatusCode, "a repeat")
	stranger := newCertificate(t, "stranger")
	require.Equal(t, 429, p.call(p.client(&stranger), "POST", registerPath(revoked), registration).ErrorCode)
	require.Equal(t, 429, p.call(p.client(nil), "PUT", selfPath, `{}`).ErrorCode)
	for range 20 {
		require.Equal(t, 400, p.call(client, "PUT", selfPath, `{"connection_url":"ftp://x"}`).ErrorCode, "failures of a registered server do not count")
	}
	fresh := start(t, func(o *httpapi.Options) { o.FailuresPerMinute = 5 })
	require.Equal(t, 201, fresh.call(fresh.client(&stranger), "POST", registerPath(fresh.token(1)), registration).http.StatusCode)
	for range 20 {
		require.Equal(t, 400, fresh.call(fresh.client(&stranger), "POST", registerPath("x"), registration).ErrorCode)
	}
	other := newCertificate(t, "other")
	require.Equal(t, 403, fresh.call(fresh.client(&other), "POST", registerPath("cccccccc-0000-0000-0000-000000000000"), strings.Replace(registration, "af94e64e199341b68f10a8eebb828fce", "bf94e64e199341b68f10a8eebb828fce", 1)).ErrorCode, "and blocks no client")
	require.Equal(t, 200, p.call(p.client(&p.operator), "GET", "/1.0/provisioning/servers", "").StatusCode, "operators are not concerned")

	// The table of addresses is bounded, and addresses recover.
	h, err := httpapi.New(p.registry, httpapi.Options{ClientCertificate: p.own.Leaf, FailuresPerMinute: 1, MaxAddresses: 10})
	require.NoError(t, err)
	post := func(address string) int {
		r := httptest.NewRequest("POST", registerPath("x"), strings.NewReader(registration))
		r.RemoteAddr = address
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	require.Equal(t, 400, post("10.0.0.1:1"))
	require.Equal(t, 429, post("10.0.0.1:2"), "ports don't count")
	require.Equal(t, 400, post("[fd00::1]:1"))
	require.Equal(t, 429, post("[fd00::ffff:1]:1"), "a /64 is one host's")
	require.Equal(t, 400, post("[fd00:0:0:1::1]:1"))
	for i := range 100 {
		require.Equal(t, 400, post(fmt.Sprintf("10.1.0.%d:1", i)))
	}
	for i := 90; i < 100; i++ {
		require.Equal(t, 429, post(fmt.Sprintf("10.1.0.%d:1", i)), "the last ones are remembered")
	}
	require.Equal(t, 400, post("10.1.0.89:1"), "and the oldest forgotten")
}
