package httpapi_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// byHeader is an embedder's authorizer: a header holds the grant, as a proxy in front would set it.
func byHeader(r *http.Request) (access.Principal, error) {
	text := r.Header.Get("X-Grant")
	if text == "" {
		return access.Principal{}, access.ErrUnauthenticated
	}
	p := access.Principal{Name: "tester"}
	err := json.Unmarshal([]byte(text), &p.Grant)
	return p, err
}

// as is the header of a grant.
func as(t testing.TB, role access.Role, scope access.Scope) []string {
	data, err := json.Marshal(access.Grant{Role: role, Scope: scope})
	require.NoError(t, err)
	return []string{"X-Grant", string(data)}
}

// paths fills in the variable parts of a route's path. The objects need not exist.
var paths = strings.NewReplacer("clusters/{name}", "clusters/c9", "servers/{name}", "servers/a", "{name...}", "x", "{path...}", "1.0/system/kernel", "{name}", "x", "{uuid}", strings.Repeat("0", 36),
	"{action}", ":pause", "{image}", "x", "{public}", "x", "{$}", "")

// TestRoles tries each route with each role, with an unknown role and without credentials.
func TestRoles(t *testing.T) {
	p, _, _ := everything(t, func(o *httpapi.Options) {
		o.Authorize = httpapi.AnyOf(byHeader, httpapi.TrustCertificates(o.ClientCertificate))
	})
	client, unknown := p.client(nil), p.client(&p.operator)
	tried := 0
	for _, route := range p.handler.Routes() {
		if route.Role == "" || strings.HasSuffix(route.Path, ":watch") {
			continue // the latter answers without end
		}
		tried++
		method := route.Method
		if method == "" {
			method = "PUT" // of a server's own API
		}
		path, name := paths.Replace(route.Path), method+" "+route.Path
		body := ""
		if method != "GET" && method != "DELETE" {
			body = `{"zzz":1}` // is refused, so that nothing changes
		}
		before := p.store.rows(t)
		a := p.call(client, method, path, body)
		require.Equal(t, 401, a.ErrorCode, "%s: %s", name, a.text)
		require.Contains(t, a.http.Header.Get("WWW-Authenticate"), "Bearer", name)
		require.Equal(t, 403, p.call(unknown, method, path, body).ErrorCode, "%s: a certificate is shown that is not admitted", name)
		for _, role := range append([]access.Role{"", "owner"}, access.Roles...) {
			if role.Includes(route.Role) && method == "DELETE" {
				continue // carries something out
			}
			a := p.call(client, method, path, body, as(t, role, access.Scope{})...)
			if role.Includes(route.Role) {
				require.NotContains(t, []int{401, 403}, a.ErrorCode, "%s as %s: %s", name, role, a.text)
				continue
			}
			require.Equal(t, 403, a.ErrorCode, "%s as %s: %s", name, role, a.text)
			require.Contains(t, a.Error, string(route.Role))
		}
		require.Equal(t, before, p.store.rows(t), name)
	}
	require.Greater(t, tried, 100)
	// The machine that is trusted as a server is decided by administrators.
	for _, body := range []string{`{"connection_url":"https://10.9.9.9:8443"}`, `{"public_connection_url":"https://evil.example:8443"}`} {
		a := p.call(client, "PUT", "/1.0/provisioning/servers/b", body, as(t, access.RoleOperator, access.Scope{})...)
		require.Equal(t, 403, a.ErrorCode, a.text)
		require.Equal(t, 200, p.call(client, "PUT", "/1.0/provisioning/servers/b", body, as(t, access.RoleAdmin, access.Scope{})...).StatusCode)
		require.Equal(t, 200, p.call(client, "PUT", "/1.0/provisioning/servers/b", body, as(t, access.RoleOperator, access.Scope{})...).StatusCode, "unchanged")
	}
	require.Equal(t, 200, p.call(client, "PUT", "/1.0/provisioning/servers/b", `{"description":"x"}`, as(t, access.RoleOperator, access.Scope{})...).StatusCode)
	require.Equal(t, 403, p.call(client, "POST", "/1.0/provisioning/updates/:refresh?force=1", "", as(t, access.RoleOperator, access.Scope{})...).ErrorCode, "an older index")
	// A client without a valid grant sees no more than other clients.
	for _, grant := range [][]string{as(t, "", access.Scope{}), as(t, "owner", access.Scope{}), as(t, access.RoleAdmin, access.Scope{Clusters: []string{""}})} {
		var server map[string]any
		p.call(client, "GET", "/1.0", "", grant...).decode(t, &server)
		require.Equal(t, "untrusted", server["auth"])
		require.Equal(t, 403, p.call(client, "GET", "/1.0/provisioning/servers", "", grant...).ErrorCode)
	}
	require.Contains(t, p.log.String(), "principal=tester")
	// Operators read servers' own APIs, and do not write them.
	forwarded := "/1.0/provisioning/servers/a/os/1.0/system/kernel"
	require.Equal(t, 403, p.call(client, "GET", forwarded, "", as(t, access.RoleViewer, access.Scope{})...).ErrorCode)
	require.Equal(t, 200, p.call(client, "GET", forwarded, "", as(t, access.RoleOperator, access.Scope{})...).StatusCode)
	require.Equal(t, 403, p.call(client, "PUT", forwarded, "{}", as(t, access.RoleOperator, access.Scope{})...).ErrorCode)
}

// TestScopes: a principal with a scope deals with the servers and clusters in it, and uses no route that shows or changes more.
func TestScopes(t *testing.T) {
	p, _, _ := everything(t, func(o *httpapi.Options) { o.Authorize = byHeader })
	client := p.client(nil)
	berlin := access.Scope{Properties: map[string]string{"site": "berlin"}}
	edit := func(name string, properties map[string]string) {
		require.NoError(t, p.registry.EditServer(t.Context(), name, func(_ *opscenter.ServerInfo, spec *opscenter.ServerSpec) error {
			spec.Properties = properties
			return nil
		}))
	}
	edit("a", berlin.Properties)
	edit("b", map[string]string{"site": "berlin", "rack": "3"})
	edit("c", map[string]string{"site": "bonn"})
	for name, spec := range map[string]opscenter.ClusterSpec{"inside": {Properties: berlin.Properties}, "mixed": {Properties: berlin.Properties}, "outside": {}} {
		_, err := p.registry.CreateCluster(t.Context(), name, spec)
		require.NoError(t, err)
	}
	foreign := controltest.Server(t, incusostest.Options{Name: "foreign"})
	require.NoError(t, p.registry.Adopt(t.Context(), opscenter.Adoption{Cluster: "adopted", Certificate: foreign.Certificate(), Servers: []opscenter.AdoptedServer{{Name: "foreign", ConnectionURL: foreign.URL(), Certificate: foreign.Certificate()}}}))
	require.NoError(t, p.registry.EditCluster(t.Context(), "adopted", func(_ *opscenter.Cluster, spec *opscenter.ClusterSpec) error {
		spec.Properties = berlin.Properties // its member has none
		return nil
	}))
	list := func(path string, scope access.Scope) (found []string) {
		p.call(client, "GET", path, "", as(t, access.RoleViewer, scope)...).decode(t, &found)
		return found
	}
	const servers, clusters = "/1.0/provisioning/servers", "/1.0/provisioning/clusters"
	require.Equal(t, []string{servers + "/a", servers + "/b"}, list(servers, berlin))
	require.Equal(t, []string{servers + "/b"}, list(servers, access.Scope{Properties: map[string]string{"site": "berlin", "rack": "3"}}))
	require.Equal(t, []string{servers + "/a"}, list(servers+`?filter=name+%3D%3D+"a"`, berlin))
	require.Empty(t, list(servers+`?filter=name+%3D%3D+"c"`, berlin))
	require.Equal(t, []string{servers + "/foreign"}, list(servers, access.Scope{Clusters: []string{"adopted"}}))
	require.Equal(t, []string{clusters + "/inside", clusters + "/mixed"}, list(clusters, berlin), "a cluster with a member outside is outside")
	var whole []struct{ Name string }
	p.call(client, "GET", servers+"?recursion=1", "", as(t, access.RoleViewer, berlin)...).decode(t, &whole)
	require.Len(t, whole, 2)

	ask := func(method, path string) int {
		a := p.call(client, method, path, "", as(t, access.RoleAdmin, berlin)...)
		return max(a.StatusCode, a.ErrorCode)
	}
	require.Equal(t, 200, ask("GET", servers+"/a"))
	require.Equal(t, 403, ask("GET", servers+"/c"))
	require.Equal(t, 403, ask("GET", servers+"/nowhere"), "as of a server outside")
	for _, path := range []string{clusters + "/nowhere", "/1.0/provisioning/rollouts/nowhere", "/1.0/provisioning/changes/nowhere", "/1.0/provisioning/batches/nowhere"} {
		require.Equal(t, 403, ask("GET", path), path)
	}
	require.Equal(t, 200, ask("POST", servers+"/a/:resync"))
	require.Equal(t, 403, ask("POST", servers+"/c/:resync"))
	require.Equal(t, 200, ask("GET", servers+"/a/os/1.0/system/kernel"))
	require.Equal(t, 403, ask("GET", servers+"/c/os/1.0/system/kernel"))
	require.Equal(t, 200, ask("GET", clusters+"/inside"))
	require.Equal(t, 403, ask("GET", clusters+"/outside"))
	require.Equal(t, 403, ask("GET", clusters+"/adopted"))
	// The rollout of an action is in the scope of its server, and its change too.
	start := p.call(client, "POST", servers+"/a/system/:reboot", "", as(t, access.RoleOperator, berlin)...)
	require.Equal(t, 200, start.StatusCode, start.text)
	rollout := start.http.Header.Get("Location")
	require.Equal(t, 200, ask("GET", rollout))
	require.Equal(t, 200, ask("GET", rollout+"/units"))
	require.Equal(t, 200, ask("POST", rollout+"/:cancel"))
	other := p.call(client, "POST", servers+"/c/system/:reboot", "", as(t, access.RoleOperator, access.Scope{})...).http.Header.Get("Location")
	require.NotEmpty(t, other)
	require.Equal(t, 403, ask("GET", other))
	require.Equal(t, 403, ask("POST", other+"/:cancel"))

	admin := as(t, access.RoleAdmin, access.Scope{})
	// Warnings are those of servers in the scope.
	for _, name := range []string{"a", "c", ""} {
		require.NoError(t, p.registry.Warnings().Raise(t.Context(), name, warning.Input{Kind: "tried", Message: "of " + name}))
	}
	var all, seen []struct{ UUID string }
	p.call(client, "GET", "/1.0/warnings?type=tried", "", admin...).decode(t, &all)
	p.call(client, "GET", "/1.0/warnings?type=tried", "", as(t, access.RoleViewer, berlin)...).decode(t, &seen)
	require.Len(t, all, 3)
	require.Len(t, seen, 1)
	for _, w := range all {
		path, wanted := "/1.0/warnings/"+w.UUID, 403
		if w.UUID == seen[0].UUID {
			wanted = 200
		}
		require.Equal(t, wanted, ask("GET", path))
		a := p.call(client, "PUT", path, `{"status":"acknowledged"}`, as(t, access.RoleOperator, berlin)...)
		require.Equal(t, wanted, max(a.StatusCode, a.ErrorCode), a.text)
	}
	// The name of a cluster may be that of a server in no cluster.
	_, err := p.registry.CreateCluster(t.Context(), "c", opscenter.ClusterSpec{Properties: berlin.Properties})
	require.NoError(t, err)
	require.Equal(t, 403, ask("POST", clusters+"/c/:resync-inventory"))
	// A filter is not evaluated for what is outside: its errors would tell of that.
	for _, description := range []string{"door", "dior"} {
		path := clusters + "?filter=" + url.QueryEscape(`name=="outside" && description startsWith "`+description+`" || int("x")>0`)
		a := p.call(client, "GET", path, "", as(t, access.RoleViewer, access.Scope{Clusters: []string{"none"}})...)
		require.Equal(t, 200, a.StatusCode, a.text)
	}
	// Rows name servers by IDs: another server that takes over a name takes over no change.
	setting := p.call(client, "PUT", servers+"/d/system/kernel", `{"config":{"blacklist_modules":["x"]}}`, admin...)
	changed := setting.http.Header.Get("Location")
	require.NotEmpty(t, changed, setting.text)
	require.Equal(t, 403, ask("GET", changed))
	require.NoError(t, p.registry.RenameServer(t.Context(), "d", "d-old", nil))
	require.NoError(t, p.registry.RenameServer(t.Context(), "a", "d", nil))
	require.Equal(t, 403, ask("GET", changed))
	require.NoError(t, p.registry.RenameServer(t.Context(), "d", "a", nil))

	tried := 0
	for _, route := range p.handler.Routes() {
		if route.Role == "" || route.Scoped || strings.HasSuffix(route.Path, ":watch") {
			continue
		}
		before := p.store.rows(t)
		a := p.call(client, route.Method, paths.Replace(route.Path), "", as(t, access.RoleAdmin, berlin)...)
		tried++
		require.Equal(t, 403, a.ErrorCode, "%s %s: %s", route.Method, route.Path, a.text)
		require.Contains(t, a.Error, "scope")
		require.Equal(t, before, p.store.rows(t))
	}
	require.Greater(t, tried, 60)
}

// TestScopeOfARollout: a rollout may have more servers than a cluster in the scope. It is not shown then, and not canceled by the cluster's route.
func TestScopeOfARollout(t *testing.T) {
	p, _ := operated(t, "a", "d")
	client := p.client(nil)
	admin, scoped := as(t, access.RoleAdmin, access.Scope{}), as(t, access.RoleOperator, access.Scope{Clusters: []string{"c1"}})
	require.Equal(t, 201, p.call(client, "POST", "/1.0/provisioning/clusters", `{"name":"c1","server_names":["a"]}`, admin...).http.StatusCode)
	for _, c := range []struct {
		selector string
		status   int
	}{{`{"all":true}`, 403}, {`{"clusters":["c1"]}`, 200}} {
		started := p.call(client, "POST", "/1.0/provisioning/rollouts?dry-run=0", `{"selector":`+c.selector+`,"policy":{"goal":"reboot"}}`, admin...)
		require.Equal(t, 201, started.http.StatusCode, started.text)
		place := started.http.Header.Get("Location")
		require.Equal(t, 200, p.call(client, "POST", place+"/:pause", "", admin...).StatusCode)
		var shown struct {
			UpdateStatus struct {
				InProgressStatus map[string]any `json:"in_progress_status"`
			} `json:"update_status"`
		}
		p.call(client, "GET", "/1.0/provisioning/clusters/c1", "", scoped...).decode(t, &shown)
		require.NotEmpty(t, shown.UpdateStatus.InProgressStatus["in_progress"])
		require.Equal(t, c.status == 200, shown.UpdateStatus.InProgressStatus["rollout"] == place)
		for _, path := range []string{place + "/:cancel", "/1.0/provisioning/clusters/c1/:cancel-operation"} {
			a := p.call(client, "POST", path+"?mode=stop", "", scoped...)
			require.Equal(t, c.status, max(a.StatusCode, a.ErrorCode), "%s: %s", path, a.text)
			if c.status == 200 {
				break // the second one finds nothing under way
			}
		}
		p.call(client, "POST", place+"/:cancel?mode=stop", "", admin...)
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			text := p.call(client, "GET", place, "", admin...).text
			if strings.Contains(text, `"status":"cancelled"`) {
				break
			}
			require.True(t, time.Now().Before(deadline), text)
		}
	}
	// A server that was removed is in no scope, and hides nothing of the cluster.
	started := p.call(client, "POST", "/1.0/provisioning/rollouts?dry-run=0", `{"selector":{"all":true},"policy":{"goal":"reboot"}}`, admin...)
	require.Equal(t, 200, p.call(client, "POST", started.http.Header.Get("Location")+"/:pause", "", admin...).StatusCode)
	require.NoError(t, p.registry.DeleteServer(t.Context(), "d", true))
	require.Equal(t, 200, p.call(client, "GET", "/1.0/provisioning/clusters/c1", "", scoped...).StatusCode)
	require.Equal(t, 403, p.call(client, "GET", started.http.Header.Get("Location"), "", scoped...).ErrorCode)
}

// TestAs: a grant lowers what an authorizer allows, and never raises it.
func TestAs(t *testing.T) {
	trusted := func(*http.Request) (access.Principal, error) {
		return access.Principal{Name: "x", Grant: access.Grant{Role: access.RoleOperator, Scope: access.Scope{Channels: []string{"stable"}}}}, nil
	}
	r, err := http.NewRequestWithContext(t.Context(), "GET", "/", nil)
	require.NoError(t, err)
	got, err := httpapi.As(access.Grant{Role: access.RoleViewer, Scope: access.Scope{Clusters: []string{"c"}}}, trusted)(r)
	require.NoError(t, err)
	require.Equal(t, access.Principal{Name: "x", Grant: access.Grant{Role: access.RoleViewer, Scope: access.Scope{Channels: []string{"stable"}, Clusters: []string{"c"}}}}, got)
	got, err = httpapi.As(access.Grant{Role: access.RoleAdmin}, trusted)(r)
	require.NoError(t, err)
	require.Equal(t, access.RoleOperator, got.Role)
	_, err = httpapi.As(access.Grant{Role: access.RoleAdmin, Scope: access.Scope{Channels: []string{"edge"}}}, trusted)(r)
	require.ErrorIs(t, err, access.ErrForbidden)
	_, err = httpapi.As(access.Grant{Role: "owner"}, trusted)(r)
	require.ErrorIs(t, err, access.ErrInvalid)
	refused := func(*http.Request) (access.Principal, error) { return access.Principal{}, access.ErrUnauthenticated }
	_, err = httpapi.As(access.Grant{Role: access.RoleAdmin}, refused)(r)
	require.ErrorIs(t, err, access.ErrUnauthenticated)
	_, err = httpapi.AnyOf()(r)
	require.ErrorIs(t, err, access.ErrUnauthenticated)
	_, err = httpapi.AnyOf(refused, func(*http.Request) (access.Principal, error) { return access.Principal{}, access.ErrForbidden }, refused)(r)
	require.ErrorIs(t, err, access.ErrForbidden, "credentials were shown")
}
