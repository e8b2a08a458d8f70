package opscenter_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// two returns two Registries over the rows of one memory store, each with a store of its own.
func two(t *testing.T) (a, b *world) {
	t.Helper()
	store := memstore.New(memstore.Options{DetectMutation: true})
	return newWorld(t, store, opscenter.Options{}), newWorld(t, store.Open(), opscenter.Options{})
}

// TestTwoRegistriesKnowTheSameServers: each polls servers that were registered through the other, and forgets those that
// were removed through the other.
func TestTwoRegistriesKnowTheSameServers(t *testing.T) {
	a, b := two(t)
	info := b.add(t, 0)
	for range 3 {
		require.NoError(t, a.Observer().Record(t.Context(), failed(info)))
	}
	require.Equal(t, 3, a.get(t, info.Name).Failures, "its polls count")
	require.Equal(t, a.Counts(), b.Counts())
	require.NoError(t, b.RenameServer(t.Context(), info.Name, "renamed", nil))
	require.Equal(t, 3, a.get(t, "renamed").Failures, "a name is no matter")
	require.NoError(t, b.DeleteServer(t.Context(), "renamed", false))
	require.Empty(t, a.Counts())
	require.Zero(t, a.Tracked())
	require.NoError(t, a.Observer().Record(t.Context(), answer(info)))
	require.Zero(t, a.Tracked(), "a poll that is late brings nothing back")
	again := b.add(t, 0)
	require.NotEqual(t, info.ID, again.ID)
	require.Zero(t, a.get(t, again.Name).Failures, "it is another server")
}

// TestTwoRegistriesSeeAnActionEnd: polls of one find the end of an action that the other began.
func TestTwoRegistriesSeeAnActionEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := two(t)
		info := a.ready(t, 0)
		poll := func() lifecycle.Observation { return answer(info) }
		time.Sleep(time.Minute)
		for range 3 {
			require.NoError(t, a.Observer().Record(t.Context(), poll()))
		}
		require.NoError(t, b.Channels().Publish(t.Context(), "stable", "202611010000", "os"))
		_, _, err := b.BeginAction(t.Context(), info.Name, lifecycle.ActionUpdate)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		updated := poll()
		require.NoError(t, a.Observer().Record(t.Context(), updated))
		state := a.get(t, info.Name).State
		require.NotNil(t, state.Operation, "it goes on, whatever polls have found before")
		versions := *updated.Versions
		versions.OS.Version = "202611010000"
		done := poll()
		done.Versions, done.At = &versions, time.Now()
		require.NoError(t, a.Observer().Record(t.Context(), done))
		require.Nil(t, b.get(t, info.Name).State.Operation)
	})
}

// TestTwoRegistriesCountTheSameWarnings: warnings that one raises and clears are open, and closed, for both.
func TestTwoRegistriesCountTheSameWarnings(t *testing.T) {
	a, b := two(t)
	info := a.add(t, 0)
	require.NoError(t, b.Warnings().Raise(t.Context(), info.Name, warning.Input{Kind: "Fan failed", Message: "fan 2"}))
	require.Equal(t, map[warning.Kind]int{"Fan failed": 1}, a.Warnings().Counts())
	require.NoError(t, a.Warnings().Raise(t.Context(), info.Name, warning.Input{Kind: "Fan failed", Message: "fan 3"}))
	require.NoError(t, a.Observer().Flush(t.Context()))
	list, err := b.Warnings().List(t.Context(), opscenter.WarningFilter{}, opscenter.Page{})
	require.NoError(t, err)
	require.Len(t, list.Warnings, 1)
	require.Equal(t, 2, list.Warnings[0].Count)
	require.NoError(t, a.Warnings().Clear(t.Context(), info.Name, "Fan failed"))
	require.Empty(t, b.Warnings().Counts())
	require.NoError(t, a.Warnings().Raise(t.Context(), info.Name, warning.Input{Kind: "Fan failed", Message: "once more"}))
	require.Equal(t, map[warning.Kind]int{"Fan failed": 1}, b.Warnings().Counts())
}

// TestEachControllerWarnsOfItself: a controller that loses the fleet raises a warning of its own, which the others neither
// clear nor take for theirs.
func TestEachControllerWarnsOfItself(t *testing.T) {
	store := memstore.New(memstore.Options{DetectMutation: true})
	a := newWorld(t, store, opscenter.Options{Controller: "a"})
	b := newWorld(t, store.Open(), opscenter.Options{Controller: "b"})
	var infos []*opscenter.ServerInfo
	for n := range 10 {
		infos = append(infos, a.ready(t, n))
	}
	fleet := func(w *world) (out []string) {
		list, err := w.Warnings().List(t.Context(), opscenter.WarningFilter{}, opscenter.Page{})
		require.NoError(t, err)
		for _, open := range list.Warnings {
			require.Equal(t, warning.Fleet, open.Kind)
			out = append(out, open.Controller)
		}
		return out
	}
	for range 3 {
		for _, info := range infos {
			require.NoError(t, a.Observer().Record(t.Context(), failed(info)))
			require.NoError(t, b.Observer().Record(t.Context(), answer(info)))
		}
		require.NoError(t, a.Observer().Maintain(t.Context()))
		require.NoError(t, b.Observer().Maintain(t.Context()))
	}
	require.True(t, a.Observer().FleetUnreachable())
	require.False(t, b.Observer().FleetUnreachable())
	require.Equal(t, []string{"a"}, fleet(b))
	events, err := b.ListEvents(t.Context(), opscenter.EventFilter{Limit: opscenter.MaxPageSize})
	require.NoError(t, err)
	events = slices.DeleteFunc(events, func(e event.Event) bool { return e.Kind != event.WarningRaised })
	require.Len(t, events, 1, "raised once")
	require.Contains(t, events[0].Reason, "(controller a)")

	require.NoError(t, b.Warnings().Raise(t.Context(), "", warning.Input{Kind: warning.Fleet, Message: "mine"}))
	require.ElementsMatch(t, []string{"a", "b"}, fleet(a))
	require.Equal(t, 2, a.Warnings().Counts()[warning.Fleet])
	require.NoError(t, b.Warnings().Clear(t.Context(), "", warning.Fleet))
	require.Equal(t, []string{"a"}, fleet(a))
	require.False(t, newWorld(t, store.Open(), opscenter.Options{Controller: "c"}).Observer().FleetUnreachable(), "another controller starts")
	require.True(t, newWorld(t, store.Open(), opscenter.Options{Controller: "a"}).Observer().FleetUnreachable(), "a starts again")
	_, err = opscenter.NewRegistry(store.Open(), opscenter.Options{Controller: "not a name"})
	require.ErrorIs(t, err, opscenter.ErrInvalidName)
}

// TestManyOtherChanges: the rows that a Registry wrote count, however many others were written since it last looked.
func TestManyOtherChanges(t *testing.T) {
	a, b := two(t)
	info := a.add(t, 0)
	type note struct{ N int }
	notes := storage.NewTable("notes", func(n *note) storage.Key { return storage.UintKey(uint64(n.N)) })
	require.NoError(t, a.Store().Attach(t.Context(), notes.Schema()))
	flood := func() {
		require.NoError(t, a.Store().Update(t.Context(), func(tx storage.WriteTx) error {
			for n := range 6000 {
				if err := notes.Put(tx, &note{n}); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	flood()
	require.NoError(t, a.DeleteServer(t.Context(), info.Name, false))
	require.Zero(t, a.Tracked())
	flood()
	require.NoError(t, b.Warnings().Raise(t.Context(), "", warning.Input{Kind: "Coffee cold"}))
	flood()
	a.add(t, 1)
	require.Equal(t, 1, a.Tracked())
	require.Equal(t, map[warning.Kind]int{"Coffee cold": 1}, a.Warnings().Counts())
	require.Equal(t, a.Counts(), b.Counts())
}

// TestActionOnAServerOfTheOther: an action on a server that the other Registry registered is not taken for a leftover.
func TestActionOnAServerOfTheOther(t *testing.T) {
	a, b := two(t)
	info := b.ready(t, 0)
	_, _, err := a.BeginAction(t.Context(), info.Name, lifecycle.ActionEvacuate)
	require.NoError(t, err)
	evacuated := answer(info)
	*evacuated.Maintenance = lifecycle.MaintenanceEvacuated
	require.NoError(t, a.Observer().Record(t.Context(), evacuated))
	require.NotNil(t, a.get(t, info.Name).State.Operation, "this process carries it out, and says when it is over")
}
