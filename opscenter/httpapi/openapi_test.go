package httpapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/opscenter-go/sdk/internal/reference"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
)

// described is the API's description of itself, with which the answers of all tests are compared.
type described struct {
	Paths      map[string]map[string]operation `json:"paths"`
	Components struct {
		Schemas map[string]json.RawMessage `json:"schemas"`
	} `json:"components"`
	routes *http.ServeMux
	text   []byte

	mu      sync.Mutex
	schemas map[string]*jsonschema.Resolved // by method, path and status
}

type operation struct {
	Summary   string               `json:"summary"`
	Role      string               `json:"x-opscenter-role"`
	Security  []map[string][]any   `json:"security"`
	ID        string               `json:"operationId"`
	Responses map[string]oneAnswer `json:"responses"`
}

type oneAnswer struct {
	Content map[string]struct {
		Schema json.RawMessage `json:"schema"`
	} `json:"content"`
}

var (
	describedOnce sync.Once
	describedAll  *described
)

// describedBy returns the description, which is the same for all handlers.
func describedBy(t testing.TB, h *httpapi.Handler) *described {
	describedOnce.Do(func() {
		out := httptest.NewRecorder()
		h.ServeHTTP(out, httptest.NewRequest(http.MethodGet, "/1.0/openapi.json", nil))
		d := &described{routes: http.NewServeMux(), text: out.Body.Bytes(), schemas: map[string]*jsonschema.Resolved{}}
		require.NoError(t, json.Unmarshal(d.text, d))
		registered := map[string]bool{}
		for _, route := range h.Routes() {
			if pattern := strings.TrimSpace(route.Method + " " + route.Path); !registered[pattern] {
				registered[pattern] = true
				d.routes.Handle(pattern, http.NotFoundHandler())
			}
		}
		describedAll = d
	})
	require.NotNil(t, describedAll, "the description could not be read")
	return describedAll
}

// describedPath is the path of a pattern in the description.
func describedPath(pattern string) string {
	_, path, ok := strings.Cut(pattern, " ")
	if !ok {
		path = pattern
	}
	path = strings.NewReplacer("{$}", "", "...}", "}").Replace(path)
	if path == "/1.0/" {
		return "/1.0"
	}
	return path
}

// schema returns the schema of an answer, nil if the answer is no document.
func (d *described) schema(t testing.TB, method, path string, status int) *jsonschema.Resolved {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := fmt.Sprintf("%s %s %d", method, path, status)
	if found, ok := d.schemas[key]; ok {
		return found
	}
	o, ok := d.Paths[path][strings.ToLower(method)]
	require.True(t, ok, "%s %s is not described", method, path)
	answer, ok := o.Responses[fmt.Sprint(status)]
	if status >= 400 {
		answer, ok = o.Responses["default"]
	}
	require.True(t, ok, "status %d of %s %s is not described", status, method, path)
	var found *jsonschema.Resolved
	if text := answer.Content["application/json"].Schema; text != nil {
		root, err := json.Marshal(map[string]any{"$ref": "#/components/schemas/answer", "components": map[string]any{"schemas": d.with(text)}})
		require.NoError(t, err)
		root = []byte(strings.ReplaceAll(string(root), "#/components/schemas/", "#/$defs/"))
		var whole struct {
			Components struct {
				Schemas map[string]*jsonschema.Schema `json:"schemas"`
			} `json:"components"`
		}
		require.NoError(t, json.Unmarshal(root, &whole))
		found, err = (&jsonschema.Schema{Ref: "#/$defs/answer", Defs: whole.Components.Schemas}).Resolve(nil)
		require.NoError(t, err)
	}
	d.schemas[key] = found
	return found
}

// with returns the schemas, and that of an answer.
func (d *described) with(answer json.RawMessage) map[string]json.RawMessage {
	out := map[string]json.RawMessage{"answer": answer}
	for name, text := range d.Components.Schemas {
		out[name] = text
	}
	return out
}

// check compares an answer with the description.
func (d *described) check(t testing.TB, method, path string, status int, body []byte) {
	t.Helper()
	request, err := http.NewRequest(method, "https://localhost"+path, nil)
	if err != nil {
		return // the test sends a strange path
	}
	request.URL.Path = path
	_, pattern := d.routes.Handler(request)
	if pattern == "" || pattern == httpapi.ForwardPattern || status == http.StatusMovedPermanently {
		return // there is no such route, or a server answers
	}
	schema := d.schema(t, method, describedPath(pattern), status)
	if schema == nil {
		return
	}
	var value any
	require.NoError(t, json.Unmarshal(body, &value))
	require.NoError(t, schema.Validate(value), "%s %s: %.500s", method, path, body)
}

// TestDescription: the description names each route once, with its role, and each parameter of the routes.
func TestDescription(t *testing.T) {
	p := start(t, nil)
	d := describedBy(t, p.handler)
	status, text := p.send(p.client(nil), "GET", "/1.0/openapi.json", "")
	require.Equal(t, 200, status, "every client may read it")
	require.Equal(t, string(d.text), text)
	require.Empty(t, p.handler.Undescribed())
	ids := map[string]bool{}
	for _, route := range p.handler.Routes() {
		methods := []string{route.Method}
		if route.Method == "" {
			methods = []string{"GET", "PUT", "POST", "PATCH", "DELETE", "HEAD"}
		}
		for _, method := range methods {
			o, ok := d.Paths[describedPath("X "+route.Path)][strings.ToLower(method)]
			require.True(t, ok, "%s %s", method, route.Path)
			if route.Path == "/1.0/{$}" {
				continue // the same as /1.0
			}
			require.Contains(t, o.Summary, route.Summary)
			if route.Role == "" {
				require.Equal(t, route.Clients == "any", len(o.Security) == 0, route.Path)
			} else if route.Method != "" && route.Path != "/1.0/provisioning/servers" {
				require.Equal(t, string(route.Role), o.Role)
				require.Len(t, o.Security, 2)
			}
		}
	}
	for path, operations := range d.Paths {
		for method, o := range operations {
			require.False(t, ids[o.ID], "%s %s: the name %s is taken", method, path, o.ID)
			ids[o.ID] = true
		}
	}
	require.Greater(t, len(ids), 130)
}

// TestDescriptionIsCompared: an answer that differs from the description fails. Otherwise the comparisons of all tests would be in vain.
func TestDescriptionIsCompared(t *testing.T) {
	d := describedBy(t, start(t, nil).handler)
	schema := d.schema(t, "GET", "/1.0/provisioning/channels/{name}", 200)
	valid := func(metadata string) error {
		var value any
		require.NoError(t, json.Unmarshal([]byte(`{"type":"sync","status":"Success","status_code":200,"operation":"","error_code":0,"error":"","metadata":`+metadata+`}`), &value))
		return schema.Validate(value)
	}
	require.NoError(t, valid(`{"name":"a","description":"","last_updated":"2026-01-01T00:00:00Z","versions":{}}`))
	for _, other := range []string{`{}`, `null`, `[]`, `{"name":1,"description":"","last_updated":"2026-01-01T00:00:00Z","versions":{}}`,
		`{"name":"a","description":"","last_updated":"2026-01-01T00:00:00Z","versions":{},"more":1}`} {
		require.Error(t, valid(other), other)
	}
}

// absent are the paths of Operations Center that this API lacks on purpose, by their beginnings, with the reason.
var absent = map[string]string{
	"/incus-images/":                            "images of instances are served by an image server of their own",
	"/1.0/image/":                               "images of instances are served by an image server of their own",
	"/1.0/images/":                              "images of instances are served by an image server of their own",
	"/1.0/provisioning/cluster-templates":       "clusters are formed with the options of package cluster",
	"/1.0/provisioning/clusters/{}/artifacts":   "no Terraform files are made: the program that embeds the SDK configures clusters",
	"/1.0/provisioning/clusters/{}/certificate": "the certificate is accepted with the servers' :accept-certificate",
	"/1.0/provisioning/servers/:self_register":  "a control plane is no server of its own",
	"/1.0/provisioning/servers/{}/bmc/":         "baseboard controllers are driven by package medium, and not over the API",
	"/1.0/system/certificate":                   "the program that embeds the SDK configures its endpoint",
	"/1.0/system/network":                       "the program that embeds the SDK configures its endpoint",
	"/1.0/system/security":                      "the program that embeds the SDK decides on its operators",
	"/1.0/system/settings":                      "the program that embeds the SDK configures its log",
}

// TestPathsOfOperationsCenter: each path and method of Operations Center's description is here, or absent for a reason.
func TestPathsOfOperationsCenter(t *testing.T) {
	text, err := reference.Read(reference.OperationsCenter)
	require.NoError(t, err)
	var theirs struct {
		Paths map[string]map[string]any `yaml:"paths"`
	}
	require.NoError(t, yaml.Unmarshal(text, &theirs))
	require.NotEmpty(t, theirs.Paths)
	plain := func(path string) string { // the names of variable parts differ
		path, _, _ = strings.Cut(path, "?")
		segments := strings.Split(path, "/")
		for i, segment := range segments {
			if strings.HasPrefix(segment, "{") {
				segments[i] = "{}"
			}
		}
		return strings.Join(segments, "/")
	}
	ours := map[string]bool{}
	for path, operations := range describedBy(t, start(t, nil).handler).Paths {
		for method := range operations {
			ours[method+" "+plain(path)] = true
		}
	}
	used := map[string]bool{}
	var missing []string
	for path, operations := range theirs.Paths {
		path = plain(path)
		reason := ""
		for beginning := range absent {
			if strings.HasPrefix(path, beginning) {
				reason = beginning
			}
		}
		for method := range operations {
			switch there := ours[method+" "+path]; {
			case reason != "":
				require.False(t, there, "%s %s is here, and listed as absent", method, path)
				used[reason] = true
			case !there:
				missing = append(missing, method+" "+path)
			}
		}
	}
	slices.Sort(missing)
	require.Empty(t, slices.Compact(missing))
	for beginning := range absent {
		require.True(t, used[beginning], "Operations Center has no path %s", beginning)
	}
}
