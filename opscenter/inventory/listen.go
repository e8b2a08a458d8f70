package inventory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter"
)

// The worker listens to each member of a cluster. Members forward their events to each other, so one stream
// nearly suffices. But after a member was down, the others take a while to listen to it again. Until then, only its own
// stream carries its events.

// listeners are the streams of all members except the one that the worker reads from.
type listeners struct {
	w     *worker
	group sync.WaitGroup

	mu            sync.Mutex
	all           map[string]*listener // by name of the server
	withoutStream map[string]string    // reasons why servers have no stream now, by name
}

// listener is the stream of one member.
type listener struct {
	target opscenter.Target
	cancel context.CancelFunc
	first  chan struct{} // closed after the first attempt
	// early: the worker's first scan comes after the first attempt.
	early bool
}

var errStreams = errors.New("all event streams are in use (MaxStreams)")

func newListeners(w *worker) *listeners {
	return &listeners{w: w, all: map[string]*listener{}, withoutStream: map[string]string{}}
}

// update listens to the members that are ready, and to no others. early: the first scan is still to come.
func (l *listeners) update(ctx context.Context, early bool) error {
	ready, err := l.w.ready(ctx)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	wanted := map[string]bool{}
	for _, target := range ready {
		if target.Name == l.w.target.Name {
			continue
		}
		wanted[target.Name] = true
		known := l.all[target.Name]
		if known != nil && sameServer(&known.target, &target) {
			continue
		}
		if known != nil {
			known.cancel()
		}
		next := &listener{target: target, first: make(chan struct{}), early: early}
		ctx, cancel := context.WithCancel(ctx)
		next.cancel = cancel
		l.all[target.Name], l.withoutStream[target.Name] = next, "not connected so far"
		l.group.Go(func() {
			defer cancel()
			l.listen(ctx, next)
		})
	}
	for name, known := range l.all {
		if !wanted[name] {
			known.cancel()
			delete(l.all, name)
			delete(l.withoutStream, name)
		}
	}
	return nil
}

func sameServer(a, b *opscenter.Target) bool {
	return a.ID == b.ID && a.ConnectionURL == b.ConnectionURL && a.Fingerprint == b.Fingerprint && a.ServedFingerprint == b.ServedFingerprint
}

// waitTried waits for the first attempt of each listener, so that one scan covers all members that answer.
func (l *listeners) waitTried(ctx context.Context) {
	l.mu.Lock()
	all := slices.Collect(maps.Values(l.all))
	l.mu.Unlock()
	for _, known := range all {
		select {
		case <-known.first:
		case <-ctx.Done():
			return
		}
	}
}

// listen listens to one member until ctx ends. After each lost stream, a scan finds the missed events.
func (l *listeners) listen(ctx context.Context, known *listener) {
	backoff, first := firstBackoff, true
	name := known.target.Name
	tried := func() {
		if first {
			first = false
			close(known.first)
		}
	}
	for ctx.Err() == nil {
		if pause, why := l.w.untilEvents(known.target.ID); pause > 0 {
			l.set(known, why)
			tried()
			signal(l.w.notify)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
		}
		begun := time.Now()
		stream, release, err := l.w.open(ctx, known.target, false)
		if err == nil {
			l.w.noteStream(ctx, known.target)
			l.set(known, "")
			if !first || !known.early {
				l.w.demandScan("connected to server " + name)
			}
			signal(l.w.notify)
		}
		tried()
		refused := err != nil && ctx.Err() == nil && l.w.noteRefusal(ctx, known.target, err)
		if err == nil {
			err = l.w.readEvents(stream)
			stream.Close()
			release()
			if time.Since(begun) > steadyAfter {
				backoff = firstBackoff
			}
		}
		if ctx.Err() != nil {
			return
		}
		l.set(known, truncate.Text(err.Error(), maxText))
		signal(l.w.notify)
		if refused {
			continue // after the pause of a daemon without a stream
		}
		select {
		case <-time.After(jitter(backoff)):
		case <-ctx.Done():
		}
		backoff = min(2*backoff, l.w.m.options.MaxBackoff)
	}
}

// set notes the reason why a member has no stream. Empty: it has one.
func (l *listeners) set(known *listener, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch name := known.target.Name; {
	case l.all[name] != known: // another listener has replaced this one
	case why == "":
		delete(l.withoutStream, name)
	default:
		l.withoutStream[name] = why
	}
}

// withoutStreamReason names a member without a stream, and the reason. Empty: all members have one.
func (l *listeners) withoutStreamReason() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(l.withoutStream)) {
		return fmt.Sprintf("no events from server %s: %s", name, l.withoutStream[name])
	}
	return ""
}

// open opens a stream. errStreams: no place is reserved, and MaxStreams are in use. release frees the place.
func (w *worker) open(ctx context.Context, target opscenter.Target, reserved bool) (stream Stream, release func(), err error) {
	release = func() { <-w.m.streams }
	if !reserved && !w.takeStream() {
		return nil, nil, errStreams
	}
	select {
	case w.m.connects <- struct{}{}:
	case <-ctx.Done():
		release()
		return nil, nil, ctx.Err()
	}
	defer func() { <-w.m.connects }()
	if stream, err = w.m.incus.Events(ctx, target); err != nil {
		release()
		return nil, nil, err
	}
	return stream, release, nil
}

// takeStream takes a place for a stream. False: all are in use.
func (w *worker) takeStream() bool {
	select {
	case w.m.streams <- struct{}{}:
		return true
	default:
		return false
	}
}

// reserve takes a place for the stream of the next session. False: all are in use.
func (w *worker) reserve() bool {
	w.reserved = w.takeStream()
	return w.reserved
}
