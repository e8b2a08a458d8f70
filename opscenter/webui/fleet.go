package webui

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
	"github.com/opscenter-go/sdk/opscenter/rollout"
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

// in reports whether a scope contains the server.
func (t *tile) in(scope *access.Scope) bool {
	return scope.All() || scope.Contains(t.channel, t.cluster, t.properties)
}

// fleet is an index of all servers in memory, which follows the changes of the registry while pages use it. Open streams get each change
// from it, so that a change costs one read, however many pages are open. Its goroutines begin with the first use. They end when it
// was not used for fleetPatience, and with close. It takes about 300 bytes a server.
type fleet struct {
	registry *opscenter.Registry
	rollouts *rollout.Manager // nil: there are none
	logger   *slog.Logger

	mu      sync.Mutex
	users   int
	closed  bool
	run     *fleetRun // nil: it does not run
	waiting *time.Timer
}

// fleetPatience is how long the index stays after its last use.
const fleetPatience = 5 * time.Minute

// fleetRun is the index of one run.
type fleetRun struct {
	stop  context.CancelFunc
	ended chan struct{} // closed when its goroutines have ended
	ready chan struct{} // closed when tiles are loaded, or err is set
	err   error

	id string // of the run, for positions

	mu      sync.Mutex
	tiles   map[string]*tile
	readers map[*reader]bool
	// sequence counts the changes. last has that of the last change of each topic, or floor for those that it does not have.
	sequence, floor uint64
	last            map[string]uint64
	// shared is the overview of the whole fleet for all pages, made at sharedAt.
	shared   *overview
	sharedAt time.Time
}

// sharedFor is how long pages share an overview of the whole fleet.
const sharedFor = time.Second

// overview returns the overview of a scope. That of the whole fleet may be up to sharedFor old. The caller does not modify it.
func (run *fleetRun) overview(scope *access.Scope) *overview {
	run.mu.Lock()
	if scope.All() && run.shared != nil && time.Since(run.sharedAt) < sharedFor {
		defer run.mu.Unlock()
		return run.shared
	}
	tiles, at := run.within(scope), time.Now()
	run.mu.Unlock()
	made := overviewOf(tiles)
	if scope.All() {
		run.mu.Lock()
		defer run.mu.Unlock()
		run.shared, run.sharedAt = made, at
	}
	return made
}

// maxLast bounds the topics whose last changes are remembered.
const maxLast = 10_000

// position says up to which change a page is that is read now. A stream that begins there misses none of those that come while the page is
// sent.
func (run *fleetRun) position() string {
	run.mu.Lock()
	defer run.mu.Unlock()
	return fmt.Sprintf("%s-%d", run.id, run.sequence)
}

// changedSince reports whether a topic may have changed since a position. run.mu is held.
func (run *fleetRun) changedSince(position, topic string) bool {
	id, text, _ := strings.Cut(position, "-")
	since, err := strconv.ParseUint(text, 10, 64)
	return err != nil || id != run.id || since < run.floor || since < run.last[topic]
}

// reader is a stream that is told of changes.
type reader struct {
	tiles  bool // it gets tiles
	topics map[string]bool
	signal chan struct{} // of capacity 1

	// Guarded by fleetRun.mu. set has changed servers; nil: removed ones. all: the reader must read all tiles again.
	all bool
	set map[string]*tile
	hit map[string]bool // topics
}

var errFleetClosed = errors.New("the page is closed")

// use returns the loaded index. The caller calls release when it is done with it.
func (f *fleet) use(ctx context.Context) (run *fleetRun, release func(), err error) {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil, nil, errFleetClosed
	}
	f.users++
	if f.waiting != nil {
		f.waiting.Stop()
		f.waiting = nil
	}
	if f.run == nil {
		f.start()
	}
	run = f.run
	f.mu.Unlock()
	release = sync.OnceFunc(f.release)
	select {
	case <-run.ready:
	case <-ctx.Done():
		release()
		return nil, nil, ctx.Err()
	}
	if run.err != nil {
		release()
		return nil, nil, run.err
	}
	return run, release, nil
}

func (f *fleet) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.users--; f.users == 0 && f.run != nil {
		run := f.run
		f.waiting = time.AfterFunc(fleetPatience, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.users == 0 && f.run == run {
				run.stop()
				f.run = nil
			}
		})
	}
}

// close ends the goroutines, and waits for them.
func (f *fleet) close() {
	f.mu.Lock()
	f.closed = true
	run := f.run
	if f.waiting != nil {
		f.waiting.Stop()
	}
	f.mu.Unlock()
	if run != nil {
		run.stop()
		<-run.ended
	}
}

// start begins a run. f.mu is held.
func (f *fleet) start() {
	ctx, stop := context.WithCancel(context.Background())
	run := &fleetRun{stop: stop, ended: make(chan struct{}), ready: make(chan struct{}), id: rand.Text(), tiles: map[string]*tile{}, readers: map[*reader]bool{}, last: map[string]uint64{}}
	f.run = run
	go func() {
		defer close(run.ended)
		var followers sync.WaitGroup
		since, err := f.registry.Revision(ctx)
		if err == nil {
			err = f.load(ctx, run)
		}
		run.err = err
		close(run.ready)
		if err == nil {
			followers.Go(func() { f.followEvents(ctx, run) })
			if f.rollouts != nil {
				followers.Go(func() { f.followRollouts(ctx, run, since) })
			}
			err = f.followServers(ctx, run, since)
		}
		f.mu.Lock()
		if f.run == run { // the next use starts anew
			f.run = nil
		}
		f.mu.Unlock()
		if ctx.Err() == nil {
			f.logger.ErrorContext(ctx, "the index of the fleet ended", "error", err)
		}
		stop()
		followers.Wait()
		run.end()
	}()
}

// end wakes all readers: their streams end.
func (run *fleetRun) end() {
	run.mu.Lock()
	defer run.mu.Unlock()
	for r := range run.readers {
		r.wake()
	}
}

// load reads all servers.
func (f *fleet) load(ctx context.Context, run *fleetRun) error {
	tiles := map[string]*tile{}
	for info, err := range f.registry.Servers(ctx, opscenter.ServerFilter{}) {
		if err != nil {
			return err
		}
		tiles[info.Name] = tileOf(info)
	}
	run.mu.Lock()
	defer run.mu.Unlock()
	run.tiles = tiles
	run.sequence++
	run.floor = run.sequence // all may have changed
	for r := range run.readers {
		r.all, r.set = r.tiles, map[string]*tile{}
		maps.Copy(r.hit, r.topics)
		r.wake()
	}
	return nil
}

// followServers applies the changes of the registry. It returns the error that ends it.
func (f *fleet) followServers(ctx context.Context, run *fleetRun, since uint64) error {
	for changes, err := range f.registry.Watch(ctx, since) {
		if err != nil {
			return err
		}
		if changes.Reset {
			if err := f.load(ctx, run); err != nil {
				return err
			}
			continue
		}
		changed := map[string]*tile{}
		err := f.registry.Read(ctx, func(s *opscenter.Snapshot) error {
			for _, name := range changes.Servers {
				info, err := s.Server(name)
				switch {
				case err == nil:
					changed[name] = tileOf(info)
				case errors.Is(err, opscenter.ErrNotFound):
					changed[name] = nil
				default:
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		topics := map[string]bool{}
		for _, name := range changes.Servers {
			topics["server:"+name] = true
		}
		for _, name := range changes.Clusters {
			topics["cluster:"+name] = true
		}
		if len(changes.Warnings) > 0 {
			topics["warnings"] = true
		}
		run.apply(changed, topics)
	}
	return ctx.Err()
}

// followEvents tells of what only events show: configurations, updates, tokens.
func (f *fleet) followEvents(ctx context.Context, run *fleetRun) {
	after := uint64(0)
	if newest, err := f.registry.ListEvents(ctx, opscenter.EventFilter{Newest: true, Limit: 1}); err == nil && len(newest) > 0 {
		after = newest[0].Sequence
	}
	for e, err := range f.registry.WatchEvents(ctx, after) {
		if err != nil {
			if ctx.Err() == nil {
				f.logger.ErrorContext(ctx, "live pages no longer follow events", "error", err)
			}
			return
		}
		topics := map[string]bool{"events": true}
		if e.Server != "" {
			topics["server:"+e.Server] = true
		}
		if e.Kind == event.ConfigurationChange {
			topics["change:"+e.Server] = true
		}
		run.apply(nil, topics)
	}
}

func (f *fleet) followRollouts(ctx context.Context, run *fleetRun, since uint64) {
	for changes, err := range f.rollouts.Watch(ctx, since) {
		if err != nil {
			if ctx.Err() == nil {
				f.logger.ErrorContext(ctx, "live pages no longer follow rollouts", "error", err)
			}
			return
		}
		topics := map[string]bool{"rollouts": true}
		for _, id := range changes.Rollouts {
			topics["rollout:"+id] = true
		}
		run.apply(nil, topics)
	}
}

// apply changes tiles, and tells the readers.
func (run *fleetRun) apply(changed map[string]*tile, topics map[string]bool) {
	run.mu.Lock()
	defer run.mu.Unlock()
	shown := map[string]*tile{}
	for name, now := range changed {
		before := run.tiles[name]
		if now != nil {
			run.tiles[name] = now
		} else {
			delete(run.tiles, name)
		}
		if before == nil || now == nil || before.State != now.State || before.cluster != now.cluster || before.channel != now.channel || !maps.Equal(before.properties, now.properties) {
			shown[name] = now
			topics["fleet"] = true
			if before == nil || now == nil || (before.State == stateFailed) != (now.State == stateFailed) {
				topics["attention"] = true
				run.shared = nil // what needs attention shows at once
			}
		}
	}
	run.sequence++
	if len(run.last)+len(topics) > maxLast {
		clear(run.last)
		run.floor = run.sequence - 1
	}
	for topic := range topics {
		run.last[topic] = run.sequence
	}
	for r := range run.readers {
		r.tell(shown, topics)
	}
}

// tell notes changes for a reader. fleetRun.mu is held.
func (r *reader) tell(shown map[string]*tile, topics map[string]bool) {
	told := false
	if r.tiles && !r.all && len(shown) > 0 {
		maps.Copy(r.set, shown)
		told = true
	}
	for topic := range r.topics {
		if topics[topic] {
			r.hit[topic] = true
			told = true
		}
	}
	if told {
		r.wake()
	}
}

func (r *reader) wake() {
	select {
	case r.signal <- struct{}{}:
	default:
	}
}

// subscribe adds a reader of a page that was read at a position. Its first take returns the topics that changed after that, and all tiles.
func (run *fleetRun) subscribe(tiles bool, topics []string, position string) (r *reader, leave func()) {
	r = &reader{tiles: tiles, topics: map[string]bool{}, signal: make(chan struct{}, 1), all: tiles, set: map[string]*tile{}, hit: map[string]bool{}}
	for _, topic := range topics {
		r.topics[topic] = true
	}
	run.mu.Lock()
	defer run.mu.Unlock()
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

// take returns what has come for a reader since the last take, within a scope: tiles as JSON, nil if there are none, and topics.
func (run *fleetRun) take(r *reader, scope *access.Scope) (tiles []byte, topics []string) {
	run.mu.Lock()
	var changes tileChanges
	var list []*tile
	switch {
	case r.all:
		changes.Reset = true
		list = run.within(scope)
	default:
		for name, t := range r.set {
			if t != nil && t.in(scope) {
				changes.Set = append(changes.Set, shownTile{name, t.State})
			} else {
				changes.Gone = append(changes.Gone, name)
			}
		}
	}
	topics = slices.Sorted(maps.Keys(r.hit))
	r.all, r.set, r.hit = false, map[string]*tile{}, map[string]bool{}
	run.mu.Unlock()

	for _, t := range byCluster(list) {
		changes.All = append(changes.All, shownTile{t.Name, t.State})
	}
	if changes.Reset || len(changes.Set)+len(changes.Gone) > 0 {
		tiles, _ = json.Marshal(changes) // it has only names and numbers
	}
	return tiles, topics
}

// within returns the tiles in a scope. fleetRun.mu is held. Tiles are not changed: they may be read after that.
func (run *fleetRun) within(scope *access.Scope) []*tile {
	out := make([]*tile, 0, len(run.tiles))
	for _, t := range run.tiles {
		if t.in(scope) {
			out = append(out, t)
		}
	}
	return out
}

// byCluster sorts tiles by clusters and names.
func byCluster(list []*tile) []*tile {
	slices.SortFunc(list, func(a, b *tile) int {
		return cmp.Or(strings.Compare(a.cluster, b.cluster), strings.Compare(a.Name, b.Name))
	})
	return list
}
