package httpapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

type strictBody struct{ method, path, body string }

// strictBodies are bodies of all operators' routes that take one: the test puts "zzz" into each object.
var strictBodies = []strictBody{
	{"POST", "/1.0/access-tokens", `{"name":"x","role":"viewer","scope":{}}`},
	{"POST", "/1.0/provisioning/tokens", `{"description":"d","uses_remaining":5}`},
	{"PUT", "TOKEN", `{"description":"e","uses_remaining":5}`},
	{"POST", "TOKEN/seeds", `{"name":"b","seeds":{"install":{"target":{"id":"x"}}}}`},
	{"PUT", "TOKEN/seeds/a", `{"description":"d","seeds":{"network":{}}}`},
	{"POST", "TOKEN/image", `{"type":"raw","seeds":{"install":{}}}`},
	{"POST", "/1.0/provisioning/servers", `{"name":"new","description":"d"}`},
	{"PUT", serversPath + "a", `{"description":"d"}`},
	{"POST", serversPath + "a", `{"name":"b2"}`},
	{"POST", serversPath + "a/:accept-certificate", `{"fingerprint":""}`},
	{"POST", serversPath + ":adopt", `{"trust_token":"x"}`},
	{"POST", "/1.0/provisioning/clusters", `{"name":"c2"}`},
	{"PUT", "/1.0/provisioning/clusters/c1", `{"description":"d","config":{"rolling_restart":{"restore_mode":"skip"}}}`},
	{"POST", "/1.0/provisioning/clusters/c1", `{"name":"c3"}`},
	{"POST", "/1.0/provisioning/clusters/c1/:add-servers", `{"server_names":["a"]}`},
	{"POST", "/1.0/provisioning/clusters/c1/:remove-servers", `{"server_names":["a"]}`},
	{"POST", "/1.0/provisioning/clusters/c1/:update", `{"reboot":true}`},
	{"POST", "/1.0/provisioning/clusters/c1/:bulk-update", `{"action":"add_network_interface_vlan_tags","arguments":{"interface_name":"x","vlan_tags":[1]}}`},
	{"POST", serversPath + "a/system/:update", `{"os":{"name":"IncusOS","trigger_update":true},"applications":[{"name":"incus","trigger_update":true}]}`},
	{"POST", "/1.0/provisioning/rollouts?dry-run=0", `{"selector":{"all":true},"policy":{"waves":[{"name":"x","percent":1}],"windows":[{}]}}`},
	{"PUT", serversPath + "a/system/network", `{"config":null}`},
	{"PUT", serversPath + "a/system/kernel", `{"config":null}`},
	{"PUT", serversPath + "a/system/update", `{"config":null}`},
	{"PUT", serversPath + "a/system/storage", `{"config":null}`},
	{"PUT", serversPath + "a/system/provider", `{"config":null}`},
	{"PUT", serversPath + "a/system/logging", `{"config":null}`},
	{"POST", "/1.0/provisioning/rollouts/x/:cancel", `{}`},
	{"PUT", "WARNING", `{"status":"acknowledged"}`},
	{"POST", "/1.0/provisioning/channels", `{"name":"lab"}`},
	{"PUT", "/1.0/provisioning/channels/stable", `{"description":"d"}`},
	{"PUT", "/1.0/provisioning/updates/x", `{"channels":[]}`},
	{"PUT", "/1.0/system/updates", `{"filter_expression":"true"}`},
	// Those that take none.
	{"POST", "/1.0/provisioning/updates/:refresh", `{}`},
	{"POST", serversPath + "a/:resync", `{}`},
	{"POST", serversPath + "a/system/:evacuate", `{}`},
	{"POST", serversPath + "a/system/:restore", `{}`},
	{"POST", serversPath + "a/system/:reboot", `{}`},
	{"POST", serversPath + "a/system/:poweroff", `{}`},
	{"POST", serversPath + "a/system/:suspend", `{}`},
	{"POST", serversPath + "a/system/:factory-reset", `{}`},
	{"POST", "/1.0/provisioning/clusters/c1/:reboot", `{}`},
	{"POST", "/1.0/provisioning/clusters/c1/:cancel-operation", `{}`},
	{"POST", "/1.0/provisioning/clusters/c1/:resync-inventory", `{}`},
	{"POST", "/1.0/provisioning/rollouts/x/:pause", `{}`},
}

// TestUnknownFieldsAreRefused: every operators' route refuses an unknown field or parameter by its name, at any depth, and changes
// nothing.
func TestUnknownFieldsAreRefused(t *testing.T) {
	p, _, _ := everything(t)
	client := p.client(&p.operator)
	_, err := p.registry.CreateCluster(t.Context(), "c1", opscenter.ClusterSpec{})
	require.NoError(t, err)
	token := "/1.0/provisioning/tokens/" + p.token(1)
	require.NoError(t, p.registry.Warnings().Raise(t.Context(), "", warning.Input{Kind: "x"}))
	page, err := p.registry.Warnings().List(t.Context(), opscenter.WarningFilter{}, opscenter.Page{})
	require.NoError(t, err)
	routes, untried := http.NewServeMux(), map[string]bool{}
	for _, route := range operatorRoutes(p.handler) {
		routes.Handle(route, http.NotFoundHandler())
		untried[route] = !strings.HasPrefix(route, "GET ") && !strings.HasPrefix(route, "DELETE ")
	}
	require.Equal(t, 201, p.call(client, "POST", token+"/seeds", `{"name":"a"}`).http.StatusCode)
	before := p.store.rows(t)
	bodies := slices.Clone(strictBodies)
	for _, kind := range inventory.Kinds {
		bodies = append(bodies, strictBody{"POST", "/1.0/inventory/" + kind.Plural() + "/x/:resync", `{}`})
	}
	for _, test := range bodies {
		path := strings.NewReplacer("TOKEN", token, "WARNING", "/1.0/warnings/"+page.Warnings[0].UUID).Replace(test.path)
		request, err := http.NewRequestWithContext(t.Context(), test.method, path, nil)
		require.NoError(t, err)
		_, route := routes.Handler(request)
		untried[route] = false
		for i, c := range test.body { // into each object, in turn
			if c != '{' {
				continue
			}
			rest := test.body[i+1:]
			comma := ","
			if strings.HasPrefix(rest, "}") {
				comma = ""
			}
			if strings.Contains(test.body[:i], `"config":`) && strings.Contains(path, "/system/") {
				continue // the server judges the fields within it
			}
			a := p.call(client, test.method, path, test.body[:i+1]+`"zzz":1`+comma+rest)
			require.Equal(t, 400, a.ErrorCode, "%s %s: %s", test.method, path, a.text)
			require.Contains(t, a.Error, "zzz", "%s %s", test.method, path)
		}
	}
	untried["POST /1.0/provisioning/updates"] = false // takes an archive
	for route, is := range untried {
		require.False(t, is, "strictBodies has no body for %s", route)
	}
	for _, route := range operatorRoutes(p.handler) {
		method, path, _ := strings.Cut(route, " ")
		path = strings.NewReplacer("clusters/{name}", "clusters/c1", "{name}", "a", "tokens/{uuid}", strings.TrimPrefix(token, "/1.0/provisioning/"), "{uuid}", page.Warnings[0].UUID, "{action}", ":pause").Replace(path)
		a := p.call(client, method, path+"?zzz=1", map[bool]string{true: "{}"}[method != "GET"])
		require.Equal(t, 400, a.ErrorCode, "%s: %s", route, a.text)
		require.Contains(t, a.Error, "zzz", route)
	}
	require.Equal(t, before, p.store.rows(t))
	// Servers' bodies are read leniently: registration and self updates, as in TestRegisterAsTheProtocolSays.
}

// TestOperationsCentersClient: the bodies of Operations Center's client, with all its fields, are accepted. A field that has no effect here
// is refused by name.
func TestOperationsCentersClient(t *testing.T) {
	p := start(t, nil)
	client := p.client(&p.operator)
	require.NoError(t, p.registry.Channels().Create(t.Context(), "testing", ""))
	post := func(method, path, body string, status int, text string) *answer {
		t.Helper()
		a := p.call(client, method, path+"?", body) // it always has a question mark there
		require.Equal(t, status, a.http.StatusCode, "%s %s: %s", method, path, a.text)
		require.Contains(t, a.text, text)
		return a
	}
	const bmc = `"bmc_config":{"api_type":"","endpoint":"","username":"","password":"","certificate":"","auto_pin_certificate":false}`
	post("POST", "/1.0/provisioning/servers", `{"public_connection_url":"","channel":"testing","description":"d","properties":null,`+bmc+`,"name":"expected","connection_url":"","system_uuid":"","machine_id":""}`, 201, "")
	post("POST", "/1.0/provisioning/servers", `{"name":"x","bmc_config":{"api_type":"redfish"}}`, 400, "bmc_config: that is not done here")
	require.Contains(t, p.call(client, "GET", serversPath+"expected", "").text, `"server_status":"unregistered"`)
	// An edit that leaves out the channel and the properties leaves them as they are.
	post("PUT", serversPath+"expected", `{"description":"e","properties":{"rack":"7"}}`, 200, "")
	post("PUT", serversPath+"expected", `{"public_connection_url":"","channel":"","description":"f","properties":null,`+bmc+`}`, 200, "")
	got := p.call(client, "GET", serversPath+"expected", "").text
	require.Contains(t, got, `"channel":"testing","description":"f","properties":{"rack":"7"}`)
	post("POST", serversPath+"expected", `{"public_connection_url":"","channel":"","description":"","properties":null,`+bmc+`,"name":"renamed","connection_url":"","system_uuid":"","machine_id":""}`, 201, "")
	post("POST", serversPath+"renamed", `{"name":"again","description":"x"}`, 400, "description: that is not done here")
	post("PUT", serversPath+"renamed", `{"connection_url":"https://10.0.0.9:8443"}`, 200, "")
	require.Contains(t, p.call(client, "GET", serversPath+"renamed", "").text, `"connection_url":"https://10.0.0.9:8443"`)
	post("PUT", serversPath+"renamed", `{"connection_url":"https://0.0.0.0:8443"}`, 400, "unspecified")
	tag := p.call(client, "GET", serversPath+"renamed", "").http.Header.Get("ETag")
	post("PUT", serversPath+"renamed", `{"connection_url":"https://10.0.0.10:8443"}`, 200, "")
	require.Equal(t, 412, p.call(client, "PUT", serversPath+"renamed", `{"description":"x"}`, "If-Match", tag).ErrorCode, "the server has another name now")

	const zero = `"connection_url":"","channel":"%s","description":"d","properties":null,"config":{"rolling_restart":{"post_restore_delay":%s,"restore_mode":""}}`
	const shown = `,"certificate":"","fingerprint":"","status":"","update_status":{"needs_update":[],"in_progress_status":{"last_updated":"0001-01-01T00:00:00Z"}},"last_updated":"0001-01-01T00:00:00Z"`
	const more = `,"services_config":{},"application_seed_config":{"a":{"b":[]}},"cluster_template":"","cluster_template_variable_values":null,"server_names":null,"server_type":"incus"`
	post("POST", "/1.0/provisioning/clusters", `{"name":"c1",`+fmt.Sprintf(zero, "testing", `"15m"`)+shown+more+`}`, 201, "")
	for field, value := range map[string]string{"services_config": `{"lvm":{"enabled":true}}`, "application_seed_config": `{"a":1}`, "certificate": `"x"`, "cluster_template": `"t"`} {
		post("POST", "/1.0/provisioning/clusters", fmt.Sprintf(`{"name":"c2",%q:%s}`, field, value), 400, field+": that is not done here")
	}
	post("POST", "/1.0/provisioning/clusters", `{"name":"c2","server_type":"xyz"}`, 400, "server_type")
	require.Equal(t, 404, p.call(client, "GET", "/1.0/provisioning/clusters/c2", "").ErrorCode, "nothing was made")
	post("PUT", "/1.0/provisioning/clusters/c1", `{"properties":{"rack":7}}`, 200, "")
	post("PUT", "/1.0/provisioning/clusters/c1", `{`+fmt.Sprintf(zero, "", "60000000000")+`}`, 200, "")
	got = p.call(client, "GET", "/1.0/provisioning/clusters/c1", "").text
	require.Contains(t, got, `"properties":{"rack":"7"}`)
	require.Contains(t, got, `"channel":"testing"`, "the channel of a cluster does not move for being left out")
	require.Contains(t, got, `"post_restore_delay":"1m0s"`)
	post("PUT", "/1.0/provisioning/clusters/c1", `{"config":{"rolling_restart":{"post_restore_delay":"soon"}}}`, 400, "soon")
	for _, flag := range []string{"skip_post_join_operations", "copy_services_config"} {
		post("POST", "/1.0/provisioning/clusters/c1/:add-servers", fmt.Sprintf(`{"server_names":["renamed"],%q:true}`, flag), 400, flag+": that is not done here")
	}
	post("POST", "/1.0/provisioning/clusters/c1/:add-servers", `{"server_names":["unknown"],"skip_post_join_operations":false,"copy_services_config":false}`, 404, "")
	// A path that begins with ":" is never a name.
	for _, path := range []string{serversPath + ":self_register", serversPath + ":adopt2", "/1.0/provisioning/clusters/:x", "/1.0/warnings/:x", "/1.0/provisioning/tokens/:x"} {
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
			a := p.call(client, method, path, "{}")
			require.Contains(t, []int{404, 405}, a.ErrorCode, "%s %s: %s", method, path, a.text)
			require.NotContains(t, a.Error, `":`)
		}
	}
	// Facts can be left out of one server, too.
	require.NotContains(t, p.call(client, "GET", serversPath+"renamed?facts=0", "").text, "os_data")
	require.Contains(t, p.call(client, "GET", serversPath+"renamed", "").text, "os_data")
	require.Equal(t, 400, p.call(client, "GET", serversPath+"renamed?facts=maybe", "").ErrorCode)
}

// TestDescribedFieldsAreKnown: each field of servers, clusters and tokens in the API description is known, shown, or refused by name.
func TestDescribedFieldsAreKnown(t *testing.T) {
	p := start(t, nil)
	api := readDescription(t)
	client := p.client(&p.operator)
	_, err := p.registry.CreateCluster(t.Context(), "c1", opscenter.ClusterSpec{})
	require.NoError(t, err)
	p.add(1, "")
	var names []string
	p.call(client, "GET", "/1.0/provisioning/servers", "").decode(t, &names)
	checked := 0
	for definition, request := range map[string]string{"ServerPut": "PUT " + names[0], "ServerPost": "POST /1.0/provisioning/servers", "ClusterPost": "POST /1.0/provisioning/clusters",
		"ClusterPut": "PUT /1.0/provisioning/clusters/c1", "TokenPut": "PUT /1.0/provisioning/tokens/" + p.token(1)} {
		described := api.Definitions[definition].Properties
		checked += len(described) // the description has some types only in parts
		for field := range described {
			method, path, _ := strings.Cut(request, " ")
			body, err := json.Marshal(map[string]any{field: nil})
			require.NoError(t, err)
			require.NotContains(t, p.call(client, method, path, string(body)).Error, "is not known", "%s.%s", definition, field)
		}
	}
	require.Greater(t, checked, 5)
}

// TestAdmittedNames: an admitted name works in all paths.
func TestAdmittedNames(t *testing.T) {
	p := start(t, nil)
	client := p.client(&p.operator)
	for i, name := range []string{"node_1", "node_1.lab.example.org", "a@b", "a:b", "(x)", "~", "a&b=c;d+e,f", strings.Repeat("n", 200)} {
		identity := newCertificate(t, "server")
		body, err := json.Marshal(map[string]string{"name": name, "connection_url": "https://10.0.0.1:8443", "machine_id": fmt.Sprintf("%032x", i+1)})
		require.NoError(t, err)
		a := p.call(p.client(&identity), "POST", registerPath(p.token(1)), string(body))
		require.Equal(t, 201, a.http.StatusCode, a.text)
		path := a.http.Header.Get("Location")
		require.Contains(t, p.call(client, "GET", path, "").text, `"machine_id"`)
		renamed := p.call(client, "POST", path, `{"name":"plain"}`)
		require.Equal(t, 201, renamed.http.StatusCode, renamed.text)
		body, err = json.Marshal(map[string]string{"name": name})
		require.NoError(t, err)
		require.Equal(t, path, p.call(client, "POST", renamed.http.Header.Get("Location"), string(body)).http.Header.Get("Location"))
		require.Equal(t, 200, p.call(client, "DELETE", path, "").StatusCode)
	}
}

// TestPutContradicts: an edit may send back the fields that GET showed. Another value for a field that PUT does not change is refused by
// name, and changes nothing.
func TestPutContradicts(t *testing.T) {
	p, _, _ := everything(t)
	client := p.client(&p.operator)
	token := "/1.0/provisioning/tokens/" + p.token(5)
	for path, wrong := range map[string][]string{
		token:                           {`"uuid":"` + strings.Repeat("0", 36) + `"`},
		serversPath + "a":               {`"name":"b"`, `"name":"A"`, `"certificate":"x"`, `"fingerprint":"abc"`, `"served_fingerprint":"abc"`, `"member_name":"x"`, `"cluster":"c9"`, `"system_uuid":"x"`, `"machine_id":"1"`},
		"/1.0/provisioning/clusters/c9": {`"name":"c8"`, `"certificate":"x"`, `"fingerprint":"abc"`},
	} {
		_, shown := p.send(client, "GET", path, "")
		var answer struct {
			Metadata json.RawMessage `json:"metadata"`
		}
		require.NoError(t, json.Unmarshal([]byte(shown), &answer))
		code, text := p.send(client, "PUT", path, string(answer.Metadata))
		require.Equal(t, 200, code, text)
		for _, field := range wrong {
			before := p.store.rows(t)
			code, text := p.send(client, "PUT", path, `{"description":"other",`+field+`}`)
			require.Equal(t, 400, code, text)
			name, _, _ := strings.Cut(strings.Trim(field, `"`), `"`)
			require.Contains(t, text, "field "+name)
			require.Equal(t, before, p.store.rows(t))
		}
	}
	// A field that a PUT leaves out keeps its value: the body sent the description back.
	require.Equal(t, 200, p.call(client, "PUT", token, `{"description":"other"}`).http.StatusCode)
	shown := p.call(client, "GET", token, "").text
	require.Contains(t, shown, `"description":"other"`)
	require.Contains(t, shown, `"uses_remaining":5`)
	require.Equal(t, 200, p.call(client, "PUT", token, `{"uses_remaining":3}`).http.StatusCode)
	shown = p.call(client, "GET", token, "").text
	require.Contains(t, shown, `"description":"other"`)
	require.Contains(t, shown, `"uses_remaining":3`)
	require.Equal(t, 400, p.call(client, "POST", "/1.0/provisioning/servers?zzz=1", `{"name":"new"}`).ErrorCode)

	// Each refusal is logged with its path. No token is logged.
	secret := strings.TrimPrefix(token, "/1.0/provisioning/tokens/")
	for _, path := range []string{"/1.0/provisioning/token/" + secret, "/1.0/tokens/" + secret, token + "/more", "/1.0/provisioning/servers?token=" + secret + "&x"} {
		require.GreaterOrEqual(t, p.call(client, "GET", path, "").ErrorCode, 400)
	}
	require.NotContains(t, p.log.String(), secret)
	for _, request := range [][2]string{{"POST", "/1.0/provisioning/clusters/c9/:nonsense"}, {"PATCH", serversPath + "a"}, {"GET", "/1.0/nowhere"}, {"GET", serversPath + "a/system/network?x=1"}, {"GET", serversPath + ":missing/system/network"}} {
		code, _ := p.send(client, request[0], request[1], "")
		require.GreaterOrEqual(t, code, 400)
		path, _, _ := strings.Cut(request[1], "?")
		require.Contains(t, p.log.String(), "path="+path, request)
	}
}
