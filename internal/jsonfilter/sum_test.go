package jsonfilter_test

import (
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/jsonfilter"
)

func exclude(key []byte) bool { return strings.HasSuffix(string(key), "count") }

// requireSum compares Sum with two passes of Append: one for the output, and one for the sum.
func requireSum(t *testing.T, in []byte) {
	t.Helper()
	out, sum, err := jsonfilter.Sum([]byte("before"), in, drop, exclude)
	want, _, wrong := jsonfilter.Append([]byte("before"), in, drop)
	require.Equal(t, wrong == nil, err == nil, "%v, %v", wrong, err)
	require.Equal(t, string(want), string(out))
	if err != nil {
		require.ErrorIs(t, err, jsonfilter.ErrSyntax)
		require.Zero(t, sum)
		return
	}
	steady, _, err := jsonfilter.Append(nil, in, func(key []byte) bool { return drop(key) || exclude(key) })
	require.NoError(t, err)
	require.Equal(t, xxhash.Sum64(steady), sum, "%s, of which %s counts", in, steady)
}

func TestSum(t *testing.T) {
	for _, in := range []string{`{}`, `[]`, `1`, `{"count":1}`, `{"count":1,"a":2}`, `{"a":1,"count":2}`, `{"a":1,"count":2,"b":3}`, `{"count":1,"count":2,"b":3,"c":4}`,
		`{"secret":1,"count":2,"a":3}`, `{"count":{"a":[{"count":1}],"secret":2},"secret":{"count":1},"z":{"count":1}}`, `{"a":{"count":1},"count":{"count":1},"b":{"x":0,"count":1}}`,
		`[{"count":1},{"count":1,"b":{"count":[1,2]}}]`, ` { "count" : 1 , "a" : 2 } `, `{"a":1,}`, `{"count":}`, ``} {
		requireSum(t, []byte(in))
	}
	same := func(a, b string) bool {
		_, x, err := jsonfilter.Sum(nil, []byte(a), drop, exclude)
		require.NoError(t, err)
		_, y, err := jsonfilter.Sum(nil, []byte(b), drop, exclude)
		require.NoError(t, err)
		return x == y
	}
	require.True(t, same(`{"count":1,"a":2}`, `{"a":2,"secret":{},"x_count":[7]}`))
	require.False(t, same(`{"count":1,"a":2}`, `{"count":1,"a":3}`))
}

func FuzzSum(f *testing.F) {
	f.Add([]byte(`{"count":1,"a":[{"secret":2,"count":{"b":1}},3],"count":4,"b":5}`))
	f.Add([]byte(`{"a":{"count":0,"b":{"count":1,"c":2}},"\u0063ount":"x"}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		requireSum(t, in)
		// The same document within an answer.
		answer := append(append([]byte(`{"type":"sync","metadata":`), in...), `,"error_code":7}`...)
		got := map[string]string{}
		out, sum, err := jsonfilter.MembersSum(nil, answer, "metadata", drop, exclude, func(key, value []byte) { got[string(key)] = string(value) })
		want, wantSum, wrong := jsonfilter.Sum(nil, in, drop, exclude)
		if wrong != nil {
			return // the rest may complete it
		}
		require.NoError(t, err)
		require.Equal(t, string(want), string(out))
		require.Equal(t, wantSum, sum)
		require.Equal(t, map[string]string{"type": `"sync"`, "error_code": "7"}, got)
	})
}

func TestMembersSum(t *testing.T) {
	use := func(_, _ []byte) {}
	out, sum, err := jsonfilter.MembersSum([]byte("x"), []byte(`{"a":1}`), "metadata", drop, exclude, use)
	require.NoError(t, err)
	require.Equal(t, "x", string(out))
	require.Zero(t, sum, "there is no such member")
	out, sum, err = jsonfilter.MembersSum([]byte("x"), []byte(`{"metadata":{"count":1,"b":2},"a":{"metadata":3},"metadata":{"c":4}}`), "metadata", drop, exclude, use)
	require.NoError(t, err)
	require.Equal(t, `x{"c":4}`, string(out), "the last one counts, as in encoding/json")
	require.Equal(t, xxhash.Sum64String(`{"c":4}`), sum)
	for _, bad := range []string{``, `[]`, `{"metadata":{}`, `{"metadata":{},}`, `{"metadata":{}} x`, `{"metadata":x}`} {
		out, _, err := jsonfilter.MembersSum([]byte("x"), []byte(bad), "metadata", drop, exclude, use)
		require.ErrorIs(t, err, jsonfilter.ErrSyntax, bad)
		require.Equal(t, "x", string(out))
	}
}
