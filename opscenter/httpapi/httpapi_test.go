package httpapi_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/storage/memstore"
	"github.com/opscenter-go/sdk/storage/storetest"
)

// plane is a control plane's endpoint over real TLS.
type plane struct {
	t        testing.TB
	registry *opscenter.Registry
	handler  *httpapi.Handler
	url      string
	own      tls.Certificate // server and client certificate of the control plane
	operator tls.Certificate
	log      *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newCertificate(t testing.TB, name string) tls.Certificate {
	t.Helper()
	made, err := selfsigned.New(name, "127.0.0.1")
	require.NoError(t, err)
	return made
}

func start(t testing.TB, change func(*httpapi.Options)) *plane {
	t.Helper()
	return startWith(t, func(_ *plane, o *httpapi.Options) {
		if change != nil {
			change(o)
		}
	})
}

func startWith(t testing.TB, change func(*plane, *httpapi.Options)) *plane {
	t.Helper()
	p := &plane{t: t, own: newCertificate(t, "control plane"), operator: newCertificate(t, "operator"), log: &syncBuffer{}}
	logger := slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	store := storetest.Twice(memstore.New(memstore.Options{DetectMutation: true}))
	var err error
	p.registry, err = opscenter.NewRegistry(store, opscenter.Options{Logger: logger})
	require.NoError(t, err)
	options := httpapi.Options{ClientCertificate: p.own.Leaf, Logger: logger, FailuresPerMinute: -1,
		Authorize: httpapi.AnyOf(httpapi.TrustCertificates(p.operator.Leaf), httpapi.TrustUnixSocket())}
	change(p, &options)
	p.handler, err = httpapi.New(p.registry, options)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p.url = "https://" + listener.Addr().String()
	server := httpapi.NewServer(p.handler, httpapi.TLSConfig(p.own), logger)
	go server.ServeTLS(listener, "", "")
	t.Cleanup(func() { server.Close() })
	return p
}

// client presents a certificate, or none, and accepts nobody but the control plane.
func (p *plane) client(certificate *tls.Certificate) *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(p.own.Leaf)
	config := &tls.Config{RootCAs: roots}
	if certificate != nil {
		config.Certificates = []tls.Certificate{*certificate}
	}
	transport := &http.Transport{TLSClientConfig: config}
	p.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

// answer is an envelope with its HTTP side.
type answer struct {
	Type       string          `json:"type"`
	Status     string          `json:"status"`
	StatusCode int             `json:"status_code"`
	ErrorCode  int             `json:"error_code"`
	Error      string          `json:"error"`
	Metadata   json.RawMessage `json:"metadata"`
	NextCursor string          `json:"next_cursor"`
	http       *http.Response
	text       string
}

func (p *plane) call(client *http.Client, method, path, body string, header ...string) *answer {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.url+path, strings.NewReader(body))
	require.NoError(p.t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	require.NoError(p.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(p.t, err)
	a := &answer{http: resp, text: string(text)}
	require.NoError(p.t, json.Unmarshal(text, a), "%s %s: %.300s", method, path, text)
	require.Equal(p.t, "application/json", resp.Header.Get("Content-Type"))
	switch a.Type {
	case "sync":
		require.Equal(p.t, 200, a.StatusCode, "a client goes by the body")
		require.Equal(p.t, "Success", a.Status)
	case "error":
		require.Equal(p.t, resp.StatusCode, a.ErrorCode)
		require.NotEmpty(p.t, a.Error)
		require.JSONEq(p.t, "null", string(a.Metadata))
	default:
		p.t.Fatalf("type %q", a.Type)
	}
	return a
}

func (a *answer) decode(t testing.TB, into any) {
	t.Helper()
	require.Equal(t, "sync", a.Type, a.text)
	require.NoError(t, json.Unmarshal(a.Metadata, into))
}

func (p *plane) token(uses int64) string {
	token, err := p.registry.CreateToken(p.t.Context(), opscenter.TokenSpec{Uses: uses})
	require.NoError(p.t, err)
	return token.UUID
}

func registerPath(token string) string {
	return "/1.0/provisioning/servers?token=" + url.QueryEscape(token)
}

const registration = `{"name":"server01","connection_url":"https://10.0.0.1:8443","machine_id":"af94e64e199341b68f10a8eebb828fce","system_uuid":"af94e64e-1993-41b6-8f10-a8eebb828fce",
	"properties":{"arch":"x86_64","n":5,"b":true},"bmc_config":{"password":"hunter2"},"from_a_newer_release":{"x":[1]}}`

func TestEverybodysEndpoints(t *testing.T) {
	p := start(t, nil)
	var versions []string
	p.call(p.client(nil), "GET", "/", "").decode(t, &versions)
	require.Equal(t, []string{"/1.0"}, versions)
	for auth, client := range map[string]*http.Client{"untrusted": p.client(nil), "trusted": p.client(&p.operator)} {
		var server map[string]any
		p.call(client, "GET", "/1.0", "").decode(t, &server)
		require.Equal(t, map[string]any{"api_status": "stable", "api_version": "1.0", "auth": auth, "auth_methods": []any{"tls"}, "server_version": "opscenter"}, server)
	}
	for path, method := range map[string]string{"/1.0/nothing": "GET", "/2.0": "GET", "/1.0/provisioning/servers/a/b/c": "GET"} {
		require.Equal(t, 404, p.call(p.client(&p.operator), method, path, "").ErrorCode)
	}
	a := p.call(p.client(&p.operator), "PATCH", "/1.0/provisioning/tokens", "")
	require.Equal(t, 405, a.ErrorCode)
	require.Contains(t, a.http.Header.Get("Allow"), "POST")
}

func TestRegisterAsTheProtocolSays(t *testing.T) {
	p := start(t, nil)
	identity := newCertificate(t, "server01")
	client, token := p.client(&identity), p.token(1)

	require.Equal(t, 400, p.call(p.client(nil), "POST", registerPath(token), registration).ErrorCode, "no client certificate")
	require.Equal(t, 400, p.call(client, "POST", registerPath("not-a-uuid"), registration).ErrorCode, "malformed token")
	require.Equal(t, 400, p.call(client, "POST", registerPath(""), registration).ErrorCode, "empty token")
	require.Equal(t, 403, p.call(client, "POST", registerPath("b32d0079-c48b-4957-b1cb-bef54125c861"), registration).ErrorCode, "unknown token")
	for _, body := range []string{"", "[]", "null", `{"name":`, `{"name":5}`, `"x"`, "\xff"} {
		a := p.call(client, "POST", registerPath(token), body)
		require.Equal(t, 400, a.ErrorCode, body)
	}
	for range 3 { // the first answer may have been lost
		a := p.call(client, "POST", registerPath(token), registration)
		require.Equal(t, 201, a.http.StatusCode, a.Error)
		require.Equal(t, "/1.0/provisioning/servers/server01", a.http.Header.Get("Location"))
		var metadata map[string]string
		a.decode(t, &metadata)
		require.Equal(t, map[string]string{"certificate": opscenter.EncodeCertificate(p.own.Leaf)}, metadata)
	}
	other := newCertificate(t, "server02")
	require.Equal(t, 403, p.call(p.client(&other), "POST", registerPath(token), strings.ReplaceAll(registration, "af94", "bf94")).ErrorCode, "exhausted token")
	token = p.token(1)
	require.Equal(t, 403, p.call(p.client(&other), "POST", registerPath(token), registration).ErrorCode, "a known machine with another certificate")
	require.Equal(t, 409, p.call(p.client(&other), "POST", registerPath(token), strings.ReplaceAll(registration, "af94", "bf94")).ErrorCode, "the name is taken")

	info, err := p.registry.Server(t.Context(), "server01")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"arch": "x86_64", "n": "5", "b": "true"}, info.Properties)

	// Self updates: by the certificate alone.
	self := "/1.0/provisioning/servers/:self"
	require.Equal(t, 403, p.call(p.client(nil), "PUT", self, `{}`).ErrorCode)
	require.Equal(t, 403, p.call(p.client(&other), "PUT", self, `{}`).ErrorCode)
	require.Equal(t, 403, p.call(p.client(&p.operator), "PUT", self, `{}`).ErrorCode, "an operator is no server")
	for _, cause := range append(opscenter.Causes, "", "of-a-newer-release") {
		a := p.call(client, "PUT", self, fmt.Sprintf(`{"connection_url":"https://10.0.0.2:8443","cause":%q}`, cause))
		require.Equal(t, 200, a.http.StatusCode, "%s: %s", cause, a.Error)
	}
	require.Equal(t, 400, p.call(client, "PUT", self, `{"connection_url":"ftp://x"}`).ErrorCode)
	info, err = p.registry.Server(t.Context(), "server01")
	require.NoError(t, err)
	require.Equal(t, "https://10.0.0.2:8443", info.ConnectionURL)
	for _, secret := range []string{token, "hunter2"} {
		require.NotContains(t, p.log.String(), secret)
	}
}

// A simulated server goes through it as a real one would.
func TestSimulatedServerRegisters(t *testing.T) {
	p := start(t, nil)
	server, err := incusostest.New(incusostest.Options{})
	require.NoError(t, err)
	defer server.Close()
	provider := incusostest.Provider{ServerURL: p.url, Token: p.token(1), Certificate: p.own.Leaf}
	require.NoError(t, server.Register(t.Context(), provider))
	require.NoError(t, server.RegisterOnce(t.Context()))
	require.NoError(t, server.SelfUpdate(t.Context(), "storage-config-changed"))
	info, err := p.registry.Server(t.Context(), server.Name())
	require.NoError(t, err)
	require.Equal(t, server.URL(), info.ConnectionURL)
	// It accepts no other control plane than the pinned one.
	other := newCertificate(t, "other")
	provider.Certificate = other.Leaf
	stranger, err := incusostest.New(incusostest.Options{})
	require.NoError(t, err)
	defer stranger.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, stranger.Register(ctx, provider), "another certificate")
}

func TestOperatorsAreAuthorized(t *testing.T) {
	endpoints := map[string][]string{
		"GET":    {"/1.0/provisioning/tokens", "/1.0/provisioning/tokens?recursion=1", "/1.0/provisioning/tokens/x", "/1.0/provisioning/servers", "/1.0/provisioning/servers?recursion=1", "/1.0/provisioning/servers/x"},
		"POST":   {"/1.0/provisioning/tokens", "/1.0/provisioning/servers", "/1.0/provisioning/servers/x"},
		"PUT":    {"/1.0/provisioning/tokens/x", "/1.0/provisioning/servers/x"},
		"DELETE": {"/1.0/provisioning/tokens/x", "/1.0/provisioning/servers/x"},
	}
	p := start(t, nil)
	closed := start(t, func(o *httpapi.Options) { o.Authorize = nil })
	expired := newCertificate(t, "expired")
	leaf := *expired.Leaf
	leaf.NotAfter = time.Now().Add(-time.Hour)
	p2 := start(t, func(o *httpapi.Options) { o.Authorize = httpapi.TrustCertificates(&leaf) })
	server := newCertificate(t, "server")
	for method, paths := range endpoints {
		for _, path := range paths {
			require.Equal(t, 403, p.call(p.client(nil), method, path, "{}").ErrorCode)
			require.Equal(t, 403, p.call(p.client(&server), method, path, "{}").ErrorCode)
			require.Equal(t, 403, closed.call(closed.client(&closed.operator), method, path, "{}").ErrorCode, "denied when there is no authorizer")
			require.Equal(t, 403, p2.call(p2.client(&expired), method, path, "{}").ErrorCode, "an expired certificate")
			require.NotEqual(t, 403, p.call(p.client(&p.operator), method, path, "{}").ErrorCode)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	p := start(t, nil)
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	require.NoError(t, err)
	server := httpapi.NewServer(p.handler, nil, nil)
	go server.Serve(listener)
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
	defer client.CloseIdleConnections()
	p.url = "http://opscenter"
	var tokens []string
	p.call(client, "GET", "/1.0/provisioning/tokens", "").decode(t, &tokens)
	require.Empty(t, tokens)
	require.Equal(t, 403, p.call(client, "PUT", "/1.0/provisioning/servers/:self", "{}").ErrorCode)
}

func TestTokens(t *testing.T) {
	p := start(t, nil)
	client := p.client(&p.operator)
	require.NoError(t, p.registry.SetChannel(t.Context(), "testing", ""))
	a := p.call(client, "POST", "/1.0/provisioning/tokens", `{"description":"d","uses_remaining":3,"expire_at":"2030-01-01T00:00:00Z","channel":"testing"}`)
	require.Equal(t, 201, a.http.StatusCode)
	location := a.http.Header.Get("Location")
	a = p.call(client, "GET", location, "")
	tag := a.http.Header.Get("ETag")
	var token map[string]any
	a.decode(t, &token)
	uuid := strings.TrimPrefix(location, "/1.0/provisioning/tokens/")
	require.Equal(t, map[string]any{"uuid": uuid, "description": "d", "uses_remaining": 3.0, "expire_at": "2030-01-01T00:00:00Z", "channel": "testing"}, token)

	change := `{"description":"e","uses_remaining":7,"expire_at":"2031-01-01T00:00:00Z","channel":"stable"}`
	require.Equal(t, 412, p.call(client, "PUT", location, change, "If-Match", `"other"`).ErrorCode)
	require.Equal(t, 200, p.call(client, "PUT", location, change, "If-Match", tag).StatusCode)
	require.Equal(t, 412, p.call(client, "PUT", location, change, "If-Match", tag).ErrorCode, "changed in the meantime")
	for body, want := range map[string]int{`{"uses_remaining":-1}`: 400, `{"uses_remaining":"x"}`: 400, `{"channel":"nowhere"}`: 404, `{"expire_at":"yesterday"}`: 400, `{"expire_at":"2001-01-01T00:00:00Z"}`: 400} {
		require.Equal(t, want, p.call(client, "POST", "/1.0/provisioning/tokens", body).ErrorCode, body)
	}
	for path, want := range map[string]int{"/1.0/provisioning/tokens/x": 400, "/1.0/provisioning/tokens/b32d0079-c48b-4957-b1cb-bef54125c861": 404} {
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			require.Equal(t, want, p.call(client, method, path, change).ErrorCode)
		}
	}
	for range 70 {
		p.token(1)
	}
	var paths []string
	p.call(client, "GET", "/1.0/provisioning/tokens", "").decode(t, &paths)
	require.Len(t, paths, 71)
	var full []map[string]any
	p.call(client, "GET", "/1.0/provisioning/tokens?recursion=1", "").decode(t, &full)
	require.Len(t, full, 71)
	require.Equal(t, "/1.0/provisioning/tokens/"+full[0]["uuid"].(string), paths[0])
	require.Equal(t, 200, p.call(client, "DELETE", location, "").StatusCode)
	require.Equal(t, 404, p.call(client, "DELETE", location, "").ErrorCode)
	require.NotContains(t, p.log.String(), uuid, "a token is a secret")
}

// add registers n servers and makes them ready, with facts.
func (p *plane) add(n int, hardware string) []*opscenter.ServerInfo {
	token := p.token(int64(n))
	identity := newCertificate(p.t, "shared key")
	var out []*opscenter.ServerInfo
	for i := range n {
		// Only the raw bytes make the identity here; a key for each would take its time.
		certificate := &x509.Certificate{Raw: append([]byte(fmt.Sprintf("%06d", i)), identity.Leaf.Raw...), PublicKey: identity.Leaf.PublicKey}
		registered, err := p.registry.Register(p.t.Context(), opscenter.Registration{Token: token, Certificate: certificate, Name: fmt.Sprintf("server%04d", i),
			ConnectionURL: fmt.Sprintf("https://10.0.%d.%d:8443", i/250, i%250+1), MachineID: fmt.Sprintf("%032x", i+1)})
		require.NoError(p.t, err)
		info, err := p.registry.Server(p.t.Context(), registered.Name)
		require.NoError(p.t, err)
		kind, none, member := opscenter.TypeIncus, opscenter.NotInMaintenance, info.Name
		require.NoError(p.t, p.registry.RecordObservations(p.t.Context(), opscenter.Observation{Server: info.Name, ID: info.ID, At: time.Now(), Ready: true, Type: &kind, Maintenance: &none, MemberName: &member,
			Versions: &opscenter.Versions{OS: opscenter.OSVersion{Name: opscenter.OSName, Version: "202608010000"}, Applications: []opscenter.ApplicationVersion{{Name: "incus", Version: "202608010000", Primary: true}}},
			Facts:    &opscenter.Facts{Hardware: json.RawMessage(hardware), Network: json.RawMessage(`{"config":{}}`)}}))
		out = append(out, info)
	}
	return out
}

func TestServers(t *testing.T) {
	p := start(t, nil)
	client := p.client(&p.operator)
	p.add(5, `{"cpu":{"total":64}}`)
	require.NoError(t, p.registry.PublishUpdate(t.Context(), "stable", "202608150000", "os"))

	a := p.call(client, "GET", "/1.0/provisioning/servers/server0001", "")
	tag := a.http.Header.Get("ETag")
	var server map[string]any
	a.decode(t, &server)
	for _, name := range []string{"name", "connection_url", "system_uuid", "machine_id", "public_connection_url", "channel", "description", "properties", "certificate",
		"fingerprint", "cluster", "server_type", "hardware_data", "os_data", "version_data", "server_status", "server_status_detail", "last_updated", "last_seen",
		"system_state_is_trusted", "recommended_action", "update_state", "recommended_action_reason"} {
		require.Contains(t, server, name)
	}
	require.Equal(t, "incus", server["server_type"])
	require.Equal(t, "ready", server["server_status"])
	require.Equal(t, "update", server["recommended_action"])
	require.Equal(t, "update pending", server["update_state"])
	require.Contains(t, server["recommended_action_reason"], "os 202608010000 → 202608150000")
	require.Equal(t, map[string]any{"cpu": map[string]any{"total": 64.0}}, server["hardware_data"])
	version := server["version_data"].(map[string]any)
	require.Equal(t, true, version["needs_update"])
	require.Equal(t, 0.0, version["in_maintenance"])
	require.Equal(t, "202608150000", version["os"].(map[string]any)["available_version"])

	// An edit sends back what it got, changed.
	server["description"], server["channel"] = "edited", "stable"
	edited, err := json.Marshal(server)
	require.NoError(t, err)
	path := "/1.0/provisioning/servers/server0001"
	require.Equal(t, 412, p.call(client, "PUT", path, string(edited), "If-Match", "x").ErrorCode)
	require.Equal(t, 200, p.call(client, "PUT", path, string(edited), "If-Match", tag).StatusCode)
	require.Equal(t, 412, p.call(client, "PUT", path, string(edited), "If-Match", tag).ErrorCode)
	require.Equal(t, 200, p.call(client, "PUT", path, string(edited)).StatusCode, "without If-Match the last one wins")
	require.Equal(t, 400, p.call(client, "PUT", path, `{"properties":{"a":{}}}`).ErrorCode)
	require.Equal(t, 404, p.call(client, "PUT", path, `{"channel":"nowhere"}`).ErrorCode)

	require.Equal(t, 201, p.call(client, "POST", path, `{"name":"renamed"}`).http.StatusCode)
	require.Equal(t, 404, p.call(client, "GET", path, "").ErrorCode)
	path = "/1.0/provisioning/servers/renamed"
	require.Equal(t, 409, p.call(client, "POST", path, `{"name":"server0002"}`).ErrorCode)
	require.Equal(t, 400, p.call(client, "POST", path, `{"name":":self"}`).ErrorCode)
	require.Equal(t, 400, p.call(client, "POST", path, `{}`).ErrorCode)
	require.Equal(t, 404, p.call(client, "POST", "/1.0/provisioning/servers/nobody", `{"name":"x"}`).ErrorCode)
	require.Equal(t, 200, p.call(client, "DELETE", path, "").StatusCode)
	require.Equal(t, 404, p.call(client, "DELETE", path, "").ErrorCode)

	// Without a token an operator announces a server.
	a = p.call(client, "POST", "/1.0/provisioning/servers", `{"name":"expected","system_uuid":"af94e64e-1993-41b6-8f10-a8eebb828fce"}`)
	require.Equal(t, 201, a.http.StatusCode)
	require.Equal(t, 409, p.call(client, "POST", "/1.0/provisioning/servers", `{"name":"again","system_uuid":"af94e64e-1993-41b6-8f10-a8eebb828fce"}`).ErrorCode)
	p.call(client, "GET", "/1.0/provisioning/servers/expected", "").decode(t, &server)
	require.Equal(t, "unregistered", server["server_status"])
}

func TestServerLists(t *testing.T) {
	p := start(t, nil)
	client := p.client(&p.operator)
	infos := p.add(100, `{"cpu":{"total":64}}`)
	require.NoError(t, p.registry.SetChannel(t.Context(), "testing", ""))
	require.NoError(t, p.registry.PublishUpdate(t.Context(), "testing", "202608150000", "os"))
	for i, info := range infos {
		if i%10 == 0 {
			require.NoError(t, p.registry.UpdateServer(t.Context(), info.Name, opscenter.ServerSpec{Channel: "testing"}, nil))
		}
	}
	_, err := p.registry.PreRegister(t.Context(), opscenter.Announcing{Name: "expected", MachineID: "ffffffffffffffffffffffffffffff00"})
	require.NoError(t, err)
	for query, want := range map[string]int{"": 101, "status=ready": 100, "status=unregistered": 1, "status=offline": 0, "type=incus": 100, "type=unknown": 1, "channel=testing": 10,
		"cluster=none": 0, "needs_update=true": 10, "needs_update=false": 91, "needs_reboot=true": 0, "in_maintenance=false": 101, "fingerprint=" + infos[7].Fingerprint: 1,
		"status_detail=rebooting": 0, "channel=testing&status=ready&needs_update=1": 10} {
		var paths []string
		p.call(client, "GET", "/1.0/provisioning/servers?"+query, "").decode(t, &paths)
		require.Len(t, paths, want, query)
		var full []map[string]any
		p.call(client, "GET", "/1.0/provisioning/servers?recursion=1&"+query, "").decode(t, &full)
		require.Len(t, full, want, query)
		for i := range full {
			require.Equal(t, "/1.0/provisioning/servers/"+full[i]["name"].(string), paths[i], "filters are honoured alike")
		}
		// Pages.
		var paged []string
		cursor := ""
		for {
			var part []string
			a := p.call(client, "GET", "/1.0/provisioning/servers?limit=33&cursor="+url.QueryEscape(cursor)+"&"+query, "")
			a.decode(t, &part)
			paged = append(paged, part...)
			if cursor = a.NextCursor; cursor == "" {
				break
			}
			require.Len(t, part, 33)
		}
		require.Equal(t, len(paths), len(paged))
		for i := range paths {
			require.Equal(t, paths[i], paged[i])
		}
	}
	var light []map[string]any
	p.call(client, "GET", "/1.0/provisioning/servers?recursion=1&facts=0&limit=2", "").decode(t, &light)
	require.Len(t, light, 2)
	require.NotContains(t, light[0], "hardware_data")
	require.NotContains(t, light[0], "os_data")
	for _, query := range []string{"status=redy", "type=x", "status_detail=x", "limit=0", "limit=-1", "limit=x", "cursor=!!", "recursion=2", "facts=maybe", "needs_update=x", "filter=name", "unheard=of", "status=ready&status=offline", "%zz"} {
		a := p.call(client, "GET", "/1.0/provisioning/servers?"+query, "")
		require.Equal(t, 400, a.ErrorCode, query)
	}
}

func TestLimits(t *testing.T) {
	p := start(t, func(o *httpapi.Options) { o.MaxBody, o.ReadTimeout = 1000, 300*time.Millisecond })
	identity := newCertificate(t, "server")
	client := p.client(&identity)
	a := p.call(client, "POST", registerPath(p.token(1)), `{"name":"`+strings.Repeat("x", 2000)+`"}`)
	require.Equal(t, 413, a.ErrorCode)
	require.Contains(t, a.Error, "1000")

	// A body that does not come is not waited for.
	roots := x509.NewCertPool()
	roots.AddCert(p.own.Leaf)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(p.url, "https://"), &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{identity}})
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "PUT /1.0/provisioning/servers/:self HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	begun := time.Now()
	_, err = io.ReadAll(conn)
	require.NoError(t, err, "answered, and closed")
	require.Less(t, time.Since(begun), 5*time.Second)

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
	a := p.call(client, "POST", registerPath(p.token(1)), registration)
	require.Equal(t, 429, a.ErrorCode, "whatever it tries next")
	require.NotEmpty(t, a.http.Header.Get("Retry-After"))
	require.Equal(t, 200, p.call(p.client(&p.operator), "GET", "/1.0/provisioning/servers", "").StatusCode, "others are not concerned")

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
}

// A long list begins at once, and is not held in memory.
func TestListsAreStreamed(t *testing.T) {
	p := start(t, nil)
	const fleet = 1000
	hardware := fmt.Sprintf(`{"x":%q}`, strings.Repeat("0123456789abcdef", 2560)) // 40 KiB
	p.add(fleet, hardware)
	req, err := http.NewRequestWithContext(t.Context(), "GET", p.url+"/1.0/provisioning/servers?recursion=1", nil)
	require.NoError(t, err)
	client := p.client(&p.operator)
	before := heap()
	begun := time.Now()
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	first := make([]byte, 1)
	_, err = io.ReadFull(resp.Body, first)
	require.NoError(t, err)
	toFirst := time.Since(begun)
	// Read some, and see what the server holds while we wait.
	_, err = io.CopyN(io.Discard, resp.Body, 5<<20)
	require.NoError(t, err)
	grown := heap() - before
	n, err := io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	total := time.Since(begun)
	require.Greater(t, n, int64(30<<20))
	t.Logf("%d MiB: first byte after %s, all after %s, heap grown by %d KiB in the middle", (n+5<<20)>>20, toFirst, total, grown>>10)
	require.Less(t, grown, int64(16<<20), "no second copy of the fleet, which is 40 MiB")
	require.Less(t, toFirst, total/4, "the first byte does not wait for the last server")
}

// A reader that takes its time gets the whole list, however long that is beyond the time for bodies.
func TestSlowReadersGetWholeLists(t *testing.T) {
	p := start(t, func(o *httpapi.Options) { o.ReadTimeout = 100 * time.Millisecond })
	p.add(300, fmt.Sprintf(`{"x":%q}`, strings.Repeat("0123456789abcdef", 2560)))
	req, err := http.NewRequestWithContext(t.Context(), "GET", p.url+"/1.0/provisioning/servers?recursion=1", nil)
	require.NoError(t, err)
	resp, err := p.client(&p.operator).Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	begun := time.Now()
	var text bytes.Buffer
	for range 10 {
		_, err = io.CopyN(&text, resp.Body, 1<<20)
		require.NoError(t, err)
		time.Sleep(50 * time.Millisecond) // what is tested is that time passes
	}
	_, err = io.Copy(&text, resp.Body)
	require.NoError(t, err)
	require.Greater(t, time.Since(begun), 400*time.Millisecond)
	var a answer
	require.NoError(t, json.Unmarshal(text.Bytes(), &a))
}

// An error in the middle of a list cuts the connection: half a list must not look whole.
func TestABrokenListIsNotWhole(t *testing.T) {
	p := start(t, nil)
	p.add(200, fmt.Sprintf(`{"x":%q}`, strings.Repeat("0123456789abcdef", 2560)))
	req, err := http.NewRequestWithContext(t.Context(), "GET", p.url+"/1.0/provisioning/servers?recursion=1", nil)
	require.NoError(t, err)
	resp, err := p.client(&p.operator).Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	_, err = io.ReadFull(resp.Body, make([]byte, 1000))
	require.NoError(t, err)
	require.NoError(t, p.registry.Store().Close())
	_, err = io.ReadAll(resp.Body)
	require.Error(t, err)
	require.True(t, errors.Is(err, io.ErrUnexpectedEOF), "%v", err)
	require.Equal(t, 503, p.call(p.client(&p.operator), "GET", "/1.0/provisioning/servers", "").ErrorCode)
}
