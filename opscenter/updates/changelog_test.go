package updates_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/updates"
)

func TestChangelog(t *testing.T) {
	p := newPlane(t)
	p.publish(t,
		incusostest.Release{Version: "202610010000", Packages: map[string]string{"linux": "6.12", "nano": "8.0", "systemd": "258"}},
		incusostest.Release{Version: "202610020000", Packages: map[string]string{"linux": "6.13", "systemd": "258", "zfs": "2.4"}},
		incusostest.Release{Version: "202610030000", Packages: map[string]string{"linux": "6.14", "systemd": "258", "zfs": "2.4"}})
	p.refresh(t)
	changes := func(c *updates.Changelog) updates.Changes { return c.Components["IncusOS"] }
	u := p.update(t, "202610020000")
	c, err := p.feed.Changelog(t.Context(), u.UUID, "stable", false, "x86_64")
	require.NoError(t, err)
	require.Equal(t, &updates.Changelog{Version: "202610020000", PriorVersion: "202610010000", Channel: "stable", Components: map[string]updates.Changes{
		"IncusOS": {Added: []string{"zfs version 2.4"}, Updated: []string{"linux version 6.12 to version 6.13"}, Removed: []string{"nano version 8.0"}}}}, c)
	upstream, err := p.feed.Changelog(t.Context(), u.UUID, "stable", true, "x86_64")
	require.NoError(t, err)
	require.Equal(t, c, upstream)
	other, err := p.feed.Changelog(t.Context(), u.UUID, "stable", false, "aarch64")
	require.NoError(t, err)
	require.Empty(t, other.Components)
	first, err := p.feed.Changelog(t.Context(), p.update(t, "202610010000").UUID, "", false, "x86_64")
	require.NoError(t, err)
	require.Empty(t, first.PriorVersion)
	require.Len(t, changes(first).Added, 3)

	// The changelog of a channel skips updates outside the channel.
	require.NoError(t, p.feed.SetChannels(t.Context(), u.UUID, nil, updates.SetOptions{}))
	list, err := p.feed.ChannelChangelog(t.Context(), "stable", "x86_64")
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, "202610010000", list[0].PriorVersion)
	require.Equal(t, []string{"linux version 6.12 to version 6.14"}, changes(list[0]).Updated)

	// The changelog of a server starts at the version that it runs.
	p.server(t, "worker", "stable", "202610020000", "x86_64", "incus")
	info, err := p.Server(t.Context(), "worker")
	require.NoError(t, err)
	c, err = p.feed.ServerChangelog(t.Context(), info)
	require.NoError(t, err)
	require.Equal(t, "202610020000", c.PriorVersion)
	require.Equal(t, updates.Changes{Updated: []string{"linux version 6.13 to version 6.14"}}, changes(c))
	p.polled(t, "worker", "202610030000", "x86_64", "incus")
	info, err = p.Server(t.Context(), "worker")
	require.NoError(t, err)
	c, err = p.feed.ServerChangelog(t.Context(), info)
	require.NoError(t, err)
	require.Empty(t, c.Components, "the server is up to date")
	require.NoError(t, p.feed.Remove(t.Context()))
	_, err = p.feed.ServerChangelog(t.Context(), info)
	require.ErrorIs(t, err, opscenter.ErrNotFound)
}
