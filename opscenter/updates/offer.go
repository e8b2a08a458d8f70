package updates

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/opscenter"
)

// Offered returns what servers of a channel take, all their parts of it: the newest ready update that is in the
// channel; nil: there is none.
func Offered(list []*Update, channel string) (offered *Update) {
	for _, u := range list {
		if u.Status == StatusReady && slices.Contains(u.Channels, channel) && (offered == nil || newestFirst(u, offered) < 0) {
			offered = u
		}
	}
	return offered
}

// OfferOf returns what an update offers to the servers of each architecture; nil offers nothing.
func OfferOf(u *Update) opscenter.Offer {
	out := opscenter.Offer{}
	for _, architecture := range []string{"", ArchitectureX8664, ArchitectureAArch64} {
		out[architecture] = map[string]string{}
	}
	if u == nil {
		return out
	}
	for _, architecture := range u.architectures() {
		out[architecture] = map[string]string{}
	}
	for architecture, versions := range out {
		for _, component := range u.Provides(architecture) {
			versions[component] = u.Version
		}
	}
	return out
}

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
