package httpapi_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

func TestWarnings(t *testing.T) {
	p := start(t, nil)
	client := p.client(&p.operator)
	p.add(1, `{}`)
	require.NoError(t, p.registry.Warnings().Raise(t.Context(), "server0000", warning.Input{Kind: warning.Flapping, Message: "up and down"}))
	require.NoError(t, p.registry.Warnings().Raise(t.Context(), "", warning.Input{Kind: warning.Fleet, Message: "5 of 5"}))

	list := func(query string) []map[string]any {
		t.Helper()
		answer := p.call(client, "GET", "/1.0/warnings"+query, "")
		require.Equal(t, 200, answer.StatusCode, answer.Error)
		var out []map[string]any
		require.NoError(t, json.Unmarshal(answer.Metadata, &out))
		return out
	}
	all := list("")
	require.Len(t, all, 2)
	require.Equal(t, "Server flapping", all[0]["type"])
	require.Equal(t, map[string]any{"scope": "poll", "entity_type": "server", "entity": "server0000"}, all[0]["scope"])
	require.Equal(t, []any{"up and down"}, all[0]["messages"])
	require.Equal(t, "new", all[0]["status"])
	require.EqualValues(t, 1, all[0]["count"])
	for _, field := range []string{"first_occurrence", "last_occurrence", "last_updated"} {
		at, err := time.Parse(time.RFC3339, all[0][field].(string))
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), at, time.Minute)
	}
	require.Equal(t, map[string]any{"scope": "poll", "entity_type": "fleet", "entity": ""}, all[1]["scope"])
	east, err := opscenter.NewRegistry(p.store, opscenter.Options{Controller: "east"})
	require.NoError(t, err)
	require.NoError(t, east.Warnings().Raise(t.Context(), "", warning.Input{Kind: warning.Local}))
	require.Equal(t, map[string]any{"scope": "poll", "entity_type": "controller", "entity": "east"}, list("")[2]["scope"])
	require.Len(t, list("?recursion=1&server=server0000"), 1)
	require.Len(t, list("?type=Fleet+unreachable"), 1)
	require.Len(t, list("?limit=1"), 1)
	require.Empty(t, list("?status=acknowledged"))

	path := "/1.0/warnings/" + all[0]["uuid"].(string)
	answer := p.call(client, "GET", path, "")
	require.Equal(t, 200, answer.StatusCode)
	tag := answer.http.Header.Get("ETag")
	require.NotEmpty(t, tag)
	require.Equal(t, 200, p.call(client, "PUT", path, `{"status":"acknowledged"}`, "If-Match", tag).StatusCode)
	require.Equal(t, 412, p.call(client, "PUT", path, `{"status":"new"}`, "If-Match", tag).ErrorCode, "changed in the meantime")
	require.Len(t, list("?status=acknowledged"), 1)
	require.Equal(t, 400, p.call(client, "PUT", path, `{"status":"ignored"}`).ErrorCode)
	require.Equal(t, 400, p.call(client, "PUT", path, `{}`).ErrorCode)
	require.Equal(t, 400, p.call(client, "GET", "/1.0/warnings?status=old", "").ErrorCode)
	require.Equal(t, 400, p.call(client, "GET", "/1.0/warnings?color=red", "").ErrorCode)
	require.Equal(t, 404, p.call(client, "GET", "/1.0/warnings?server=unknown", "").ErrorCode)
	require.Equal(t, 404, p.call(client, "GET", "/1.0/warnings/nothing", "").ErrorCode)
	require.Equal(t, 404, p.call(client, "PUT", "/1.0/warnings/nothing", `{"status":"new"}`).ErrorCode)
	require.Equal(t, http.StatusUnauthorized, p.call(p.client(nil), "GET", "/1.0/warnings", "").ErrorCode, "for operators only")
}

func TestAcceptCertificate(t *testing.T) {
	p := start(t, nil)
	client := p.client(&p.operator)
	p.add(1, `{}`)
	fingerprint := strings.Repeat("ab", 32)
	path := "/1.0/provisioning/servers/server0000/:accept-certificate"
	require.Equal(t, 200, p.call(client, "POST", path, `{"fingerprint":"`+fingerprint+`"}`).StatusCode)
	info, err := p.registry.Server(t.Context(), "server0000")
	require.NoError(t, err)
	require.Equal(t, fingerprint, info.ServedFingerprint)
	answer := p.call(client, "GET", "/1.0/provisioning/servers/server0000", "")
	require.Contains(t, string(answer.Metadata), `"served_fingerprint":"`+fingerprint+`"`)
	require.Equal(t, 400, p.call(client, "POST", path, `{"fingerprint":"ab"}`).ErrorCode)
	require.Equal(t, 400, p.call(client, "POST", path, `{}`).ErrorCode, "taking it back is said with an empty one")
	require.Equal(t, 200, p.call(client, "POST", path, `{"fingerprint":""}`).StatusCode)
	require.Equal(t, 404, p.call(client, "POST", "/1.0/provisioning/servers/two/:accept-certificate", `{"fingerprint":""}`).ErrorCode)
	require.Equal(t, http.StatusUnauthorized, p.call(p.client(nil), "POST", path, `{"fingerprint":""}`).ErrorCode)
}
