package network_test

import (
	"encoding/json"
	"flag"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/opscenter-go/sdk/internal/jsonkeep"
	"github.com/opscenter-go/sdk/internal/reference"
	"github.com/opscenter-go/sdk/opscenter/network"
)

var update = flag.Bool("update", false, "write testdata/every-field.json from the API description")

type definition struct {
	Properties           map[string]definition `yaml:"properties"`
	Items                *definition           `yaml:"items"`
	AdditionalProperties *definition           `yaml:"additionalProperties"`
	Type                 string                `yaml:"type"`
	Ref                  string                `yaml:"$ref"`
}

// TestDescription: the types have every field of the API description, and
// testdata/every-field.json is a document with all of them.
func TestDescription(t *testing.T) {
	text, err := reference.Read(reference.IncusOS)
	require.NoError(t, err)
	var api struct {
		Definitions map[string]definition `yaml:"definitions"`
	}
	require.NoError(t, yaml.Unmarshal(text, &api))
	var fill func(d definition, depth int) any
	fill = func(d definition, depth int) any {
		if name, ok := strings.CutPrefix(d.Ref, "#/definitions/"); ok {
			d = api.Definitions[name]
		}
		if depth > 8 {
			return nil
		}
		switch {
		case d.Items != nil:
			return []any{fill(*d.Items, depth+1)}
		case d.AdditionalProperties != nil:
			return map[string]any{"one": fill(*d.AdditionalProperties, depth+1)}
		case len(d.Properties) > 0:
			out := map[string]any{}
			for name, p := range d.Properties {
				if value := fill(p, depth+1); value != nil {
					out[name] = value
				}
			}
			return out
		case d.Type == "string":
			return "x"
		case d.Type == "integer":
			return 7
		case d.Type == "boolean":
			return true
		}
		t.Fatalf("%+v is not known", d)
		return nil
	}
	document := fill(api.Definitions["SystemNetwork"], 0)
	data, err := json.MarshalIndent(document, "", "  ")
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile("testdata/every-field.json", append(data, '\n'), 0o644))
	}
	require.Equal(t, string(data)+"\n", string(everyField(t)), "run it with -update")
}

func everyField(t testing.TB) []byte {
	data, err := os.ReadFile("testdata/every-field.json")
	require.NoError(t, err)
	return data
}

// TestEveryField: there is no field of the API that the types do not know.
func TestEveryField(t *testing.T) {
	var n network.Network
	require.NoError(t, json.Unmarshal(everyField(t), &n))
	var look func(path string, v reflect.Value)
	look = func(path string, v reflect.Value) {
		switch v.Kind() {
		case reflect.Pointer:
			if !v.IsNil() {
				look(path, v.Elem())
			}
		case reflect.Slice:
			for i := range v.Len() {
				look(path+"[]", v.Index(i))
			}
		case reflect.Map:
			for _, key := range v.MapKeys() {
				look(path+"."+key.String(), v.MapIndex(key))
			}
		case reflect.Struct:
			if v.Type() == reflect.TypeFor[jsonkeep.Rest]() {
				return
			}
			require.Empty(t, slices.Sorted(maps.Keys(jsonkeep.Unknown(v.Interface()))), path)
			for i := range v.NumField() {
				f := v.Type().Field(i)
				if f.Name != "Rest" {
					name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
					require.False(t, v.Field(i).IsZero(), "%s.%s is not of the API", path, name)
				}
				look(path+"."+f.Name, v.Field(i))
			}
		}
	}
	// Of interfaces within bonds the description has no end: one level is enough.
	for name, s := range n.State.Interfaces {
		s.Members = nil
		n.State.Interfaces[name] = s
	}
	n.Rest = jsonkeep.Rest{}
	value := reflect.ValueOf(n)
	look("config", value.FieldByName("Config"))
	state := n.State.Interfaces["one"]
	for _, f := range reflect.VisibleFields(reflect.TypeOf(state)) {
		if f.Name != "Members" && f.Name != "Rest" && len(f.Index) == 1 {
			look("state."+f.Name, reflect.ValueOf(state).FieldByIndex(f.Index))
			require.False(t, reflect.ValueOf(state).FieldByIndex(f.Index).IsZero(), f.Name)
		}
	}
}
