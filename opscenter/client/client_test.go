package client_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/pagetest"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/client"
)

// answers are the documents, by the routes that answer with them.
var answers = map[string]reflect.Type{
	"/1.0":                              reflect.TypeFor[client.API](),
	"/1.0/provisioning/servers/{name}":  reflect.TypeFor[client.Server](),
	"/1.0/provisioning/clusters/{name}": reflect.TypeFor[client.Cluster](),
	"/1.0/warnings/{uuid}":              reflect.TypeFor[client.Warning](),
	"/1.0/events":                       reflect.TypeFor[client.Event](),
	"/1.0/provisioning/servers/{name}/facts-history": reflect.TypeFor[client.FactsRevision](),
	"/1.0/provisioning/changes/{uuid}":               reflect.TypeFor[client.Change](),
	"/1.0/provisioning/rollouts/{uuid}":              reflect.TypeFor[client.Rollout](),
	"/1.0/provisioning/rollouts/{uuid}/units":        reflect.TypeFor[client.Unit](),
	"/1.0/provisioning/updates/{uuid}":               reflect.TypeFor[client.Update](),
	"/1.0/provisioning/updates/:refresh":             reflect.TypeFor[client.Refresh](),
	"/1.0/provisioning/updates/{uuid}/changelog":     reflect.TypeFor[client.Changelog](),
	"/1.0/provisioning/channels/{name}":              reflect.TypeFor[client.Channel](),
	"/1.0/provisioning/tokens/{uuid}":                reflect.TypeFor[client.Token](),
	"/1.0/provisioning/tokens/{uuid}/seeds/{name}":   reflect.TypeFor[client.Seed](),
	"/1.0/inventory/instances/{uuid}":                reflect.TypeFor[client.Object](),
	"/1.0/inventory/instances/{uuid}/history":        reflect.TypeFor[client.ObjectChange](),
	"/1.0/inventory/counts":                          reflect.TypeFor[client.ObjectCounts](),
}

// schema is a schema of the description.
type schema struct {
	Ref        string            `json:"$ref"`
	Properties map[string]schema `json:"properties"`
	Items      *schema           `json:"items"`
	OneOf      []schema          `json:"oneOf"`
	AnyOf      []schema          `json:"anyOf"`
}

// UnmarshalJSON reads a schema, or true, which admits each value.
func (s *schema) UnmarshalJSON(data []byte) error {
	if data[0] != '{' {
		return nil
	}
	type plain schema
	return json.Unmarshal(data, (*plain)(s))
}

// TestDocuments: each field of a document is one that the description of the API has for the answer.
func TestDocuments(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{})
	resp := w.Browser().Get("/1.0/openapi.json")
	var description struct {
		Paths map[string]map[string]struct {
			Responses map[string]struct {
				Content map[string]struct{ Schema schema }
			}
		}
		Components struct{ Schemas map[string]schema }
	}
	require.NoError(t, json.Unmarshal([]byte(resp.Text), &description))
	var resolve func(s schema) schema
	resolve = func(s schema) schema {
		if s.Ref != "" {
			found, ok := description.Components.Schemas[s.Ref[strings.LastIndex(s.Ref, "/")+1:]]
			require.True(t, ok, s.Ref)
			return resolve(found)
		}
		for _, one := range append(s.OneOf, s.AnyOf...) {
			if one = resolve(one); one.Properties != nil || one.Items != nil {
				return one
			}
		}
		return s
	}
	var compare func(path string, document reflect.Type, s schema)
	compare = func(path string, document reflect.Type, s schema) {
		s = resolve(s)
		for document.Kind() == reflect.Pointer {
			document = document.Elem()
		}
		if document.Kind() == reflect.Slice && s.Items != nil {
			compare(path+"[]", document.Elem(), *s.Items)
			return
		}
		if document.Kind() != reflect.Struct || document == reflect.TypeFor[time.Time]() || !strings.HasSuffix(document.PkgPath(), "opscenter/client") {
			return
		}
		require.NotEmpty(t, s.Properties, "%s has no description", path)
		for i := range document.NumField() {
			field := document.Field(i)
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			described, ok := s.Properties[name]
			require.True(t, ok, "%s has no field %s", path, name)
			compare(path+"."+name, field.Type, described)
		}
	}
	for path, document := range answers {
		responses := description.Paths[path]["get"].Responses
		found := responses["200"].Content["application/json"].Schema
		metadata, ok := resolve(found).Properties["metadata"]
		require.True(t, ok, "%s: %+v", path, found)
		if metadata = resolve(metadata); metadata.Items != nil {
			metadata = *metadata.Items
		}
		compare(path, document, metadata)
	}
}

// TestClient reads lists page by page, and reports failures in the words of the API.
func TestClient(t *testing.T) {
	w := pagetest.Start(t, pagetest.Options{Members: 3, Single: 2})
	c, err := client.New(client.Options{URL: w.URL, HTTP: w.HTTP(), Token: w.AccessToken("client", access.Grant{Role: access.RoleViewer})})
	require.NoError(t, err)
	ctx := t.Context()
	api, err := client.Get[client.API](ctx, c, client.Path(), nil)
	require.NoError(t, err)
	require.Equal(t, access.RoleViewer, api.Role)
	var names []string
	for server, err := range client.All[client.Server](ctx, c, client.Path("provisioning/servers"), url.Values{"limit": {"2"}, "facts": {"0"}}) {
		require.NoError(t, err)
		names = append(names, server.Name)
	}
	require.Equal(t, []string{"m1", "m2", "m3", "s1", "s2"}, names)
	for server, err := range client.All[client.Server](ctx, c, client.Path("provisioning/servers"), nil) {
		require.NoError(t, err)
		require.NotEmpty(t, server.Hardware)
		break
	}
	_, err = client.Get[client.Server](ctx, c, client.Path("provisioning/servers", "none/such"), nil)
	require.Equal(t, http.StatusNotFound, client.StatusOf(err))
	require.ErrorContains(t, err, "none/such")
	_, err = c.Send(ctx, http.MethodPost, client.Path("provisioning/servers", "m1", "system/:reboot"), nil, nil, nil)
	require.Equal(t, http.StatusForbidden, client.StatusOf(err))
	for _, err := range client.All[client.Server](ctx, c, client.Path("provisioning/servers"), url.Values{"filter": {"name =="}}) {
		require.Equal(t, http.StatusBadRequest, client.StatusOf(err))
	}
	operator, err := client.New(client.Options{URL: w.URL, HTTP: w.HTTP(), Token: w.AccessToken("operator", access.Grant{Role: access.RoleOperator})})
	require.NoError(t, err)
	done, err := operator.Send(ctx, http.MethodPost, client.Path("provisioning/servers", "s1", "system/:reboot"), nil, nil, nil)
	require.NoError(t, err)
	rollout, err := client.Get[client.Rollout](ctx, operator, done.Location, nil)
	require.NoError(t, err)
	require.Equal(t, 1, rollout.Servers)
}

// TestBadAnswers: an answer that is none of the API is an error, and a large answer is not read whole.
func TestBadAnswers(t *testing.T) {
	for _, options := range []client.Options{{}, {URL: "control.example"}, {URL: "ftp://control.example"}, {URL: "https://control.example", MaxAnswer: -1}} {
		_, err := client.New(options)
		require.ErrorIs(t, err, client.ErrInvalid)
	}
	for text, wanted := range map[string]string{
		"":                                  "no document",
		"<html>":                            "no document",
		"{}":                                "no document",
		`{"type":"sync","metadata":"text"}`: "answer of /1.0",
		`{"type":"sync","metadata":{"server_version":"` + strings.Repeat("x", 2000) + `"}}`: "over 1000 bytes",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }))
		c, err := client.New(client.Options{URL: server.URL, MaxAnswer: 1000})
		require.NoError(t, err)
		_, err = client.Get[client.API](t.Context(), c, client.Path(), nil)
		require.ErrorIs(t, err, client.ErrInvalid, text)
		require.ErrorContains(t, err, wanted)
		server.Close()
	}
}
