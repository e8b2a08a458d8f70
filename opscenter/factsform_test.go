package opscenter_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// shownFacts returns the facts of a server in both forms of the REST API, which must be the same.
func shownFacts(t *testing.T, w *world, name string) (out map[string]json.RawMessage) {
	t.Helper()
	info := w.get(t, name)
	require.NoError(t, w.Read(t.Context(), func(s *opscenter.Snapshot) error {
		plain, err := s.AppendFacts([]byte(`{`), info)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(append(plain, '}'), &out))
		frame, err := s.ZstdFacts(info)
		require.NoError(t, err)
		decoder, err := zstd.NewReader(nil)
		require.NoError(t, err)
		defer decoder.Close()
		again, err := decoder.DecodeAll(frame, []byte(`{`))
		require.NoError(t, err)
		require.Equal(t, string(plain), string(again))
		return nil
	}))
	return out
}

// TestFactsForm: facts are shown as the REST API shows them, whatever was read.
func TestFactsForm(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		info := w.ready(t, 0)
		see := func(f *lifecycle.Facts) {
			o := answer(info)
			o.Facts = f
			w.observe(t, o)
		}
		require.Equal(t, map[string]json.RawMessage{"os_data": json.RawMessage(`{}`)}, shownFacts(t, w, info.Name), "nothing was read")
		see(&lifecycle.Facts{Storage: json.RawMessage(` {"b" : 1 } `)})
		require.Equal(t, map[string]json.RawMessage{"os_data": json.RawMessage(`{"storage":{"b":1}}`)}, shownFacts(t, w, info.Name))
		see(&lifecycle.Facts{Hardware: json.RawMessage(`{"a":"<&>\u2028"}`), Network: json.RawMessage(`[1, {"password":"x"}]`), Security: json.RawMessage(`null`)})
		require.Equal(t, map[string]json.RawMessage{"hardware_data": json.RawMessage(`{"a":"<&>\u2028"}`),
			"os_data": json.RawMessage(`{"network":[1,{}],"security":null,"storage":{"b":1}}`)}, shownFacts(t, w, info.Name))
		found, err := w.ServerFacts(t.Context(), info.Name)
		require.NoError(t, err)
		require.JSONEq(t, `{"b":1}`, string(found.Storage))
		require.JSONEq(t, `[1,{}]`, string(found.Network))
		require.False(t, found.ReadAt.IsZero())
	})
}

// TestFactsOfAKeepingRegistry: a Registry that keeps no secrets shows none of those that an earlier one kept, in no form.
func TestFactsOfAKeepingRegistry(t *testing.T) {
	store := memstore.New()
	keeping, err := opscenter.NewRegistry(store, opscenter.Options{KeepSecrets: true})
	require.NoError(t, err)
	w := &world{Registry: keeping, store: store, log: &controltest.Log{}}
	o := answer(w.ready(t, 0))
	o.Facts = &lifecycle.Facts{Network: json.RawMessage(`{"password":"hunter2","a":1}`)}
	w.observe(t, o)
	require.Contains(t, string(shownFacts(t, w, "server00")["os_data"]), "hunter2")
	w = newWorld(t, store, opscenter.Options{})
	require.Equal(t, `{"network":{"a":1}}`, string(shownFacts(t, w, "server00")["os_data"]))
}

// TestDamagedFacts: damage is found before facts are shown.
func TestDamagedFacts(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		o := answer(w.ready(t, 0))
		o.Facts = &lifecycle.Facts{Network: json.RawMessage(`{"a":1}`)}
		w.observe(t, o)
		require.NoError(t, w.DamageFacts(t.Context(), "server00"))
		info := w.get(t, "server00")
		require.NoError(t, w.Read(t.Context(), func(s *opscenter.Snapshot) error {
			out, err := s.AppendFacts([]byte("x"), info)
			require.ErrorIs(t, err, storage.ErrCorrupt)
			require.Equal(t, "x", string(out))
			_, err = s.ZstdFacts(info)
			require.ErrorIs(t, err, storage.ErrCorrupt)
			_, err = s.Facts(info)
			require.ErrorIs(t, err, storage.ErrCorrupt)
			return nil
		}))
		o = answer(info)
		o.Facts = &lifecycle.Facts{Network: json.RawMessage(`{"a":2}`)}
		w.observe(t, o)
		require.Equal(t, `{"network":{"a":2}}`, string(shownFacts(t, w, "server00")["os_data"]), "the next facts replace them")
	})
}

// TestDeepFacts: facts that nest as deep as is read stay readable, alone and in a filter of the whole fleet.
func TestDeepFacts(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		o := answer(w.ready(t, 0))
		w.ready(t, 1)
		deep := json.RawMessage(`{"a":` + strings.Repeat("[", 999) + "1" + strings.Repeat("]", 999) + `}`)
		o.Facts = &lifecycle.Facts{Hardware: json.RawMessage(`{"cpu":1}`), Network: deep, Security: deep, Storage: deep}
		w.observe(t, o)
		found, err := w.ServerFacts(t.Context(), "server00")
		require.NoError(t, err)
		require.Equal(t, string(deep), string(found.Storage))
		require.Equal(t, `{"cpu":1}`, string(shownFacts(t, w, "server00")["hardware_data"]))
		list, err := w.ListServers(t.Context(), opscenter.ServerFilter{Expression: `hardware_data.cpu == 1`}, opscenter.Page{})
		require.NoError(t, err)
		require.Len(t, list.Servers, 1)
	})
}

// TestDamagedFactsHideNoServer: a filter over facts goes on with the other servers.
func TestDamagedFactsHideNoServer(t *testing.T) {
	w := memoryWorld(t)
	for n := range 2 {
		o := answer(w.ready(t, n))
		o.Facts = &lifecycle.Facts{Hardware: json.RawMessage(`{"cpu":1}`)}
		w.observe(t, o)
	}
	require.NoError(t, w.DamageFacts(t.Context(), "server00"))
	list, err := w.ListServers(t.Context(), opscenter.ServerFilter{Expression: `hardware_data.cpu == 1`}, opscenter.Page{})
	require.NoError(t, err)
	require.Len(t, list.Servers, 1)
	require.Equal(t, "server01", list.Servers[0].Name)
}
