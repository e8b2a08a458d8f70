package opscenter_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/storage/memstore"
)

func TestUnreadableParts(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	o := answer(info)
	o.Type, o.Versions, o.MemberName, o.Maintenance = nil, nil, nil, nil
	o.Unread = []string{"applications: error 500", "network: cut off"}
	w.observe(t, o)
	s := w.get(t, "server00").State
	require.Equal(t, lifecycle.TypeIncus, s.Type, "never worsened")
	require.Equal(t, "202610010000", s.Versions.OS.Version)
	page, err := w.Warnings().List(t.Context(), opscenter.WarningFilter{}, opscenter.Page{})
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
	require.NoError(t, w.DeleteServer(t.Context(), "other", false))
	w.observe(t, deleted)
	again := w.add(t, 0)
	w.observe(t, deleted)
	require.Equal(t, lifecycle.StatusPending, w.get(t, again.Name).State.Status)
}

func TestAPollBegunBeforeSaysNothingNew(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	old := answer(info) // reads "not in maintenance", and is recorded late
	operation, server, err := w.BeginAction(t.Context(), "server00", lifecycle.ActionEvacuate)
	require.NoError(t, err)
	require.NoError(t, w.EndAction(t.Context(), server, operation, nil))
	w.observe(t, old)
	require.Equal(t, lifecycle.MaintenanceEvacuated, w.get(t, "server00").State.Maintenance)
	w.observe(t, answer(info))
	require.Equal(t, lifecycle.NotInMaintenance, w.get(t, "server00").State.Maintenance, "a later one does")

	// Nor does a poll of the installation that was there before.
	require.NoError(t, w.AllowReinstall(t.Context(), "server00", true))
	old = answer(info)
	w.observe(t, failed(info), failed(info))
	require.Equal(t, 2, w.get(t, "server00").Failures, "several in one call count up")
	time.Sleep(time.Millisecond)
	reg := registration(0, w.token(t, 1))
	reg.Certificate = certificate(1)
	_, err = w.Register(t.Context(), reg)
	require.NoError(t, err)
	w.observe(t, old)
	got := w.get(t, "server00")
	require.Equal(t, pending, got.State.Status)
	require.Zero(t, got.Failures, "a new installation begins anew")
	w.observe(t, failed(info))
	require.Equal(t, pending, w.get(t, "server00").State.Status)
}

// A self update during the recording of a poll is newer than the poll.
func TestSaidWhileAPollIsTakenIn(t *testing.T) {
	store := &hooked{Store: memstore.New()}
	w := newWorld(t, store, opscenter.Options{})
	info := w.ready(t, 0)
	w.observe(t, answer(info))
	w.observe(t, failed(info)) // the next one is looked at
	happens := func() {
		require.NoError(t, w.SelfUpdate(context.Background(), certificate(0), opscenter.SelfUpdate{Cause: lifecycle.CauseSystemShutdownTriggered}))
	}
	late := answer(info)
	store.skip.Store(1) // the first View is of the presence that catches up
	store.inView.Store(&happens)
	w.observe(t, late)
	require.Equal(t, lifecycle.DetailShutDown, w.get(t, "server00").State.StatusDetail)
	// It was down, and is back: the answers count.
	back := answer(info)
	back.BootedAt = time.Now()
	require.False(t, w.Observer().RecordUnchanged(&back), "nothing is settled")
	w.observe(t, back)
	require.Equal(t, lifecycle.StatusReady, w.get(t, "server00").State.Status)
}

func TestLastSeenOfASelfUpdateIsNotLoweredByAPoll(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	begun := answer(info)
	require.NoError(t, w.SelfUpdate(t.Context(), certificate(0), opscenter.SelfUpdate{Cause: lifecycle.CauseSystemIsReady}))
	seen := w.get(t, "server00").LastSeen
	w.observe(t, begun)
	require.Equal(t, seen, w.get(t, "server00").LastSeen)
}

// Between full polls, light ones are as cheap.
func TestLightAndFullPollsSettle(t *testing.T) {
	w := memoryWorld(t)
	info := w.ready(t, 0)
	trusted := true
	cheap := 0
	for i := range 20 {
		o := answer(info)
		if i%2 == 0 {
			o = withFacts(o, `{"cpu":1}`)
			o.SystemStateTrusted = &trusted
		} else {
			o.Light = true
		}
		if w.Observer().RecordUnchanged(&o) {
			cheap++
		} else {
			w.observe(t, o)
		}
	}
	require.GreaterOrEqual(t, cheap, 16)
}

// TestTimesThatCannotBe: impossible times that a server tells cost neither its other parts nor another server.
func TestTimesThatCannotBe(t *testing.T) {
	for _, year := range []int{-1, 0, 1, 2500, 10000} {
		w := memoryWorld(t)
		bad, good := w.ready(t, 0), w.ready(t, 1)
		at := time.Date(year, 6, 1, 0, 0, 0, 0, time.UTC)
		o, other := answer(bad), answer(good)
		o.UpdateStatus, o.BootedAt = &lifecycle.UpdateStatus{Status: "Update check completed", LastCheck: at}, at
		o.Versions.OS.Version, other.Versions.OS.Version = "998", "999"
		require.NoError(t, w.Observer().Record(t.Context(), o, other))
		for name, version := range map[string]string{bad.Name: "998", good.Name: "999"} {
			info, err := w.Server(t.Context(), name)
			require.NoError(t, err)
			require.Equal(t, version, info.State.Versions.OS.Version)
		}
	}
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
