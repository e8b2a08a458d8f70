package opscenter_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage/memstore"
)

const (
	ready   = lifecycle.StatusReady
	offline = lifecycle.StatusOffline
	pending = lifecycle.StatusPending
	none    = lifecycle.DetailNone
)

func TestSelfUpdates(t *testing.T) {
	for _, cause := range append(lifecycle.Causes, "", "invented-by-a-newer-release") {
		t.Run("cause "+string(cause), func(t *testing.T) {
			w := memoryWorld(t)
			before := w.ready(t, 0)
			revision := w.revision(t)
			time.Sleep(time.Millisecond)
			require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{ConnectionURL: "https://10.7.7.7:8443", Cause: cause}))
			after := w.get(t, "server00")
			require.True(t, after.LastSeen.After(before.LastSeen))
			switch cause {
			case "invented-by-a-newer-release":
				require.Equal(t, revision, w.revision(t), "changes nothing but last seen")
				require.Equal(t, before.Server, after.Server)
				require.Equal(t, before.State, after.State)
				require.Contains(t, w.log.String(), "invented-by-a-newer-release")
				return
			case lifecycle.CauseSystemRebootTriggered:
				require.Equal(t, offline, after.State.Status)
				require.Equal(t, lifecycle.DetailRebooting, after.State.StatusDetail)
				require.WithinDuration(t, time.Now().Add((15 * time.Minute)), after.State.Announced.Deadline, time.Minute)
			case lifecycle.CauseSystemShutdownTriggered, lifecycle.CauseSuspendTriggered:
				require.Equal(t, offline, after.State.Status)
				require.Equal(t, lifecycle.DetailShutDown, after.State.StatusDetail)
				require.Contains(t, after.State.StatusReason, string(cause))
			default:
				require.Equal(t, ready, after.State.Status)
				require.True(t, after.State.PollRequested.After(before.State.PollRequested), "it is polled at once")
				require.Len(t, w.events(t, event.SelfUpdate), 1)
			}
			require.Equal(t, "https://10.7.7.7:8443", after.ConnectionURL)
			require.Len(t, w.events(t, event.ConnectionURLChanged), 1)
		})
	}
}

func TestSelfUpdateErrors(t *testing.T) {
	w := memoryWorld(t)
	w.ready(t, 0)
	require.ErrorIs(t, w.SelfUpdate(t.Context(), nil, opscenter.SelfUpdate{}), opscenter.ErrNoCertificate)
	for _, cause := range []lifecycle.Cause{"", "unheard-of"} {
		require.ErrorIs(t, w.SelfUpdate(t.Context(), certificate(9), opscenter.SelfUpdate{Cause: cause}), opscenter.ErrUnknownCertificate)
	}
	require.ErrorIs(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{ConnectionURL: "http://a"}), opscenter.ErrInvalidURL)
	require.ErrorIs(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{ConnectionURL: "https://" + strings.Repeat("a", 5000)}), opscenter.ErrTooLong)
	require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{}), "an empty URL is unchanged")
	require.Equal(t, registration(0, "").ConnectionURL, w.get(t, "server00").ConnectionURL)
}

// A server that reboots, and says when it is ready, is ready at the next poll, whatever its clock says.
func TestRebootBySelfUpdates(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		info := w.ready(t, 0)
		require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: lifecycle.CauseSystemRebootTriggered}))
		w.observe(t, failed(info), failed(info), failed(info), failed(info))
		require.Equal(t, lifecycle.DetailRebooting, w.get(t, "server00").State.StatusDetail)
		require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: lifecycle.CauseSystemIsReady}))
		o := answer(info)
		o.BootedAt = time.Now().Add(-10 * time.Hour) // a clock that is off
		w.observe(t, o)
		require.Equal(t, ready, w.get(t, "server00").State.Status)
	})
}

// A server that says that it goes down, and answers, is up; should it go down after all, it is shut down.
func TestGoesDownByItsOwnWord(t *testing.T) {
	for _, cause := range []lifecycle.Cause{lifecycle.CauseSuspendTriggered, lifecycle.CauseSystemShutdownTriggered} {
		t.Run(string(cause), func(t *testing.T) {
			w := memoryWorld(t)
			info := w.ready(t, 0)
			at := time.Now()
			step := func(o lifecycle.Observation) lifecycle.ServerState {
				at = at.Add(time.Minute)
				o.At = at
				o.BootedAt = at.Add(-24 * time.Hour)
				if o.Failure != nil {
					o.BootedAt = time.Time{}
				}
				w.observe(t, o)
				return w.get(t, info.Name).State
			}
			require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: cause}))
			require.Equal(t, lifecycle.DetailShutDown, w.get(t, info.Name).State.StatusDetail)
			require.Equal(t, lifecycle.StatusReady, step(answer(info)).Status, "at the first good poll")
			require.Equal(t, lifecycle.StatusReady, step(failed(info)).Status)
			require.Equal(t, lifecycle.StatusReady, step(failed(info)).Status)
			state := step(failed(info))
			require.Equal(t, lifecycle.DetailShutDown, state.StatusDetail, "it had said so")
			require.Equal(t, lifecycle.StatusReady, step(answer(info)).Status)
			for range 20 {
				state = step(answer(info))
			}
			require.Nil(t, state.Announced, "it is forgotten in the end")
			for range 3 {
				state = step(failed(info))
			}
			require.Equal(t, lifecycle.DetailUnresponsive, state.StatusDetail)
		})
	}
}

// TestShutsDownInTheMiddle: an action that began after a server had said that it goes down, and answered, ends
// when it goes down after all.
func TestShutsDownInTheMiddle(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	at := time.Now()
	step := func(o lifecycle.Observation) lifecycle.ServerState {
		at = at.Add(time.Minute)
		o.At = at
		w.observe(t, o)
		return w.get(t, info.Name).State
	}
	require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: lifecycle.CauseSuspendTriggered}))
	require.Equal(t, lifecycle.StatusReady, step(answer(info)).Status)
	require.NoError(t, w.Write(t.Context(), func(tx *opscenter.Tx) error {
		_, _, err := tx.Begin(opscenter.Intent{Server: info.Name, Action: lifecycle.ActionUpdate, Timeout: time.Hour})
		return err
	}))
	require.NotNil(t, w.get(t, info.Name).State.Operation)
	var state lifecycle.ServerState
	for range 70 { // this process carries the action out: it has until its deadline to say how it ended
		state = step(failed(info))
	}
	require.Equal(t, lifecycle.DetailShutDown, state.StatusDetail)
	require.Nil(t, state.Operation)
	require.Contains(t, state.LastOperation.Failed, "shut down")
}

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
