package opscenter_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// TestServerNames: names are those of the servers in a list, with each filter, page by page.
func TestServerNames(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		for n := range 7 {
			w.add(t, n)
		}
		for n := range 4 {
			w.observe(t, answer(w.get(t, registration(n, "").Name)))
		}
		w.setCluster(t, "server01", "c1")
		w.setCluster(t, "server05", "c1")
		require.NoError(t, w.SetChannel(t.Context(), "edge", ""))
		require.NoError(t, w.UpdateServer(t.Context(), "server03", opscenter.ServerSpec{Channel: "edge"}, nil))
		yes := true
		for name, filter := range map[string]opscenter.ServerFilter{
			"all": {}, "status": {Status: lifecycle.StatusReady}, "no such status": {Status: lifecycle.StatusOffline}, "cluster": {Cluster: "c1"}, "no such cluster": {Cluster: "c"},
			"channel": {Channel: "edge"}, "two fields": {Cluster: "c1", Status: lifecycle.StatusReady}, "type": {Type: lifecycle.TypeIncus}, "needs update": {NeedsUpdate: &yes},
			"expression": {Expression: `name matches "[135]$"`}, "fingerprint": {Fingerprint: w.get(t, "server02").Fingerprint},
		} {
			list, err := w.ListServers(t.Context(), filter, opscenter.Page{})
			require.NoError(t, err)
			want, got := []string{}, []string{}
			for _, info := range list.Servers {
				want = append(want, info.Name)
			}
			page := opscenter.Page{Limit: 2}
			for {
				require.NoError(t, w.Read(t.Context(), func(s *opscenter.Snapshot) error {
					names, next, err := s.ServerNames(t.Context(), filter, page)
					require.LessOrEqual(t, len(names), 2)
					got, page.Cursor = append(got, names...), next
					return err
				}), name)
				if page.Cursor == "" {
					break
				}
			}
			require.Equal(t, want, got, name)
		}
		for name, c := range map[string]struct {
			filter opscenter.ServerFilter
			page   opscenter.Page
			err    error
		}{
			"status": {opscenter.ServerFilter{Status: "redy"}, opscenter.Page{}, opscenter.ErrInvalidFilter}, "expression": {opscenter.ServerFilter{Expression: "nmae"}, opscenter.Page{}, opscenter.ErrInvalidFilter},
			"cursor": {opscenter.ServerFilter{}, opscenter.Page{Cursor: "!"}, opscenter.ErrInvalidCursor},
		} {
			require.ErrorIs(t, w.Read(t.Context(), func(s *opscenter.Snapshot) error {
				_, _, err := s.ServerNames(t.Context(), c.filter, c.page)
				return err
			}), c.err, name)
		}
	})
}
