package opscenter_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage/memstore"
)

func TestSecretsByAnyName(t *testing.T) {
	for _, key := range []string{"wakeonlan_password", "Password", "encryption_key", "server_token", "PRIVATE_KEY", "pool_recovery_keys"} {
		out, err := facts.RedactSecrets(json.RawMessage(fmt.Sprintf(`{"a":[{%q:"hunter2","kept":1}]}`, key)))
		require.NoError(t, err)
		require.JSONEq(t, `{"a":[{"kept":1}]}`, string(out), key)
	}
	kept := `{"encryption_recovery_keys_retrieved":true,"tpm_public_key":"p","public_key":"q"}`
	out, err := facts.RedactSecrets(json.RawMessage(kept))
	require.NoError(t, err)
	require.Equal(t, kept, string(out))
}

// A store that kept secrets, and is opened by one that does not.
func TestSecretsOfAnEarlierTime(t *testing.T) {
	store := memstore.New()
	security := func(secret string, n int) *lifecycle.Facts {
		return &lifecycle.Facts{Security: json.RawMessage(fmt.Sprintf(`{"config":{"encryption_recovery_keys":[%q],"n":%d},"more":{"password":%q}}`, secret, n, secret))}
	}
	see := func(w *world, facts *lifecycle.Facts) {
		info := w.get(t, "server00")
		o := answer(info)
		o.Facts = facts
		w.observe(t, o)
	}
	keeping, err := opscenter.NewRegistry(store, opscenter.Options{KeepSecrets: true})
	require.NoError(t, err)
	w := &world{Registry: keeping, store: store, log: &controltest.Log{}}
	w.ready(t, 0)
	see(w, security("hunter1", 1))
	see(w, security("hunter2", 1))
	history, err := w.FactsHistory(t.Context(), "server00")
	require.NoError(t, err)
	require.Contains(t, fmt.Sprint(history), "hunter2", "where they are kept, a change of them is one")

	w = newWorld(t, store, opscenter.Options{})
	facts, err := w.ServerFacts(t.Context(), "server00")
	require.NoError(t, err)
	requireNoSecret(t, string(facts.Security), "hunter")
	see(w, security("hunter3", 2))
	history, err = w.FactsHistory(t.Context(), "server00")
	require.NoError(t, err)
	requireNoSecret(t, fmt.Sprint(history), "hunter")
	require.Equal(t, []lifecycle.FieldChange{{Path: "security.config.n", From: "1", To: "2"}}, history[0].Changes)
	require.Len(t, history, 2)
}

// A document made to be slow to compare is not.
func TestFactsMadeToBeSlow(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	document := func(n int) string {
		return fmt.Sprintf(`{%q:[%s]}`, strings.Repeat("k", 150<<10), strings.TrimSuffix(strings.Repeat(fmt.Sprint(n, ","), 90_000), ","))
	}
	w.observe(t, withFacts(answer(info), document(1)))
	begun := time.Now()
	w.observe(t, withFacts(answer(info), document(2)))
	require.Less(t, time.Since(begun), time.Minute)
	history, err := w.FactsHistory(t.Context(), "server00")
	require.NoError(t, err)
	require.Len(t, history[0].Changes, lifecycle.MaxFactChanges)
	require.Less(t, len(history[0].Changes[0].Path), 300)
}

// noise is a text of n hexadecimal digits that can't be compressed.
func noise(n int) string {
	data := make([]byte, n/2)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	return fmt.Sprintf("%x", data)
}

// A part of the facts that is too large costs no other part, and is kept as far as it fits.
func TestFactsThatAreTooLarge(t *testing.T) {
	large := func(limit, counter int) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"config":{"name":"kept"},"state":{"small":{"used":%d,"a":1},"large":"%s"}}`, counter, noise(limit)))
	}
	small := json.RawMessage(`{"a":1}`)
	for i, limit := range []int{lifecycle.MaxHardwareSize, lifecycle.MaxNetworkSize, lifecycle.MaxSecuritySize, lifecycle.MaxStorageSize} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			w := memoryWorld(t)
			info := w.ready(t, 0)
			part := func(f *lifecycle.Facts) *json.RawMessage {
				return []*json.RawMessage{&f.Hardware, &f.Network, &f.Security, &f.Storage}[i]
			}
			seen := func(data json.RawMessage) *lifecycle.Facts {
				o := answer(info)
				o.Facts = &lifecycle.Facts{Hardware: small, Network: small, Security: small, Storage: small}
				*part(o.Facts) = data
				w.observe(t, o)
				facts, err := w.ServerFacts(t.Context(), info.Name)
				require.NoError(t, err)
				return facts
			}
			warned := func() []*warning.Warning {
				page, err := w.Warnings().List(t.Context(), opscenter.WarningFilter{Server: info.Name}, opscenter.Page{})
				require.NoError(t, err)
				return page.Warnings
			}
			facts := seen(large(limit, 1))
			require.JSONEq(t, `{"config":{"name":"kept"},"state":{"small":{"used":1,"a":1}}}`, string(*part(facts)))
			*part(facts) = small
			for _, other := range []json.RawMessage{facts.Hardware, facts.Network, facts.Security, facts.Storage} {
				require.JSONEq(t, string(small), string(other))
			}
			require.Len(t, warned(), 1)
			require.Equal(t, warning.Facts, warned()[0].Kind)
			require.Contains(t, warned()[0].Message, "left out: state.large")
			o := answer(info)
			o.Facts, o.Unread = &lifecycle.Facts{}, []string{"a part: timeout"}
			w.observe(t, o)
			require.Len(t, warned(), 2, "a part that could not be read is no smaller")
			seen(large(limit, 1))
			for range 3 {
				seen(large(limit, 1)) // and all can be read again
			}
			revision := w.revision(t)
			for n := range 5 {
				seen(large(limit, 1000+n))
			}
			require.Equal(t, revision, w.revision(t), "counters that move are no change")
			w.observe(t, answer(info))
			require.Len(t, warned(), 1, "a light poll does not judge it")
			seen(small)
			require.Empty(t, warned())
		})
	}
	t.Run("no JSON", func(t *testing.T) {
		w := memoryWorld(t)
		info := w.ready(t, 0)
		o := answer(info)
		o.Facts = &lifecycle.Facts{Hardware: json.RawMessage(`{`), Network: small, Security: small, Storage: small}
		w.observe(t, o)
		facts, err := w.ServerFacts(t.Context(), info.Name)
		require.NoError(t, err)
		require.Empty(t, facts.Hardware)
		require.JSONEq(t, string(small), string(facts.Storage), "the others are not concerned")
	})
	t.Run("all as large as may be", func(t *testing.T) { // fits into a row, however badly it compresses
		onBoth(t, func(t *testing.T, w *world) {
			info := w.ready(t, 0)
			full := func(limit int) json.RawMessage { return json.RawMessage(fmt.Sprintf(`{"x":%q}`, noise(limit-10))) }
			o := answer(info)
			o.Facts = &lifecycle.Facts{Hardware: full(lifecycle.MaxHardwareSize), Network: full(lifecycle.MaxNetworkSize), Security: full(lifecycle.MaxSecuritySize), Storage: full(lifecycle.MaxStorageSize)}
			w.observe(t, o)
			facts, err := w.ServerFacts(t.Context(), info.Name)
			require.NoError(t, err)
			require.Equal(t, o.Facts.Size(), facts.Size())
			require.Less(t, facts.Size(), lifecycle.MaxFactsSize)
		})
	})
}

// Virtual functions are summarised by their count: Incus's resources have it beside them.
func TestVirtualFunctions(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	vf := `{"driver":"mlx5_core","ports":[{"id":"x","modes":"` + strings.Repeat("m", 900) + `"}]}`
	card := `{"driver":"mlx5_core","sriov":{"current_vfs":128,"maximum_vfs":128,"vfs":[` + strings.TrimSuffix(strings.Repeat(vf+",", 128), ",") + `]}}`
	w.observe(t, withFacts(answer(info), `{"cpu":{"total":4},"network":{"cards":[`+card+","+card+","+card+","+card+`],"total":4}}`))
	facts, err := w.ServerFacts(t.Context(), info.Name)
	require.NoError(t, err)
	short := `{"driver":"mlx5_core","sriov":{"current_vfs":128,"maximum_vfs":128}}`
	require.JSONEq(t, `{"cpu":{"total":4},"network":{"cards":[`+short+","+short+","+short+","+short+`],"total":4}}`, string(facts.Hardware))
	page, err := w.Warnings().List(t.Context(), opscenter.WarningFilter{Kind: warning.Facts}, opscenter.Page{})
	require.NoError(t, err)
	require.Contains(t, page.Warnings[0].Message, "left out: 512 virtual functions")
}

// Whatever is too large is reduced to JSON that fits, the same each time.
func TestReducePart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.OneOf(rapid.Just(`"x"`), rapid.Map(rapid.IntRange(0, 3000), func(n int) string { return `"` + strings.Repeat("y", n) + `"` }), rapid.Just(`{"vfs":[1,2],"n":{"m":1}}`), rapid.Just(`[{"vfs":[{}]}]`), rapid.Just(`{}`), rapid.Just(`null`))
		object := rapid.Map(rapid.MapOfN(rapid.StringMatching(`[a-c<]{0,3}`), value, 0, 5), func(m map[string]string) string {
			var out []string
			for key, value := range m {
				name, _ := json.Marshal(key)
				out = append(out, string(name)+":"+value)
			}
			return "{" + strings.Join(out, ",") + "}"
		})
		data := json.RawMessage(`{"a":` + object.Draw(t, "a") + `,"b":` + object.Draw(t, "b") + `,"b":` + value.Draw(t, "c") + `}`)
		limit := rapid.IntRange(64, 4000).Draw(t, "limit")
		kept, left, err := opscenter.ReducePart(data, limit)
		require.NoError(t, err)
		require.True(t, kept == nil || json.Valid(kept), "%s", kept)
		require.LessOrEqual(t, len(kept), limit)
		again, leftAgain, err := opscenter.ReducePart(data, limit)
		require.NoError(t, err)
		require.Equal(t, string(kept), string(again))
		require.Equal(t, left, leftAgain)
	})
	var document strings.Builder
	for i := range 40 {
		fmt.Fprintf(&document, "%s%q:%q", map[bool]string{true: ",", false: "{"}[i > 0], fmt.Sprintf("m%02d", i), strings.Repeat("x", 5000))
	}
	kept, left, err := opscenter.ReducePart(json.RawMessage(document.String()+"}"), 26000)
	require.NoError(t, err)
	var members map[string]any
	require.NoError(t, json.Unmarshal(kept, &members))
	require.Len(t, members, 4)
	require.Equal(t, "m00, m01, m02, m03, m04, m05, m06, m07, m08, m09, and 26 more", left, "all are counted")
	begun := time.Now()
	many := func(member string, n int) string {
		var out strings.Builder
		for i := range n {
			fmt.Fprintf(&out, "%s%q:%s", map[bool]string{true: ",", false: ""}[i > 0], fmt.Sprint(i), member)
		}
		return "{" + out.String() + "}"
	}
	for name, document := range map[string]string{
		"a name": `{"` + strings.Repeat("k", 3<<20) + `":{"a":1},"x":1}`, "names that grow": `{"` + strings.Repeat("\u2028", 100_000) + `":1}`,
		"objects": many(`{"":0}`, 200_000), "members": many("0", 380_000), "members below": `{"a":` + many("0", 380_000) + `}`,
	} {
		kept, left, err := opscenter.ReducePart(json.RawMessage(document), lifecycle.MaxHardwareSize)
		require.NoError(t, err, name)
		require.LessOrEqual(t, len(kept), lifecycle.MaxHardwareSize, name)
		require.True(t, left != "" || name == "names that grow", name) // those are shorter without escapes
	}
	require.Less(t, time.Since(begun), 2*time.Minute, "whatever it has: a second or two, and ten with -race; what grows with the square takes longer than an hour")
	begun = time.Now()
	_, _, err = opscenter.ReducePart(json.RawMessage(`{"a":`+strings.Repeat("[", 2000)+strings.Repeat("]", 2000)+`}`), 100)
	require.Error(t, err, "nested too deep")
	require.Less(t, time.Since(begun), time.Minute)
}

func TestFactsHistory(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		info := w.ready(t, 0)
		const network = `{"config":{"mtu":%d,"password":"hunter%d"},"state":{"uptime":%d,"list":[1,2]}}`
		see := func(i int) {
			w.observe(t, withFacts(answer(info), `{"cpu":1}`), func() lifecycle.Observation {
				o := answer(info)
				o.Facts = &lifecycle.Facts{Network: json.RawMessage(fmt.Sprintf(network, i, i, i))}
				return o
			}())
		}
		see(0)
		history, err := w.FactsHistory(t.Context(), "server00")
		require.NoError(t, err)
		require.Empty(t, history, "the first reading is no change")
		see(1)
		history, err = w.FactsHistory(t.Context(), "server00")
		require.NoError(t, err)
		require.Len(t, history, 1)
		require.Equal(t, []lifecycle.FieldChange{{Path: "network.config.mtu", From: "0", To: "1"}}, history[0].Changes)
		requireNoSecret(t, fmt.Sprint(history), "hunter")
		require.WithinDuration(t, time.Now(), history[0].At, time.Minute)
		for i := range opscenter.DefaultMaxFactsHistory + 10 {
			see(i + 2)
		}
		history, err = w.FactsHistory(t.Context(), "server00")
		require.NoError(t, err)
		require.Len(t, history, opscenter.DefaultMaxFactsHistory, "bounded")
		require.Equal(t, uint64(opscenter.DefaultMaxFactsHistory+11), history[0].Number, "the newest first")

		// Values that come, go and are long; more of them than are kept.
		o := answer(info)
		long := strings.Repeat("x", 1000)
		many := map[string]int{}
		for i := range 150 {
			many[fmt.Sprintf("n%03d", i)] = i
		}
		data, err := json.Marshal(map[string]any{"config": map[string]any{"name": long}, "state": map[string]any{"list": []int{1}, "many": 1}, "x": many})
		require.NoError(t, err)
		o.Facts = &lifecycle.Facts{Network: data}
		w.observe(t, o)
		history, err = w.FactsHistory(t.Context(), "server00")
		require.NoError(t, err)
		paths := map[string]lifecycle.FieldChange{}
		for _, change := range history[0].Changes {
			paths[change.Path] = change
		}
		require.Equal(t, lifecycle.FieldChange{Path: "network.state.list[1]", From: "2"}, paths["network.state.list[1]"])
		require.LessOrEqual(t, len(paths["network.config.name"].To), lifecycle.MaxFactValue+len("…"))
		for i := range many {
			many[i]++
		}
		data, err = json.Marshal(map[string]any{"x": many})
		require.NoError(t, err)
		o.Facts = &lifecycle.Facts{Network: data}
		w.observe(t, o)
		history, err = w.FactsHistory(t.Context(), "server00")
		require.NoError(t, err)
		require.Len(t, history[0].Changes, lifecycle.MaxFactChanges)
		require.Positive(t, history[0].More)

		_, err = w.FactsHistory(t.Context(), "missing")
		require.ErrorIs(t, err, opscenter.ErrNotFound)
		require.NoError(t, w.DeleteServer(t.Context(), "server00", false))
		_, err = w.FactsHistory(t.Context(), "server00")
		require.ErrorIs(t, err, opscenter.ErrNotFound)
	})
}
