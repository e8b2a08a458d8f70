package incusos_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/incusos"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// TestLightPoll: a light poll sends three requests while nothing has changed, and reads the applications as soon as their
// versions may have.
func TestLightPoll(t *testing.T) {
	server, identity := boot(t, incusostest.Options{})
	client := newClient(t, incusos.Options{Certificate: identity})
	where := target(server)
	count := func() (n int) {
		for _, path := range []string{"/os/1.0", "/os/1.0/system/update", "/os/1.0/applications", "/os/1.0/applications/incus", "/1.0", "/1.0/cluster/members/" + server.Name(),
			"/os/1.0/system/resources", "/os/1.0/system/network", "/os/1.0/system/security", "/os/1.0/system/storage"} {
			n += server.Requests(path)
		}
		return n
	}
	requests := func(poll func()) int {
		before := count()
		poll()
		return count() - before
	}
	full := probe(t, client, where)
	require.Nil(t, full.Failure)
	require.NotNil(t, full.Facts)
	where.Light, where.Versions, where.UpdateStatus = true, full.Versions, full.UpdateStatus
	require.NotNil(t, full.UpdateStatus)
	var light lifecycle.Observation
	require.Equal(t, 3, requests(func() { light = probe(t, client, where) }))
	require.Empty(t, light.Unread)
	require.Nil(t, light.Facts)
	require.Equal(t, full.Versions, light.Versions)
	require.Equal(t, full.Type, light.Type)
	require.Equal(t, full.MemberName, light.MemberName)

	for name, change := range map[string]func(){
		"no versions are known": func() { where.Versions = nil },
		"no applications are known": func() {
			where.Versions = &lifecycle.Versions{OS: full.Versions.OS, UpdateChannel: full.Versions.UpdateChannel}
		},
		"another version of the OS": func() { v := *full.Versions; v.OS.Version = "202501010000"; where.Versions = &v },
		"another channel":           func() { v := *full.Versions; v.UpdateChannel = "testing"; where.Versions = &v },
		"no update status is known": func() { where.UpdateStatus = nil },
		"another status": func() {
			where.UpdateStatus = &lifecycle.UpdateStatus{Status: "x", LastCheck: full.UpdateStatus.LastCheck}
		},
		"a later check": func() {
			where.UpdateStatus = &lifecycle.UpdateStatus{Status: full.UpdateStatus.Status, LastCheck: full.UpdateStatus.LastCheck.Add(-time.Hour)}
		},
		"no check is known": func() {
			where.UpdateStatus = &lifecycle.UpdateStatus{Status: full.UpdateStatus.Status}
		},
		"an update is in progress": func() { where.Updating = true },
		"the type is unknown":      func() { where.Type = lifecycle.TypeUnknown },
	} {
		original := where
		change()
		require.Greater(t, requests(func() { light = probe(t, client, where) }), 4, name)
		require.Equal(t, full.Versions.Applications, light.Versions.Applications, name)
		where = original
	}
}

// TestSumsOfProbes: the digest that a probe computes while it reads is that of the facts that it returns.
func TestSumsOfProbes(t *testing.T) {
	for _, keepSecrets := range []bool{false, true} {
		server, identity := boot(t, incusostest.Options{})
		client := newClient(t, incusos.Options{Certificate: identity, KeepSecrets: keepSecrets})
		o := probe(t, client, target(server))
		require.NotNil(t, o.Facts.Sums)
		require.Equal(t, keepSecrets, o.Facts.Sums.KeepSecrets)
		found, err := facts.SumsOf(o.Facts, keepSecrets)
		require.NoError(t, err)
		again := *o.Facts
		again.Sums = nil
		computed, err := facts.SumsOf(&again, keepSecrets)
		require.NoError(t, err)
		require.Equal(t, computed, found)
		for _, part := range []json.RawMessage{o.Facts.Hardware, o.Facts.Network, o.Facts.Security, o.Facts.Storage} {
			require.True(t, json.Valid(part))
		}
		require.Equal(t, facts.Clean(&again, keepSecrets).Network, o.Facts.Network, "in compact form")

		// A program that wraps the client may replace a part.
		replaced := *o.Facts
		replaced.Network = json.RawMessage(` {"password":"hunter2","a":1}`)
		require.Equal(t, keepSecrets, strings.Contains(string(facts.Clean(&replaced, keepSecrets).Network), "hunter2"))
		other, err := facts.SumsOf(&replaced, keepSecrets)
		require.NoError(t, err)
		require.NotEqual(t, found, other)
	}
}

// TestHangingFactsDelayNothingElse: the facts are read last. A part that hangs leaves all that decides status and action.
func TestHangingFactsDelayNothingElse(t *testing.T) {
	server, identity := boot(t, incusostest.Options{})
	client := newClient(t, incusos.Options{Certificate: identity})
	require.NoError(t, server.SetFault(incusostest.Fault{Kind: incusostest.FaultHang, Path: "/os/1.0/system/storage"}))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	o := client.Probe(ctx, target(server))
	require.Nil(t, o.Failure)
	require.NotEmpty(t, o.Unread)
	require.NotNil(t, o.Versions)
	require.Equal(t, server.Name(), *o.MemberName)
	require.NotNil(t, o.Maintenance)
	require.NotNil(t, o.Facts.Hardware)
}
