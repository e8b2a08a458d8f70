package opscenter_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// TestSelfUpdatesAreRationed: a repeated self update is answered, and stored once per interval. It causes one poll more at
// the end of the interval. Self updates with news are accepted for a while.
func TestSelfUpdatesAreRationed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memstore.New(memstore.Options{DetectMutation: true}), opscenter.Options{})
		w.ready(t, 0)
		tell := func(cause lifecycle.Cause, url string) error {
			return w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: cause, ConnectionURL: url})
		}
		begun := time.Now()
		for range 1000 {
			require.NoError(t, tell(lifecycle.CauseNetworkInterfaceStateChanged, ""))
		}
		require.Len(t, w.events(t, event.SelfUpdate), 1)
		require.WithinDuration(t, begun.Add(opscenter.DefaultSelfUpdateInterval), w.get(t, "server00").State.PollRequested, 0, "the last of them may have told of something")
		revision := w.revision(t)
		require.NoError(t, tell(lifecycle.CauseStorageConfigChanged, ""), "another cause is something new")
		require.Len(t, w.events(t, event.SelfUpdate), 2)
		require.Greater(t, w.revision(t), revision)
		time.Sleep(opscenter.DefaultSelfUpdateInterval)
		revision = w.revision(t)
		for range 1000 {
			require.NoError(t, tell(lifecycle.CauseNetworkInterfaceStateChanged, ""))
		}
		require.LessOrEqual(t, w.revision(t), revision+2)
		require.WithinDuration(t, begun.Add(2*opscenter.DefaultSelfUpdateInterval), w.get(t, "server00").State.PollRequested, 0)

		// A hostile one has always something new to tell.
		time.Sleep(time.Hour)
		refused := 0
		for i := range 100 {
			if err := tell(lifecycle.CauseNetworkConfigChanged, fmt.Sprintf("https://10.7.7.%d:8443", i)); err != nil {
				require.ErrorIs(t, err, opscenter.ErrTooOften)
				refused++
			}
		}
		require.Equal(t, 80, refused)
		require.ErrorIs(t, tell(lifecycle.CauseSystemRebootTriggered, ""), opscenter.ErrTooOften)
		time.Sleep(opscenter.DefaultSelfUpdateInterval)
		require.NoError(t, tell(lifecycle.CauseSystemRebootTriggered, ""))
		w.ready(t, 1)
		require.NoError(t, w.SelfUpdate(t.Context(), certificate(1), opscenter.SelfUpdate{Cause: lifecycle.CauseSystemRebootTriggered}), "the others are heard as ever")
	})
}

// TestHistoryCannotBeErased: a server that causes many events overwrites its own. The events of other servers and of
// operators stay.
func TestHistoryCannotBeErased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, memstore.New(memstore.Options{DetectMutation: true}), opscenter.Options{MaxEvents: 300, MaxServerEvents: 50})
		w.ready(t, 0)
		w.ready(t, 1)
		require.NoError(t, w.AllowReinstall(t.Context(), "server01", true))
		before, err := w.ListEvents(t.Context(), opscenter.EventFilter{Server: "server01"})
		require.NoError(t, err)
		token := w.token(t, 1000)
		for i := range 500 {
			require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{ConnectionURL: fmt.Sprintf("https://10.7.7.%d:8443", i%200)}))
			time.Sleep(opscenter.DefaultSelfUpdateInterval)
			reg := registration(0, token)
			reg.Certificate = certificate(9)
			_, err := w.Register(t.Context(), reg)
			require.ErrorIs(t, err, opscenter.ErrIdentityTaken)
		}
		many, err := w.ListEvents(t.Context(), opscenter.EventFilter{Limit: 1000})
		require.NoError(t, err)
		require.Less(t, len(many), 2*300, "the surplus is deleted now and then")
		require.NoError(t, w.Observer().Flush(t.Context()), "which deletes the rest")
		after, err := w.ListEvents(t.Context(), opscenter.EventFilter{Server: "server01"})
		require.NoError(t, err)
		require.Equal(t, before, after)
		all, err := w.ListEvents(t.Context(), opscenter.EventFilter{Limit: 1000})
		require.NoError(t, err)
		n := map[event.Kind]int{}
		for _, e := range all {
			n[e.Kind]++
		}
		require.Equal(t, 50, n[event.RegistrationRefused])
		require.Equal(t, 50, n[event.SelfUpdate]+n[event.ConnectionURLChanged])
		require.NotZero(t, n[event.TokenCreated])
	})
}
