package updates

import (
	"slices"

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
