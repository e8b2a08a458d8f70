package opscenter_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
	"github.com/opscenter-go/sdk/storage/badgerstore"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// warnings returns the kinds of the warnings there are, by server.
func (w *world) warnings(t testing.TB) map[string][]opscenter.WarningKind {
	t.Helper()
	page, err := w.ListWarnings(context.Background(), opscenter.WarningFilter{}, opscenter.Page{Limit: 1000})
	require.NoError(t, err)
	out := map[string][]opscenter.WarningKind{}
	for _, one := range page.Warnings {
		out[one.Server] = append(out[one.Server], one.Kind)
	}
	return out
}

func TestFlapping(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	at := time.Now().UTC()
	see := func(o opscenter.Observation, after time.Duration) {
		at = at.Add(after)
		o.At = at
		w.observe(t, o)
	}
	down := func() {
		for range opscenter.DefaultOfflineThreshold {
			see(failed(info), 10*time.Second)
		}
		require.Equal(t, opscenter.StatusOffline, w.get(t, "server00").State.Status)
	}
	for range 2 {
		down()
		see(answer(info), time.Minute)
		require.Equal(t, opscenter.StatusReady, w.get(t, "server00").State.Status, "once or twice is none")
	}
	down()
	require.Len(t, w.events(t, opscenter.EventFlapping), 1)
	see(answer(info), time.Minute)
	require.Equal(t, opscenter.StatusOffline, w.get(t, "server00").State.Status, "held")
	require.Equal(t, map[string][]opscenter.WarningKind{"server00": {opscenter.WarningFlapping}}, w.warnings(t))
	// Neither answers nor failures in between change what it is held in.
	changes := len(w.events(t, opscenter.EventStatusChanged))
	for range 5 {
		see(answer(info), 10*time.Minute)
		for range opscenter.DefaultOfflineThreshold {
			see(failed(info), time.Minute)
		}
	}
	require.Len(t, w.events(t, opscenter.EventStatusChanged), changes)
	see(answer(info), time.Minute)
	see(failed(info), time.Minute) // one is none
	see(answer(info), opscenter.DefaultFlapSteady-time.Minute-time.Second)
	require.Equal(t, opscenter.StatusOffline, w.get(t, "server00").State.Status)
	see(answer(info), time.Second)
	require.Equal(t, opscenter.StatusReady, w.get(t, "server00").State.Status, "steady")
	require.Empty(t, w.warnings(t))
	require.Len(t, w.events(t, opscenter.EventSteady), 1)
	down()
	see(answer(info), time.Minute)
	require.Equal(t, opscenter.StatusReady, w.get(t, "server00").State.Status, "it begins anew")
}

// A server that goes up and down, and then stays down, is just down: it is back at once.
func TestFlappingEndsDown(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	at := time.Now().UTC()
	for range 3 {
		for range opscenter.DefaultOfflineThreshold {
			at = at.Add(10 * time.Second)
			o := failed(info)
			o.At = at
			w.observe(t, o)
		}
		at = at.Add(time.Minute)
		o := answer(info)
		o.At = at
		w.observe(t, o)
	}
	require.Contains(t, w.warnings(t)["server00"], opscenter.WarningFlapping)
	for range 20 {
		at = at.Add(time.Minute)
		o := failed(info)
		o.At = at
		w.observe(t, o)
	}
	require.Equal(t, []opscenter.WarningKind{opscenter.WarningUnreachable}, w.warnings(t)["server00"])
	o := answer(info)
	o.At = at.Add(time.Minute)
	w.observe(t, o)
	require.Equal(t, opscenter.StatusReady, w.get(t, "server00").State.Status)
}

// Outages long ago don't count.
func TestSlowFlappingIsNone(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	at := time.Now().UTC()
	for range 10 {
		for range opscenter.DefaultOfflineThreshold {
			at = at.Add(10 * time.Second)
			o := failed(info)
			o.At = at
			w.observe(t, o)
		}
		at = at.Add(opscenter.DefaultFlapWindow / 2)
		o := answer(info)
		o.At = at
		w.observe(t, o)
		require.Equal(t, opscenter.StatusReady, w.get(t, "server00").State.Status)
	}
}

// fleet makes n servers ready, in a bubble of time.
func fleet(t *testing.T, n int, options opscenter.Options) (*world, []*opscenter.ServerInfo) {
	w := newWorld(t, memstore.New(), options)
	token := w.token(t, int64(n))
	var infos []*opscenter.ServerInfo
	for i := range n {
		_, err := w.Register(t.Context(), registration(i, token))
		require.NoError(t, err)
		info := w.get(t, fmt.Sprintf("server%02d", i))
		w.observe(t, answer(info))
		infos = append(infos, info)
	}
	return w, infos
}

func (w *world) status(t testing.TB, status opscenter.Status) int {
	t.Helper()
	page, err := w.ListServers(context.Background(), opscenter.ServerFilter{Status: status}, opscenter.Page{Limit: 1000})
	require.NoError(t, err)
	return len(page.Servers)
}

func TestCorrelatedFailures(t *testing.T) {
	for _, test := range []struct {
		servers, dead int
		held          bool
	}{{10, 10, true}, {10, 5, true}, {10, 4, false}, {20, 9, false}, {20, 10, true}, {4, 4, false}, {5, 5, true}} {
		t.Run(fmt.Sprintf("%d of %d", test.dead, test.servers), func(t *testing.T) {
			certificate(test.servers) // made outside the bubble
			synctest.Test(t, func(t *testing.T) {
				w, infos := fleet(t, test.servers, opscenter.Options{})
				sweep := func(dead int) {
					time.Sleep(10 * time.Second)
					for i, info := range infos {
						if i < dead {
							w.observe(t, failed(info))
						} else {
							w.observe(t, answer(info))
						}
					}
				}
				for range 3 {
					sweep(0)
				}
				for range 10 {
					sweep(test.dead)
				}
				if !test.held {
					require.Equal(t, test.dead, w.status(t, opscenter.StatusOffline))
					require.Empty(t, w.warnings(t)[""])
					require.False(t, w.FleetUnreachable())
					return
				}
				require.Zero(t, w.status(t, opscenter.StatusOffline), "nobody becomes offline")
				require.Equal(t, []opscenter.WarningKind{opscenter.WarningFleet}, w.warnings(t)[""])
				require.True(t, w.FleetUnreachable())
				sweep(0)
				require.Empty(t, w.warnings(t), "it clears by itself")
				require.False(t, w.FleetUnreachable())
				require.Equal(t, test.servers, w.status(t, opscenter.StatusReady))
				// The judgement goes on.
				for range 3 {
					sweep(1)
				}
				require.Equal(t, 1, w.status(t, opscenter.StatusOffline))
			})
		})
	}
}

// What was down before an outage stays down, and says nothing of it.
func TestCorrelatedFailuresBesideDeadServers(t *testing.T) {
	certificate(20)
	synctest.Test(t, func(t *testing.T) {
		w, infos := fleet(t, 20, opscenter.Options{})
		dead := func(n int) {
			time.Sleep(10 * time.Second)
			for i, info := range infos {
				if i < n {
					w.observe(t, failed(info))
				} else {
					w.observe(t, answer(info))
				}
			}
		}
		for n := 1; n <= 12; n++ { // one by one, far apart
			for range 3 {
				dead(n)
			}
		}
		require.Equal(t, 12, w.status(t, opscenter.StatusOffline), "12 of 20 are down, but not together")
		require.False(t, w.FleetUnreachable())
		dead(20)
		dead(20)
		dead(20)
		require.True(t, w.FleetUnreachable())
		require.Equal(t, 8, w.status(t, opscenter.StatusReady))
		require.Equal(t, 12, w.status(t, opscenter.StatusOffline))
		// Part of it comes back: the rest is down for real.
		for range 4 {
			dead(14)
		}
		require.False(t, w.FleetUnreachable())
		require.Equal(t, 14, w.status(t, opscenter.StatusOffline))
	})
}

// A controller that starts again in the middle of an outage goes on suspecting itself.
func TestCorrelatedFailuresOverARestart(t *testing.T) {
	certificate(10)
	synctest.Test(t, func(t *testing.T) {
		w, infos := fleet(t, 10, opscenter.Options{})
		fail := func(r *opscenter.Registry) {
			time.Sleep(10 * time.Second)
			for _, info := range infos {
				require.NoError(t, r.RecordObservations(t.Context(), failed(info)))
			}
		}
		fail(w.Registry)
		require.True(t, w.FleetUnreachable())
		again, err := opscenter.NewRegistry(w.store, opscenter.Options{})
		require.NoError(t, err)
		require.True(t, again.FleetUnreachable())
		for range 5 {
			fail(again)
		}
		require.Zero(t, w.status(t, opscenter.StatusOffline))
		for _, info := range infos {
			require.NoError(t, again.RecordObservations(t.Context(), answer(info)))
		}
		require.False(t, again.FleetUnreachable())
		require.Empty(t, w.warnings(t))
	})
}

func TestGuardSwitchedOff(t *testing.T) {
	w, infos := fleet(t, 10, opscenter.Options{GuardShare: -1})
	for range 3 {
		for _, info := range infos {
			w.observe(t, failed(info))
		}
	}
	require.Equal(t, 10, w.status(t, opscenter.StatusOffline))
}

func TestCertificateChange(t *testing.T) {
	w := memoryWorld(t)
	info, other := w.ready(t, 0), w.ready(t, 1)
	foreign, cluster := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	presents := func(o opscenter.Observation, fingerprint string, refused bool) opscenter.Observation {
		o.Presented = fingerprint
		if refused {
			o.Failure = &opscenter.Failure{Kind: opscenter.FailureCertificate, Message: "presents another certificate"}
		}
		return o
	}
	w.observe(t, presents(answer(info), info.Fingerprint, false))
	require.Empty(t, w.events(t, opscenter.EventCertificateChanged), "the one it registered with is no change")
	for range 2 {
		w.observe(t, presents(failed(info), foreign, true))
	}
	require.Len(t, w.events(t, opscenter.EventCertificateChanged), 1, "told once")
	s := w.get(t, "server00").State
	require.Equal(t, opscenter.StatusReady, s.Status)
	require.Contains(t, s.StatusReason, "another certificate")
	require.Equal(t, foreign, s.Presented)
	require.Equal(t, []opscenter.WarningKind{opscenter.WarningCertificate}, w.warnings(t)["server00"], "warned at once")
	w.observe(t, presents(failed(info), foreign, true))
	require.Equal(t, opscenter.DetailUnresponsive, w.get(t, "server00").State.StatusDetail)

	// A failure to connect says nothing of certificates.
	w.observe(t, failed(info))
	require.Contains(t, w.warnings(t)["server00"], opscenter.WarningCertificate)
	require.ErrorIs(t, w.AcceptCertificate(t.Context(), "server00", "xyz"), opscenter.ErrInvalidCertificate)
	require.ErrorIs(t, w.AcceptCertificate(t.Context(), "server99", foreign), opscenter.ErrNotFound)
	asked := time.Now()
	require.NoError(t, w.AcceptCertificate(t.Context(), "server00", strings.ToUpper(foreign)))
	info = w.get(t, "server00")
	require.Equal(t, foreign, info.Target().ServedFingerprint)
	require.False(t, info.State.PollRequested.Before(asked.UTC().Round(0)), "it is looked at again")
	w.observe(t, presents(answer(info), foreign, false))
	require.Equal(t, opscenter.StatusReady, w.get(t, "server00").State.Status)
	require.Empty(t, w.warnings(t))

	// Of a cluster, the others are followed; of none, they are not.
	require.NoError(t, w.AcceptCertificate(t.Context(), "server00", cluster))
	w.observe(t, presents(failed(other), cluster, true))
	require.Empty(t, w.get(t, "server01").ServedFingerprint)
	w.setCluster(t, "server00", "c1")
	w.setCluster(t, "server01", "c1")
	w.observe(t, presents(failed(other), foreign, true))
	require.Empty(t, w.get(t, "server01").ServedFingerprint, "not its cluster's")
	w.observe(t, presents(failed(other), cluster, true))
	require.Equal(t, cluster, w.get(t, "server01").ServedFingerprint)
	require.Contains(t, w.events(t, opscenter.EventCertificateAccepted)[2].Reason, "its cluster's")
	// Another member's own certificate is not the cluster's: no member passes for another by it.
	third := w.ready(t, 2)
	w.setCluster(t, "server02", "c1")
	w.observe(t, presents(failed(third), info.Fingerprint, true))
	require.Empty(t, w.get(t, "server02").ServedFingerprint)
}

func TestUntrustedIsWarnedOfLater(t *testing.T) {
	w := memoryWorld(t)
	info := w.add(t, 0)
	o := failed(info)
	o.Failure.Kind = opscenter.FailureUntrusted
	w.observe(t, o)
	w.observe(t, o)
	require.Empty(t, w.warnings(t), "for some seconds after a registration it is as it should be")
	w.observe(t, o)
	require.Contains(t, w.warnings(t)["server00"], opscenter.WarningUntrusted)
	w.observe(t, answer(info))
	require.Empty(t, w.warnings(t))
}

func TestUnreadableParts(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	o := answer(info)
	o.Type, o.Versions, o.MemberName, o.Maintenance = nil, nil, nil, nil
	o.Unread = []string{"applications: error 500", "network: cut off"}
	w.observe(t, o)
	s := w.get(t, "server00").State
	require.Equal(t, opscenter.TypeIncus, s.Type, "never worsened")
	require.Equal(t, "202608010000", s.Versions.OS.Version)
	page, err := w.ListWarnings(t.Context(), opscenter.WarningFilter{}, opscenter.Page{})
	require.NoError(t, err)
	require.Len(t, page.Warnings, 1)
	require.Contains(t, page.Warnings[0].Message, "network: cut off")
	light := answer(info)
	light.Light = true
	w.observe(t, light)
	require.NotEmpty(t, w.warnings(t), "a light poll did not try what could not be read")
	for range 2 {
		w.observe(t, answer(info))
		require.NotEmpty(t, w.warnings(t), "one whole poll between others is no end of it")
	}
	w.observe(t, answer(info))
	require.Empty(t, w.warnings(t))
}

func TestClockJumps(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	real := time.Now().UTC()
	clock := real
	w.SetClock(func() time.Time { return clock })
	see := func(o opscenter.Observation) {
		o.At = clock
		require.NoError(t, w.RecordObservations(t.Context(), o))
	}
	o := answer(info)
	clock = real.AddDate(1, 0, 0)
	see(o)
	see(failed(info))
	require.Equal(t, opscenter.StatusReady, w.get(t, "server00").State.Status)
	// What was learned in the wrong year must not make deaf in the right one.
	clock = real.Add(-time.Hour)
	require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: opscenter.CauseSystemRebootTriggered}))
	require.NoError(t, w.AcceptCertificate(t.Context(), "server00", strings.Repeat("ab", 32))) // sets NotBefore, an hour from now
	changed := answer(info)
	changed.Versions.OS.Version = "202609010000"
	see(changed)
	s := w.get(t, "server00").State
	require.Equal(t, "202609010000", s.Versions.OS.Version)
	require.True(t, w.get(t, "server00").LastSeen.Before(real.Add(time.Minute)))
	require.Equal(t, opscenter.DetailRebooting, s.StatusDetail)
	require.False(t, s.Announced.At.After(clock), "the reboot takes its time from now")
	require.Equal(t, clock.Add(opscenter.DefaultRebootTimeout).Round(time.Second), s.Announced.Deadline.Round(time.Second))
	see(failed(info))
	clock = clock.Add(time.Minute)
	changed.BootedAt = clock.Add(-30 * time.Second)
	see(changed)
	require.Equal(t, opscenter.StatusReady, w.get(t, "server00").State.Status, "back, an hour before it was to have gone")
	// An observation from the future of the clock counts as made now.
	late := answer(info)
	late.At = clock.Add(48 * time.Hour)
	require.NoError(t, w.RecordObservations(t.Context(), late))
	require.False(t, w.get(t, "server00").LastSeen.After(clock))
}

// A poll that ends after its server was renamed, moved, or installed anew.
func TestPollsThatEndTooLate(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	renamed := failed(info)
	require.NoError(t, w.RenameServer(t.Context(), "server00", "other", nil))
	w.observe(t, renamed)
	require.Equal(t, 1, w.get(t, "other").Failures, "it is the same server")

	moved := failed(info)
	require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{ConnectionURL: "https://10.9.9.9:8443"}))
	w.observe(t, moved, moved, moved)
	require.Equal(t, 1, w.get(t, "other").Failures, "it was asked at its old address")

	deleted := answer(info)
	require.NoError(t, w.DeleteServer(t.Context(), "other"))
	w.observe(t, deleted)
	again := w.add(t, 0)
	w.observe(t, deleted)
	require.Equal(t, opscenter.StatusPending, w.get(t, again.Name).State.Status)
}

func TestFactsHistory(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		info := w.ready(t, 0)
		const network = `{"config":{"mtu":%d,"password":"hunter%d"},"state":{"uptime":%d,"list":[1,2]}}`
		see := func(i int) {
			w.observe(t, withFacts(answer(info), `{"cpu":1}`), func() opscenter.Observation {
				o := answer(info)
				o.Facts = &opscenter.Facts{Network: json.RawMessage(fmt.Sprintf(network, i, i, i))}
				return o
			}())
		}
		see(0)
		history, err := w.FactsHistory(t.Context(), "server00")
		require.NoError(t, err)
		require.Empty(t, history, "what is read first is no change")
		see(1)
		history, err = w.FactsHistory(t.Context(), "server00")
		require.NoError(t, err)
		require.Len(t, history, 1)
		require.Equal(t, []opscenter.FactChange{{Path: "network.config.mtu", From: "0", To: "1"}}, history[0].Changes)
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
		o.Facts = &opscenter.Facts{Network: data}
		w.observe(t, o)
		history, err = w.FactsHistory(t.Context(), "server00")
		require.NoError(t, err)
		paths := map[string]opscenter.FactChange{}
		for _, change := range history[0].Changes {
			paths[change.Path] = change
		}
		require.Equal(t, opscenter.FactChange{Path: "network.state.list[1]", From: "2"}, paths["network.state.list[1]"])
		require.LessOrEqual(t, len(paths["network.config.name"].To), opscenter.MaxFactValue+len("…"))
		for i := range many {
			many[i]++
		}
		data, err = json.Marshal(map[string]any{"x": many})
		require.NoError(t, err)
		o.Facts = &opscenter.Facts{Network: data}
		w.observe(t, o)
		history, err = w.FactsHistory(t.Context(), "server00")
		require.NoError(t, err)
		require.Len(t, history[0].Changes, opscenter.MaxFactChanges)
		require.Positive(t, history[0].More)

		_, err = w.FactsHistory(t.Context(), "nobody")
		require.ErrorIs(t, err, opscenter.ErrNotFound)
		require.NoError(t, w.DeleteServer(t.Context(), "server00"))
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
		page, err := w.ListWarnings(t.Context(), opscenter.WarningFilter{Server: "server00"}, opscenter.Page{})
		require.NoError(t, err)
		require.Len(t, page.Warnings, 1)
		one := page.Warnings[0]
		require.Equal(t, opscenter.WarningUnreachable, one.Kind)
		require.Equal(t, "server00", one.Server)
		require.Equal(t, 8, one.Count, "seen with each poll since the one that made it offline")
		require.True(t, one.LastSeen.After(one.FirstSeen))
		require.False(t, one.Acknowledged)
		require.Len(t, w.events(t, opscenter.EventWarningRaised), 1)
		for changes, err := range w.Watch(t.Context(), revision) {
			require.NoError(t, err)
			require.Equal(t, []string{one.UUID}, changes.Warnings, "in the change feed")
			break
		}
		// Counting writes nothing before the next flush.
		revision = w.revision(t)
		w.observe(t, failed(info))
		require.Equal(t, revision, w.revision(t))
		require.NoError(t, w.Flush(t.Context()))
		require.Greater(t, w.revision(t), revision)
		again, err := opscenter.NewRegistry(w.store, opscenter.Options{})
		require.NoError(t, err)
		stored, err := again.Warning(t.Context(), one.UUID)
		require.NoError(t, err)
		require.Equal(t, 9, stored.Count, "the count outlives the process")

		require.NoError(t, w.AcknowledgeWarning(t.Context(), one.UUID, true, nil))
		yes, no := true, false
		page, err = w.ListWarnings(t.Context(), opscenter.WarningFilter{Acknowledged: &yes}, opscenter.Page{})
		require.NoError(t, err)
		require.Len(t, page.Warnings, 1)
		page, err = w.ListWarnings(t.Context(), opscenter.WarningFilter{Acknowledged: &no}, opscenter.Page{})
		require.NoError(t, err)
		require.Empty(t, page.Warnings)
		require.NoError(t, w.RenameServer(t.Context(), "server00", "renamed", nil))
		found, err := w.Warning(t.Context(), one.UUID)
		require.NoError(t, err)
		require.Equal(t, "renamed", found.Server, "by the name it has")
		require.ErrorIs(t, w.AcknowledgeWarning(t.Context(), "nothing", true, nil), opscenter.ErrNotFound)

		// Programs may warn of their own.
		require.NoError(t, w.Warn(t.Context(), "server01", opscenter.Warned{Kind: "Fan broken", Message: "rear"}))
		require.NoError(t, w.Warn(t.Context(), "server01", opscenter.Warned{Kind: "Fan broken", Message: "front"}))
		require.NoError(t, w.Warn(t.Context(), "", opscenter.Warned{Kind: "Coffee cold"}))
		require.ErrorIs(t, w.Warn(t.Context(), "server99", opscenter.Warned{Kind: "Fan broken"}), opscenter.ErrNotFound)
		require.Error(t, w.Warn(t.Context(), "", opscenter.Warned{}))
		page, err = w.ListWarnings(t.Context(), opscenter.WarningFilter{Kind: "Fan broken"}, opscenter.Page{})
		require.NoError(t, err)
		require.Equal(t, 2, page.Warnings[0].Count)
		require.Equal(t, "front", page.Warnings[0].Message)
		first, err := w.ListWarnings(t.Context(), opscenter.WarningFilter{}, opscenter.Page{Limit: 2})
		require.NoError(t, err)
		require.Len(t, first.Warnings, 2)
		rest, err := w.ListWarnings(t.Context(), opscenter.WarningFilter{}, opscenter.Page{Limit: 2, Cursor: first.Next})
		require.NoError(t, err)
		require.Len(t, rest.Warnings, 1)
		require.Empty(t, rest.Next)
		require.NoError(t, w.ClearWarning(t.Context(), "server01", "Fan broken"))
		require.NoError(t, w.ClearWarning(t.Context(), "server01", "Fan broken"), "nothing to clear is no error")

		// With its server a warning goes.
		require.NoError(t, w.DeleteServer(t.Context(), "renamed"))
		require.Equal(t, map[string][]opscenter.WarningKind{"": {"Coffee cold"}}, w.warnings(t))
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
		require.NoError(t, registry.RecordObservations(t.Context(), o))
		seen = append(seen, w.get(t, info.Name).LastSeen)
	}
	require.NoError(t, w.DeleteServer(t.Context(), "server03"))
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
	require.NoError(t, w.DeleteServer(t.Context(), "server01"))
	info := w.get(t, "server02")
	require.NoError(t, registry.RecordObservations(t.Context(), answer(info)))
	seen[2] = w.get(t, "server02").LastSeen
	require.NoError(t, registry.Flush(t.Context()))
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
		{Status: opscenter.StatusPending, StatusDetail: opscenter.DetailRegistering, Type: opscenter.TypeUnknown, Count: 1}: true,
		{Status: opscenter.StatusReady, Type: opscenter.TypeIncus, Count: 1}:                                                true,
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
	require.NoError(t, w.DeleteServer(t.Context(), "server00"))
	w.observe(t, failed(info), failed(info), failed(info))
	want = map[opscenter.ServerCount]bool{{Status: opscenter.StatusOffline, StatusDetail: opscenter.DetailUnresponsive, Type: opscenter.TypeIncus, Count: 1}: true}
	check(w.Registry)
}

// RecordUnchanged takes an observation in only if the long way finds nothing new in it.
func TestRecordUnchanged(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	full := func() opscenter.Observation { return withFacts(answer(info), `{"cpu":1,"uptime":5}`) }
	o := full()
	require.False(t, w.RecordUnchanged(&o), "never seen so far")
	w.observe(t, o)
	w.observe(t, full())
	o = full()
	require.True(t, w.RecordUnchanged(&o))
	require.Equal(t, o.At, w.get(t, "server00").LastSeen)
	o.Facts.Hardware = json.RawMessage(`{"cpu":1,"uptime":77}`)
	require.True(t, w.RecordUnchanged(&o), "what changes all the time is no change")
	light := answer(info)
	light.Light = true
	require.True(t, w.RecordUnchanged(&light))
	change := func(what string, change func(*opscenter.Observation)) {
		t.Helper()
		o := full()
		change(&o)
		require.False(t, w.RecordUnchanged(&o), what)
	}
	change("facts", func(o *opscenter.Observation) { o.Facts.Hardware = json.RawMessage(`{"cpu":2}`) })
	change("no JSON", func(o *opscenter.Observation) { o.Facts.Hardware = json.RawMessage(`{"cpu":`) })
	change("failure", func(o *opscenter.Observation) { o.Failure = &opscenter.Failure{} })
	change("booting", func(o *opscenter.Observation) { o.Ready = false })
	change("unread", func(o *opscenter.Observation) { o.Unread = []string{"x"} })
	change("type", func(o *opscenter.Observation) { kind := opscenter.TypeUnknown; o.Type = &kind })
	change("version", func(o *opscenter.Observation) { o.Versions.OS.VersionNext = "202701010000" })
	change("reboot", func(o *opscenter.Observation) { o.Versions.OS.NeedsReboot = true })
	change("channel", func(o *opscenter.Observation) { o.Versions.UpdateChannel = "testing" })
	change("application", func(o *opscenter.Observation) { o.Versions.Applications[0].Version = "1" })
	change("maintenance", func(o *opscenter.Observation) { m := opscenter.MaintenanceEvacuated; o.Maintenance = &m })
	change("member", func(o *opscenter.Observation) { m := "other"; o.MemberName = &m })
	change("trusted", func(o *opscenter.Observation) { yes := true; o.SystemStateTrusted = &yes })
	change("certificate", func(o *opscenter.Observation) { o.Presented = strings.Repeat("ab", 32) })
	change("server", func(o *opscenter.Observation) { o.ID = "nobody" })

	// Whatever else happens to the server makes the next poll go the long way.
	for name, happens := range map[string]func(){
		"failed poll": func() { w.observe(t, failed(info)) },
		"self update": func() {
			require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: opscenter.CauseOSUpdateApplied}))
		},
		"action": func() {
			operation, server, err := w.BeginAction(t.Context(), "server00", opscenter.ActionEvacuate)
			require.NoError(t, err)
			o := full()
			require.False(t, w.RecordUnchanged(&o), "under way")
			require.NoError(t, w.EndAction(t.Context(), server, operation, fmt.Errorf("no")))
		},
	} {
		happens()
		o := full()
		require.False(t, w.RecordUnchanged(&o), name)
		for range 3 {
			w.observe(t, full())
		}
		o = full()
		require.True(t, w.RecordUnchanged(&o), "%s: settled again", name)
	}
}
