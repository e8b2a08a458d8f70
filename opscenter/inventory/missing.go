package inventory

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/storage"
)

// A list that lacks a stored object does not show why. The object may have been removed, it may have a new name, or it may
// move between members.

// remove removes the known objects that were not found, and writes the rest of the batch. The objects that have a new name
// keep their identity.
func (l *lister) remove(ctx context.Context, have known) error {
	lost, err := l.lost(ctx, have)
	if err != nil {
		return err
	}
	renamed, err := l.awaitEvents(ctx, lost)
	if err == nil && renamed {
		lost, err = l.lost(ctx, have)
	}
	if err == nil {
		err = l.confirmMissing(ctx, have, lost)
	}
	if err != nil {
		return err
	}
	for key := range have {
		if err := l.batch.remove(ctx, storage.Key(key)); err != nil {
			return err
		}
	}
	return l.batch.flush(ctx)
}

// lost returns the stored objects among the keys of have.
func (l *lister) lost(ctx context.Context, have known) (lost []ref, err error) {
	if len(have) == 0 {
		return nil, nil
	}
	err = l.w.m.registry.Read(ctx, func(s *opscenter.Snapshot) error {
		lost = nil
		for key := range have {
			r, err := objects.Find(s, storage.Key(key))
			if err != nil {
				return err
			}
			if r != nil {
				lost = append(lost, r.ref())
			}
		}
		return nil
	})
	return lost, err
}

// eventDelay bounds the time for which one reading waits for events. Incus sends an event after the change, so a list may
// show the change first.
const eventDelay = 250 * time.Millisecond

// awaitEvents waits for the events about missing objects, carries out their renames, and reports whether there were any.
// Without that, a renamed object would be removed, and come back as a new one.
func (l *lister) awaitEvents(ctx context.Context, lost []ref) (renamed bool, err error) {
	if len(lost) == 0 || l.batch.origin.silent || strings.HasSuffix(l.batch.origin.cause.action, "-deleted") {
		return false, nil
	}
	missing := map[ref]bool{}
	for _, r := range lost {
		missing[r] = true
	}
	timer := time.NewTimer(l.patience)
	defer timer.Stop()
	defer signal(l.w.notify) // the loop has to see the events, too
	begun := time.Now()
	for waiting := l.w.streaming; ; {
		l.w.mu.Lock()
		l.w.pending.explain(missing)
		var renames []task
		if len(missing) == 0 || !waiting {
			renames = l.w.pending.takeRenames()
		}
		l.w.mu.Unlock()
		if len(missing) == 0 || !waiting {
			took := time.Since(begun)
			l.patience -= min(l.patience, took)
			l.w.waited += took
			return len(renames) > 0, l.w.runRenames(ctx, renames)
		}
		select {
		case <-l.w.notify:
		case <-timer.C:
			waiting = false
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// confirmAfter are the pauses before a missing instance is read again.
var confirmAfter = []time.Duration{100 * time.Millisecond, 400 * time.Millisecond}

// confirmMissing reads missing instances of a cluster again. While an instance moves from one member to another, neither
// may list it, and it would come back as a new object. An instance is surely gone after an instance-deleted event.
func (l *lister) confirmMissing(ctx context.Context, have known, lost []ref) error {
	if !l.w.daemon.Clustered || l.batch.origin.cause.action == "instance-deleted" {
		return nil
	}
	lost = slices.DeleteFunc(lost, func(r ref) bool { return r.kind != KindInstance })
	for i := 0; i < len(confirmAfter) && len(lost) > 0; i++ {
		select {
		case <-time.After(confirmAfter[i]):
		case <-ctx.Done():
			return ctx.Err()
		}
		var still []ref
		for _, r := range lost {
			err := l.get(ctx, have, r)
			switch {
			case status(err) == http.StatusNotFound:
				still = append(still, r)
			case err != nil && status(err) == 0 && !errors.Is(err, errCut):
				return err
			default: // found, or the daemon could not answer: the known row stays
				if err != nil {
					l.noteUnread(err)
				}
				delete(have, string(r.prefix(l.w.id)))
			}
		}
		lost = still
	}
	return nil
}
