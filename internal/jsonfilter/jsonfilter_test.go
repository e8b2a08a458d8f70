package jsonfilter_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/jsonfilter"
)

func drop(key []byte) bool { return strings.HasSuffix(string(key), "secret") }

func TestAppend(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{`{}`, `{}`},
		{` [ 1 , -2.5e+3 , "a b" , true , false , null , { } ] `, `[1,-2.5e+3,"a b",true,false,null,{}]`},
		{`{"secret":1}`, `{}`},
		{`{"a":1,"secret":{"x":[1,2]},"b":2}`, `{"a":1,"b":2}`},
		{`{"secret":1,"b":[{"my_secret":"x","c":0}],"secret":3}`, `{"b":[{"c":0}]}`},
		{`{"secr\u0065t":"escaped","a":"\u00e4\"\\"}`, `{"a":"\u00e4\"\\"}`},
		{"{\"a\":\"\xff\"}", "{\"a\":\"\uFFFD\"}"},
	} {
		out, removed, err := jsonfilter.Append([]byte("before"), []byte(test.in), drop)
		require.NoError(t, err, test.in)
		require.Equal(t, "before"+test.want, string(out))
		require.Equal(t, strings.Contains(test.in, "secr"), removed, test.in)
	}
	for _, bad := range []string{``, ` `, `{`, `{"a"}`, `{"a":}`, `{"a":1,}`, `[1,]`, `[1 2]`, `tru`, `01`, `1.`, `1e`, `-`, `"`, `"\x"`, `"\u12g4"`,
		"\"\n\"", `{} {}`, `{1:2}`, `nul`, strings.Repeat("[", 2000) + strings.Repeat("]", 2000)} {
		out, _, err := jsonfilter.Append([]byte("x"), []byte(bad), drop)
		require.ErrorIs(t, err, jsonfilter.ErrSyntax, bad)
		require.Equal(t, "x", string(out))
	}
	_, _, err := jsonfilter.Append(nil, []byte(`{"a":1,,}`), drop)
	require.ErrorContains(t, err, "byte 7 of 9")
}

func TestMembers(t *testing.T) {
	got := map[string]string{}
	require.NoError(t, jsonfilter.Members([]byte(` {"a" : [1, {"b":2}] ,"\u0062":"x","c":null} `), func(key, value []byte) { got[string(key)] = string(value) }))
	require.Equal(t, map[string]string{"a": `[1, {"b":2}]`, "b": `"x"`, "c": "null"}, got)
	require.NoError(t, jsonfilter.Members([]byte(`{}`), func(_, _ []byte) { t.Fatal("called without a member") }))
	for _, bad := range []string{``, `[]`, `{"a":1`, `{"a":1,}`, `{"a":1} x`, `{"a" 1}`, `{"a":x}`, `7`} {
		require.ErrorIs(t, jsonfilter.Members([]byte(bad), func(_, _ []byte) {}), jsonfilter.ErrSyntax, bad)
	}
}

// FuzzAppend: Append accepts the same documents as encoding/json. Its result equals the parsed document without the dropped
// members.
func FuzzAppend(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"secret":"x","b":"\u0073"}],"se\u0063ret":{}}`))
	f.Add([]byte(`[1.5e10,null,"\ud800"]`))
	f.Fuzz(func(t *testing.T, in []byte) {
		out, _, err := jsonfilter.Append(nil, in, drop)
		members := jsonfilter.Members(in, func(key, value []byte) { require.True(t, json.Valid(value)) })
		isObject := bytes.HasPrefix(bytes.TrimLeft(in, " \t\r\n"), []byte("{"))
		require.Equal(t, err == nil && isObject, members == nil)
		if err != nil {
			if bytes.Count(in, []byte("["))+bytes.Count(in, []byte("{")) < 1000 {
				require.False(t, json.Valid(in), "rejected a valid document")
			}
			return
		}
		require.True(t, json.Valid(in), "accepted an invalid document")
		require.Equal(t, remove(parse(t, in)), parse(t, out))
	})
}

func parse(t *testing.T, in []byte) (doc any) {
	d := json.NewDecoder(bytes.NewReader(in))
	d.UseNumber()
	require.NoError(t, d.Decode(&doc))
	return doc
}

func remove(doc any) any {
	switch d := doc.(type) {
	case map[string]any:
		for key, value := range d {
			if drop([]byte(key)) {
				delete(d, key)
			} else {
				d[key] = remove(value)
			}
		}
	case []any:
		for i := range d {
			d[i] = remove(d[i])
		}
	}
	return doc
}

func BenchmarkAppend(b *testing.B) {
	doc := []byte(`{"interfaces":[` + strings.Repeat(`{"name":"enp5s0","mtu":1500,"stats":{"rx":12345,"secret":"x"},"addresses":["10.0.0.1","fd42::1"]},`, 300) + `{}]}`)
	out := make([]byte, 0, len(doc))
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		out, _, _ = jsonfilter.Append(out[:0], doc, drop)
	}
}
