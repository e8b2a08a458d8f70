package webui

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// state is the state of a server as the map of the fleet shows it. The number is that in the stream.
type state int

const (
	stateReady   state = iota // ready, and nothing is due
	stateDue                  // ready, and an action is recommended
	stateBusy                 // an action or a change is under way
	stateDown                 // offline on purpose
	stateFailed               // offline, and it should not be
	stateUnknown              // it has never answered
	states
)

// stateNames are the names of states, also of their classes in the style sheet.
var stateNames = [states]string{"ready", "due", "busy", "down", "failed", "unknown"}

func (s state) String() string { return stateNames[s] }

// stateOf returns the state of a server.
func stateOf(status lifecycle.Status, detail lifecycle.StatusDetail, action lifecycle.Action) state {
	switch {
	case status == lifecycle.StatusOffline && detail == lifecycle.DetailUnresponsive:
		return stateFailed
	case status == lifecycle.StatusOffline && detail == lifecycle.DetailRebooting:
		return stateBusy
	case status == lifecycle.StatusOffline:
		return stateDown
	case status == lifecycle.StatusPending || status == lifecycle.StatusReady && detail != lifecycle.DetailNone:
		return stateBusy
	case status == lifecycle.StatusReady && action != lifecycle.ActionNone:
		return stateDue
	case status == lifecycle.StatusReady:
		return stateReady
	}
	return stateUnknown
}

// tile is a server on the map.
type tile struct {
	Name       string
	State      state
	Status     string // as lifecycle.Describe
	Reason     string // of the status, or of the recommended action
	Action     lifecycle.Action
	cluster    string
	channel    string
	properties map[string]string
}

func tileOf(info *opscenter.ServerInfo) *tile {
	recommended := info.Recommendation()
	t := &tile{Name: info.Name, Status: lifecycle.Describe(info.State.Status, info.State.StatusDetail), Action: recommended.Action,
		State: stateOf(info.State.Status, info.State.StatusDetail, recommended.Action), cluster: info.Cluster, channel: info.Channel, properties: info.Properties}
	switch t.State {
	case stateFailed, stateDown:
		t.Reason = info.State.StatusReason
	case stateDue:
		t.Reason = recommended.Reason
	}
	return t
}

// looksLike reports whether pages show two tiles alike. Either may be nil.
func (t *tile) looksLike(other *tile) bool {
	if t == nil || other == nil {
		return t == other
	}
	return t.State == other.State && t.Status == other.Status && t.Action == other.Action && t.Reason == other.Reason &&
		t.cluster == other.cluster && t.channel == other.channel && maps.Equal(t.properties, other.properties)
}

// in reports whether a scope contains the server.
func (t *tile) in(scope *access.Scope) bool {
	return scope.All() || scope.Contains(t.channel, t.cluster, t.properties)
}

// byCluster sorts tiles by clusters and names.
func byCluster(list []*tile) []*tile {
	slices.SortFunc(list, func(a, b *tile) int {
		return cmp.Or(strings.Compare(a.cluster, b.cluster), strings.Compare(a.Name, b.Name))
	})
	return list
}
