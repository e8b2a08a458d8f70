package opscenter_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

func TestCounts(t *testing.T) {
	w := memoryWorld(t)
	require.Empty(t, w.Counts())
	w.add(t, 0)
	info := w.ready(t, 1)
	want := map[opscenter.ServerCount]bool{
		{Status: lifecycle.StatusPending, StatusDetail: lifecycle.DetailRegistering, Type: lifecycle.TypeUnknown, Count: 1}: true,
		{Status: lifecycle.StatusReady, Type: lifecycle.TypeIncus, Count: 1}:                                                true,
	}
	check := func(r *opscenter.Registry) {
		t.Helper()
		got := map[opscenter.ServerCount]bool{}
		for _, c := range r.Counts() {
			got[c] = true
		}
		require.Equal(t, want, got)
	}
	check(w.Registry)
	again, err := opscenter.NewRegistry(w.store, opscenter.Options{})
	require.NoError(t, err)
	check(again)
	require.NoError(t, w.DeleteServer(t.Context(), "server00", false))
	w.observe(t, failed(info), failed(info), failed(info))
	want = map[opscenter.ServerCount]bool{{Status: lifecycle.StatusOffline, StatusDetail: lifecycle.DetailUnresponsive, Type: lifecycle.TypeIncus, Count: 1}: true}
	check(w.Registry)
}
