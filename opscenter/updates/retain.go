package updates

import (
	"maps"
	"slices"
)

// Retain returns which updates stay, by their UUIDs:
//
//   - of each channel, of each component and architecture, the newest ones that provide it: keep of the ready ones, and
//     those that are still to come if they are among the newest keep of all. What is in no channel is treated as
//     though it were in one of its own.
//   - what a channel offers,
//   - those of a version in inUse, which some server runs or has staged.
//
// It is pure. keep is at least 1.
func Retain(list []*Update, keep int, inUse map[string]bool) map[string]bool {
	keep = max(keep, 1)
	sorted := slices.SortedFunc(slices.Values(list), newestFirst)
	stays := map[string]bool{}
	ready, all := map[[3]string]int{}, map[[3]string]int{} // how many, by channel, component and architecture
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

// parts returns the components of an update and its other kinds of files, each with an architecture.
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
