package httpapi_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

func TestOpenEndpoints(t *testing.T) {
	p := start(t, nil)
	var versions []string
	p.call(p.client(nil), "GET", "/", "").decode(t, &versions)
	require.Equal(t, []string{"/1.0"}, versions)
	principal := "certificate " + opscenter.Fingerprint(p.operator.Leaf)[:12]
	for auth, c := range map[string]struct {
		client          *http.Client
		principal, role string
	}{"untrusted": {p.client(nil), "", ""}, "tls": {p.client(&p.operator), principal, "admin"}} {
		var server map[string]any
		p.call(c.client, "GET", "/1.0", "").decode(t, &server)
		require.Equal(t, map[string]any{"api_status": "stable", "api_version": "1.0", "auth": auth, "auth_methods": []any{"tls"}, "server_version": "opscenter",
			"principal": c.principal, "role": c.role}, server)
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
	for _, cause := range append(lifecycle.Causes, "", "of-a-newer-release") {
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

// TestSimulatedServerRegisters: a simulated server registers as a real one does.
func TestSimulatedServerRegisters(t *testing.T) {
	p := start(t, nil)
	server := controltest.Server(t, incusostest.Options{})
	provider := incusostest.Provider{ServerURL: p.url, Token: p.token(1), Certificate: p.own.Leaf}
	require.NoError(t, server.Register(t.Context(), provider))
	require.NoError(t, server.RegisterOnce(t.Context()))
	require.NoError(t, server.SelfUpdate(t.Context(), "storage-config-changed"))
	info, err := p.registry.Server(t.Context(), server.Name())
	require.NoError(t, err)
	require.Equal(t, server.URL(), info.ConnectionURL)
	// The server accepts no other control plane than the pinned one.
	other := newCertificate(t, "other")
	provider.Certificate = other.Leaf
	stranger := controltest.Server(t, incusostest.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, stranger.Register(ctx, provider), "a certificate other than the pinned one")
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
			require.Equal(t, 401, p.call(p.client(nil), method, path, "{}").ErrorCode)
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
	require.Contains(t, p.call(client, "GET", "/1.0", "").text, `"auth":"unix"`)
	require.Equal(t, 201, p.call(client, "POST", "/1.0/provisioning/tokens", "{}").http.StatusCode)
	if runtime.GOOS == "linux" {
		require.Contains(t, p.log.String(), fmt.Sprintf(`principal="unix socket uid %d"`, os.Getuid()))
	}
	require.Equal(t, 403, p.call(client, "PUT", "/1.0/provisioning/servers/:self", "{}").ErrorCode)
}

func TestTokens(t *testing.T) {
	p := start(t, nil)
	client := p.client(&p.operator)
	require.NoError(t, p.registry.Channels().Create(t.Context(), "testing", ""))
	a := p.call(client, "POST", "/1.0/provisioning/tokens", `{"description":"d","uses_remaining":3,"expire_at":"2030-01-01T00:00:00Z","channel":"testing"}`)
	require.Equal(t, 201, a.http.StatusCode)
	location := a.http.Header.Get("Location")
	made := string(a.Metadata)
	a = p.call(client, "GET", location, "")
	require.JSONEq(t, string(a.Metadata), made, "the answer is the token")
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
			body := change
			if method == "DELETE" { // which takes none
				body = ""
			}
			require.Equal(t, want, p.call(client, method, path, body).ErrorCode)
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
		// Only the raw bytes make the identity here; making a key for each takes long.
		certificate := &x509.Certificate{Raw: append([]byte(fmt.Sprintf("%06d", i)), identity.Leaf.Raw...), PublicKey: identity.Leaf.PublicKey}
		registered, err := p.registry.Register(p.t.Context(), opscenter.Registration{Token: token, Certificate: certificate, Name: fmt.Sprintf("server%04d", i),
			ConnectionURL: fmt.Sprintf("https://10.0.%d.%d:8443", i/250, i%250+1), MachineID: fmt.Sprintf("%032x", i+1)})
		require.NoError(p.t, err)
		info, err := p.registry.Server(p.t.Context(), registered.Name)
		require.NoError(p.t, err)
		kind, none, member := lifecycle.TypeIncus, lifecycle.NotInMaintenance, info.Name
		require.NoError(p.t, p.registry.Observer().Record(p.t.Context(), lifecycle.Observation{Server: info.Name, ID: info.ID, At: time.Now(), Ready: true, Type: &kind, Maintenance: &none, MemberName: &member,
			Versions: &lifecycle.Versions{OS: lifecycle.OSVersion{Name: lifecycle.OSName, Version: "202610010000"}, Applications: []lifecycle.ApplicationVersion{{Name: "incus", Version: "202610010000", Primary: true}}},
			Facts:    &lifecycle.Facts{Hardware: json.RawMessage(hardware), Network: json.RawMessage(`{"config":{}}`)}}))
		out = append(out, info)
	}
	return out
}

func TestServers(t *testing.T) {
	p := start(t, nil)
	client := p.client(&p.operator)
	p.add(5, `{"cpu":{"total":64}}`)
	require.NoError(t, p.registry.Channels().Publish(t.Context(), "stable", "202610150000", "os"))

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
	require.Contains(t, server["recommended_action_reason"], "os 202610010000 → 202610150000")
	require.Equal(t, map[string]any{"cpu": map[string]any{"total": 64.0}}, server["hardware_data"])
	version := server["version_data"].(map[string]any)
	require.Equal(t, true, version["needs_update"])
	require.Equal(t, 0.0, version["in_maintenance"])
	require.Equal(t, "202610150000", version["os"].(map[string]any)["available_version"])

	// An edit sends back the document that it got, changed.
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
	require.Equal(t, 404, p.call(client, "POST", "/1.0/provisioning/servers/unknown", `{"name":"x"}`).ErrorCode)
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
	require.NoError(t, p.registry.Channels().Create(t.Context(), "testing", ""))
	require.NoError(t, p.registry.Channels().Publish(t.Context(), "testing", "202610150000", "os"))
	for i, info := range infos {
		if i%10 == 0 {
			require.NoError(t, p.registry.EditServer(t.Context(), info.Name, func(_ *opscenter.ServerInfo, spec *opscenter.ServerSpec) error {
				*spec = opscenter.ServerSpec{Channel: "testing"}
				return nil
			}))
		}
	}
	_, err := p.registry.PreRegister(t.Context(), opscenter.PreRegistration{Name: "expected", MachineID: "ffffffffffffffffffffffffffffff00"})
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
