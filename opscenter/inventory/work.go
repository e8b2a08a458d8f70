package inventory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// loop does what is due, and waits for more.
func (w *worker) loop(ctx context.Context, lost <-chan error, others *listeners, following bool) error {
	o := &w.m.options
	interval := o.ScanInterval
	scheduled := time.Now().Add(phased(w.id, interval))
	members := time.Now().Add(o.MembersInterval)
	first := true
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-w.notify:
		case <-w.wake: // a server may have moved, and the one that is listened to be gone
			if !w.current(ctx) {
				return errMoved
			}
			if following {
				if err := others.update(ctx, false); err != nil {
					return err
				}
			}
		case err := <-lost:
			return fmt.Errorf("the stream of events was lost: %w", err)
		case r := <-w.requests:
			if err := w.answer(ctx, r); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		at := time.Now()
		switch {
		case !at.Before(scheduled):
			w.demand("scheduled")
			w.scanNext = time.Time{}
			scheduled = at.Add(phased(w.id, interval))
		case !w.scanRetry.IsZero() && !at.Before(w.scanRetry):
			w.demand("the last one was incomplete")
			w.scanNext, w.scanRetry = time.Time{}, time.Time{}
		case !w.excessNext.IsZero() && !at.Before(w.excessNext):
			w.demand("there was more than may be kept")
			w.excessNext = time.Time{}
		}
		if !first && !at.Before(members) {
			if err := w.lookAtMembers(ctx); err != nil {
				return err
			}
			members = time.Now().Add(o.MembersInterval)
			if !following && w.reserve() {
				return errRoom
			}
		}
		if err := w.work(ctx); err != nil {
			return err
		}
		w.judge(following, others.missing())
		first = false
		timer.Reset(time.Until(w.due(scheduled, members)))
	}
}

var (
	errMoved = errors.New("the server it was read from has moved, or is not ready any more")
	errRoom  = errors.New("there is room to listen to it now")
)

// judge says whether the unit is current.
func (w *worker) judge(following bool, deaf string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, why := &w.status, ""
	switch {
	case !w.scanRetry.IsZero():
		return // the scan has said it
	case w.pending.scan != "":
		why = "a scan is due: " + w.pending.scan
	case !following:
		why = errStreams.Error()
	case deaf != "":
		why = deaf
	}
	s.Following = why == ""
	switch {
	case why == "":
		s.FailedAt, s.NextRetry = time.Time{}, time.Time{}
	case s.Failure == "":
		s.FailedAt = now()
	}
	s.Failure = why
}

// current reports whether the server that is read from is where it was, and ready.
func (w *worker) current(ctx context.Context) bool {
	info, err := w.m.registry.Server(ctx, w.target.Name)
	if err != nil {
		return !errors.Is(err, opscenter.ErrNotFound)
	}
	now := info.Target()
	return info.State.Status == lifecycle.StatusReady && sameServer(&now, &w.target) && w.isMember(info.Name)
}

func (w *worker) isMember(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.members[name]
}

// phased returns how long it is to the next point in time of a unit's own phase.
func phased(id string, interval time.Duration) time.Duration {
	phase := time.Duration(xxhash.Sum64String(id) % uint64(interval))
	wait := phase - time.Duration(time.Now().UnixNano()%int64(interval))
	if wait <= 0 {
		wait += interval
	}
	return wait
}

// due returns when there is something to do next.
func (w *worker) due(times ...time.Time) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.pending.empty() {
		next := w.since.Add(w.m.options.Debounce)
		switch {
		case w.pending.scan != "":
			next = later(next, w.scanNext)
		case len(w.pending.tasks) == 0:
			next = later(next, w.scopesNext)
		}
		if w.pending.scan != "" && len(w.pending.tasks) > 0 { // the scan is not what they wait for
			next = w.since.Add(w.m.options.Debounce)
		} else if w.pending.scan != "" && len(w.pending.scopes) > 0 && w.scopesNext.Before(next) {
			next = later(w.since.Add(w.m.options.Debounce), w.scopesNext)
		}
		times = append(times, next)
	}
	if !w.scanRetry.IsZero() {
		times = append(times, w.scanRetry)
	}
	if !w.excessNext.IsZero() {
		times = append(times, w.excessNext)
	}
	if len(w.settling) > 0 {
		times = append(times, w.settling[0].at)
	}
	return slices.MinFunc(times, time.Time.Compare)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// work does what is due: a scan, or the objects that events named and then what may have
// changed with them.
func (w *worker) work(ctx context.Context) error {
	at := time.Now()
	w.mu.Lock()
	for _, r := range w.pending.settle {
		w.settling = append(w.settling, settling{r, at.Add(w.m.options.Settle)})
	}
	w.pending.settle = nil
	if len(w.settling) > w.m.options.MaxPending {
		w.settling = nil
		w.pending.demand("more instances were started than can be followed")
	}
	for len(w.settling) > 0 && !at.Before(w.settling[0].at) {
		if w.pending.empty() {
			w.since = at.Add(-w.m.options.Debounce)
		}
		w.pending.look(w.settling[0].ref, cause{}, now())
		w.settling = w.settling[1:]
	}
	if w.pending.empty() || at.Before(w.since.Add(w.m.options.Debounce)) && w.pending.scan != connected {
		w.mu.Unlock()
		return nil
	}
	if w.pending.scan != "" && !at.Before(w.scanNext) {
		w.mu.Unlock()
		return w.scanAll(ctx)
	}
	tasks := w.pending.take()
	w.mu.Unlock()
	for i := range tasks {
		if err := w.looks.Wait(ctx); err != nil {
			return err
		}
		if err := w.do(ctx, &tasks[i]); err != nil {
			return err
		}
	}
	if time.Now().Before(w.scopesNext) {
		return nil
	}
	w.mu.Lock()
	scopes := w.pending.scopes
	w.pending.scopes = map[scope]cause{}
	w.mu.Unlock()
	if len(scopes) == 0 {
		return nil
	}
	begun := time.Now()
	if err := w.relist(ctx, scopes); err != nil {
		return err
	}
	w.scopesNext = time.Now().Add(scopesShare * time.Since(begun))
	return nil
}

// connected is why a unit is scanned that is listened to from now on.
const connected = "connected"

// scanAll scans, for all reasons there are until now. What was renamed is noted before, or it
// would be another object.
func (w *worker) scanAll(ctx context.Context) error {
	w.mu.Lock()
	why, tasks := w.pending.scan, w.pending.tasks
	w.pending.forget()
	w.pending.scan = ""
	w.mu.Unlock()
	for i := range tasks {
		if tasks[i].renamed == nil {
			continue
		}
		if err := w.do(ctx, &tasks[i]); err != nil {
			return err
		}
	}
	return w.scan(ctx, why)
}

// answer does what somebody waits for. An error is the end of the session.
func (w *worker) answer(ctx context.Context, r *request) error {
	if !r.scan {
		err := w.lookAt(ctx, r.ref)
		r.done <- err
		if status(err) != 0 || errors.Is(err, errUnread) {
			return nil
		}
		return err
	}
	w.demand("asked for")
	err := w.scanAll(ctx)
	if err == nil && !w.scanRetry.IsZero() {
		r.done <- errors.New(w.show().Failure)
		return nil
	}
	r.done <- err
	return err
}

// describe asks the daemon what it is. Of its extensions, those are kept that anything here depends on.
func (w *worker) describe(ctx context.Context) error {
	daemon, err := w.m.incus.Describe(ctx, w.target)
	if err != nil {
		return err
	}
	var kept []string
	for _, extension := range wantedExtensions() {
		if slices.Contains(daemon.Extensions, extension) {
			kept = append(kept, extension)
		}
	}
	daemon.Extensions = kept
	w.daemon = daemon
	return nil
}

// wantedExtensions are those that it depends on how something is read, or whether.
var wantedExtensions = sync.OnceValue(func() []string {
	out := []string{volumesApart}
	for i := range kinds {
		out = append(out, kinds[i].extensions...)
	}
	slices.Sort(out)
	return slices.Compact(out)
})

// lookAt looks at an object of a daemon that may not have said so far what it is.
func (w *worker) lookAt(ctx context.Context, r ref) error {
	if len(w.daemon.Extensions) == 0 {
		if err := w.describe(ctx); err != nil {
			return err
		}
	}
	return w.refresh(ctx, r, cause{})
}
