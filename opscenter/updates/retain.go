package updates

import (
	"maps"
	"slices"
)

// Retain returns the UUIDs of the updates to retain:
//
//   - For each channel, component and architecture: the newest keep ready updates that provide it. A pending update stays
//     if it is among the newest keep updates, ready or pending. Updates without a channel count as one more channel.
//   - The update that each channel offers.
//   - Each update whose version is in inUse, because a server runs it or has staged it.
//
// Retain is a pure function. A keep below 1 counts as 1.
func Retain(list []*Update, keep int, inUse map[string]bool) map[string]bool {
	keep = max(keep, 1)
	sorted := slices.SortedFunc(slices.Values(list), newestFirst)
	stays := map[string]bool{}
	ready, all := map[[3]string]int{}, map[[3]string]int{} // counts by channel, component and architecture
	for _, u := range sorted {
		if inUse[u.Version] {
			stays[u.UUID] = true
		}
		channels := u.Channels
		if len(channels) == 0 {
			channels = []string{""}
		}
		for component := range maps.Keys(u.parts()) {
			for _, channel := range channels {
				place := [3]string{channel, component[0], component[1]}
				if all[place]++; u.Status == StatusReady {
					if ready[place]++; ready[place] <= keep {
						stays[u.UUID] = true
					}
				} else if all[place] <= keep {
					stays[u.UUID] = true
				}
			}
		}
	}
	for _, u := range list {
		for _, channel := range u.Channels {
			if offered := Offered(list, channel); offered != nil {
				stays[offered.UUID] = true
			}
		}
	}
	return stays
}

// parts returns the pairs of component and architecture in an update. Files that servers ignore count as a component of
// their own, by Component and Type.
func (u *Update) parts() map[[2]string]bool {
	out := map[[2]string]bool{}
	for i := range u.Files {
		f := &u.Files[i]
		name := f.Provides()
		if name == "" {
			name = f.Component + "/" + string(f.Type)
		}
		out[[2]string{name, f.Architecture}] = true
	}
	if len(out) == 0 {
		out[[2]string{}] = true
	}
	return out
}
