package opscenter_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

func TestWarnings(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		info := w.ready(t, 0)
		w.ready(t, 1)
		revision := w.revision(t)
		for range 10 {
			w.observe(t, failed(info))
		}
		page, err := w.Warnings().List(t.Context(), opscenter.WarningFilter{Server: "server00"}, opscenter.Page{})
		require.NoError(t, err)
		require.Len(t, page.Warnings, 1)
		one := page.Warnings[0]
		require.Equal(t, warning.Unreachable, one.Kind)
		require.Equal(t, "server00", one.Server)
		require.Equal(t, 8, one.Count, "seen with each poll since the one that made it offline")
		require.True(t, one.LastSeen.After(one.FirstSeen))
		require.False(t, one.Acknowledged)
		require.Len(t, w.events(t, event.WarningRaised), 1)
		for changes, err := range w.Watch(t.Context(), revision) {
			require.NoError(t, err)
			require.Equal(t, []string{one.UUID}, changes.Warnings, "in the change feed")
			break
		}
		// Counting writes nothing before the next flush.
		revision = w.revision(t)
		w.observe(t, failed(info))
		require.Equal(t, revision, w.revision(t))
		require.NoError(t, w.Observer().Flush(t.Context()))
		require.Greater(t, w.revision(t), revision)
		again, err := opscenter.NewRegistry(w.store, opscenter.Options{})
		require.NoError(t, err)
		stored, err := again.Warnings().Get(t.Context(), one.UUID)
		require.NoError(t, err)
		require.Equal(t, 9, stored.Count, "the count outlives the process")

		require.NoError(t, w.Warnings().Acknowledge(t.Context(), one.UUID, true, nil))
		yes, no := true, false
		page, err = w.Warnings().List(t.Context(), opscenter.WarningFilter{Acknowledged: &yes}, opscenter.Page{})
		require.NoError(t, err)
		require.Len(t, page.Warnings, 1)
		page, err = w.Warnings().List(t.Context(), opscenter.WarningFilter{Acknowledged: &no}, opscenter.Page{})
		require.NoError(t, err)
		require.Empty(t, page.Warnings)
		require.NoError(t, w.RenameServer(t.Context(), "server00", "renamed", nil))
		found, err := w.Warnings().Get(t.Context(), one.UUID)
		require.NoError(t, err)
		require.Equal(t, "renamed", found.Server, "by the name it has")
		require.ErrorIs(t, w.Warnings().Acknowledge(t.Context(), "nothing", true, nil), opscenter.ErrNotFound)

		// Programs may warn of their own.
		require.NoError(t, w.Warnings().Raise(t.Context(), "server01", warning.Input{Kind: "Fan broken", Message: "rear"}))
		require.NoError(t, w.Warnings().Raise(t.Context(), "server01", warning.Input{Kind: "Fan broken", Message: "front"}))
		require.NoError(t, w.Warnings().Raise(t.Context(), "", warning.Input{Kind: "Coffee cold"}))
		require.ErrorIs(t, w.Warnings().Raise(t.Context(), "server99", warning.Input{Kind: "Fan broken"}), opscenter.ErrNotFound)
		require.Error(t, w.Warnings().Raise(t.Context(), "", warning.Input{}))
		page, err = w.Warnings().List(t.Context(), opscenter.WarningFilter{Kind: "Fan broken"}, opscenter.Page{})
		require.NoError(t, err)
		require.Equal(t, 2, page.Warnings[0].Count)
		require.Equal(t, "front", page.Warnings[0].Message)
		first, err := w.Warnings().List(t.Context(), opscenter.WarningFilter{}, opscenter.Page{Limit: 2})
		require.NoError(t, err)
		require.Len(t, first.Warnings, 2)
		rest, err := w.Warnings().List(t.Context(), opscenter.WarningFilter{}, opscenter.Page{Limit: 2, Cursor: first.Next})
		require.NoError(t, err)
		require.Len(t, rest.Warnings, 1)
		require.Empty(t, rest.Next)
		require.NoError(t, w.Warnings().Clear(t.Context(), "server01", "Fan broken"))
		require.NoError(t, w.Warnings().Clear(t.Context(), "server01", "Fan broken"), "nothing to clear is no error")

		// With its server a warning goes.
		require.NoError(t, w.DeleteServer(t.Context(), "renamed", false))
		require.Equal(t, map[string][]warning.Kind{"": {"Coffee cold"}}, w.warnings(t))
	})
}
