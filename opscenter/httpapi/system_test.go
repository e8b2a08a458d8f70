package httpapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/poller"
)

const serversPath = "/1.0/provisioning/servers/"

// changing is a plane that changes servers, with simulated ones.
func changing(t *testing.T, change func(*httpapi.Options), names ...string) (*plane, map[string]*incusostest.Server) {
	t.Helper()
	var polls *poller.Poller
	var manager *system.Manager
	p := startWith(t, func(p *plane, o *httpapi.Options) {
		client := controltest.Client(t, incusos.Options{Certificate: &p.own, Timeout: 5 * time.Second})
		var err error
		polls, err = poller.New(p.registry, client, poller.Options{Timeout: 20 * time.Second, FastInterval: 20 * time.Millisecond, RetryInterval: 50 * time.Millisecond})
		require.NoError(t, err)
		o.Audit, err = audit.New(p.registry, audit.Options{})
		require.NoError(t, err)
		manager, err = system.New(p.registry, client, system.Options{Audit: o.Audit, Interval: 10 * time.Millisecond, Steady: 30 * time.Millisecond, MinTimeout: 1, ConfirmationTimeout: 10 * time.Second, LeaveUpdates: true,
			Provider: system.Provider{ServerURL: "https://127.0.0.1:1", Certificate: p.own.Leaf}})
		require.NoError(t, err)
		o.System, o.Forward = manager, client
		if change != nil {
			change(o)
		}
	})
	controltest.Background(t, manager.Run, polls.Run)
	servers := map[string]*incusostest.Server{}
	for _, name := range names {
		server := p.boot(incusostest.Options{Name: name})
		servers[name] = server
		p.settled(name)
	}
	return p, servers
}

// settled waits until a server is ready, with nothing under way.
func (p *plane) settled(name string) {
	p.t.Helper()
	require.Eventually(p.t, func() bool {
		info, err := p.registry.Server(p.t.Context(), name)
		return err == nil && info.State.Status == lifecycle.StatusReady && info.State.StatusDetail == lifecycle.DetailNone
	}, 30*time.Second, 10*time.Millisecond)
}

func TestSystemNetwork(t *testing.T) {
	p, servers := changing(t, nil, "a")
	client := p.client(&p.operator)
	path := serversPath + "a/system/network"
	got := p.call(client, "GET", path, "")
	require.Equal(t, "sync", got.Type, got.text)
	tag := got.http.Header.Get("ETag")
	require.NotEmpty(t, tag)
	require.NotContains(t, got.text, "simulated-")
	require.NotContains(t, got.text, "c2ltdWxhdGVkLXBy")
	var n struct {
		Config map[string]any `json:"config"`
		State  map[string]any `json:"state"`
	}
	require.NoError(t, json.Unmarshal(got.Metadata, &n))
	require.NotEmpty(t, n.State)
	host := fmt.Sprintf("127.252.%d.%d", time.Now().UnixNano()%250+1, time.Now().UnixNano()/1000%250+1)
	n.Config["interfaces"].([]any)[0].(map[string]any)["addresses"] = []any{host + "/8"}
	body, err := json.Marshal(map[string]any{"config": n.Config})
	require.NoError(t, err)

	a := p.call(client, "PUT", path+"?dry-run=1", string(body))
	require.Contains(t, string(a.Metadata), `interfaces[mgmt].addresses`)
	require.Equal(t, http.StatusPreconditionFailed, p.call(client, "PUT", path, string(body), "If-Match", `"other"`).ErrorCode)
	a = p.call(client, "PUT", path, string(body), "If-Match", tag)
	require.Equal(t, "sync", a.Type, a.text)
	require.JSONEq(t, "null", string(a.Metadata))
	require.Equal(t, "https://"+host+":8443", servers["a"].URL())
	place := a.http.Header.Get("Location")
	shown := p.call(client, "GET", place, "")
	require.Contains(t, string(shown.Metadata), `"status":"done"`)
	require.Contains(t, string(shown.Metadata), `"requested_by":"certificate `)
	require.JSONEq(t, fmt.Sprintf("[%q]", place), string(p.call(client, "GET", "/1.0/provisioning/changes", "").Metadata))
	require.Contains(t, string(p.call(client, "GET", "/1.0/provisioning/changes?recursion=1&server=a&limit=1", "").Metadata), `"confirmation_timeout":"10s"`)
	p.settled("a")

	for status, bad := range map[string]string{
		"400 field config":          `{}`,
		"400 a JSON object":         `[]`,
		"400 interfaces: at least":  `{"config":{}}`,
		"400 interfaces[0].mtu":     strings.Replace(string(body), `"mtu":1500`, `"mtu":7`, 1),
		"400 interfaces[0].mtu: st": strings.Replace(string(body), `"mtu":1500`, `"mtu":"x"`, 1),
	} {
		a := p.call(client, "PUT", path, bad)
		code, text, _ := strings.Cut(status, " ")
		require.Equal(t, code, fmt.Sprint(a.ErrorCode), a.text)
		require.Contains(t, a.Error, text)
	}
	for _, q := range []string{"?force=x", "?confirmation-timeout=-1s", "?unknown=1"} {
		require.Equal(t, 400, p.call(client, "PUT", path+q, string(body)).ErrorCode)
	}
	require.Equal(t, 404, p.call(client, "GET", serversPath+"none/system/network", "").ErrorCode)
	require.Equal(t, 404, p.call(client, "GET", "/1.0/provisioning/changes/none", "").ErrorCode)
	require.Equal(t, 401, p.call(p.client(nil), "GET", path, "").ErrorCode)
	servers["a"].Crash()
	require.Equal(t, 502, p.call(client, "GET", path, "").ErrorCode)
}

func TestSystemSettings(t *testing.T) {
	p, servers := changing(t, nil, "a", "b")
	client := p.client(&p.operator)
	for section, config := range map[string]string{
		"update":   `{"auto_reboot":false,"channel":"stable","check_frequency":"12h"}`,
		"storage":  `{"scrub_schedule":"0 5 * * 0"}`,
		"kernel":   `{"blacklist_modules":["floppy"]}`,
		"logging":  `{"syslog":{"address":"127.0.0.9:514","protocol":"udp"}}`,
		"provider": `{"name":"operations-center","config":{"server_url":"https://127.0.0.1:2","server_token":"5e2f3c3a-0000-4000-8000-000000000001"}}`,
	} {
		path := serversPath + "a/system/" + section
		got := p.call(client, "GET", path, "")
		require.Equal(t, "sync", got.Type, got.text)
		tag := got.http.Header.Get("ETag")
		require.Equal(t, 412, p.call(client, "PUT", path, `{"config":`+config+`}`, "If-Match", "other").ErrorCode, section)
		a := p.call(client, "PUT", path, `{"config":`+config+`}`, "If-Match", tag)
		require.Equal(t, "sync", a.Type, a.text)
		require.Equal(t, 400, p.call(client, "PUT", path, `{}`).ErrorCode)
		again := p.call(client, "GET", path, "")
		require.NotEqual(t, tag, again.http.Header.Get("ETag"))
		require.NotContains(t, again.text, "5e2f3c3a")
		p.settled("a")
	}
	require.Equal(t, "sync", p.call(client, "POST", serversPath+"a/:resync", "").Type)
	require.Equal(t, 404, p.call(client, "POST", serversPath+"none/:resync", "").ErrorCode)

	require.NoError(t, incusostest.Cluster(servers["a"], servers["b"]))
	_, err := p.registry.CreateCluster(t.Context(), "c1", opscenter.ClusterSpec{}, "a", "b")
	require.NoError(t, err)
	require.NoError(t, p.registry.Write(t.Context(), func(tx *opscenter.Tx) error {
		return tx.SetClusterCertificate("c1", servers["a"].ClusterCertificate().Leaf)
	}))
	p.settled("a")
	p.settled("b")
	bulk := "/1.0/provisioning/clusters/c1/:bulk-update"
	for action, arguments := range map[string]string{
		"add_network_interface_vlan_tags":    `{"interface_name":"inst0","vlan_tags":[300]}`,
		"remove_network_interface_vlan_tags": `{"interface_name":"inst0","vlan_tags":[100]}`,
		"edit_network":                       `{"dns":{"domain":"example.org"}}`,
		"update_system_kernel":               `{"config":{"blacklist_modules":["other"]}}`,
		"update_system_logging":              `{"config":{"syslog":{"address":"127.0.0.8:514"}}}`,
	} {
		a := p.call(client, "POST", bulk, fmt.Sprintf(`{"action":%q,"arguments":%s}`, action, arguments))
		require.Equal(t, "sync", a.Type, a.text)
		require.Contains(t, p.call(client, "GET", a.http.Header.Get("Location"), "").text, `"server":"b"`)
	}
	require.Contains(t, string(servers["b"].NetworkConfig()), `[200,300]`)
	require.Contains(t, p.call(client, "GET", serversPath+"b/system/kernel", "").text, `{"config":{"blacklist_modules":["other"]}`)
	require.Contains(t, string(p.call(client, "GET", "/1.0/provisioning/batches?recursion=1", "").Metadata), `"cluster":"c1"`)
	for bad, text := range map[string]string{
		`{"action":"update_system_kernel","arguments":{"blacklist_modules":["x"]}}`: "blacklist_modules is not known",
		`{"action":"add_application"}`:                                              "add_application",
		`{"action":"add_network_interface_vlan_tags"}`:                              "arguments",
		`{"action":"add_network_interface_vlan_tags","arguments":{}}`:               "interface_name",
		`{"action":"edit_network","arguments":{"dns":{"nameservers":["!"]}}}`:       "dns.nameservers[0]",
	} {
		a := p.call(client, "POST", bulk, bad)
		require.Equal(t, 400, a.ErrorCode, a.text)
		require.Contains(t, a.Error, text)
	}
}

func TestSystemPower(t *testing.T) {
	p, servers := changing(t, nil, "a")
	client := p.client(&p.operator)
	require.Equal(t, "sync", p.call(client, "POST", serversPath+"a/system/:reboot", "").Type)
	require.Eventually(t, func() bool { return servers["a"].Reboots() == 1 }, 30*time.Second, 10*time.Millisecond)
	p.settled("a")
	require.Equal(t, "sync", p.call(client, "POST", serversPath+"a/system/:reboot?force=true", "").Type)
	require.Eventually(t, func() bool { return servers["a"].Reboots() == 2 }, 30*time.Second, 10*time.Millisecond)
	p.settled("a")
	require.Equal(t, 400, p.call(client, "POST", serversPath+"a/system/:factory-reset?tokenSeedName=x", "").ErrorCode)
	require.Equal(t, 403, p.call(client, "POST", serversPath+"a/system/:factory-reset?token=5e2f3c3a-0000-4000-8000-000000000001", "").ErrorCode)
	a := p.call(client, "POST", serversPath+"a/system/:factory-reset", "")
	require.Equal(t, "sync", a.Type, a.text)
	info, err := p.registry.Server(t.Context(), "a")
	require.NoError(t, err)
	require.True(t, info.ReinstallAllowed, "it is expected back")
	// The outcome of every change is in the audit log, with the principal and without a token.
	log := p.call(client, "GET", "/1.0/audit?server=a", "")
	require.Contains(t, log.text, `:factory-reset`)
	require.Contains(t, log.text, `"by":"certificate `)
	require.NotContains(t, log.text, "5e2f3c3a")
	var entries []audit.Entry
	require.NoError(t, json.Unmarshal(log.Metadata, &entries))
	require.Equal(t, audit.UnderWay, entries[0].Outcome, "the server is not back")
	require.Equal(t, audit.Failed, entries[1].Outcome)
	require.Equal(t, "sync", p.call(client, "GET", "/1.0/audit/"+entries[0].ID, "").Type)
	page := p.call(client, "GET", "/1.0/audit?limit=2", "")
	require.NotEmpty(t, page.NextCursor)
	require.Equal(t, "sync", p.call(client, "GET", "/1.0/audit?limit=2&cursor="+page.NextCursor, "").Type)
	for _, q := range []string{"?outcome=fine", "?since=yesterday", "?cursor=x", "?unknown=1"} {
		require.Equal(t, 400, p.call(client, "GET", "/1.0/audit"+q, "").ErrorCode, q)
	}
	require.Equal(t, 404, p.call(client, "GET", "/1.0/audit/none", "").ErrorCode)
}

// TestNotSetUp: endpoints of parts that are not set up answer 501.
func TestNotSetUp(t *testing.T) {
	p := start(t, nil)
	client := p.client(&p.operator)
	for _, path := range []string{serversPath + "a/system/network", serversPath + "a/os/1.0", "/1.0/audit", "/1.0/audit/x", "/1.0/provisioning/changes"} {
		require.Equal(t, 501, p.call(client, "GET", path, "").ErrorCode, path)
	}
}

// TestAuditOfEverything: the audit log has every request that changes something, also failed ones, and no secret of them.
func TestAuditOfEverything(t *testing.T) {
	p, _ := changing(t, nil, "a")
	client := p.client(&p.operator)
	created := p.call(client, "POST", "/1.0/provisioning/tokens", `{"description":"d","uses_remaining":1,"expire_at":"2030-01-01T00:00:00Z"}`)
	require.Equal(t, "sync", created.Type, created.text)
	token := created.http.Header.Get("Location")
	require.Equal(t, "sync", p.call(client, "DELETE", token, "").Type)
	require.Equal(t, 404, p.call(client, "DELETE", token, "").ErrorCode)
	require.Equal(t, "sync", p.call(client, "PUT", serversPath+"a", `{"description":"x","channel":"stable"}`).Type)
	p.call(p.client(nil), "DELETE", serversPath+"a", "")
	var entries []audit.Entry
	require.NoError(t, json.Unmarshal(p.call(client, "GET", "/1.0/audit", "").Metadata, &entries))
	var got []string
	for i := len(entries) - 1; i >= 0; i-- {
		got = append(got, fmt.Sprintf("%s %s %s", entries[i].Action, entries[i].Server, entries[i].Outcome))
	}
	require.Equal(t, []string{"POST /1.0/provisioning/tokens  done", "DELETE /1.0/provisioning/tokens/{uuid}  done", "DELETE /1.0/provisioning/tokens/{uuid}  failed",
		"PUT /1.0/provisioning/servers/{name} a done"}, got[len(got)-4:])
	require.NotContains(t, fmt.Sprint(entries), token[strings.LastIndex(token, "/")+1:])

	// A dry run is no change.
	n := p.call(client, "GET", serversPath+"a/system/network", "")
	require.Equal(t, "sync", p.call(client, "PUT", serversPath+"a/system/network?dry-run=1", string(n.Metadata)).Type)
	require.NotContains(t, p.call(client, "GET", "/1.0/audit", "").text, "system/network")

	// The stream: past entries, and then new ones.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	first, second := entries[len(entries)-1].Sequence, entries[len(entries)-2].Sequence
	req, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("%s/1.0/audit/:watch?after=%d", p.url, first), nil)
	require.NoError(t, err)
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	lines := json.NewDecoder(resp.Body)
	var e audit.Entry
	require.NoError(t, lines.Decode(&e))
	require.Equal(t, first, e.Sequence, "a client that has seen its beginning sees its end")
	require.Equal(t, audit.Done, e.Outcome)
	require.NoError(t, lines.Decode(&e))
	require.Equal(t, second, e.Sequence)
	p.call(client, "PUT", serversPath+"a", `{"description":"watched","channel":"stable"}`)
	for e.Sequence <= entries[0].Sequence || e.Outcome != audit.Done {
		require.NoError(t, lines.Decode(&e))
	}
	require.Equal(t, 400, p.call(client, "GET", "/1.0/audit/:watch?after=x", "").ErrorCode)
}

// TestSystemDescription: the endpoints are those of the API description.
func TestSystemDescription(t *testing.T) {
	api := readDescription(t)
	p, _ := changing(t, nil, "a")
	client := p.client(&p.operator)
	for path, methods := range map[string][]string{
		"servers/{name}/system/network": {"GET", "PUT"}, "servers/{name}/system/storage": {"GET", "PUT"}, "servers/{name}/system/update": {"GET", "PUT"},
		"servers/{name}/system/:factory-reset": {"POST"}, "servers/{name}/:resync": {"POST"}, "clusters/{name}/:bulk-update": {"POST"},
	} {
		require.Contains(t, api.Paths, "/1.0/provisioning/"+path)
		for _, method := range methods {
			a := p.call(client, method, "/1.0/provisioning/"+strings.Replace(path, "{name}", "none", 1), "{}")
			require.NotEqual(t, http.StatusMethodNotAllowed, a.ErrorCode)
			require.NotContains(t, a.Error, "no such endpoint")
		}
	}
}

// TestDryRun: an endpoint that cannot show its consequence refuses dry-run. A request that is carried out is in the audit log, with
// any value of dry-run.
func TestDryRun(t *testing.T) {
	p, servers := changing(t, nil, "a", "b")
	client := p.client(&p.operator)
	for _, c := range []struct{ method, path, body string }{
		{"PUT", serversPath + "a", `{"description":"x","channel":"stable"}`}, {"DELETE", serversPath + "b", ""},
		{"POST", "/1.0/provisioning/tokens", `{"description":"d","uses_remaining":1,"expire_at":"2030-01-01T00:00:00Z"}`},
		{"POST", serversPath + "a/system/:suspend", ""}, {"POST", serversPath + "a/system/:factory-reset", "{}"}, {"POST", serversPath + "a/:resync", ""},
		{"PUT", serversPath + "a/system/storage", `{"config":{}}`}, {"POST", "/1.0/provisioning/clusters", `{"name":"c1","server_names":["a"]}`},
	} {
		for _, text := range []string{"?dry-run=1", "?dry-run=0", "?dry-run", "?dry-run=x"} {
			require.Equal(t, 400, p.call(client, c.method, c.path+text, c.body).ErrorCode, "%s %s%s", c.method, c.path, text)
		}
	}
	require.Equal(t, "sync", p.call(client, "GET", serversPath+"b", "").Type)
	require.Zero(t, servers["a"].Requests("POST /os/1.0/system/:suspend"))
	require.Equal(t, "[]", string(p.call(client, "GET", "/1.0/audit", "").Metadata))
	n := p.call(client, "GET", serversPath+"a/system/network", "")
	var document map[string]any
	n.decode(t, &document)
	body, err := json.Marshal(map[string]any{"config": document["config"]})
	require.NoError(t, err)
	require.Equal(t, "sync", p.call(client, "PUT", serversPath+"a/system/network?dry-run=1", string(body)).Type)
	require.Equal(t, "[]", string(p.call(client, "GET", "/1.0/audit", "").Metadata), "a dry run changes nothing")
	require.Equal(t, "sync", p.call(client, "PUT", serversPath+"a/system/network?dry-run=0", string(body)).Type)
	require.Contains(t, p.call(client, "GET", "/1.0/audit", "").text, "PUT /1.0/provisioning/servers/{name}/system/network")
}
