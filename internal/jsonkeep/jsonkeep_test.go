package jsonkeep_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/jsonkeep"
)

type document struct {
	jsonkeep.Rest
	Name   string          `json:"name"`
	Size   int             `json:"size,omitempty"`
	On     bool            `json:"on,omitempty"`
	Tags   []string        `json:"tags,omitempty"`
	Part   *part           `json:"part,omitempty"`
	Parts  []part          `json:"parts,omitempty"`
	ByName map[string]part `json:"by_name,omitempty"`
}

type part struct {
	jsonkeep.Rest
	Name string `json:"name,omitempty"`
	Size int    `json:"size,omitempty"`
}

const full = `{"new":1.50e3,"name":"<a>","on":false,"tags":[],"part":null,"parts":[{"size":1,"later":{"x" : [1, 2]}},{"name":"b","named":"other"}],"by_name":{"z":{"name":"z","q":"\u003c"},"a":{}},"last":null}`

// TestUnchanged: Encode returns a decoded document byte for byte.
func TestUnchanged(t *testing.T) {
	var d document
	require.NoError(t, jsonkeep.Decode([]byte(full), &d))
	require.Equal(t, "<a>", d.Name)
	require.Equal(t, 1, d.Parts[0].Size)
	require.Equal(t, "b", d.Parts[1].Name)
	out, err := jsonkeep.Encode(d)
	require.NoError(t, err)
	require.Equal(t, full, string(out))
	unknown := jsonkeep.Unknown(d)
	require.Len(t, unknown, 2)
	require.Equal(t, "1.50e3", string(unknown["new"]))
	require.Len(t, jsonkeep.Unknown(&d.Parts[0]), 1)
}

// TestChanges: Encode changes only the members whose fields have changed.
func TestChanges(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*document)
		want   string
	}{
		"a value":         {func(d *document) { d.Name = "b" }, `{"new":1.50e3,"name":"b","on":false,"tags":[],"part":null,"parts":[{"size":1,"later":{"x" : [1, 2]}},{"name":"b","named":"other"}],"by_name":{"z":{"name":"z","q":"\u003c"},"a":{}},"last":null}`},
		"a part":          {func(d *document) { d.Parts[0].Size = 2 }, `{"new":1.50e3,"name":"<a>","on":false,"tags":[],"part":null,"parts":[{"size":2,"later":{"x" : [1, 2]}},{"name":"b","named":"other"}],"by_name":{"z":{"name":"z","q":"\u003c"},"a":{}},"last":null}`},
		"a part removed":  {func(d *document) { d.Parts = d.Parts[1:] }, `{"new":1.50e3,"name":"<a>","on":false,"tags":[],"part":null,"parts":[{"name":"b","named":"other"}],"by_name":{"z":{"name":"z","q":"\u003c"},"a":{}},"last":null}`},
		"new members":     {func(d *document) { d.Size, d.Part = 3, &part{Name: "p"} }, `{"new":1.50e3,"name":"<a>","on":false,"tags":[],"part":{"name":"p"},"parts":[{"size":1,"later":{"x" : [1, 2]}},{"name":"b","named":"other"}],"by_name":{"z":{"name":"z","q":"\u003c"},"a":{}},"last":null,"size":3}`},
		"members removed": {func(d *document) { d.Parts, d.ByName = nil, nil }, `{"new":1.50e3,"name":"<a>","on":false,"tags":[],"part":null,"last":null}`},
		"in a map":        {func(d *document) { p := d.ByName["z"]; p.Size = 9; d.ByName["z"] = p }, `{"new":1.50e3,"name":"<a>","on":false,"tags":[],"part":null,"parts":[{"size":1,"later":{"x" : [1, 2]}},{"name":"b","named":"other"}],"by_name":{"a":{},"z":{"name":"z","q":"\u003c","size":9}},"last":null}`},
		"not omitted":     {func(d *document) { d.Name = "" }, `{"new":1.50e3,"name":"","on":false,"tags":[],"part":null,"parts":[{"size":1,"later":{"x" : [1, 2]}},{"name":"b","named":"other"}],"by_name":{"z":{"name":"z","q":"\u003c"},"a":{}},"last":null}`},
		"changed back":    {func(d *document) { d.Name = "b"; d.Name = "<a>" }, full},
		"changed slice":   {func(d *document) { d.Tags = []string{"<x>"} }, `{"new":1.50e3,"name":"<a>","on":false,"tags":["<x>"],"part":null,"parts":[{"size":1,"later":{"x" : [1, 2]}},{"name":"b","named":"other"}],"by_name":{"z":{"name":"z","q":"\u003c"},"a":{}},"last":null}`},
	} {
		t.Run(name, func(t *testing.T) {
			var d document
			require.NoError(t, jsonkeep.Decode([]byte(full), &d))
			c.change(&d)
			out, err := jsonkeep.Encode(&d)
			require.NoError(t, err)
			require.Equal(t, c.want, string(out))
		})
	}
}

func TestDecodeErrors(t *testing.T) {
	for given, want := range map[string]string{
		``: "unexpected end", `[]`: "it must be an object", `{"name":1}`: "name: number is not", `{"size":1.5}`: "size: it must be a whole number",
		`{"parts":[{},{"size":"x"}]}`: "parts[1].size: string is not", `{"by_name":{"k":{"size":true}}}`: `by_name["k"].size: bool is not`,
		`{"part":3}`: "part: it must be an object", `{} {}`: "after top-level value", `{"name":"x"`: "unexpected end", `{"tags":"secret"}`: "tags: string is not", `{"Name":"x"}`: "Name: the field is spelled name", `{"partſ":[]}`: "partſ: the field is spelled parts", `{"parts":[{"SIZE":1}]}`: "parts[0].SIZE: the field is spelled size",
	} {
		err := jsonkeep.Decode([]byte(given), &document{})
		require.ErrorContains(t, err, want, given)
		require.NotContains(t, err.Error(), "secret")
	}
}

type nested struct {
	jsonkeep.Rest
	In *nested `json:"in,omitempty"`
}

func TestDepth(t *testing.T) {
	deep := func(n int) []byte {
		return []byte(strings.Repeat(`{"in":`, n) + "{}" + strings.Repeat("}", n))
	}
	var n nested
	require.NoError(t, jsonkeep.Decode(deep(jsonkeep.MaxDepth), &n))
	require.ErrorContains(t, jsonkeep.Decode(deep(jsonkeep.MaxDepth+1), &n), "deeper than 32")
}

// FuzzKeep: encoding a decoded document gives an equal document, except for white space and repeated members. Decoding and
// encoding the result again changes nothing.
func FuzzKeep(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(`{"name":"a","name":"b"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var d document
		if jsonkeep.Decode(data, &d) != nil {
			return
		}
		out, err := jsonkeep.Encode(d)
		require.NoError(t, err)
		var want, have any
		require.NoError(t, json.Unmarshal(data, &want))
		require.NoError(t, json.Unmarshal(out, &have))
		require.Equal(t, want, have)
		var again document
		require.NoError(t, jsonkeep.Decode(out, &again))
		more, err := jsonkeep.Encode(again)
		require.NoError(t, err)
		require.True(t, bytes.Equal(out, more))
		// Encode also works without the decoded members.
		d.Rest = jsonkeep.Rest{}
		_, err = jsonkeep.Encode(d)
		require.NoError(t, err)
	})
}
