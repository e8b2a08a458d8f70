package webui

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/opscenter/access"
)

// reader is a stream that is told of changes.
type reader struct {
	scope  access.Scope
	tiles  bool // it gets tiles
	topics map[string]bool
	signal chan struct{} // of capacity 1

	// Guarded by fleetRun.mu. set has changed servers; nil: removed ones. all: the reader must read all tiles again.
	all bool
	set map[string]*tile
	hit map[string]bool // topics
}

// tileChange is how a tile changed. nil: there was none, or is none any more.
type tileChange struct{ before, now *tile }

// in reports whether a scope contains the server before or after the change.
func (c tileChange) in(scope *access.Scope) bool {
	return scope.All() || c.before != nil && c.before.in(scope) || c.now != nil && c.now.in(scope)
}

// tell notes changes for a reader. A reader with a scope is told of the servers in it alone. fleetRun.mu is held.
func (r *reader) tell(shown map[string]tileChange, topics map[string]bool) {
	told, within := false, r.scope.All()
	for name, change := range shown {
		if !change.in(&r.scope) {
			continue
		}
		within = true
		if !r.tiles || r.all {
			continue
		}
		r.set[name], told = nil, true
		if change.now != nil && change.now.in(&r.scope) {
			r.set[name] = change.now
		}
	}
	for topic := range r.topics {
		if topics[topic] && (within || topic != topicFleet && topic != topicAttention) {
			r.hit[topic], told = true, true
		}
	}
	if told {
		r.wake()
	}
}

// Topics that are no server, cluster, rollout or change.
const (
	topicFleet     = "fleet"     // a tile changed
	topicAttention = "attention" // a server needs attention, or no longer
	topicWarnings  = "warnings"
	topicRollouts  = "rollouts"
	topicEvents    = "events"
)

// admits reports whether a principal with a scope may be told of a topic. The page itself is checked by the API each time it is loaded. fleetRun.mu is held.
func (run *fleetRun) admits(scope *access.Scope, topic string) bool {
	if scope.All() {
		return true
	}
	kind, name, _ := strings.Cut(topic, ":")
	switch kind {
	case topicFleet, topicAttention, topicWarnings, "rollout":
		return true
	case "server", "change":
		t := run.tiles[name]
		return t != nil && t.in(scope)
	case "cluster":
		for _, t := range run.tiles {
			if t.cluster == name && t.in(scope) {
				return true
			}
		}
	}
	return false
}

func (r *reader) wake() {
	select {
	case r.signal <- struct{}{}:
	default:
	}
}

// subscribe adds a reader of a page that was read at a position. Its first take returns the topics that changed after that, and all tiles.
func (run *fleetRun) subscribe(scope access.Scope, tiles bool, topics []string, position string) (r *reader, leave func()) {
	r = &reader{scope: scope, tiles: tiles, topics: map[string]bool{}, signal: make(chan struct{}, 1), all: tiles, set: map[string]*tile{}, hit: map[string]bool{}}
	run.mu.Lock()
	defer run.mu.Unlock()
	for _, topic := range topics {
		if run.admits(&scope, topic) {
			r.topics[topic] = true
		}
	}
	for topic := range r.topics {
		if run.changedSince(position, topic) {
			r.hit[topic] = true
		}
	}
	if r.all || len(r.hit) > 0 {
		r.wake()
	}
	run.readers[r] = true
	return r, func() {
		run.mu.Lock()
		defer run.mu.Unlock()
		delete(run.readers, r)
	}
}

// shownTile is a tile in the stream: the name and the number of the state.
type shownTile [2]any

// tileChanges are changes of the map, as the stream sends them.
type tileChanges struct {
	// All is the whole map, by clusters and names. Otherwise Set are new and changed servers, and Gone removed ones.
	All  []shownTile `json:"all,omitempty"`
	Set  []shownTile `json:"set,omitempty"`
	Gone []string    `json:"gone,omitempty"`
	// Reset: All is the whole map, also if it is empty.
	Reset bool `json:"reset,omitempty"`
}

// take returns the changes for a reader since the last take: tiles as JSON, nil if there are none, and topics.
func (run *fleetRun) take(r *reader) (tiles []byte, topics []string) {
	run.mu.Lock()
	all, set := r.all, r.set
	var whole []*tile
	if all {
		whole = run.within(&r.scope)
	}
	topics = slices.Sorted(maps.Keys(r.hit))
	r.all, r.set, r.hit = false, map[string]*tile{}, map[string]bool{}
	run.mu.Unlock()

	changes := tileChanges{Reset: all}
	for _, t := range byCluster(whole) {
		changes.All = append(changes.All, shownTile{t.Name, t.State})
	}
	for name, t := range set {
		if all {
			break // they are in the whole map
		}
		if t != nil {
			changes.Set = append(changes.Set, shownTile{name, t.State})
		} else {
			changes.Gone = append(changes.Gone, name)
		}
	}
	if all || len(set) > 0 {
		tiles, _ = json.Marshal(changes) // it has only names and numbers
	}
	return tiles, topics
}
