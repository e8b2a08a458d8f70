package updates_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/updates"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// TestPromotion puts a new update into one channel and promotes it to another.
func TestPromotion(t *testing.T) {
	p := newPlane(t)
	require.NoError(t, p.Channels().Create(t.Context(), "testing", "before production"))
	s := p.feed.Settings()
	s.DefaultChannel = "testing"
	require.NoError(t, p.feed.SetSettings(t.Context(), s, nil))
	p.server(t, "tester", "testing", "202609010000", "x86_64", "incus", "debug")
	p.server(t, "worker", "stable", "202609010000", "x86_64", "incus")
	p.publish(t, release(1))
	p.refresh(t)
	all := map[string]string{"os": "202610010000", "incus": "202610010000", "debug": "202610010000"}
	require.Equal(t, all, p.needs(t, "tester"), "each component needs an update at once")
	require.Empty(t, p.needs(t, "worker"))

	u := p.update(t, "202610010000")
	sentinel := errors.New("changed meanwhile")
	require.ErrorIs(t, p.feed.SetChannels(t.Context(), u.UUID, []string{"stable"}, updates.SetOptions{Check: func(*updates.Update) error { return sentinel }}), sentinel)
	require.ErrorIs(t, p.feed.SetChannels(t.Context(), u.UUID, []string{"nowhere"}, updates.SetOptions{}), opscenter.ErrNotFound)
	require.ErrorIs(t, p.feed.SetChannels(t.Context(), uuid.NewString(), nil, updates.SetOptions{}), opscenter.ErrNotFound)
	require.Empty(t, p.needs(t, "worker"), "a rejected change has no effect")
	require.NoError(t, p.feed.SetChannels(t.Context(), u.UUID, []string{"testing", "stable", "stable"}, updates.SetOptions{}))
	require.Equal(t, []string{"stable", "testing"}, p.update(t, "202610010000").Channels)
	require.Equal(t, map[string]string{"os": "202610010000", "incus": "202610010000"}, p.needs(t, "worker"))

	// Taking an update out of a channel downgrades no server, and no server needs that update any more.
	p.polled(t, "tester", "202610010000", "x86_64", "incus", "debug")
	require.NoError(t, p.feed.SetChannels(t.Context(), u.UUID, nil, updates.SetOptions{}))
	require.Empty(t, p.needs(t, "tester"))
	require.Empty(t, p.needs(t, "worker"))
	require.ErrorIs(t, p.feed.DeleteChannel(t.Context(), "stable"), opscenter.ErrInUse)
	require.ErrorIs(t, p.Channels().Publish(t.Context(), "stable", "202611010000", "os"), opscenter.ErrFed)
}

// TestUpdateLackingComponentIsHeldBack: an update that lacks a needed component enters the channel only by force.
func TestUpdateLackingComponentIsHeldBack(t *testing.T) {
	p := newPlane(t)
	p.publish(t, incusostest.Release{Version: "202610010000", Applications: []string{"incus", "gpu-support", "migration-manager"}})
	p.refresh(t)
	p.server(t, "worker", "stable", "202610010000", "x86_64", "incus", "gpu-support", "made-up")
	p.server(t, "odd", "stable", "202610010000", "riscv64", "incus") // no update is for riscv64, so this server holds back none
	_, err := p.CreateToken(t.Context(), opscenter.TokenSpec{Description: "rack 7", Applications: []string{"migration-manager"}})
	require.NoError(t, err)
	p.publish(t, incusostest.Release{Version: "202610020000", Applications: []string{"incus"}})
	p.refresh(t)
	u := p.update(t, "202610020000")
	require.Equal(t, updates.StatusReady, u.Status)
	require.Empty(t, u.Channels, "the update is held back")
	for _, text := range []string{u.Problem, p.warnings(t)[warning.UpdateHeld]} {
		require.Contains(t, text, `gpu-support for x86_64 (needed by server worker)`)
		require.Contains(t, text, `migration-manager (needed by token "rack 7")`)
	}
	var lack *updates.LackError
	require.ErrorAs(t, p.feed.SetChannels(t.Context(), u.UUID, []string{"stable"}, updates.SetOptions{}), &lack)
	require.ErrorIs(t, lack, opscenter.ErrBlocked)
	require.Len(t, lack.Lacks, 2)
	require.Empty(t, p.needs(t, "worker"))
	require.NoError(t, p.feed.SetChannels(t.Context(), u.UUID, []string{"stable"}, updates.SetOptions{Force: true}))
	require.Equal(t, map[string]string{"os": "202610020000", "incus": "202610020000"}, p.needs(t, "worker"))
	p.refresh(t)
	require.Empty(t, p.warnings(t))

	// An update behind a newer one in the channel may lack components, since servers take nothing from it.
	require.NoError(t, p.feed.SetChannels(t.Context(), u.UUID, nil, updates.SetOptions{}))
	p.publish(t, incusostest.Release{Version: "202610030000", Applications: []string{"incus", "gpu-support", "migration-manager"}})
	p.refresh(t)
	require.Equal(t, []string{"stable"}, p.update(t, "202610030000").Channels)
	require.NoError(t, p.feed.SetChannels(t.Context(), u.UUID, []string{"stable"}, updates.SetOptions{}))

	// An application that no server needs any more holds nothing back.
	p.publish(t, incusostest.Release{Version: "202610040000", Applications: []string{"incus", "migration-manager"}})
	p.refresh(t)
	require.Equal(t, "stable", p.update(t, "202610040000").Held)
	p.polled(t, "worker", "202610030000", "x86_64", "incus")
	p.refresh(t)
	require.Equal(t, []string{"stable"}, p.update(t, "202610040000").Channels)
	require.Empty(t, p.warnings(t))
}

// TestLacking is a table test of Lacking.
func TestLacking(t *testing.T) {
	file := func(architecture, name string) updates.File {
		return updates.File{Filename: architecture + "/" + name + ".raw.gz", Component: name, Type: updates.TypeApplication, Architecture: architecture}
	}
	osOf := func(architecture string, kinds ...updates.FileType) (out []updates.File) {
		for _, kind := range kinds {
			out = append(out, updates.File{Filename: fmt.Sprintf("%s/IncusOS.%s.gz", architecture, kind), Component: "os", Type: kind, Architecture: architecture})
		}
		return out
	}
	whole := []updates.FileType{updates.TypeEFI, updates.TypeUsr, updates.TypeUsrVerity, updates.TypeUsrVeritySignature}
	both := slices.Concat(osOf("x86_64", whole...), osOf("aarch64", whole...), []updates.File{file("x86_64", "incus"), file("aarch64", "incus"), file("x86_64", "incus-lts-7.0")})
	for name, c := range map[string]struct {
		files []updates.File
		need  updates.Need
		lacks []string
	}{
		"nothing lacking":             {both, updates.Need{Architecture: "x86_64", Components: []string{"os", "incus"}}, nil},
		"other application":           {both, updates.Need{Architecture: "x86_64", Components: []string{"os", "debug"}}, []string{"debug"}},
		"LTS differs from incus":      {both, updates.Need{Architecture: "aarch64", Components: []string{"incus-lts-7.0"}}, []string{"incus-lts-7.0"}},
		"unknown architecture":        {both, updates.Need{Components: []string{"incus-lts-7.0"}}, nil},
		"architecture without files":  {both, updates.Need{Architecture: "riscv64", Components: []string{"incus"}}, []string{"incus"}},
		"incomplete operating system": {osOf("x86_64", whole[:3]...), updates.Need{Architecture: "x86_64", Components: []string{"os"}}, []string{"os"}},
		"file for all architectures":  {[]updates.File{file("", "debug")}, updates.Need{Architecture: "aarch64", Components: []string{"debug"}}, nil},
		"nothing needed":              {nil, updates.Need{Architecture: "x86_64"}, nil},
	} {
		var got []string
		for _, l := range updates.Lacking(&updates.Update{Version: "1", Files: c.files}, []updates.Need{c.need}) {
			got = append(got, l.Component)
		}
		require.Equal(t, c.lacks, got, name)
	}
	many := updates.Lacking(&updates.Update{}, slices.Repeat([]updates.Need{{By: "server a", Components: []string{"os"}}}, 10))
	require.Equal(t, "os (needed by server a, server a, server a and 7 more)", many[0].String())
}

// drawUpdates draws random updates.
func drawUpdates(t *rapid.T) []*updates.Update {
	channels, names := []string{"stable", "testing", "daily"}, []string{"incus", "incus-lts-7.0", "debug"}
	var list []*updates.Update
	for i := range rapid.IntRange(0, 12).Draw(t, "updates") {
		u := &updates.Update{UUID: fmt.Sprint(i), Version: fmt.Sprint(rapid.IntRange(1, 15).Draw(t, "version")), Status: updates.StatusReady}
		if rapid.IntRange(0, 4).Draw(t, "pending") == 0 {
			u.Status = updates.StatusPending
		}
		for _, c := range channels {
			if rapid.Bool().Draw(t, c) {
				u.Channels = append(u.Channels, c)
			}
		}
		for _, architecture := range []string{"x86_64", "aarch64"} {
			for _, name := range names {
				if rapid.Bool().Draw(t, name) {
					u.Files = append(u.Files, updates.File{Filename: architecture + "/" + name + ".raw.gz", Component: name, Type: updates.TypeApplication, Architecture: architecture})
				}
			}
		}
		list = append(list, u)
	}
	return list
}

// TestRetain: Retain keeps each update that is in use or offered. For each channel, component and architecture it keeps
// enough ready updates.
func TestRetain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := drawUpdates(t)
		keep := rapid.IntRange(1, 4).Draw(t, "keep")
		inUse := map[string]bool{fmt.Sprint(rapid.IntRange(1, 15).Draw(t, "runs")): true}
		stays := updates.Retain(list, keep, inUse)
		has := func(u *updates.Update, component, architecture string) bool {
			return slices.Contains(u.Provides(architecture), component)
		}
		for _, u := range list {
			if inUse[u.Version] && !stays[u.UUID] {
				t.Fatalf("update %s is in use but was dropped", u.Version)
			}
		}
		for _, channel := range []string{"stable", "testing", "daily"} {
			if offered := updates.Offered(list, channel); offered != nil && !stays[offered.UUID] {
				t.Fatalf("update %s is offered by channel %s but was dropped", offered.Version, channel)
			}
			for _, component := range []string{"incus", "incus-lts-7.0", "debug"} {
				for _, architecture := range []string{"x86_64", "aarch64"} {
					before, after := 0, 0
					for _, u := range list {
						if u.Status == updates.StatusReady && slices.Contains(u.Channels, channel) && has(u, component, architecture) {
							before++
							if stays[u.UUID] {
								after++
							}
						}
					}
					if after < min(keep, before) {
						t.Fatalf("component %s for %s in channel %s: %d updates before, only %d retained", component, architecture, channel, before, after)
					}
				}
			}
		}
		for uuid := range updates.Retain(list, keep, nil) {
			if !stays[uuid] {
				t.Fatal("an update in use displaced another one")
			}
		}
		if again := updates.Retain(list, keep, inUse); len(again) != len(stays) {
			t.Fatal("Retain is not deterministic")
		}
	})
}

func TestChannelsOfUpdates(t *testing.T) {
	p := newPlane(t)
	require.NoError(t, p.Channels().Create(t.Context(), "lab", ""))
	require.Error(t, p.Channels().Create(t.Context(), "lab", ""))
	p.publish(t, release(1))
	p.refresh(t)
	u := p.update(t, "202610010000")
	require.NoError(t, p.feed.SetChannels(t.Context(), u.UUID, []string{"lab", "stable"}, updates.SetOptions{}))
	token, err := p.CreateToken(t.Context(), opscenter.TokenSpec{Channel: "lab"})
	require.NoError(t, err)
	require.ErrorIs(t, p.feed.DeleteChannel(t.Context(), "lab"), opscenter.ErrInUse)
	require.NoError(t, p.RevokeToken(t.Context(), token.UUID))
	require.NoError(t, p.feed.DeleteChannel(t.Context(), "lab"))
	require.Equal(t, []string{"stable"}, p.update(t, "202610010000").Channels)
	require.ErrorIs(t, p.feed.DeleteChannel(t.Context(), "lab"), opscenter.ErrNotFound)
}
