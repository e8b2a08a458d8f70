package rolling

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"time"
)

// Wave is a part of the fleet. Its units are done before those of the next wave begin. A cluster, or a server in no cluster,
// belongs to the first wave that selects it.
type Wave struct {
	Name string `json:"name,omitempty"`
	// Names selects clusters and servers by name.
	Names []string `json:"names,omitempty"`
	// Properties selects clusters, and servers in no cluster, that have all of these.
	Properties map[string]string `json:"properties,omitempty"`
	// Percent fills the wave until it has, together with the waves before it, so many percent of all units. The hash of
	// their names decides which, so that they are the same each time.
	Percent int `json:"percent,omitempty"`
	// Soak is how long to wait after the wave.
	Soak time.Duration `json:"soak,omitempty"`
}

// WaveState tells how far a wave is.
type WaveState struct {
	Name string
	// From and To are the indexes of its first unit, and of the one after its last.
	From, To int
	// Ended is how many of its units have ended, Failures how many have failed and wait to be resumed.
	Ended, Failures int
	Soak            time.Duration
	StartedAt       time.Time
	EndedAt         time.Time
}

// waveOf returns the wave of the unit with that index.
func (s *State) waveOf(index int) *WaveState {
	for i := range s.Waves {
		if index < s.Waves[i].To {
			return &s.Waves[i]
		}
	}
	return nil
}

// waves puts the units into waves, and in the order of the waves.
func (s *selection) waves(state *State, list []*candidate) error {
	p := &s.policy
	var waves []Wave
	if len(p.Canaries) > 0 {
		waves = append(waves, Wave{Name: "canary", Names: p.Canaries, Soak: p.Soak})
	}
	for i, w := range p.Waves {
		if w.Name == "" {
			w.Name = fmt.Sprint(i + 1)
		}
		for _, name := range w.Names {
			if !s.known[name] {
				return fmt.Errorf("%w: wave %s: there is no server, and no cluster with members, named %.100q", ErrInvalid, w.Name, name)
			}
		}
		waves = append(waves, w)
	}
	waves = append(waves, Wave{Name: "rest"}, Wave{Name: "control plane"})
	rest, control := len(waves)-2, len(waves)-1
	names := make([]map[string]bool, len(waves))
	for i, w := range waves {
		names[i] = nameSet(w.Names)
	}
	taken := 0
	for _, c := range list {
		c.Wave = rest
		if c.control {
			c.Wave = control
			continue
		}
		for i, w := range waves[:rest] {
			named := names[i][c.Name]
			for _, server := range c.servers {
				named = named || names[i][server.Name]
			}
			if named || len(w.Properties) > 0 && matches(c.properties, w.Properties) {
				c.Wave = i
				break
			}
		}
	}
	var byHash []*candidate
	for i, w := range waves[:rest] {
		for _, c := range list {
			if c.Wave == i {
				taken++
			}
		}
		if w.Percent == 0 {
			continue
		}
		if byHash == nil {
			byHash = sortedByHash(list)
		}
		wanted := (len(list)*w.Percent + 99) / 100
		for _, c := range byHash {
			if taken >= wanted {
				break
			}
			if c.Wave == rest {
				c.Wave = i
				taken++
			}
		}
	}
	slices.SortStableFunc(list, func(a, b *candidate) int { return cmp.Compare(a.Wave, b.Wave) })
	for i := 0; i < len(list); {
		from, wave := i, list[i].Wave
		for i < len(list) && list[i].Wave == wave {
			list[i].Wave = len(state.Waves)
			i++
		}
		state.Waves = append(state.Waves, WaveState{Name: waves[wave].Name, From: from, To: i, Soak: waves[wave].Soak})
	}
	return nil
}

// sortedByHash returns the units in the order of the hashes of their names.
func sortedByHash(list []*candidate) []*candidate {
	hashes := make(map[*candidate]uint64, len(list))
	for _, c := range list {
		h := fnv.New64a()
		_, _ = h.Write([]byte(c.Name))
		hashes[c] = h.Sum64()
	}
	out := slices.SortedFunc(maps.Keys(hashes), func(a, b *candidate) int {
		return cmp.Or(cmp.Compare(hashes[a], hashes[b]), cmp.Compare(a.Name, b.Name))
	})
	return out
}
