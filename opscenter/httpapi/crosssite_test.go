package httpapi_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
)

// TestCrossSite: each route that changes something refuses pages of other sites, and forms.
func TestCrossSite(t *testing.T) {
	p, _, _ := everything(t)
	client := p.client(&p.operator)
	routes := append(operatorRoutes(p.handler), "POST /1.0/provisioning/servers", "PUT /1.0/provisioning/servers/{name}/os/1.0/system/kernel", "DELETE /1.0/provisioning/servers/{name}/os/1.0/x")
	changing := 0
	for _, route := range routes {
		method, path, _ := strings.Cut(route, " ")
		if method == "GET" {
			continue
		}
		changing++
		path = strings.NewReplacer("clusters/{name}", "clusters/c9", "{name}", "a", "{uuid}", strings.Repeat("0", 36), "{action}", ":pause").Replace(path)
		before := p.store.rows(t)
		for _, header := range [][]string{
			{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"},
		} {
			a := p.call(client, method, path, "", header...)
			require.Equal(t, 403, a.ErrorCode, "%s %v: %s", route, header, a.text)
			require.Contains(t, a.Error, "another site")
		}
		for _, kind := range []string{"text/plain", "text/plain; charset=UTF-8", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""} {
			require.Equal(t, 415, p.call(client, method, path, "{}", "Content-Type", kind).ErrorCode, "%s %q", route, kind)
		}
		require.Equal(t, before, p.store.rows(t), route)
		for _, header := range [][]string{{"Sec-Fetch-Site", "same-origin"}, {"Sec-Fetch-Site", "none"}, {"Origin", p.url}, {"Content-Type", "application/json; charset=utf-8"}} {
			require.NotContains(t, []int{403, 415}, p.call(client, method, path, `{"zzz":1}`, header...).ErrorCode, "%s %v", route, header)
		}
	}
	require.Greater(t, changing, 30)
	for site, status := range map[string]int{"cross-site": 403, "same-site": 403, "same-origin": 200, "none": 200} {
		a := p.call(client, "GET", "/1.0/provisioning/servers", "", "Sec-Fetch-Site", site)
		require.Equal(t, status, a.http.StatusCode, "a browser shows what it loads, and some of it has effects: %s", site)
		require.Equal(t, []string{"no-store", "nosniff", "same-origin"}, []string{a.http.Header.Get("Cache-Control"), a.http.Header.Get("X-Content-Type-Options"), a.http.Header.Get("Cross-Origin-Resource-Policy")})
	}
	// A server's own API decides on the media types that it takes.
	require.NotEqual(t, 415, p.call(client, "POST", serversPath+"a/os/1.0/x", "{}", "Content-Type", "application/x-tar").ErrorCode)
}

// TestTrustedOrigins: pages of Options.Origins may use the API from a browser.
func TestTrustedOrigins(t *testing.T) {
	p := start(t, func(o *httpapi.Options) { o.Origins = []string{"https://ops.example.com"} })
	client := p.client(&p.operator)
	create := func(origin string) int {
		return p.call(client, "POST", "/1.0/provisioning/tokens", "{}", "Origin", origin, "Sec-Fetch-Site", "cross-site").http.StatusCode
	}
	require.Equal(t, 201, create("https://ops.example.com"))
	for _, origin := range []string{"http://ops.example.com", "https://ops.example.com:8443", "https://ops.example.com.evil.example", "https://example.com"} {
		require.Equal(t, 403, create(origin), origin)
	}
	for _, options := range []httpapi.Options{{Origins: []string{"ops.example.com"}}, {Origins: []string{"https://ops.example.com/path"}}, {Hosts: []string{""}}, {Hosts: []string{"https://x"}}, {Hosts: []string{"a b"}}, {Hosts: []string{"a:1"}}, {Hosts: []string{"u@a"}}} {
		options.ClientCertificate = p.own.Leaf
		_, err := httpapi.New(p.registry, options)
		require.ErrorIs(t, err, opscenter.ErrInvalidOptions, "%+v", options)
	}
}

// TestHosts: with Options.Hosts the operators' API answers under these names alone. Servers' routes answer under all names.
func TestHosts(t *testing.T) {
	p := start(t, func(o *httpapi.Options) { o.Hosts = []string{"127.0.0.1", "Ops.example.com", "::1"} })
	client := p.client(&p.operator)
	under := func(host, method, path, body string) int {
		req, err := http.NewRequestWithContext(t.Context(), method, p.url+path, strings.NewReader(body))
		require.NoError(t, err)
		req.Host = host
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode
	}
	for _, host := range []string{"", "127.0.0.1", "127.0.0.1:99", "ops.example.com", "OPS.example.com:443", "[::1]", "[::1]:7443"} {
		require.Equal(t, 200, under(host, "GET", "/1.0/provisioning/servers", ""), host)
	}
	for _, host := range []string{"evil.example", "ops.example.com.evil.example", "127.0.0.2", "localhost"} {
		require.Equal(t, 421, under(host, "GET", "/1.0/provisioning/servers", ""), host)
		require.Equal(t, 421, under(host, "POST", "/1.0/provisioning/tokens", "{}"), host)
	}
	require.Equal(t, 201, under("any.example", "POST", registerPath(p.token(1)), registration), "a server")
}
