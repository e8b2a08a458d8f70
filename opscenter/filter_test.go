package opscenter_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/expression"
)

// TestExpressions filters servers and clusters with expressions.
func TestExpressions(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		for n := range 4 {
			info := w.ready(t, n)
			o := answer(info)
			o.Facts = &opscenter.Facts{Hardware: json.RawMessage(`{"cpu":{"total":` + string(rune('0'+n)) + `}}`),
				Network: json.RawMessage(`{"config":{"dns":{"hostname":"server0` + string(rune('0'+n)) + `"}}}`)}
			w.observe(t, o)
		}
		require.NoError(t, w.UpdateServer(t.Context(), "server01", opscenter.ServerSpec{Properties: map[string]string{"rack": "7"}}, nil))
		require.NoError(t, w.PublishUpdate(t.Context(), "stable", "202611010000", "os", "incus"))
		list := func(text string, page opscenter.Page) ([]string, string) {
			found, err := w.ListServers(t.Context(), opscenter.ServerFilter{Expression: text}, page)
			require.NoError(t, err, text)
			var names []string
			for _, info := range found.Servers {
				names = append(names, info.Name)
			}
			return names, found.Next
		}
		for text, want := range map[string][]string{
			`name in ["server01", "nobody"]`:                                        {"server01"},
			`properties.rack == "7" and server_status == "ready"`:                   {"server01"},
			`hardware_data.cpu.total > 1`:                                           {"server02", "server03"},
			`os_data.network.config.dns.hostname == "server03"`:                     {"server03"},
			`needs_update and recommended_action == "update" and name endsWith "2"`: {"server02"},
			`needs_reboot or in_maintenance`:                                        nil,
			`last_seen > date("2020-01-01") and member_name == "server00"`:          {"server00"},
		} {
			got, _ := list(text, opscenter.Page{})
			require.Equal(t, want, got, text)
		}
		first, next := list(`hardware_data.cpu.total >= 1`, opscenter.Page{Limit: 2})
		require.Equal(t, []string{"server01", "server02"}, first)
		rest, next := list(`hardware_data.cpu.total >= 1`, opscenter.Page{Limit: 2, Cursor: next})
		require.Equal(t, []string{"server03"}, rest)
		require.Empty(t, next)
		for _, text := range []string{`nmae == "x"`, `name ==`, `hardware_data.cpu > 3`} {
			_, err := w.ListServers(t.Context(), opscenter.ServerFilter{Expression: text}, opscenter.Page{})
			require.ErrorIs(t, err, opscenter.ErrInvalidFilter, text)
			require.ErrorIs(t, err, expression.ErrInvalid, text)
			require.ErrorContains(t, err, "column", text)
		}

		for _, name := range []string{"a", "b"} {
			_, err := w.CreateCluster(t.Context(), name, opscenter.ClusterSpec{Description: "rack " + name})
			require.NoError(t, err)
		}
		found, err := w.ListClusters(t.Context(), opscenter.ClusterFilter{Expression: `description endsWith "b" and status == "pending"`}, opscenter.Page{})
		require.NoError(t, err)
		require.Len(t, found.Clusters, 1)
		require.Equal(t, "b", found.Clusters[0].Name)
		_, err = w.ListClusters(t.Context(), opscenter.ClusterFilter{Expression: `object.x`}, opscenter.Page{})
		require.ErrorIs(t, err, opscenter.ErrInvalidFilter)
	})
}
