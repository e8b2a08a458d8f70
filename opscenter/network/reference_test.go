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

	"github.com/opscenter-go/sdk/internal/jsonkeep"
	"github.com/opscenter-go/sdk/internal/reference"
	"github.com/opscenter-go/sdk/opscenter/network"
)

var update = flag.Bool("update", false, "write testdata/every-field.json from the API description")

// TestDescription: testdata/every-field.json has every field of the API description.
func TestDescription(t *testing.T) {
	document, err := reference.Document(reference.IncusOS, "SystemNetwork")
	require.NoError(t, err)
	data, err := json.MarshalIndent(document, "", "  ")
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile("testdata/every-field.json", append(data, '\n'), 0o644))
	}
	require.Equal(t, string(data)+"\n", string(everyField(t)), "run the test with -update to write the file")
}

func everyField(t testing.TB) []byte {
	data, err := os.ReadFile("testdata/every-field.json")
	require.NoError(t, err)
	return data
}

// TestEveryField: the types have every field of the API description, and no other.
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
					require.False(t, v.Field(i).IsZero(), "%s.%s is not in the API", path, name)
				}
				look(path+"."+f.Name, v.Field(i))
			}
		}
	}
	// In the description, members of bonds contain members again. One level is enough.
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
