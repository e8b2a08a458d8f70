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

// Need is one consumer of a channel with the components that it needs.
type Need struct {
	// By names the consumer: a server or a token.
	By string
	// Architecture of the consumer; empty: not known.
	Architecture string
	// Components are names of applications, lifecycle.ComponentOS or ComponentSecureBoot.
	Components []string
}

// Lack is a needed component that an update does not provide.
type Lack struct {
	// Component is missing for Architecture; an empty Architecture means that no architecture has it.
	Component, Architecture string
	// By names up to three consumers that need the component.
	By []string
	// Count is the number of all consumers that need it.
	Count int
}

// String returns the component, the architecture and the consumers, for people.
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

// maxNamed is the maximum length of Lack.By.
const maxNamed = 3

// Lacking returns the needed components that the update does not provide, sorted. A server installed while this update is
// the newest of its channel would wait for them.
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

// heldBecause returns the Problem of a held update.
func heldBecause(channel string, lacks []Lack) string {
	return fmt.Sprintf("is held back from channel %s: it lacks %s", channel, joinLacks(lacks))
}

// joinLacks returns the lacks in one line.
func joinLacks(lacks []Lack) string {
	var parts []string
	for _, l := range lacks {
		parts = append(parts, l.String())
	}
	return strings.Join(parts, "; ")
}

// Needs returns the servers and usable tokens that follow a channel, with the components that each needs. A server needs
// the components that it runs. A token needs the operating system and its Applications.
//
// Needs leaves out a server's component that the channel does not offer for its architecture now. A server that claims to
// run such a component therefore can't hold back a release.
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

// provided returns the pairs of component and architecture that the channel offers, and each component with "".
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

// needOf returns the components that a server runs, as a Need.
func needOf(info *opscenter.ServerInfo) Need {
	out := Need{By: "server " + info.Name, Architecture: info.State.Architecture}
	v := info.State.Versions
	if v.OS.Plain || v.OS.Version == "" {
		return out // the server takes no updates, or was not polled yet
	}
	out.Components = append(out.Components, lifecycle.ComponentOS)
	for _, a := range v.Applications {
		out.Components = append(out.Components, a.Name)
	}
	return out
}

// LackError says which needed components an update lacks for a channel. It wraps opscenter.ErrBlocked.
type LackError struct {
	// Version of the update.
	Version string
	// Channel that needs the components.
	Channel string
	// Lacks has at least one entry.
	Lacks []Lack
}

// Error implements error.
func (e *LackError) Error() string {
	return fmt.Sprintf("update %s lacks components that channel %s needs: %s; a server installed from this update would wait for them; use force to put it into the channel nevertheless", e.Version, e.Channel, joinLacks(e.Lacks))
}

// Unwrap returns opscenter.ErrBlocked.
func (e *LackError) Unwrap() error { return opscenter.ErrBlocked }
