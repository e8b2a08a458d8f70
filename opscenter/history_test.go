package opscenter_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
)

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

func TestLastSeenOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	open := func() (*opscenter.Registry, storage.Store) {
		store, err := badgerstore.Open(dir, badgerstore.Options{})
		require.NoError(t, err)
		registry, err := opscenter.NewRegistry(store, opscenter.Options{})
		require.NoError(t, err)
		return registry, store
	}
	registry, store := open()
	w := &world{Registry: registry, store: store}
	var seen []time.Time
	for i := range 5 {
		info := w.ready(t, i)
		o := answer(info)
		o.At = time.Now().UTC().Add(-time.Duration(i) * time.Second)
		require.NoError(t, registry.Observer().Record(t.Context(), o))
		seen = append(seen, w.get(t, info.Name).LastSeen)
	}
	require.NoError(t, w.DeleteServer(t.Context(), "server03", false))
	require.NoError(t, registry.Close())
	require.NoError(t, store.Close())
	registry, store = open()
	w = &world{Registry: registry, store: store}
	for i := range 5 {
		if i != 3 {
			require.WithinDuration(t, seen[i], w.get(t, fmt.Sprintf("server%02d", i)).LastSeen, time.Millisecond)
		}
	}
	// Servers that come and go between flushes don't mix up the rest.
	w.ready(t, 6)
	require.NoError(t, w.DeleteServer(t.Context(), "server01", false))
	info := w.get(t, "server02")
	require.NoError(t, registry.Observer().Record(t.Context(), answer(info)))
	seen[2] = w.get(t, "server02").LastSeen
	require.NoError(t, registry.Observer().Flush(t.Context()))
	require.NoError(t, registry.Close())
	require.NoError(t, store.Close())
	registry, store = open()
	w = &world{Registry: registry, store: store}
	for _, i := range []int{0, 2, 4} {
		require.WithinDuration(t, seen[i], w.get(t, fmt.Sprintf("server%02d", i)).LastSeen, time.Millisecond)
	}
	require.NoError(t, registry.Close())
	require.NoError(t, store.Close())
}

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

// RecordUnchanged takes an observation in only if the long way finds nothing new in it.
func TestRecordUnchanged(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	full := func() lifecycle.Observation { return withFacts(answer(info), `{"cpu":1,"uptime":5}`) }
	o := full()
	require.False(t, w.Observer().RecordUnchanged(&o), "never seen so far")
	w.observe(t, o)
	w.observe(t, full())
	o = full()
	require.True(t, w.Observer().RecordUnchanged(&o))
	require.Equal(t, o.At, w.get(t, "server00").LastSeen)
	o.Facts.Hardware = json.RawMessage(`{"cpu":1,"uptime":77}`)
	require.True(t, w.Observer().RecordUnchanged(&o), "what changes all the time is no change")
	light := answer(info)
	light.Light = true
	require.True(t, w.Observer().RecordUnchanged(&light))
	change := func(what string, change func(*lifecycle.Observation)) {
		t.Helper()
		o := full()
		change(&o)
		require.False(t, w.Observer().RecordUnchanged(&o), what)
	}
	change("facts", func(o *lifecycle.Observation) { o.Facts.Hardware = json.RawMessage(`{"cpu":2}`) })
	change("no JSON", func(o *lifecycle.Observation) { o.Facts.Hardware = json.RawMessage(`{"cpu":`) })
	change("failure", func(o *lifecycle.Observation) { o.Failure = &lifecycle.Failure{} })
	change("booting", func(o *lifecycle.Observation) { o.Ready = false })
	change("unread", func(o *lifecycle.Observation) { o.Unread = []string{"x"} })
	change("type", func(o *lifecycle.Observation) { kind := lifecycle.TypeUnknown; o.Type = &kind })
	change("version", func(o *lifecycle.Observation) { o.Versions.OS.VersionNext = "202703010000" })
	change("reboot", func(o *lifecycle.Observation) { o.Versions.OS.NeedsReboot = true })
	change("channel", func(o *lifecycle.Observation) { o.Versions.UpdateChannel = "testing" })
	change("application", func(o *lifecycle.Observation) { o.Versions.Applications[0].Version = "1" })
	change("maintenance", func(o *lifecycle.Observation) { m := lifecycle.MaintenanceEvacuated; o.Maintenance = &m })
	change("member", func(o *lifecycle.Observation) { m := "other"; o.MemberName = &m })
	change("trusted", func(o *lifecycle.Observation) { yes := true; o.SystemStateTrusted = &yes })
	change("certificate", func(o *lifecycle.Observation) { o.Presented = strings.Repeat("ab", 32) })
	change("server", func(o *lifecycle.Observation) { o.ID = "missing" })

	// Whatever else happens to the server makes the next poll go the long way.
	for name, happens := range map[string]func(){
		"failed poll": func() { w.observe(t, failed(info)) },
		"self update": func() {
			require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: lifecycle.CauseOSUpdateApplied}))
		},
		"action": func() {
			operation, server, err := w.BeginAction(t.Context(), "server00", lifecycle.ActionEvacuate)
			require.NoError(t, err)
			o := full()
			require.False(t, w.Observer().RecordUnchanged(&o), "under way")
			require.NoError(t, w.EndAction(t.Context(), server, operation, fmt.Errorf("no")))
		},
	} {
		happens()
		o := full()
		require.False(t, w.Observer().RecordUnchanged(&o), name)
		for range 3 {
			w.observe(t, full())
		}
		o = full()
		require.True(t, w.Observer().RecordUnchanged(&o), "%s: settled again", name)
	}
}
