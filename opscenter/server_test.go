package opscenter_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/warning"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
	"github.com/opscenter-go/sdk/storage/memstore"
)

func TestEditServers(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		first := w.ready(t, 0)
		w.ready(t, 1)
		require.NoError(t, w.SetChannel(t.Context(), "testing", "for the brave"))
		spec := opscenter.ServerSpec{Description: "new", Properties: map[string]string{"a": "b"}, PublicConnectionURL: "https://public.example.net", Channel: "testing"}
		require.NoError(t, w.UpdateServer(t.Context(), "server00", spec, nil))
		spec.Properties["a"] = "changed by the caller"
		got := w.get(t, "server00")
		require.Equal(t, "testing", got.Channel)
		require.Equal(t, map[string]string{"a": "b"}, got.Properties)
		require.Equal(t, first.State, got.State, "edits leave the state alone")
		require.True(t, got.LastUpdated.After(first.LastUpdated))
		refused := errors.New("refused")
		require.ErrorIs(t, w.UpdateServer(t.Context(), "server00", opscenter.ServerSpec{}, func(*opscenter.ServerInfo) error { return refused }), refused)
		require.ErrorIs(t, w.UpdateServer(t.Context(), "missing", opscenter.ServerSpec{}, nil), opscenter.ErrNotFound)
		require.ErrorIs(t, w.UpdateServer(t.Context(), "server00", opscenter.ServerSpec{Channel: "nowhere"}, nil), opscenter.ErrNotFound)
		require.ErrorIs(t, w.UpdateServer(t.Context(), "server00", opscenter.ServerSpec{PublicConnectionURL: "x"}, nil), opscenter.ErrInvalidURL)

		for to, want := range map[string]error{"server01": opscenter.ErrNameTaken, "Server01": opscenter.ErrNameTaken, ":self": opscenter.ErrInvalidName, "": opscenter.ErrInvalidName} {
			require.ErrorIs(t, w.RenameServer(t.Context(), "server00", to, nil), want)
		}
		require.ErrorIs(t, w.RenameServer(t.Context(), "missing", "other", nil), opscenter.ErrNotFound)
		w.observe(t, withFacts(answer(first), `{"cpu":1}`))
		require.NoError(t, w.RenameServer(t.Context(), "server00", "SERVER00", nil), "another case of its own name")
		require.NoError(t, w.RenameServer(t.Context(), "SERVER00", "renamed", nil))
		_, err := w.Server(t.Context(), "server00")
		require.ErrorIs(t, err, opscenter.ErrNotFound)
		renamed := w.get(t, "renamed")
		require.Equal(t, ready, renamed.State.Status)
		require.Equal(t, "renamed", renamed.State.Name)
		facts, err := w.ServerFacts(t.Context(), "renamed")
		require.NoError(t, err)
		require.JSONEq(t, `{"cpu":1}`, string(facts.Hardware), "facts come along")
		// A poll that began under the old name tells nothing about the server that has the name now.
		require.NoError(t, w.RenameServer(t.Context(), "server01", "server00", nil))
		w.observe(t, failed(first), failed(first), failed(first), failed(first))
		require.Equal(t, ready, w.get(t, "server00").State.Status)

		require.NoError(t, w.DeleteServer(t.Context(), "renamed", false))
		require.ErrorIs(t, w.DeleteServer(t.Context(), "renamed", false), opscenter.ErrNotFound)
		_, err = w.ServerFacts(t.Context(), "renamed")
		require.ErrorIs(t, err, opscenter.ErrNotFound)
		w.observe(t, answer(renamed)) // a late poll of a server that is gone
		require.NoError(t, w.DeleteServer(t.Context(), "server00", false))
		again := w.add(t, 0)
		require.NotEqual(t, first.ID, again.ID, "a deleted server registers as a new one")
		facts, err = w.ServerFacts(t.Context(), again.Name)
		require.NoError(t, err)
		require.Nil(t, facts.Hardware)
	})
}

func TestChannelsAndUpdates(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.ready(t, 0)
		require.False(t, w.get(t, "server00").NeedsUpdate())
		require.NoError(t, w.Channels().Publish(t.Context(), "stable", "202610150000", "os", "incus"))
		info := w.get(t, "server00")
		require.Equal(t, map[string]string{"os": "202610150000", "incus": "202610150000"}, info.Outdated())
		recommended := info.Recommendation()
		require.Equal(t, lifecycle.ActionUpdate, recommended.Action)
		require.Contains(t, recommended.Reason, "incus, os 202610010000 → 202610150000")
		require.NoError(t, w.Channels().Publish(t.Context(), "stable", "202609010000", "os"), "an older one changes nothing")
		channel, err := w.Channels().Get(t.Context(), "stable")
		require.NoError(t, err)
		require.Equal(t, "202610150000", channel.Versions["os"])
		for _, err := range []error{w.Channels().Publish(t.Context(), "stable", "7.3", "os"), w.Channels().Publish(t.Context(), "stable", "", "os"), w.Channels().Publish(t.Context(), "stable", "+1", "os")} {
			require.ErrorIs(t, err, opscenter.ErrInvalidVersion)
		}
		require.ErrorIs(t, w.Channels().Publish(t.Context(), "nowhere", "1", "os"), opscenter.ErrNotFound)
		require.ErrorIs(t, w.Channels().Publish(t.Context(), "stable", "1"), opscenter.ErrInvalidName)
		require.ErrorIs(t, w.Channels().Publish(t.Context(), "stable", "1", "a/b"), opscenter.ErrInvalidName)
		require.ErrorIs(t, w.SetChannel(t.Context(), "a b", ""), opscenter.ErrInvalidName)
		require.ErrorIs(t, w.SetChannel(t.Context(), "", ""), opscenter.ErrInvalidName)
		require.NoError(t, w.SetChannel(t.Context(), "stable", "described"))
		channels, err := w.Channels().List(t.Context())
		require.NoError(t, err)
		require.Len(t, channels, 1)
		require.Equal(t, "described", channels[0].Description)
		require.Equal(t, "202610150000", channels[0].Versions["os"], "describing a channel keeps its versions")
	})
}

// Lists are compared with looking at every server.
func TestListServers(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		require.NoError(t, w.SetChannel(t.Context(), "testing", ""))
		token := w.token(t, 100)
		for n := range 40 {
			_, err := w.Register(t.Context(), registration(n, token))
			require.NoError(t, err)
			info := w.get(t, fmt.Sprintf("server%02d", n))
			if n%3 == 0 {
				require.NoError(t, w.UpdateServer(t.Context(), info.Name, opscenter.ServerSpec{Channel: "testing"}, nil))
			}
			if n%4 != 0 {
				o := answer(info)
				kind := lifecycle.ServerTypes[n%4]
				maintenance := lifecycle.MaintenanceState(n % 3)
				o.Type, o.Maintenance = &kind, &maintenance
				if n%5 == 0 {
					o.Versions.OS.VersionNext, o.Versions.OS.NeedsReboot = "202610150000", true
				}
				w.observe(t, o)
			}
			if n%7 == 0 {
				require.NoError(t, w.SelfUpdate(t.Context(), certificate(n), opscenter.SelfUpdate{Cause: lifecycle.CauseSystemRebootTriggered}))
			}
		}
		require.NoError(t, w.Channels().Publish(t.Context(), "testing", "202610150000", "os"))
		var all []*opscenter.ServerInfo
		for info, err := range w.Servers(t.Context(), opscenter.ServerFilter{}) {
			require.NoError(t, err)
			all = append(all, info)
		}
		require.Len(t, all, 40)
		yes, no := true, false
		filters := []opscenter.ServerFilter{{}, {Channel: "testing"}, {Fingerprint: opscenter.Fingerprint(certificate(5))}, {Fingerprint: "00"}, {Cluster: "none"},
			{NeedsUpdate: &yes}, {NeedsUpdate: &no}, {NeedsReboot: &yes}, {NeedsReboot: &no}, {InMaintenance: &yes}, {InMaintenance: &no},
			{Status: ready, Channel: "testing", InMaintenance: &no, NeedsUpdate: &yes}, {Channel: "testing", Type: lifecycle.TypeIncus}}
		for _, s := range lifecycle.Statuses {
			filters = append(filters, opscenter.ServerFilter{Status: s})
		}
		for _, d := range lifecycle.StatusDetails {
			filters = append(filters, opscenter.ServerFilter{StatusDetail: d})
		}
		for _, k := range lifecycle.ServerTypes {
			filters = append(filters, opscenter.ServerFilter{Type: k})
		}
		found := 0
		for _, f := range filters {
			var want []string
			for _, i := range all {
				s := i.State
				if (f.Status == "" || s.Status == f.Status) && (f.StatusDetail == "" || s.StatusDetail == f.StatusDetail) && (f.Type == "" || s.Type == f.Type) &&
					(f.Cluster == "" || i.Cluster == f.Cluster) && (f.Channel == "" || i.Channel == f.Channel) && (f.Fingerprint == "" || i.Fingerprint == f.Fingerprint) &&
					(f.NeedsUpdate == nil || *f.NeedsUpdate == i.NeedsUpdate()) && (f.NeedsReboot == nil || *f.NeedsReboot == i.NeedsReboot()) &&
					(f.InMaintenance == nil || *f.InMaintenance == i.InMaintenance()) {
					want = append(want, i.Name)
				}
			}
			found += len(want)
			for _, limit := range []int{1, 7, 1000} {
				var got []string
				page := opscenter.Page{Limit: limit}
				for {
					p, err := w.ListServers(t.Context(), f, page)
					require.NoError(t, err)
					for _, info := range p.Servers {
						got = append(got, info.Name)
					}
					if page.Cursor = p.Next; page.Cursor == "" {
						break
					}
					require.Len(t, p.Servers, limit)
				}
				require.Equal(t, want, got, "%+v, pages of %d", f, limit)
			}
			var streamed []string
			for info, err := range w.Servers(t.Context(), f) {
				require.NoError(t, err)
				streamed = append(streamed, info.Name)
			}
			require.Equal(t, want, streamed)
		}
		require.Greater(t, found, 200)

		for _, f := range []opscenter.ServerFilter{{Status: "redy"}, {StatusDetail: "x"}, {Type: "incus-lts-6.0"}} {
			_, err := w.ListServers(t.Context(), f, opscenter.Page{})
			require.ErrorIs(t, err, opscenter.ErrInvalidFilter)
			for _, err := range w.Servers(t.Context(), f) {
				require.ErrorIs(t, err, opscenter.ErrInvalidFilter)
			}
		}
		for _, cursor := range []string{"x", "!!!", "MnNlcnZlcg", strings.Repeat("A", 1000)} {
			_, err := w.ListServers(t.Context(), opscenter.ServerFilter{}, opscenter.Page{Cursor: cursor})
			require.ErrorIs(t, err, opscenter.ErrInvalidCursor, cursor)
			_, err = w.Registry.ListTokens(t.Context(), opscenter.Page{Cursor: cursor})
			require.ErrorIs(t, err, opscenter.ErrInvalidCursor, cursor)
		}
		// Rows that come and go between two pages change neither order nor those that stay.
		p, err := w.ListServers(t.Context(), opscenter.ServerFilter{}, opscenter.Page{Limit: 10})
		require.NoError(t, err)
		require.NoError(t, w.DeleteServer(t.Context(), p.Servers[9].Name, false))
		rest, err := w.ListServers(t.Context(), opscenter.ServerFilter{}, opscenter.Page{Limit: 1000, Cursor: p.Next})
		require.NoError(t, err)
		require.Len(t, rest.Servers, 30)
		require.Equal(t, "server10", rest.Servers[0].Name)
	})
}

func withFacts(o lifecycle.Observation, hardware string) lifecycle.Observation {
	o.Facts = &lifecycle.Facts{Hardware: json.RawMessage(hardware)}
	return o
}

func TestAnUnchangedPollWritesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		info := w.ready(t, 0)
		hardware := `{"cpu":{"total":64},"load":{"Average1Min":%d},"network":{"stats":{"rx_bytes":%d}}}`
		w.observe(t, withFacts(answer(info), fmt.Sprintf(hardware, 1, 1)))
		revision := w.revision(t)
		for i := range 5 {
			w.observe(t, withFacts(answer(info), fmt.Sprintf(hardware, i, i*1000)))
			w.observe(t, failed(info))
		}
		require.Equal(t, revision, w.revision(t))
		require.Equal(t, 1, w.get(t, "server00").Failures)
		w.observe(t, withFacts(answer(info), strings.Replace(fmt.Sprintf(hardware, 1, 1), "64", "128", 1)))
		require.Greater(t, w.revision(t), revision, "news is stored")
		facts, err := w.ServerFacts(t.Context(), "server00")
		require.NoError(t, err)
		require.Contains(t, string(facts.Hardware), "128")

		// Unread values stay.
		o := answer(info)
		o.Facts = &lifecycle.Facts{Network: json.RawMessage(`{"state":{}}`)}
		w.observe(t, o)
		facts, err = w.ServerFacts(t.Context(), "server00")
		require.NoError(t, err)
		require.Contains(t, string(facts.Hardware), "128")
		require.JSONEq(t, `{"state":{}}`, string(facts.Network))

		// A part that is not JSON, or too large, leaves the other parts alone.
		o = answer(info)
		maintenance := lifecycle.MaintenanceEvacuated
		o.Maintenance, o.Facts = &maintenance, &lifecycle.Facts{Hardware: json.RawMessage(`{"cpu"`)}
		w.observe(t, o)
		require.Equal(t, lifecycle.MaintenanceEvacuated, w.get(t, "server00").State.Maintenance)
		list, err := w.Warnings().List(t.Context(), opscenter.WarningFilter{Kind: warning.Unreadable}, opscenter.Page{})
		require.NoError(t, err)
		require.Len(t, list.Warnings, 1)
		require.Contains(t, list.Warnings[0].Message, "hardware facts")
	})
}

func TestSecretsAreNotStored(t *testing.T) {
	security, err := os.ReadFile("testdata/security.json")
	require.NoError(t, err)
	network := `{"config":{"proxy":{"servers":{"a":{"host":"h","username":"u","password":"hunter2"}}},"wireguard":[{"name":"wg0","private_key":"hunter2","peers":[{"public_key":"shown","preshared_key":"hunter2"}]}]}}`
	secrets := []string{"hunter2", "aaaaaaaa-bbbbbbbb", "ZmFrZS1wb29s", "simulated-drive"}
	for _, keep := range []bool{false, true} {
		w := newWorld(t, memstore.New(), opscenter.Options{KeepSecrets: keep})
		info := w.ready(t, 0)
		o := answer(info)
		o.Facts = &lifecycle.Facts{Network: json.RawMessage(network), Security: security, Hardware: json.RawMessage(`{"deep":[{"bmc":{"password":"hunter2"}}]}`)}
		w.observe(t, o)
		facts, err := w.ServerFacts(t.Context(), "server00")
		require.NoError(t, err)
		text := string(facts.Network) + string(facts.Security) + string(facts.Hardware)
		for _, secret := range secrets {
			require.Equal(t, keep, strings.Contains(text, secret), secret)
			requireNoSecret(t, w.log.String(), secret)
		}
		require.Contains(t, text, "shown")
		require.Contains(t, text, "system_state_is_trusted")
	}
	_, err = facts.RedactSecrets(json.RawMessage(`{"password":"hunter2"`))
	require.Error(t, err)
	requireNoSecret(t, err.Error(), "hunter2")
}

// When servers were last seen is exact in memory, and on disk after Close.
func TestLastSeenIsFlushed(t *testing.T) {
	dir := t.TempDir()
	store, err := badgerstore.Open(dir)
	require.NoError(t, err)
	registry, err := opscenter.NewRegistry(store, opscenter.Options{})
	require.NoError(t, err)
	w := &world{Registry: registry, store: store, log: &controltest.Log{}}
	var infos []*opscenter.ServerInfo
	for n := range 5 {
		infos = append(infos, w.ready(t, n))
	}
	revision := w.revision(t)
	time.Sleep(2 * time.Millisecond)
	last := time.Now().UTC()
	for _, info := range infos {
		o := answer(info)
		o.At = last
		w.observe(t, o)
		require.Equal(t, last, w.get(t, info.Name).LastSeen)
	}
	require.Equal(t, revision, w.revision(t))
	require.NoError(t, w.Close())
	require.Greater(t, w.revision(t), revision)
	revision = w.revision(t)
	require.NoError(t, w.Observer().Flush(t.Context()), "nothing is left to flush")
	require.Equal(t, revision, w.revision(t))
	require.NoError(t, store.Close())

	store, err = badgerstore.Open(dir)
	require.NoError(t, err)
	w = newWorld(t, store, opscenter.Options{LastSeenInterval: time.Nanosecond})
	for _, info := range infos {
		require.Equal(t, last, w.get(t, info.Name).LastSeen)
		require.Equal(t, ready, w.get(t, info.Name).State.Status)
	}
	// From time to time it is flushed without being asked to.
	o := answer(infos[0])
	w.observe(t, o)
	require.NoError(t, store.View(t.Context(), func(tx storage.ReadTx) error { return nil }))
	require.Greater(t, w.revision(t), revision)
}

func TestEvents(t *testing.T) {
	w := newWorld(t, memstore.New(memstore.Options{DetectMutation: true}), opscenter.Options{MaxEvents: 20})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := make(chan event.Event)
	ended := make(chan error, 1)
	go func() {
		for e, err := range w.WatchEvents(ctx, 0) {
			if err != nil {
				ended <- err
				return
			}
			seen <- e
		}
	}()
	w.ready(t, 0)
	var last uint64
	for _, want := range []event.Kind{event.TokenCreated, event.ServerRegistered, event.ClusterDiscovered, event.StatusChanged} {
		e := <-seen
		require.Equal(t, want, e.Kind)
		require.Greater(t, e.Sequence, last)
		require.NotEmpty(t, e.Reason)
		require.False(t, e.At.IsZero())
		last = e.Sequence
	}
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)

	for i := range 50 {
		require.NoError(t, w.AllowReinstall(t.Context(), "server00", i%2 == 0))
	}
	require.NoError(t, w.Observer().Flush(t.Context()))
	all, err := w.ListEvents(t.Context(), opscenter.EventFilter{Limit: 1000})
	require.NoError(t, err)
	require.Len(t, all, 23, "events are bounded")
	require.Equal(t, event.ServerRegistered, all[0].Kind, "events that servers cause are apart")
	all = all[3:]
	require.Equal(t, event.ReinstallAllowed, all[19].Kind)
	require.True(t, slices.IsSortedFunc(all, func(a, b event.Event) int { return cmp.Compare(a.Sequence, b.Sequence) }))
	newest, err := w.ListEvents(t.Context(), opscenter.EventFilter{Newest: true, Limit: 5})
	require.NoError(t, err)
	slices.Reverse(newest)
	require.Equal(t, all[15:], newest)
	after, err := w.ListEvents(t.Context(), opscenter.EventFilter{After: all[9].Sequence, Server: "server00"})
	require.NoError(t, err)
	require.Equal(t, all[10:], after)
	none, err := w.ListEvents(t.Context(), opscenter.EventFilter{Server: "server"})
	require.NoError(t, err)
	require.Empty(t, none)
}

func TestWatch(t *testing.T) {
	w := memoryWorld(t)
	since := w.revision(t)
	w.ready(t, 0)
	w.ready(t, 1)
	require.NoError(t, w.DeleteServer(t.Context(), "server00", false))
	for changes, err := range w.Watch(t.Context(), since) {
		require.NoError(t, err)
		require.False(t, changes.Reset)
		require.ElementsMatch(t, []string{"server00", "server01"}, changes.Servers)
		break
	}
}

func TestOptionsAreValidated(t *testing.T) {
	for _, options := range []opscenter.Options{{OfflineThreshold: -1}, {MaxEvents: -1}, {RebootTimeout: -1}, {ActionTimeout: -1}, {TokenLifetime: -1}, {LastSeenInterval: -1}} {
		_, err := opscenter.NewRegistry(memstore.New(), options)
		require.ErrorIs(t, err, opscenter.ErrInvalidOptions)
	}
	_, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{DefaultChannel: "a b"})
	require.ErrorIs(t, err, opscenter.ErrInvalidName)
}
