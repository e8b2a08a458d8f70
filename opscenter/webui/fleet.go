package webui

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/rollout"
)

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
	runs    sync.WaitGroup
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
	// shared is the overview of the whole fleet for all pages, of the sequence sharedAt.
	shared   *overview
	sharedAt uint64
}

// overview returns the overview of a scope. Pages share that of the whole fleet as long as no tile changes. The caller does not modify it.
func (run *fleetRun) overview(scope *access.Scope) *overview {
	run.mu.Lock()
	if scope.All() && run.shared != nil && run.sharedAt >= max(run.floor, run.last[topicFleet]) {
		defer run.mu.Unlock()
		return run.shared
	}
	tiles, at := run.within(scope), run.sequence
	run.mu.Unlock()
	made := overviewOf(tiles)
	if scope.All() {
		run.mu.Lock()
		defer run.mu.Unlock()
		if run.shared == nil || run.sharedAt < at {
			run.shared, run.sharedAt = made, at
		}
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

var errFleetClosed = errors.New("the page is closed")

// use returns the loaded index. The caller calls release when it is done with it.
func (f *fleet) use(ctx context.Context) (run *fleetRun, release func(), err error) {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil, nil, errFleetClosed
	}
	f.begin()
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

// position returns the position of the index, "" while it is being loaded: no page waits for it that does not need it.
func (f *fleet) position() string {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return ""
	}
	f.begin()
	run := f.run
	f.mu.Unlock()
	defer f.release()
	select {
	case <-run.ready:
		if run.err == nil {
			return run.position()
		}
	default:
	}
	return ""
}

// begin counts a user, and starts the index unless it runs. f.mu is held.
func (f *fleet) begin() {
	f.users++
	if f.waiting != nil {
		f.waiting.Stop()
		f.waiting = nil
	}
	if f.run == nil {
		f.start()
	}
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
	}
	f.runs.Wait()
}

// start begins a run. f.mu is held.
func (f *fleet) start() {
	ctx, stop := context.WithCancel(context.Background())
	run := &fleetRun{stop: stop, ended: make(chan struct{}), ready: make(chan struct{}), id: rand.Text(), tiles: map[string]*tile{}, readers: map[*reader]bool{}, last: map[string]uint64{}}
	f.run = run
	f.runs.Go(func() {
		defer close(run.ended) // which ends all streams
		defer stop()
		err := f.follow(ctx, run)
		f.mu.Lock()
		if f.run == run { // the next use starts anew
			f.run = nil
		}
		f.mu.Unlock()
		if !errors.Is(err, context.Canceled) {
			f.logger.ErrorContext(ctx, "the index of the fleet ended; the next page starts it anew", "error", err)
		}
	})
}

// follow loads the index and follows all changes, until ctx ends or one of them can't be followed. Each begins before the load, so that changes during the load
// are applied after it.
func (f *fleet) follow(ctx context.Context, run *fleetRun) error {
	since, err := f.registry.Revision(ctx)
	var newest []event.Event
	if err == nil {
		newest, err = f.registry.ListEvents(ctx, opscenter.EventFilter{Newest: true, Limit: 1})
	}
	if err == nil {
		err = f.load(ctx, run)
	}
	run.err = err
	close(run.ready)
	if err != nil {
		return err
	}
	after := uint64(0)
	if len(newest) > 0 {
		after = newest[0].Sequence
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return f.followServers(ctx, run, since) })
	group.Go(func() error { return f.followEvents(ctx, run, after) })
	if f.rollouts != nil {
		group.Go(func() error { return f.followRollouts(ctx, run, since) })
	}
	return group.Wait()
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
			topics[topicWarnings] = true
		}
		run.apply(changed, topics)
	}
	return ctx.Err()
}

// followEvents tells of changes that only events show: configurations, updates, tokens. The offer of a channel decides which actions are due for its servers.
func (f *fleet) followEvents(ctx context.Context, run *fleetRun, after uint64) error {
	for e, err := range f.registry.WatchEvents(ctx, after) {
		if err != nil {
			return err
		}
		switch e.Kind {
		case event.UpdatePublished, event.UpdateChannels, event.ChannelDeleted:
			if err := f.load(ctx, run); err != nil {
				return err
			}
		}
		topics := map[string]bool{topicEvents: true}
		if e.Server != "" {
			topics["server:"+e.Server] = true
		}
		if e.Kind == event.ConfigurationChange {
			topics["change:"+e.Server] = true
		}
		run.apply(nil, topics)
	}
	return ctx.Err()
}

func (f *fleet) followRollouts(ctx context.Context, run *fleetRun, since uint64) error {
	for changes, err := range f.rollouts.Watch(ctx, since) {
		if err != nil {
			return err
		}
		topics := map[string]bool{topicRollouts: true}
		for _, id := range changes.Rollouts {
			topics["rollout:"+id] = true
		}
		run.apply(nil, topics)
	}
	return ctx.Err()
}

// apply changes tiles, and tells the readers.
func (run *fleetRun) apply(changed map[string]*tile, topics map[string]bool) {
	run.mu.Lock()
	defer run.mu.Unlock()
	shown := map[string]tileChange{}
	for name, now := range changed {
		before := run.tiles[name]
		if now != nil {
			run.tiles[name] = now
		} else {
			delete(run.tiles, name)
		}
		if before.looksLike(now) {
			continue
		}
		shown[name] = tileChange{before, now}
		topics[topicFleet] = true
		if before == nil || now == nil || (before.State == stateFailed) != (now.State == stateFailed) {
			topics[topicAttention] = true
		}
		for _, t := range []*tile{before, now} {
			if t != nil && t.cluster != "" {
				topics["cluster:"+t.cluster] = true
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
