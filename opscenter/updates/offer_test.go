package updates_test

import (
	"fmt"
	"path"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/opscenter-go/sdk/opscenter/updates"
)

// serverChoice is the rule of an IncusOS server, written independently of Offered. The server takes the first update that
// is in its channel or that it runs, and installs every component from that one.
func serverChoice(list []*updates.Update, channel, running, architecture string, names []string) (version string, parts map[string]string) {
	parts = map[string]string{}
	for _, u := range list {
		if !slices.Contains(u.Channels, channel) && u.Version != running {
			continue
		}
		kinds := map[updates.FileType]bool{}
		for _, f := range u.Files {
			if f.Architecture != "" && f.Architecture != architecture {
				continue
			}
			for _, name := range names {
				if path.Base(f.Filename) == name+".raw.gz" && f.Type == updates.TypeApplication {
					parts[name] = u.Version
				}
			}
			if f.Component == "os" && slices.Contains([]updates.FileType{updates.TypeEFI, updates.TypeUsr, updates.TypeUsrVerity, updates.TypeUsrVeritySignature}, f.Type) {
				kinds[f.Type] = true
			}
		}
		if len(kinds) == 4 {
			parts["os"] = u.Version
		}
		return u.Version, parts
	}
	return "", parts
}

// TestOfferMatchesServerChoice: a channel offers exactly the components that a server takes, all of one update, unless the
// server runs a newer version.
func TestOfferMatchesServerChoice(t *testing.T) {
	names := []string{"incus", "incus-lts-7.0", "debug"}
	rapid.Check(t, func(t *rapid.T) {
		var shown []*updates.Update // the list that the feed serves
		for _, u := range drawUpdates(t) {
			if u.Status == updates.StatusReady && !slices.ContainsFunc(shown, func(other *updates.Update) bool { return other.Version == u.Version }) {
				if rapid.Bool().Draw(t, "os") {
					for _, kind := range []updates.FileType{updates.TypeEFI, updates.TypeUsr, updates.TypeUsrVerity, updates.TypeUsrVeritySignature}[rapid.IntRange(0, 1).Draw(t, "part"):] {
						u.Files = append(u.Files, updates.File{Filename: "x86_64/IncusOS." + string(kind), Component: "os", Type: kind, Architecture: "x86_64"})
					}
				}
				shown = append(shown, u)
			}
		}
		slices.SortFunc(shown, func(a, b *updates.Update) int {
			return len(b.Version)*1000 + slices.Compare([]byte(b.Version), []byte(a.Version)) - len(a.Version)*1000
		})
		for _, channel := range []string{"stable", "testing", "daily"} {
			offered := updates.Offered(shown, channel)
			offer := updates.OfferOf(offered)
			for _, architecture := range []string{"x86_64", "aarch64"} {
				running := fmt.Sprint(rapid.IntRange(0, 15).Draw(t, "running"))
				version, parts := serverChoice(shown, channel, running, architecture, names)
				switch {
				case offered == nil:
					require.Contains(t, []string{"", running}, version)
				case len(running) > len(offered.Version) || len(running) == len(offered.Version) && running > offered.Version:
					require.Contains(t, []string{running, offered.Version}, version, "the server keeps the newer version that it runs, if that is listed")
				default:
					require.Equal(t, offered.Version, version)
					require.Equal(t, offer[architecture], parts, "%s, %s", channel, architecture)
				}
			}
		}
	})
}
