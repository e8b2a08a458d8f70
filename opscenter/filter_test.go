package opscenter_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/expression"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// TestExpressions filters servers and clusters with expressions.
func TestExpressions(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		for n := range 4 {
			info := w.ready(t, n)
			o := answer(info)
			o.Facts = &lifecycle.Facts{Hardware: json.RawMessage(`{"cpu":{"total":` + string(rune('0'+n)) + `}}`),
				Network: json.RawMessage(`{"config":{"dns":{"hostname":"server0` + string(rune('0'+n)) + `"}}}`)}
			w.observe(t, o)
		}
		require.NoError(t, w.UpdateServer(t.Context(), "server01", opscenter.ServerSpec{Properties: map[string]string{"rack": "7"}}, nil))
		require.NoError(t, w.Channels().Publish(t.Context(), "stable", "202611010000", "os", "incus"))
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
			`name in ["server01", "missing"]`:                                       {"server01"},
			`properties.rack == "7" and server_status == "ready"`:                   {"server01"},
			`hardware_data.cpu.total > 1`:                                           {"server02", "server03"},
			`os_data.network.config.dns.hostname == "server03"`:                     {"server03"},
			`needs_update and recommended_action == "update" and name endsWith "2"`: {"server02"},
			`needs_reboot or in_maintenance`:                                        nil,
			`properties.rack != "7"`:                                                {"server00", "server02", "server03"},
			`properties["rack"] != "7" and properties.rack == nil`:                  {"server00", "server02", "server03"},
			`cluster == nil`: {"server00", "server01", "server02", "server03"},
			`cluster == "" and nil == cluster and not (cluster != nil)`:                                                    {"server00", "server01", "server02", "server03"},
			`status == "ready" and status_detail == "" and type == "incus" and name == "server02"`:                         {"server02"},
			`version_data.os.version == "202610010000" and name == "server01"`:                                             {"server01"},
			`any(version_data.applications, .name == "incus" and .needs_update) and name == "server03"`:                    {"server03"},
			`version_data.in_maintenance == 0 and version_data.update_channel == "stable" and name == "server00"`:          {"server00"},
			`toFloat64(hardware_data.cpu.total) > 2.5 and toFloat64(hardware_data.nothing) == 0 and toFloat64("x") == 0.0`: {"server03"},
			`len(hardware_data.nothing) == 0 and len(properties) == 1`:                                                     {"server01"},
			`certificate contains "BEGIN" and cluster_certificate == nil and name == "server01"`:                           {"server01"},
			`last_seen > date("2020-01-01") and member_name == "server00"`:                                                 {"server00"},
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
		require.NoError(t, w.AddClusterMembers(t.Context(), "b", "server00"))
		for text, want := range map[string]int{`"server00" in server_names`: 1, `server_type == "incus"`: 1, `len(update_status.needs_update) > 0`: 1, `config.rolling_restart.post_restore_delay < duration("1m")`: 2,
			`config.rolling_restart.restore_mode == ""`: 2, `properties.rack != "7"`: 2, `certificate == nil`: 2} {
			found, err := w.ListClusters(t.Context(), opscenter.ClusterFilter{Expression: text}, opscenter.Page{})
			require.NoError(t, err, text)
			require.Len(t, found.Clusters, want, text)
		}
		_, err = w.ListServers(t.Context(), opscenter.ServerFilter{Expression: `nmae == "x"`}, opscenter.Page{})
		require.ErrorContains(t, err, "unknown name nmae; there are backup_image, certificate, channel, cluster,", "those that there are")
		require.ErrorContains(t, err, "os_data")
		_, err = w.ListClusters(t.Context(), opscenter.ClusterFilter{Expression: `object.x`}, opscenter.Page{})
		require.ErrorIs(t, err, opscenter.ErrInvalidFilter)
	})
}

// Each field of an expression has a value, but for those of the server's cluster, which come from another row.
func TestFieldsHaveValues(t *testing.T) {
	require.ElementsMatch(t, []string{"cluster_certificate", "cluster_connection_url"}, opscenter.FieldsWithoutValue())
}
