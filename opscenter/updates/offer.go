package updates

import (
	"slices"

	"github.com/opscenter-go/sdk/opscenter"
)

// Offered returns the update from which servers of a channel install all components: the newest ready update in the
// channel, or nil if there is none.
func Offered(list []*Update, channel string) (offered *Update) {
	for _, u := range list {
		if u.Status == StatusReady && slices.Contains(u.Channels, channel) && (offered == nil || newestFirst(u, offered) < 0) {
			offered = u
		}
	}
	return offered
}

// OfferOf returns the components and versions that an update offers to servers of each architecture. A nil update offers
// nothing.
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
