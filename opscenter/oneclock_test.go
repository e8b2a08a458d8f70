package opscenter_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/internal/controltest"
	"github.com/opscenter-go/sdk/internal/selfsigned"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/inventory"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rolling"
	"github.com/opscenter-go/sdk/opscenter/rollout"
	"github.com/opscenter-go/sdk/opscenter/system"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/poller"
)

// TestOneClock: all packages over a Registry store the times of its clock.
func TestOneClock(t *testing.T) {
	w := memoryWorld(t)
	w.SetClock(func() time.Time { return time.Now().AddDate(0, 0, -40) })
	latest := time.Now().AddDate(0, 0, -39)
	stored := func(what string, at time.Time) {
		t.Helper()
		require.False(t, at.IsZero(), what)
		require.True(t, at.Before(latest), "%s: %s is not a time of the Registry's clock", what, at)
	}
	log, err := audit.New(w.Registry, audit.Options{})
	require.NoError(t, err)
	identity, err := selfsigned.New("control-plane", "127.0.0.1")
	require.NoError(t, err)
	client := controltest.Client(t, incusos.Options{Certificate: &identity})
	handler, err := httpapi.New(w.Registry, httpapi.Options{ClientCertificate: identity.Leaf})
	require.NoError(t, err)
	listener, url := controltest.Listen(t)
	controltest.Serve(t, listener, handler, identity, nil)
	systems, err := system.New(w.Registry, client, system.Options{Audit: log, Provider: system.Provider{ServerURL: url, Certificate: identity.Leaf}})
	require.NoError(t, err)
	polls, err := poller.New(w.Registry, client, poller.Options{})
	require.NoError(t, err)
	rollouts, err := rollout.New(opscenter.NewUpdatePlanner(w.Registry, client), rollout.Options{Poller: polls})
	require.NoError(t, err)
	objects, err := inventory.New(w.Registry, client, inventory.Options{})
	require.NoError(t, err)
	files, err := updates.NewDir(t.TempDir())
	require.NoError(t, err)
	feed, err := updates.New(t.Context(), w.Registry, files, updates.Options{})
	require.NoError(t, err)

	token, err := w.CreateToken(t.Context(), opscenter.TokenSpec{ExpireAt: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	server := controltest.Server(t, incusostest.Options{Name: "a"})
	require.NoError(t, server.Register(t.Context(), incusostest.Provider{ServerURL: url, Token: token.UUID, Certificate: identity.Leaf}))
	controltest.Poll(t, polls, "a")
	require.Equal(t, lifecycle.StatusReady, w.get(t, "a").State.Status)

	change, err := systems.SetKernel(t.Context(), "a", system.KernelConfig{BlacklistModules: []string{"floppy"}}, system.SetOptions{})
	require.NoError(t, err)
	require.NotNil(t, change)
	stored("start of a change", change.StartedAt)
	stored("request of a change", change.SentAt)
	stored("end of a change", change.EndedAt)
	list, err := log.List(t.Context(), audit.Query{})
	require.NoError(t, err)
	require.NotEmpty(t, list.Entries)
	stored("audit entry", list.Entries[0].At)
	stored("end of an audit entry", list.Entries[0].EndedAt)

	begun, err := rollouts.Start(t.Context(), rolling.Selector{All: true}, rolling.Policy{})
	require.NoError(t, err)
	stored("rollout", begun.CreatedAt)
	stored("change of a rollout", begun.LastUpdated)
	stored("start of a rollout", begun.State.StartedAt)

	settings := feed.Settings()
	settings.Source, settings.Keep = "", 5
	require.NoError(t, feed.SetSettings(t.Context(), settings, nil))

	controltest.Background(t, objects.Run)
	var scanned []inventory.Status
	require.Eventually(t, func() bool {
		scanned, err = objects.Status(t.Context())
		return err == nil && len(scanned) == 1 && !scanned[0].ScannedAt.IsZero()
	}, 20*time.Second, 5*time.Millisecond)
	stored("scan", scanned[0].ScannedAt)
	found := 0
	for object, err := range objects.Objects(t.Context(), inventory.Query{}) {
		require.NoError(t, err)
		stored("object", object.FirstSeen)
		found++
	}
	require.NotZero(t, found)

	kinds := map[event.Kind]bool{}
	all, err := w.ListEvents(t.Context(), opscenter.EventFilter{})
	require.NoError(t, err)
	for _, e := range all {
		stored("event "+string(e.Kind), e.At)
		kinds[e.Kind] = true
	}
	for _, kind := range []event.Kind{event.FeedSettings, event.Rollout, event.ConfigurationChange} {
		require.True(t, kinds[kind], kind)
	}
}
