package httpapi_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	yaml "go.yaml.in/yaml/v3"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/internal/reference"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/cluster"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/poller"
)

// operated is a plane that forms clusters and carries out rollouts, with simulated servers.
func operated(t *testing.T, names ...string) (*plane, map[string]*incusostest.Server) {
	var polls *poller.Poller
	var manager *rollout.Manager
	p := startWith(t, func(p *plane, o *httpapi.Options) {
		client := controltest.Client(t, incusos.Options{Certificate: &p.own})
		var err error
		polls, err = poller.New(p.registry, client, poller.Options{Timeout: 20 * time.Second})
		require.NoError(t, err)
		manager, err = rollout.New(opscenter.NewUpdatePlanner(p.registry, client), rollout.Options{Poller: polls, PollInterval: 20 * time.Millisecond})
		require.NoError(t, err)
		o.Rollouts, o.Clusters = manager, cluster.New(p.registry, client, cluster.Options{})
		o.Authorize = httpapi.AnyOf(byHeader, o.Authorize)
	})
	controltest.Background(t, manager.Run)
	servers := map[string]*incusostest.Server{}
	for _, name := range names {
		server := p.boot(incusostest.Options{Name: name, Standalone: true, EvacuateDelay: 30 * time.Millisecond, RebootDelay: 30 * time.Millisecond})
		controltest.Poll(t, polls, name)
		servers[name] = server
	}
	return p, servers
}

// until repeats a request until the answer holds a text.
func (p *plane) until(client *http.Client, path, text string) string {
	p.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		got := string(p.call(client, "GET", path, "").Metadata)
		if strings.Contains(got, text) {
			return got
		}
		require.True(p.t, time.Now().Before(deadline), "%s: %s", path, got)
		time.Sleep(10 * time.Millisecond)
	}
}

func TestClustersAndRollouts(t *testing.T) {
	p, servers := operated(t, "a", "b", "d")
	client := p.client(&p.operator)
	const clusters, rollouts = "/1.0/provisioning/clusters", "/1.0/provisioning/rollouts"
	ok := func(method, path, body string, header ...string) *answer {
		t.Helper()
		a := p.call(client, method, path, body, header...)
		require.Equal(t, "sync", a.Type, a.text)
		return a
	}
	fails := func(status int, method, path, body, text string, header ...string) {
		t.Helper()
		a := p.call(client, method, path, body, header...)
		require.Equal(t, status, a.ErrorCode, a.text)
		require.Contains(t, a.Error, text)
	}

	// Clusters.
	created := ok("POST", clusters, `{"name":"c1","server_names":["a","b"],"properties":{"site":"x"},"config":{"rolling_restart":{"post_restore_delay":"10ms"}}}`)
	require.Equal(t, clusters+"/c1", created.http.Header.Get("Location"))
	require.Equal(t, servers["a"].ClusterCertificate(), servers["b"].ClusterCertificate(), "they are one cluster")
	require.JSONEq(t, `["/1.0/provisioning/clusters/c1"]`, string(ok("GET", clusters, "").Metadata))
	got := ok("GET", clusters+"/c1", "")
	for _, text := range []string{`"status":"ready"`, `"server_names":["a","b"]`, `"post_restore_delay":"10ms"`, `"in_progress":""`} {
		require.Contains(t, string(got.Metadata), text)
	}
	put := `{"description":"lab","channel":"stable","config":{"rolling_restart":{"restore_mode":"skip"}}}`
	fails(412, "PUT", clusters+"/c1", put, "changed", "If-Match", `"other"`)
	ok("PUT", clusters+"/c1", put, "If-Match", got.http.Header.Get("ETag"))
	fails(400, "PUT", clusters+"/c1", `{"config":{"rolling_restart":{"post_restore_delay":"soon"}}}`, "soon")
	fails(400, "PUT", clusters+"/c1", `{"config":{"rolling_restart":{"restore_mode":"x"}}}`, "restore mode")
	fails(409, "DELETE", clusters+"/c1", "", "has 2")
	fails(400, "DELETE", clusters+"/c1?mode=factory-reset", "", "factory-reset")
	fails(409, "POST", clusters, `{"name":"C1"}`, "taken")
	ok("POST", clusters+"/c1", `{"name":"c2"}`)
	ok("POST", clusters+"/c2", `{"name":"c1"}`)
	fails(404, "GET", clusters+"/c2", "", "c2")
	fails(400, "POST", clusters+"/c1/:remove-servers", `{"server_names":[]}`, "server_names")

	// A plan is shown first.
	require.NoError(t, p.registry.Channels().Publish(t.Context(), "stable", "202610150000", "os", "incus"))
	for _, s := range servers {
		s.Offer("202610150000")
	}
	plan := ok("POST", rollouts, `{"selector":{"all":true},"policy":{"canaries":["d"],"soak":"10ms"}}`)
	require.Contains(t, string(plan.Metadata), `"action":"evacuate"`)
	require.JSONEq(t, `[]`, string(ok("GET", rollouts, "").Metadata), "a dry run starts nothing")
	fails(400, "POST", rollouts, `{"selector":{"all":true},"policy":{"max_unavailible":1}}`, "policy.max_unavailible")
	fails(400, "POST", rollouts, `{"selector":{"al":true}}`, "selector.al")
	fails(400, "POST", rollouts, `{}`, "selects nothing")
	fails(400, "POST", rollouts, `{"selector":{"all":true},"policy":{"soak":"soon"}}`, "soon")
	dry := ok("POST", clusters+"/c1/:update?dry-run=1", `{"reboot":true}`)
	require.Contains(t, string(dry.Metadata), `"unit":"c1"`)

	// A rollout of the cluster; then single actions on the server in no cluster.
	started := ok("POST", clusters+"/c1/:update", `{"reboot":true}`)
	place := started.http.Header.Get("Location")
	require.Contains(t, place, rollouts)
	fails(412, "POST", clusters+"/c1/:reboot", "", "another operation is running")
	require.Contains(t, p.until(client, place, `"status":"done"`), `"requested_by":"certificate `)
	require.Contains(t, string(ok("GET", place+"/units", "").Metadata), `"action":"restore"`)
	ok("GET", place+"/plan", "")
	for _, name := range []string{"a", "b"} {
		require.Equal(t, 1, servers[name].Reboots())
	}
	fails(409, "POST", clusters+"/c1/:cancel-operation", "", "nothing is under way")
	fails(409, "POST", place+"/:pause", "", "done")
	for _, action := range []string{"update", "evacuate", "reboot", "restore"} {
		body := ""
		if action == "update" {
			body = `{"os":{"name":"IncusOS","trigger_update":true}}`
			fails(400, "POST", "/1.0/provisioning/servers/d/system/:update", `{"os":{"trigger_update":false}}`, "trigger_update")
		}
		started = ok("POST", "/1.0/provisioning/servers/d/system/:"+action, body)
		p.until(client, started.http.Header.Get("Location"), `"status":"done"`)
	}
	require.Equal(t, 1, servers["d"].Reboots())
	fails(404, "POST", "/1.0/provisioning/servers/unknown/system/:reboot", "", "unknown")

	// A rollout is paused, shown and cancelled.
	started = ok("POST", rollouts+"?dry-run=0", `{"selector":{"clusters":["c1"]},"policy":{"goal":"reboot"}}`)
	require.Equal(t, http.StatusCreated, started.http.StatusCode)
	place = started.http.Header.Get("Location")
	ok("POST", place+"/:pause", "")
	require.Contains(t, string(ok("GET", clusters+"/c1", "").Metadata), `"in_progress":"error"`)
	ok("POST", place+"/:resume", "")
	fails(400, "POST", place+"/:cancel?mode=burn", "", "burn")
	ok("POST", clusters+"/c1/:cancel-operation?mode=restore", "")
	p.until(client, place, `"status":"cancelled"`)
	require.Len(t, strings.Split(string(ok("GET", rollouts, "").Metadata), ","), 6)
	first := ok("GET", rollouts+"?limit=2", "")
	require.NotEmpty(t, first.NextCursor)
	ok("GET", rollouts+"?recursion=1&limit=2&cursor="+first.NextCursor, "")
	fails(404, "GET", rollouts+"/nothing", "", "nothing")
	fails(404, "POST", place+"/:explode", "", "explode")

	ok("POST", "/1.0/provisioning/servers/d/system/:poweroff", "")
	p.until(client, "/1.0/provisioning/servers/d?", "shut down")
	ok("DELETE", clusters+"/c1?mode=force", "")
}

// TestWithoutRollouts: endpoints of a part that is not set up answer 501.
func TestWithoutRollouts(t *testing.T) {
	p := start(t, nil)
	client := p.client(&p.operator)
	p.add(1, `{}`)
	for _, call := range []string{"GET /1.0/provisioning/rollouts", "GET /1.0/provisioning/rollouts/x", "POST /1.0/provisioning/servers/server0000/system/:reboot"} {
		method, path, _ := strings.Cut(call, " ")
		require.Equal(t, http.StatusNotImplemented, p.call(client, method, path, "").ErrorCode, call)
	}
	require.Equal(t, http.StatusUnauthorized, p.call(p.client(nil), "POST", "/1.0/provisioning/rollouts", "{}").ErrorCode, "for operators only")
}

// TestShapes compares the document of a cluster with the API description.
func TestShapes(t *testing.T) {
	api := readDescription(t)
	p := start(t, nil)
	client := p.client(&p.operator)
	p.call(client, "POST", "/1.0/provisioning/clusters", `{"name":"c1"}`)
	var shown map[string]any
	p.call(client, "GET", "/1.0/provisioning/clusters/c1", "").decode(t, &shown)
	for field := range api.Definitions["Cluster"].Properties {
		require.Contains(t, shown, field)
	}
	status := shown["update_status"].(map[string]any)
	for field := range api.Definitions["ClusterUpdateStatus"].Properties {
		require.Contains(t, status, field)
	}
	for field := range api.Definitions["ClusterUpdateInProgressStatus"].Properties {
		require.Contains(t, status["in_progress_status"], field)
	}
}

// description holds the compared parts of Operations Center's API description.
type description struct {
	Definitions map[string]struct {
		Properties map[string]any `yaml:"properties"`
	} `yaml:"definitions"`
	Paths map[string]any `yaml:"paths"`
}

// readDescription reads the API description.
func readDescription(t *testing.T) (api description) {
	t.Helper()
	text, err := reference.Read(reference.OperationsCenter)
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(text, &api))
	return api
}
