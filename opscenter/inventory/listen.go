package inventory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
)

// Each member of a cluster is listened to. One would do, as they hand on to each other what
// happens, but not always: when one of them was away, the others take a while to listen to it
// again, and what happens there meanwhile is told by nobody else.

// listeners are the streams of the members beside the one that is read from.
type listeners struct {
	w     *worker
	group sync.WaitGroup

	mu   sync.Mutex
	all  map[string]*listener // by name of the server
	deaf map[string]string    // those that are not listened to at the moment, and why
}

type listener struct {
	target opscenter.Target
	cancel context.CancelFunc
	first  chan struct{} // closed when it was tried for the first time
	// early: the first scan comes after it was tried.
	early bool
}

var errStreams = errors.New("there are more than are listened to (MaxStreams)")

func newListeners(w *worker) *listeners {
	return &listeners{w: w, all: map[string]*listener{}, deaf: map[string]string{}}
}

// update listens to those members that are ready, and to no others. early says that the first
// scan is still to come.
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
		l.all[target.Name], l.deaf[target.Name] = next, "it is not connected to so far"
		l.group.Go(func() {
			defer cancel()
			l.listen(ctx, next)
		})
	}
	for name, known := range l.all {
		if !wanted[name] {
			known.cancel()
			delete(l.all, name)
			delete(l.deaf, name)
		}
	}
	return nil
}

func sameServer(a, b *opscenter.Target) bool {
	return a.ID == b.ID && a.ConnectionURL == b.ConnectionURL && a.Fingerprint == b.Fingerprint && a.ServedFingerprint == b.ServedFingerprint
}

// tried waits until each was tried once, so that one scan does for all that answer.
func (l *listeners) tried(ctx context.Context) {
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

// listen listens to one member until ctx ends. After each loss, what it has said meanwhile is
// found by a scan.
func (l *listeners) listen(ctx context.Context, known *listener) {
	backoff, first := firstBackoff, true
	name := known.target.Name
	for ctx.Err() == nil {
		begun := time.Now()
		stream, release, err := l.w.open(ctx, known.target, false)
		if err == nil {
			l.set(known, "")
			if !first || !known.early {
				l.w.demand("server " + name + " is listened to")
			}
			signal(l.w.notify)
		}
		if first {
			first = false
			close(known.first)
		}
		if err == nil {
			err = l.w.read(stream)
			stream.Close()
			release()
			if time.Since(begun) > steady {
				backoff = firstBackoff
			}
		}
		if ctx.Err() != nil {
			return
		}
		l.set(known, limited(err.Error()))
		signal(l.w.notify)
		select {
		case <-time.After(jitter(backoff)):
		case <-ctx.Done():
		}
		backoff = min(2*backoff, l.w.m.options.MaxBackoff)
	}
}

// set notes that a member is listened to, or why not.
func (l *listeners) set(known *listener, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch name := known.target.Name; {
	case l.all[name] != known: // it is another one's turn
	case why == "":
		delete(l.deaf, name)
	default:
		l.deaf[name] = why
	}
}

// missing says which member is not listened to, and why; empty: all are.
func (l *listeners) missing() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(l.deaf)) {
		return fmt.Sprintf("server %s is not listened to: %s", name, l.deaf[name])
	}
	return ""
}

// open opens a stream, if there may be one more, or its place is reserved. release gives the
// place back.
func (w *worker) open(ctx context.Context, target opscenter.Target, reserved bool) (stream Stream, release func(), err error) {
	release = func() { <-w.m.streams }
	if !reserved && !w.place() {
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

// place takes a place for a stream, if there is one.
func (w *worker) place() bool {
	select {
	case w.m.streams <- struct{}{}:
		return true
	default:
		return false
	}
}

// reserve takes a place for the next session.
func (w *worker) reserve() bool {
	w.reserved = w.place()
	return w.reserved
}
