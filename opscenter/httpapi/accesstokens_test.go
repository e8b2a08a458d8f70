package httpapi_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/accesstoken"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
)

// TestAccessTokens: a token that an administrator makes over the API authenticates a client without a certificate, until it is revoked.
func TestAccessTokens(t *testing.T) {
	p, _, _ := everything(t, func(o *httpapi.Options) {
		o.Authorize = httpapi.AnyOf(o.Authorize, httpapi.TrustAccessTokens(o.AccessTokens))
	})
	admin, client := p.client(&p.operator), p.client(nil)
	const path = "/1.0/access-tokens"
	var made struct {
		accesstoken.Token
		Secret string `json:"token"`
	}
	a := p.call(admin, "POST", path, `{"name":"ci","role":"viewer","scope":{"properties":{"site":"berlin"}}}`)
	require.Equal(t, 201, a.http.StatusCode, a.text)
	require.Equal(t, "no-store", a.http.Header.Get("Cache-Control"))
	a.decode(t, &made)
	location := a.http.Header.Get("Location")
	require.Equal(t, path+"/"+made.UUID, location)
	require.Equal(t, access.Grant{Role: access.RoleViewer, Scope: access.Scope{Properties: map[string]string{"site": "berlin"}}}, made.Grant)
	require.Contains(t, made.CreatedBy, "certificate ")

	ask := func(method, path string, authorization ...string) *answer {
		r, err := http.NewRequestWithContext(t.Context(), method, p.url+path, nil)
		require.NoError(t, err)
		r.Header["Authorization"] = authorization
		resp, err := client.Do(r)
		require.NoError(t, err)
		resp.Body.Close()
		return &answer{http: resp}
	}
	const servers = "/1.0/provisioning/servers"
	require.Equal(t, 200, ask("GET", servers, "Bearer "+made.Secret).http.StatusCode)
	require.Equal(t, 200, ask("GET", servers, "bearer "+made.Secret).http.StatusCode, "schemes have no case")
	var server map[string]any
	p.call(client, "GET", "/1.0", "", "Authorization", "Bearer "+made.Secret).decode(t, &server)
	require.Equal(t, "access token ci", server["principal"])
	require.Equal(t, "viewer", server["role"])
	for _, wrong := range [][]string{{"Bearer " + made.Secret + "x"}, {"Bearer "}, {"Bearer"}, {"Basic " + made.Secret}, {"Bearer " + made.Secret, "Bearer " + made.Secret},
		{"Bearer " + strings.Repeat("x", 9<<10)}, {"Bearer " + made.UUID}} {
		require.Equal(t, 403, ask("GET", servers, wrong...).http.StatusCode, "%.60q", wrong)
	}
	require.Equal(t, 401, ask("GET", servers).http.StatusCode)
	for _, more := range []string{path, "/1.0/audit", servers + "/a"} { // the role, and twice the scope
		require.Equal(t, 403, ask("GET", more, "Bearer "+made.Secret).http.StatusCode, more)
	}
	require.JSONEq(t, `["`+location+`"]`, string(p.call(admin, "GET", path, "").Metadata))
	for _, shown := range []*answer{p.call(admin, "GET", path+"?recursion=1", ""), p.call(admin, "GET", location, "")} {
		require.Contains(t, shown.text, `"name":"ci"`)
		require.NotContains(t, shown.text, made.Secret)
	}
	for body, status := range map[string]int{`{"name":"ci","role":"viewer"}`: 409, `{"name":"x"}`: 400, `{"name":"x","role":"owner"}`: 400, `{"name":"x","role":"viewer","expire_at":"2001-01-01T00:00:00Z"}`: 400,
		`{"name":"x","role":"viewer","scope":{"channels":[""]}}`: 400, `{"name":"x","role":"viewer","scop":{}}`: 400} {
		require.Equal(t, status, p.call(admin, "POST", path, body).ErrorCode, body)
	}
	require.Equal(t, 200, p.call(admin, "DELETE", location, "").StatusCode)
	require.Equal(t, 403, ask("GET", servers, "Bearer "+made.Secret).http.StatusCode)
	require.Equal(t, 404, p.call(admin, "DELETE", location, "").ErrorCode)
	require.NotContains(t, p.log.String(), made.Secret)
	entries := p.call(admin, "GET", "/1.0/audit", "")
	require.Contains(t, entries.text, "POST /1.0/access-tokens")
	require.Contains(t, entries.text, `"action":"DELETE /1.0/access-tokens/{uuid}","object":"`+made.UUID+`"`)
	require.NotContains(t, entries.text, made.Secret)
	require.WithinDuration(t, time.Now().Add(accesstoken.DefaultLifetime), made.ExpireAt, time.Minute)
}
