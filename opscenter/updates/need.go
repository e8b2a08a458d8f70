package updates

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// Need is that something follows a channel, and wants some components of it.
type Need struct {
	// By names what wants them.
	By string
	// Architecture; empty: not known.
	Architecture string
	Components   []string
}

// Lack is what an update has not of what is needed.
type Lack struct {
	Component, Architecture string
	// By names up to three of those in need; Count is the number of all.
	By    []string
	Count int
}

func (l Lack) String() string {
	text := l.Component
	if l.Architecture != "" {
		text += " for " + l.Architecture
	}
	by := strings.Join(l.By, ", ")
	if more := l.Count - len(l.By); more > 0 {
		by += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("%s (needed by %s)", text, by)
}

// maxNamed is how many of those who need something are named.
const maxNamed = 3

// Lacking returns which of the components that are needed the update does not provide: a server that is installed while
// it is the newest of its channel would wait for those.
func Lacking(u *Update, needs []Need) []Lack {
	provided := map[string][]string{} // by architecture
	provides := func(architecture string) []string {
		known, ok := provided[architecture]
		if !ok {
			known = u.Provides(architecture)
			provided[architecture] = known
		}
		return known
	}
	anywhere := slices.Clone(provides(""))
	for _, architecture := range u.architectures() {
		anywhere = append(anywhere, provides(architecture)...)
	}
	lacking := map[[2]string]*Lack{}
	for _, need := range needs {
		has := anywhere
		if need.Architecture != "" {
			has = provides(need.Architecture)
		}
		for _, component := range need.Components {
			if slices.Contains(has, component) {
				continue
			}
			key := [2]string{component, need.Architecture}
			if lacking[key] == nil {
				lacking[key] = &Lack{Component: component, Architecture: need.Architecture}
			}
			l := lacking[key]
			if l.Count++; len(l.By) < maxNamed {
				l.By = append(l.By, need.By)
			}
		}
	}
	var out []Lack
	for _, key := range slices.SortedFunc(maps.Keys(lacking), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }) {
		out = append(out, *lacking[key])
	}
	return out
}

func heldBecause(channel string, lacks []Lack) string {
	return fmt.Sprintf("is held back from channel %s: it lacks %s", channel, describe(lacks))
}

func describe(lacks []Lack) string {
	var parts []string
	for _, l := range lacks {
		parts = append(parts, l.String())
	}
	return strings.Join(parts, "; ")
}

// Needs returns the servers and usable tokens that follow a channel, with the components that each needs. A server needs
// those that it runs. A token needs the operating system and its Applications.
//
// A server needs no component that the channel does not offer to its architecture now: a false claim holds back no release.
func (m *Manager) Needs(ctx context.Context, channel string) (out []Need, err error) {
	provided := m.Snapshot().provided(channel)
	err = m.registry.Read(ctx, func(tx *opscenter.Snapshot) error {
		out = nil
		for info, err := range tx.Servers(opscenter.ServerFilter{Channel: channel}) {
			if err != nil {
				return err
			}
			need := needOf(info)
			need.Components = slices.DeleteFunc(need.Components, func(component string) bool { return !provided[[2]string{component, need.Architecture}] })
			if len(need.Components) > 0 {
				out = append(out, need)
			}
		}
		return tx.UsableTokens(channel, func(t *opscenter.Token) {
			if len(t.Applications) > 0 {
				out = append(out, Need{By: t.Label(), Components: append([]string{lifecycle.ComponentOS}, t.Applications...)})
			}
		})
	})
	return out, err
}

// provided are the components that the channel offers, with each architecture and with none.
func (s *Snapshot) provided(channel string) map[[2]string]bool {
	out := map[[2]string]bool{}
	u := Offered(s.updates, channel)
	if u == nil {
		return out
	}
	for _, architecture := range append([]string{"", ArchitectureX8664, ArchitectureAArch64}, u.architectures()...) {
		for _, component := range u.Provides(architecture) {
			out[[2]string{component, architecture}], out[[2]string{component, ""}] = true, true
		}
	}
	return out
}

// needOf is what a server needs of its channel.
func needOf(info *opscenter.ServerInfo) Need {
	out := Need{By: "server " + info.Name, Architecture: info.State.Architecture}
	v := info.State.Versions
	if v.OS.Plain || v.OS.Version == "" {
		return out // it takes no updates, or is not known yet
	}
	out.Components = append(out.Components, lifecycle.ComponentOS)
	for _, a := range v.Applications {
		out.Components = append(out.Components, a.Name)
	}
	return out
}

// LackError says what an update lacks for a channel. It is an opscenter.ErrBlocked.
type LackError struct {
	Version, Channel string
	Lacks            []Lack
}

// Error implements error.
func (e *LackError) Error() string {
	return fmt.Sprintf("update %s has not what channel %s needs: %s: a server that is installed while it is the newest there would wait for that, unless it is forced into the channel", e.Version, e.Channel, describe(e.Lacks))
}

// Unwrap returns opscenter.ErrBlocked.
func (e *LackError) Unwrap() error { return opscenter.ErrBlocked }
