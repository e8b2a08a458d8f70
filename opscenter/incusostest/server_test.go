package incusostest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lxc/incus/v6/shared/api"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"github.com/opscenter-go/sdk/internal/reference"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// caller sends requests to a simulated server as a trusted control plane.
type caller struct {
	t      testing.TB
	server *incusostest.Server
	client *http.Client
}

func boot(t testing.TB, options incusostest.Options) *caller {
	t.Helper()
	server, err := incusostest.New(options)
	require.NoError(t, err)
	t.Cleanup(server.Close)
	identity, err := selfsigned.New("control plane")
	require.NoError(t, err)
	server.Trust(identity.Leaf)
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{identity}}}
	t.Cleanup(transport.CloseIdleConnections)
	return &caller{t, server, &http.Client{Transport: transport, Timeout: 10 * time.Second}}
}

type envelope struct {
	Type      string          `json:"type"`
	ErrorCode int             `json:"error_code"`
	Error     string          `json:"error"`
	Operation string          `json:"operation"`
	Metadata  json.RawMessage `json:"metadata"`
}

func (c *caller) try(method, path, body string) (*envelope, error) {
	req, err := http.NewRequest(method, c.server.URL()+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	var out envelope
	return &out, json.Unmarshal(data, &out)
}

func (c *caller) call(method, path, body string) *envelope {
	c.t.Helper()
	out, err := c.try(method, path, body)
	require.NoError(c.t, err, "%s %s", method, path)
	return out
}

func (c *caller) get(path string, into any) {
	c.t.Helper()
	out := c.call("GET", path, "")
	require.Equal(c.t, "sync", out.Type, "%s: %s", path, out.Error)
	require.NoError(c.t, json.Unmarshal(out.Metadata, into))
}

// The answers of the simulator agree with IncusOS's API description.
func TestAnswersMatchAPIDescription(t *testing.T) {
	text, err := reference.Read(reference.IncusOS)
	require.NoError(t, err)
	var description map[string]any
	require.NoError(t, yaml.Unmarshal(text, &description))
	paths := description["paths"].(map[string]any)
	c := boot(t, incusostest.Options{})
	c.server.Offer("202610150000")
	require.Equal(t, "sync", c.call("POST", "/os/1.0/system/update/:check", "").Type)
	require.Eventually(t, func() bool { _, next := c.server.Version(); return next != "" }, 5*time.Second, 5*time.Millisecond)
	checked := 0
	for _, path := range []string{"/1.0", "/1.0/applications", "/1.0/applications/{name}", "/1.0/system", "/1.0/system/network", "/1.0/system/provider", "/1.0/system/resources",
		"/1.0/system/security", "/1.0/system/storage", "/1.0/system/update"} {
		endpoint, ok := paths[path].(map[string]any)
		require.True(t, ok, "%s is not described", path)
		schema := dig(endpoint, "get", "responses", "200", "schema", "properties", "metadata")
		require.NotNil(t, schema, path)
		var got any
		c.get("/os"+strings.ReplaceAll(path, "{name}", "incus"), &got)
		s := schemaChecker{definitions: description["definitions"].(map[string]any)}
		s.check(path, schema.(map[string]any), got)
		require.Empty(t, s.wrong)
		checked++
	}
	require.Equal(t, 10, checked)
}

func dig(doc any, keys ...string) any {
	for _, key := range keys {
		m, ok := doc.(map[string]any)
		if !ok {
			return nil
		}
		doc = m[key]
	}
	return doc
}

type schemaChecker struct {
	definitions map[string]any
	wrong       []string
}

func (s *schemaChecker) complain(format string, args ...any) {
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
}

// check complains about members of got that the schema lacks, or describes with another type.
func (s *schemaChecker) check(at string, schema map[string]any, got any) {
	if ref, ok := schema["$ref"].(string); ok {
		target, ok := s.definitions[ref[strings.LastIndex(ref, "/")+1:]].(map[string]any)
		if !ok {
			s.complain("%s: %s is not defined", at, ref)
			return
		}
		s.check(at, target, got)
		return
	}
	if got == nil {
		return
	}
	switch g := got.(type) {
	case map[string]any:
		properties, _ := schema["properties"].(map[string]any)
		additional, _ := schema["additionalProperties"].(map[string]any)
		if kind := schema["type"]; kind != nil && kind != "object" {
			s.complain("%s: an object, but the schema has %v", at, kind)
		}
		example, _ := schema["example"].(map[string]any)
		for key, value := range g {
			place := at + "." + key
			switch property, ok := properties[key].(map[string]any); {
			case ok:
				s.check(place, property, value)
			case additional != nil:
				s.check(place, additional, value)
			case properties != nil:
				s.complain("%s is not described", place)
			case example != nil && at != "/1.0/system/resources": // its example is incomplete
				if shown, ok := example[key]; !ok {
					s.complain("%s is not in the example", place)
				} else {
					s.check(place, map[string]any{"example": shown}, value)
				}
			}
		}
	case []any:
		if kind := schema["type"]; kind != nil && kind != "array" {
			s.complain("%s: a list, but the schema has %v", at, kind)
		}
		if items, ok := schema["items"].(map[string]any); ok {
			for i, value := range g {
				s.check(fmt.Sprintf("%s[%d]", at, i), items, value)
			}
		}
	case string:
		if kind := schema["type"]; kind != nil && kind != "string" {
			s.complain("%s: text, but the schema has %v", at, kind)
		}
	case float64:
		if kind := schema["type"]; kind != nil && kind != "integer" && kind != "number" {
			s.complain("%s: a number, but the schema has %v", at, kind)
		}
	case bool:
		if kind := schema["type"]; kind != nil && kind != "boolean" {
			s.complain("%s: a boolean, but the schema has %v", at, kind)
		}
	}
}

// The checker finds unknown members and wrong types.
func TestSchemaChecker(t *testing.T) {
	schema := map[string]any{"type": "object", "properties": map[string]any{"a": map[string]any{"type": "string"}, "b": map[string]any{"type": "array", "items": map[string]any{"type": "integer"}}}}
	for text, want := range map[string]int{`{"a":"x","b":[1]}`: 0, `{"a":1}`: 1, `{"b":["x"]}`: 1, `{"c":1}`: 1, `[]`: 1, `{"a":{},"b":true}`: 2} {
		var got any
		require.NoError(t, json.Unmarshal([]byte(text), &got))
		s := schemaChecker{}
		s.check("", schema, got)
		require.Len(t, s.wrong, want, text)
	}
}

// Hardware facts have the form of Incus's resources, and differ between servers.
func TestHardwareMatchesIncusResources(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(20) {
		c := boot(t, incusostest.Options{Seed: seed + 1})
		out := c.call("GET", "/os/1.0/system/resources", "")
		// The client library does not have the member "cluster" of a core yet.
		d := json.NewDecoder(bytes.NewReader(bytes.ReplaceAll(out.Metadata, []byte(`"cluster":0,`), nil)))
		d.DisallowUnknownFields()
		var resources api.Resources
		require.NoError(t, d.Decode(&resources), "no unknown members")
		require.NotZero(t, resources.CPU.Total)
		require.Greater(t, len(out.Metadata), 20<<10)
		require.Less(t, len(out.Metadata), 40<<10)
		require.False(t, seen[resources.System.UUID], "servers differ")
		seen[resources.System.UUID] = true
	}
}

func TestUntrustedCallers(t *testing.T) {
	c := boot(t, incusostest.Options{})
	stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer stranger.CloseIdleConnections()
	c.client = stranger
	require.Equal(t, "sync", c.call("GET", "/", "").Type)
	var server struct {
		Auth string `json:"auth"`
	}
	c.get("/1.0", &server)
	require.Equal(t, "untrusted", server.Auth)
	for _, path := range []string{"/os/1.0", "/1.0/resources", "/1.0/cluster"} {
		require.Equal(t, 403, c.call("GET", path, "").ErrorCode, path)
	}
}

func TestUpdateRebootEvacuateRestore(t *testing.T) {
	c := boot(t, incusostest.Options{EvacuateDelay: 30 * time.Millisecond})
	name := c.server.Name()
	wait := func(op *envelope) map[string]any {
		require.Equal(t, "async", op.Type, op.Error)
		var out map[string]any
		c.get(op.Operation+"/wait?timeout=5", &out)
		return out
	}
	require.Equal(t, "Success", wait(c.call("POST", "/1.0/cluster/members/"+name+"/state", `{"action":"evacuate","mode":"auto"}`))["status"])
	require.Equal(t, "Evacuated", c.server.MemberStatus())
	require.Equal(t, "Success", wait(c.call("POST", "/1.0/cluster/members/"+name+"/state", `{"action":"restore","mode":""}`))["status"])
	require.Equal(t, "Online", c.server.MemberStatus())
	require.Equal(t, 400, c.call("POST", "/1.0/cluster/members/"+name+"/state", `{"action":"dance"}`).ErrorCode)
	require.Equal(t, 404, c.call("POST", "/1.0/cluster/members/other/state", `{"action":"evacuate"}`).ErrorCode)
	require.Equal(t, 400, boot(t, incusostest.Options{Standalone: true}).call("GET", "/1.0/cluster/members/x", "").ErrorCode, "Server isn't clustered")

	c.server.Offer("202610150000")
	c.call("POST", "/os/1.0/system/update/:check", "")
	require.Eventually(t, func() bool { _, next := c.server.Version(); return next == "202610150000" }, 5*time.Second, 5*time.Millisecond)
	running, _ := c.server.Version()
	require.Equal(t, "202610010000", running, "staged, and not active")
	require.Equal(t, "sync", c.call("POST", "/os/1.0/system/:reboot", "").Type)
	require.Eventually(t, func() bool { running, next := c.server.Version(); return running == "202610150000" && next == "" }, 5*time.Second, 5*time.Millisecond)
	require.Eventually(t, func() bool {
		out, err := c.try("GET", "/os/1.0", "")
		return err == nil && strings.Contains(string(out.Metadata), `"system_is_ready":true`)
	}, 5*time.Second, 5*time.Millisecond, "the server is back at its old address")
}

// A process can have a thousand servers, each with an address of its own.
func TestManyServers(t *testing.T) {
	n := 1000
	if testing.Short() {
		n = 100
	}
	begun := time.Now()
	servers := make([]*incusostest.Server, n)
	var wg sync.WaitGroup
	for i := range servers {
		wg.Go(func() {
			server, err := incusostest.New(incusostest.Options{Name: fmt.Sprintf("server%04d", i)})
			if err != nil {
				t.Error(err)
				return
			}
			servers[i] = server
		})
	}
	wg.Wait()
	booted := time.Since(begun)
	addresses := map[string]bool{}
	for _, s := range servers {
		addresses[s.URL()] = true
	}
	require.Len(t, addresses, n)
	for _, s := range servers {
		s.Close()
	}
	t.Logf("%d servers booted in %s, closed in %s", n, booted, time.Since(begun)-booted)
}

// A server without a control plane sends no self updates. A new installation changes its identity, but not its hardware.
func TestUnregisteredAndReinstalled(t *testing.T) {
	c := boot(t, incusostest.Options{})
	require.ErrorIs(t, c.server.SelfUpdate(context.Background(), ""), incusostest.ErrNotRegistered)
	before := c.server.Certificate()
	machine, hardware := c.server.MachineID(), c.server.SystemUUID()
	require.NoError(t, c.server.Reinstall())
	require.False(t, before.Equal(c.server.Certificate()))
	require.NotEqual(t, machine, c.server.MachineID())
	require.Equal(t, hardware, c.server.SystemUUID())
}

// controlPlane returns the client certificate of a control plane, for examples.
func controlPlane() tls.Certificate {
	made, err := selfsigned.New("control plane")
	if err != nil {
		panic(err)
	}
	return made
}
