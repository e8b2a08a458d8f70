package system

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/network"
)

// TestDecide lists the action for each combination of change, probes and time.
func TestDecide(t *testing.T) {
	const home, away = "https://10.0.0.1:8443", "https://10.0.0.2:8443"
	begin := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	move := func() *Change {
		c := &Change{Status: StatusWaiting, Moves: true, OldURL: home, Timeout: 5 * time.Minute}
		c.hidden = expectations{MachineID: "m", Member: "Online", Expected: []string{"10.0.0.2"}, Former: []string{"10.0.0.1"},
			ConfirmBy: begin.Add(270 * time.Second), RollBackAt: begin.Add(315 * time.Second), GiveUpAt: begin.Add(615 * time.Second)}
		return c
	}
	at := func(url string) seen {
		n := &network.Network{Config: &network.Config{}, State: &network.State{Interfaces: map[string]network.InterfaceState{"mgmt": {Roles: []string{"management"}, Addresses: []string{"10.0.0.1"}}}}}
		return seen{url: url, probe: &Probe{URL: url, Remote: netip.MustParseAddr(url[len("https://") : len(url)-len(":8443")]), MachineID: "m", Member: "Online", Network: n}}
	}
	notProven := func(c *Change) { c.hidden.ProvenAt = begin.Add(90 * time.Second) }
	gone := func(url string) seen { return seen{url: url, err: errors.New("refused")} }
	former := func(url string) seen { s := at(url); s.former = true; return s }
	for _, c := range []struct {
		name   string
		change func(*Change)
		found  []seen
		with   func(*evidence)
		after  time.Duration
		want   string // a URL: confirm there; a status: end; empty: wait
		url    string
		seen   bool
	}{
		{name: "at its new address", found: []seen{gone(home), at(away)}, want: away},
		{name: "at its new address, but may still fail", change: notProven, found: []seen{gone(home), at(away)}},
		{name: "at its new address, and has accepted the change", change: func(c *Change) { notProven(c); c.hidden.Applied = true }, found: []seen{at(away)}, want: away},
		{name: "at its new address, and has sent a self update", change: notProven, with: func(e *evidence) { e.reported = true }, found: []seen{at(away)}, want: away},
		{name: "at its new address after ProvenAt", change: notProven, found: []seen{at(away)}, after: 91 * time.Second, want: away},
		{name: "seen nowhere", found: []seen{gone(home), gone(away)}},
		{name: "new configuration at the old address", found: []seen{at(home), gone(away)}},
		{name: "at the old address, and has accepted the change", change: func(c *Change) { c.hidden.Applied = true }, found: []seen{at(home), gone(away)}},
		{name: "at another address, reported by a self update", found: []seen{at("https://10.0.0.9:8443")}, with: func(e *evidence) { e.current = "https://10.0.0.9:8443" }, want: "https://10.0.0.9:8443"},
		{name: "at another address, without a report", found: []seen{at("https://10.0.0.9:8443")}},
		{name: "another machine answers", found: []seen{func() seen { s := at(away); s.probe.MachineID = "x"; return s }()}},
		{name: "the cluster does not see it", found: []seen{func() seen { s := at(away); s.probe.Member = "Offline"; return s }()}},
		{name: "evacuated before and after", change: func(c *Change) { c.hidden.Member = "Evacuated" }, found: []seen{func() seen { s := at(away); s.probe.Member = "Evacuated"; return s }()}, want: away},
		{name: "another configuration", found: []seen{func() seen { s := at(away); s.foreign = "dns"; return s }()}},
		{name: "reported a failure", change: func(c *Change) { c.hidden.Failed = "no DNS" }, found: []seen{at(away)}},
		{name: "reported a failure, and can't undo the change", change: func(c *Change) { c.hidden.Failed, c.Timeout = "no DNS", 0 }, found: []seen{at(away)}, want: "done", url: away},
		{name: "reported a failure after the confirmation", change: func(c *Change) { c.hidden.Failed = "no DNS" }, found: []seen{at(away)}, with: func(e *evidence) { e.settled = true }, want: "done", url: away},
		{name: "reported a failure, rebooted, and kept the change", change: func(c *Change) { c.hidden.Failed = "no DNS" }, found: []seen{at(away)}, after: 616 * time.Second, want: "done", url: away},
		{name: "another configuration at the end", found: []seen{func() seen { s := at(away); s.foreign = "dns"; return s }()}, after: 616 * time.Second, want: "lost", url: away, seen: true},
		{name: "the cluster does not see it at the end", found: []seen{func() seen { s := at(away); s.probe.Member = "Offline"; return s }()}, after: 616 * time.Second, want: "lost", url: away, seen: true},
		{name: "no move, without a report", change: func(c *Change) { c.Moves, c.hidden.Expected = false, []string{"10.0.0.1"} }, found: []seen{at(home)}},
		{name: "no move, and has accepted the change", change: func(c *Change) { c.Moves, c.hidden.Expected, c.hidden.Applied = false, []string{"10.0.0.1"}, true }, found: []seen{at(home)}, want: home},
		{name: "no move, and has sent a self update", change: func(c *Change) { c.Moves, c.hidden.Expected = false, []string{"10.0.0.1"} }, with: func(e *evidence) { e.reported = true }, found: []seen{at(home)}, want: home},
		{name: "an address from DHCP that the state reports", change: func(c *Change) { c.hidden.Expected, c.hidden.Dynamic, c.hidden.Applied = nil, true, true }, found: []seen{at(home)}, want: home},
		{name: "confirmed", found: []seen{at(away)}, with: func(e *evidence) { e.settled = true }, want: "done", url: away},
		{name: "confirmed, stays", change: func(c *Change) { c.Moves, c.hidden.Applied = false, true }, found: []seen{at(home)}, with: func(e *evidence) { e.settled = true }, want: "done"},
		{name: "confirmed after it was undone", found: []seen{former(home)}, with: func(e *evidence) { e.settled = true }, want: "rolled back", url: home},
		{name: "too late for a confirmation", found: []seen{at(away)}, after: 271 * time.Second},
		{name: "timeout over, and the server still has the change", found: []seen{at(away)}, after: 316 * time.Second},
		{name: "long after the timeout, the server has kept the change", found: []seen{at(away)}, after: 500 * time.Second, want: "done", url: away},
		{name: "former configuration before the timeout: wait", found: []seen{former(home)}, after: 100 * time.Second},
		{name: "undone", found: []seen{former(home), gone(away)}, after: 316 * time.Second, want: "rolled back", url: home},
		{name: "undone, at another address", found: []seen{gone(home), former("https://10.0.0.9:8443")}, after: 316 * time.Second, want: "rolled back", url: "https://10.0.0.9:8443"},
		{name: "lost: the record gets the old URL", found: []seen{gone(home), gone(away)}, after: 616 * time.Second, want: "lost", url: home},
		{name: "lost, perhaps confirmed: the record keeps its URL", change: func(c *Change) { c.Status, c.hidden.Confirming = StatusRollingBack, true }, found: []seen{gone(home)}, after: 616 * time.Second, want: "lost"},
		{name: "lost, and can't undo the change", change: func(c *Change) { c.Timeout = 0 }, found: []seen{gone(home)}, after: 616 * time.Second, want: "lost"},
	} {
		t.Run(c.name, func(t *testing.T) {
			change := move()
			if c.change != nil {
				c.change(change)
			}
			if change.Timeout == 0 {
				change.hidden.ConfirmBy, change.hidden.RollBackAt = time.Time{}, time.Time{}
			}
			e := evidence{found: c.found, current: home}
			if c.with != nil {
				c.with(&e)
			}
			got := decide(change, e, begin.Add(c.after))
			require.Equal(t, c.want, got.confirm+string(got.status), got.reason)
			require.Equal(t, c.url, got.url)
			require.Equal(t, c.seen, got.seen)
			require.NotEmpty(t, got.reason)
		})
	}
}

// TestDeadlines: confirmations stop before the timeout ends, and a late request delays the verdict "rolled back".
func TestDeadlines(t *testing.T) {
	o := &Options{ConfirmationTimeout: 5 * time.Minute, Grace: 5 * time.Minute, ApplyTime: 90 * time.Second}
	for timeout, want := range map[time.Duration][4]time.Duration{ // proven, confirmed by, rolled back, given up
		0:                {90 * time.Second, 0, 0, 10 * time.Minute},
		2 * time.Minute:  {90 * time.Second, 108 * time.Second, 132 * time.Second, 432 * time.Second},
		5 * time.Minute:  {90 * time.Second, 270 * time.Second, 315 * time.Second, 615 * time.Second},
		60 * time.Minute: {90 * time.Second, 54 * time.Minute, 60*time.Minute + 15*time.Second, 65*time.Minute + 15*time.Second},
	} {
		c := &Change{SentAt: time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC), Timeout: timeout}
		c.deadlines(o)
		for i, at := range []time.Time{c.hidden.ProvenAt, c.hidden.ConfirmBy, c.hidden.RollBackAt, c.hidden.GiveUpAt} {
			if want[i] == 0 {
				require.Zero(t, at)
				continue
			}
			require.Equal(t, want[i], at.Sub(c.SentAt), "%s, %d", timeout, i)
		}
	}
}

// TestPlaces lists the URLs that are probed.
func TestPlaces(t *testing.T) {
	c := &Change{OldURL: "https://10.0.0.1:8443"}
	c.hidden.Expected = []string{"10.0.0.2", "fd00::2", "10.0.0.1"}
	require.Equal(t, []string{"https://10.0.0.1:8443", "https://name:1", "https://10.0.0.2:8443", "https://[fd00::2]:8443"}, c.places("https://name:1"))
}

// TestScrubbed: secrets that a server repeats are hidden.
func TestScrubbed(t *testing.T) {
	require.Equal(t, "bad key (hidden), and (hidden) again; an x is none", scrubbed("bad key hunter2, and hunter2 again; an x is none", []string{"hunter2", "x"}))
	require.LessOrEqual(t, len(scrubbed(strings.Repeat("é", 2*maxReason), nil)), maxReason+len("…"))
	err := &scrubbedError{opscenter.ErrRefused, "no"}
	require.ErrorIs(t, err, opscenter.ErrRefused)
	require.EqualError(t, err, "no")
}

// TestFirstMissing: members that a server adds are no difference, missing ones are.
func TestFirstMissing(t *testing.T) {
	const wanted = `{"a":1,"list":[{"name":"x","on":false}],"none":null,"password":"(hidden)","text":""}`
	for have, want := range map[string]string{
		wanted: "",
		`{"a":1,"list":[{"name":"x","more":2}],"password":"secret","also":true}`: "",
		`{"a":2,"list":[{"name":"x"}],"password":"secret"}`:                      "a",
		`{"a":1,"list":[],"password":"secret"}`:                                  "list",
		`{"a":1,"list":[{"name":"x","on":true}],"password":"secret"}`:            "list",
		`{"a":1,"list":[{"name":"x"}]}`:                                          "password",
		`{"a":1,"list":[{"name":"x"}],"password":"secret","text":"y"}`:           "text",
	} {
		got, err := firstMissing([]byte(have), []byte(wanted))
		require.NoError(t, err)
		require.Equal(t, want, got, have)
	}
	_, err := firstMissing([]byte(`[]`), []byte(`{}`))
	require.Error(t, err)
}

// TestPlanPutBack lists when settings are put back, and when a warning is raised.
func TestPlanPutBack(t *testing.T) {
	at := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	want := lifecycle.ManagedUpdates("stable")
	other := lifecycle.UpdateSettings{Channel: "daily", AutoReboot: true, CheckFrequency: "6h"}
	told := func(change func(*managedRow)) *managedRow {
		r := &managedRow{ServerID: "1", Settings: want, At: at.Add(-time.Second), Accepted: true}
		if change != nil {
			change(r)
		}
		return r
	}
	for _, c := range []struct {
		name  string
		have  lifecycle.UpdateSettings
		told  *managedRow
		info  func(*opscenter.ServerInfo)
		wants string
	}{
		{name: "as wanted", have: want, wants: "nothing"},
		{name: "never sent", have: other, wants: "put"},
		{name: "sent and accepted before", have: other, told: told(nil), wants: "put, warned"},
		{name: "sent, not accepted so far", have: other, told: told(func(r *managedRow) { r.Accepted = false }), wants: "later"},
		{name: "repeated", have: other, told: told(func(r *managedRow) { r.Count = 3 }), wants: "later"},
		{name: "repeated, two days later", have: other, told: told(func(r *managedRow) { r.Count, r.At = 9, at.Add(-48*time.Hour) }), wants: "put, warned"},
		{name: "the channel has changed since", have: other, told: told(func(r *managedRow) { r.Settings.Channel = "testing" }), wants: "put"},
		{name: "reinstalled since", have: other, told: told(nil), info: func(i *opscenter.ServerInfo) { i.RegisteredAt = at }, wants: "put"},
		{name: "put back", have: want, told: told(func(r *managedRow) { r.Warned = true }), wants: "clear"},
		{name: "five times, 59 minutes ago", have: other, told: told(func(r *managedRow) { r.Count, r.At = 5, at.Add(-59*time.Minute) }), wants: "later"},
		{name: "five times, an hour ago", have: other, told: told(func(r *managedRow) { r.Count, r.At = 5, at.Add(-time.Hour) }), wants: "put, warned"},
		{name: "refused five times", have: other, told: told(func(r *managedRow) { r.Count, r.At, r.Accepted = 5, at.Add(-time.Hour), false }), wants: "put, warned"},
		{name: "put back a fifth time", have: want, told: told(func(r *managedRow) { r.Warned, r.Count = true, 5 }), info: func(i *opscenter.ServerInfo) { i.LastSeen = at }, wants: "clear later"},
		{name: "kept for an hour", have: want, told: told(func(r *managedRow) { r.Warned, r.Count, r.At = true, 5, at.Add(-time.Hour) }), info: func(i *opscenter.ServerInfo) { i.LastSeen = at }, wants: "clear"},
		{name: "not seen for an hour", have: want, told: told(func(r *managedRow) { r.Warned, r.Count, r.At = true, 5, at.Add(-time.Hour) }), info: func(i *opscenter.ServerInfo) { i.LastSeen = at.Add(-time.Minute) }, wants: "clear later"},
		{name: "not ready", have: other, info: func(i *opscenter.ServerInfo) { i.State.Status = lifecycle.StatusOffline }, wants: "nothing"},
		{name: "busy", have: other, info: func(i *opscenter.ServerInfo) { i.State.Operation = &lifecycle.Operation{} }, wants: "nothing"},
		{name: "not on IncusOS", info: func(i *opscenter.ServerInfo) { i.State.Update = nil }, wants: "nothing"},
	} {
		info := &opscenter.ServerInfo{Server: opscenter.Server{ID: "1", Channel: "stable", Fingerprint: "f"}, State: lifecycle.ServerState{Status: lifecycle.StatusReady, Update: &c.have}}
		if c.info != nil {
			c.info(info)
		}
		o := &Options{RetryInterval: time.Minute, MaxRetryInterval: time.Hour}
		p := planPutBack(info, c.told, o, at)
		got := "put"
		switch {
		case p == nil:
			got = "nothing"
		case p.onlyClear && p.later.IsZero():
			got = "clear"
		case p.onlyClear:
			got = "clear later"
		case !p.later.IsZero():
			got = "later"
		case p.drift != "":
			got = "put, warned"
		}
		require.Equal(t, c.wants, got, c.name)
	}
}
