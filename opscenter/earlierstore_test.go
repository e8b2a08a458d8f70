package opscenter_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/earlierstore"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

// TestEarlierStore: a store that commit 5f38f36 wrote opens, with all that is in it, and goes on.
func TestEarlierStore(t *testing.T) {
	dir := earlierstore.Unpack(t, filepath.Join("..", "storage", "badgerstore", "testdata", "5f38f36", "store.tar.gz"))
	var last uint64
	for round := range 2 {
		store, err := badgerstore.Open(dir)
		require.NoError(t, err)
		w := newWorld(t, store, opscenter.Options{})
		servers, err := w.ListServers(t.Context(), opscenter.ServerFilter{}, opscenter.Page{})
		require.NoError(t, err)
		require.Len(t, servers.Servers, 7+round)
		info := w.get(t, "server00")
		require.Equal(t, lifecycle.StatusReady, info.State.Status)
		require.Equal(t, "cluster1", info.Cluster)
		require.Equal(t, "202608010000", info.State.Versions.OS.Version)
		require.Equal(t, lifecycle.ActionUpdate, info.Recommendation().Action, "its channel has a newer version")
		require.Equal(t, lifecycle.StatusOffline, w.get(t, "server05").State.Status)
		facts, err := w.ServerFacts(t.Context(), "server00")
		require.NoError(t, err)
		require.NotEmpty(t, facts.Hardware)
		history, err := w.FactsHistory(t.Context(), "server00")
		require.NoError(t, err)
		require.Len(t, history, 1)
		require.Equal(t, map[warning.Kind]int{"Fan failed": 1, "Air conditioning": 1, warning.Unreachable: 1}, w.Warnings().Counts())
		require.Equal(t, 7+round, w.Tracked())
		tokens, err := w.ListTokens(t.Context(), opscenter.Page{})
		require.NoError(t, err)
		require.Len(t, tokens.Tokens, 2)

		events, err := w.ListEvents(t.Context(), opscenter.EventFilter{Limit: 1000})
		require.NoError(t, err)
		if round == 0 {
			require.Len(t, events, 60)
			require.EqualValues(t, 60, events[59].Sequence, "the numbers of that time stay")
		}
		last = events[len(events)-1].Sequence
		if round == 0 {
			reg := registration(30, tokens.Tokens[0].UUID)
			_, err = w.Register(t.Context(), reg)
			require.NoError(t, err)
			later, err := w.ListEvents(t.Context(), opscenter.EventFilter{After: last})
			require.NoError(t, err)
			require.Len(t, later, 1)
			require.Equal(t, event.ServerRegistered, later[0].Kind)
			require.Greater(t, later[0].Sequence, last)
		}
		require.NoError(t, w.Close())
		require.NoError(t, store.Close())
	}
}
