package facts

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// What runs by itself on a real server is no change: names of IncusOS's API and Incus's resources.
func TestVolatileFacts(t *testing.T) {
	digest := func(network string) Sums {
		d, err := SumsOf(&lifecycle.Facts{Network: json.RawMessage(network)}, false)
		require.NoError(t, err)
		return d
	}
	const before, after = `{"config":{"mtu":1500},"state":{"x":[{"steady":1,"KEY":1}]}}`, `{"config":{"mtu":1500},"state":{"x":[{"KEY":{"any":[2]},"steady":1}]}}`
	replace := func(text, key string) string {
		data, err := json.Marshal(key)
		require.NoError(t, err)
		return strings.ReplaceAll(text, `"KEY"`, string(data))
	}
	for _, key := range []string{"stats", "counters", "uptime", "load", "used", "free", "usage_in_bytes", "available_in_bytes", "pool_allocated_space_in_bytes",
		"latest_handshake", "power_on_hours", "raw_read_error_rate", "ttl", "age", "last_check", "progress", "password", "wireguard_private_key"} {
		require.Equal(t, digest(replace(before, key)), digest(replace(after, key)), key)
	}
	for _, key := range []string{"mtu", "used_by", "freedom", "total", "public_key", "state", "addresses"} {
		require.NotEqual(t, digest(replace(before, key)), digest(replace(after, key)), key)
	}
}

// deliberatelyOutside are the members of Observation that are deliberately outside its digest, and why.
var deliberatelyOutside = map[string]string{
	"Server": "names the server", "ID": "names the server", "At": "is when it was asked", "Took": "is how long that took", "Light": "is what was asked for", "Facts.Sums": "are of the facts",
}

// Each member of an Observation that is changed is a change: a steady poll sees everything.
func TestDigestSeesEverything(t *testing.T) {
	whole := func() *lifecycle.Observation {
		kind, maintenance, member, trusted := lifecycle.TypeIncus, lifecycle.NotInMaintenance, "node", true
		return &lifecycle.Observation{Server: "s", ID: "1", At: time.Unix(1e9, 0), Took: time.Second, Presented: "f", Trust: "t", Ready: true, BootedAt: time.Unix(9e8, 0),
			Type: &kind, Versions: &lifecycle.Versions{OS: lifecycle.OSVersion{Name: lifecycle.OSName, Version: "1", VersionNext: "2"}, Applications: []lifecycle.ApplicationVersion{{Name: "incus", Version: "1", FriendlyVersion: "6"}}, UpdateChannel: "stable"},
			Maintenance: &maintenance, MemberName: &member, MemberRoles: []string{"database"}, SystemStateTrusted: &trusted,
			Update: &lifecycle.UpdateSettings{Channel: "stable", CheckFrequency: "never"}, UpdateStatus: &lifecycle.UpdateStatus{Status: "ok", LastCheck: time.Unix(1e9, 0)},
			Facts: &lifecycle.Facts{Hardware: json.RawMessage(`{"a":1}`), Network: json.RawMessage(`{"a":1}`), Security: json.RawMessage(`{"a":1}`), Storage: json.RawMessage(`{"a":1}`)}, Notes: []string{"n"}}
	}
	steady := DigestOf(whole(), false)
	require.False(t, steady.None())
	require.True(t, DigestOf(whole(), false).Same(steady))
	changed := 0
	// walk changes each value below v in turn, and puts it back.
	var walk func(o *lifecycle.Observation, v reflect.Value, path string)
	walk = func(o *lifecycle.Observation, v reflect.Value, path string) {
		check := func(set func()) {
			before := reflect.New(v.Type()).Elem()
			before.Set(v)
			set()
			require.False(t, DigestOf(o, false).Same(steady), "%s was changed, and that is not seen", path)
			v.Set(before)
			changed++
		}
		switch at, isTime := v.Interface().(time.Time); {
		case path == "Failure":
			check(func() { v.Set(reflect.ValueOf(&lifecycle.Failure{Kind: lifecycle.FailureConnect})) })
		case path == "Facts.ReadAt": // when what is stored changed: no prober sets it
		case isTime:
			check(func() { v.Set(reflect.ValueOf(at.Add(time.Minute))) })
		case v.Type() == reflect.TypeFor[json.RawMessage]():
			check(func() { v.SetBytes([]byte(`{"a":2}`)) })
		case v.Kind() == reflect.Pointer:
			require.False(t, v.IsNil(), "%s: give it a value above", path)
			inner := reflect.New(v.Elem().Type())
			inner.Elem().Set(v.Elem())
			v.Set(inner)
			walk(o, inner.Elem(), path)
		case v.Kind() == reflect.Struct:
			for i := range v.NumField() {
				name := strings.TrimPrefix(path+"."+v.Type().Field(i).Name, ".")
				if deliberatelyOutside[name] == "" {
					walk(o, v.Field(i), name)
				}
			}
		case v.Kind() == reflect.Slice:
			check(func() { v.Set(reflect.Append(v.Slice3(0, v.Len(), v.Len()), reflect.New(v.Type().Elem()).Elem())) })
			for i := range v.Len() {
				walk(o, v.Index(i), path)
			}
		case v.Kind() == reflect.String:
			check(func() { v.SetString(v.String() + "x") })
		case v.Kind() == reflect.Bool:
			check(func() { v.SetBool(!v.Bool()) })
		case v.CanInt():
			check(func() { v.SetInt(v.Int() + 1) })
		case v.CanUint():
			check(func() { v.SetUint(v.Uint() + 1) })
		default:
			require.Fail(t, "not walked", "%s, a %s", path, v.Kind())
		}
	}
	o := whole()
	walk(o, reflect.ValueOf(o).Elem(), "")
	require.Greater(t, changed, 30)
	o = whole()
	o.Unread = []string{"x"}
	require.True(t, DigestOf(o, false).None())
	// What differs by less than clocks do is the same boot; what is not told is no other one.
	o = whole()
	o.BootedAt = o.BootedAt.Add(lifecycle.BootDrift)
	require.True(t, DigestOf(o, false).Same(steady))
	o.BootedAt = time.Time{}
	require.True(t, DigestOf(o, false).Same(steady))
}
