package inventory

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/opscenter-go/sdk/internal/phase"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// loop carries out the due work, and waits for more. It returns when the session ends.
func (w *worker) loop(ctx context.Context, lost <-chan error, others *listeners, following bool) error {
	o := &w.m.options
	interval := o.ScanInterval
	scheduled := time.Now().Add(phase.Until(w.id, interval, time.Now()))
	members := time.Now().Add(o.MembersInterval)
	first := true
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-w.notify:
		case <-w.wake: // the server of the session may have moved or be gone
			if !w.serverUnchanged(ctx) {
				return errMoved
			}
			if following {
				if err := others.update(ctx, false); err != nil {
					return err
				}
			}
		case err := <-lost:
			return err
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
			w.demandScan("scheduled")
			w.scanNext = time.Time{}
			scheduled = at.Add(phase.Until(w.id, interval, time.Now()))
		case !w.scanRetry.IsZero() && !at.Before(w.scanRetry):
			w.demandScan("the last scan was incomplete")
			w.scanNext, w.scanRetry = time.Time{}, time.Time{}
		case !w.excessNext.IsZero() && !at.Before(w.excessNext):
			w.demandScan("the inventory was truncated")
			w.excessNext = time.Time{}
		}
		if !first && !at.Before(members) {
			if err := w.checkMembers(ctx); err != nil {
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
		w.updateStatus(following, others.withoutStreamReason())
		first = false
		timer.Reset(time.Until(w.nextDue(scheduled, members)))
	}
}

var (
	errMoved = errors.New("the server of the session has moved, or is no longer ready")
	errRoom  = errors.New("an event stream is free now")
)

// updateStatus updates Following and Failure of the status.
func (w *worker) updateStatus(following bool, withoutStream string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, why := &w.status, ""
	switch {
	case !w.scanRetry.IsZero():
		return // the scan has set the failure
	case w.pending.scan != "":
		why = "a scan is due: " + w.pending.scan
	case !following:
		why = errStreams.Error()
	case withoutStream != "":
		why = withoutStream
	}
	s.Following = why == ""
	switch {
	case why == "":
		s.FailedAt, s.NextRetry = time.Time{}, time.Time{}
	case s.Failure == "":
		s.FailedAt = w.m.now()
	}
	s.Failure = why
}

// serverUnchanged reports whether the server of the session is ready, and where it was.
func (w *worker) serverUnchanged(ctx context.Context) bool {
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

// nextDue returns the earliest time of due work, out of those times and the worker's own.
func (w *worker) nextDue(times ...time.Time) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.pending.empty() {
		next := w.since.Add(w.m.options.Debounce)
		switch {
		case w.pending.scan != "":
			next = slices.MaxFunc([]time.Time{next, w.scanNext}, time.Time.Compare)
		case len(w.pending.tasks) == 0:
			next = slices.MaxFunc([]time.Time{next, w.scopesNext}, time.Time.Compare)
		}
		if w.pending.scan != "" && len(w.pending.tasks) > 0 { // tasks do not wait for the scan
			next = w.since.Add(w.m.options.Debounce)
		} else if w.pending.scan != "" && len(w.pending.scopes) > 0 && w.scopesNext.Before(next) {
			next = slices.MaxFunc([]time.Time{w.since.Add(w.m.options.Debounce), w.scopesNext}, time.Time.Compare)
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

// work carries out the due work: a scan, or else the objects that events named and then their related lists.
func (w *worker) work(ctx context.Context) error {
	at := time.Now()
	w.mu.Lock()
	for _, l := range w.pending.settle {
		if l.volumes { // mostly, a volume comes soon
			w.settleLater(l, w.m.options.Settle/soonShare)
		}
		w.settleLater(l, w.m.options.Settle)
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
		w.pending.lookLate(w.settling[0].late, w.m.now())
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
	renames, tasks := w.pending.takeRenames(), w.pending.take()
	w.mu.Unlock()
	// An earlier event may be about the old name: a reading of that name would remove the object.
	if err := w.runRenames(ctx, renames); err != nil {
		return err
	}
	for i := range tasks {
		if err := w.looks.Wait(ctx); err != nil {
			return err
		}
		if err := w.runTask(ctx, &tasks[i]); err != nil {
			return err
		}
	}
	// The lists of these events may have been read already, with those of earlier ones.
	if err := w.judgeExcess(ctx, false); err != nil {
		return err
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
	begun, waited := time.Now(), w.waited
	if err := w.relist(ctx, scopes); err != nil {
		return err
	}
	w.scopesNext = time.Now().Add(relistRestFactor * (time.Since(begun) - (w.waited - waited)))
	return nil
}

// settleLater has an object read after a pause.
func (w *worker) settleLater(l late, pause time.Duration) {
	at := time.Now().Add(pause)
	i, _ := slices.BinarySearchFunc(w.settling, at, func(s settling, at time.Time) int {
		if s.at.After(at) {
			return 1
		}
		return -1
	})
	w.settling = slices.Insert(w.settling, i, settling{l, at})
}

// soonShare divides Options.Settle for the first of two late readings.
const soonShare = 10

// connected is the reason of the first scan of a session.
const connected = "connected"

// scanAll scans, and drops all reasons for a scan until now. It carries out the renames first: otherwise a renamed object
// would become a new one.
func (w *worker) scanAll(ctx context.Context) error {
	w.mu.Lock()
	why, renames := w.pending.scan, w.pending.takeRenames()
	w.pending.forget()
	w.pending.scan = ""
	w.mu.Unlock()
	if err := w.runRenames(ctx, renames); err != nil {
		return err
	}
	return w.scan(ctx, why)
}

func (w *worker) runRenames(ctx context.Context, renames []task) error {
	for i := range renames {
		if err := w.runTask(ctx, &renames[i]); err != nil {
			return err
		}
	}
	return nil
}

// answer carries out a request. An error ends the session.
func (w *worker) answer(ctx context.Context, r *request) error {
	if !r.scan {
		err := w.refreshRequested(ctx, r.ref)
		r.done <- err
		if status(err) != 0 || errors.Is(err, errUnread) {
			return nil
		}
		return err
	}
	w.demandScan("requested")
	err := w.scanAll(ctx)
	if err == nil && !w.scanRetry.IsZero() {
		r.done <- errors.New(w.show().Failure)
		return nil
	}
	r.done <- err
	return err
}

// describe reads the description of the daemon. It keeps only the extensions on which this package depends.
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

// wantedExtensions are the API extensions on which this package depends.
var wantedExtensions = sync.OnceValue(func() []string {
	out := []string{volumesApart}
	for i := range kinds {
		out = append(out, kinds[i].extensions...)
	}
	slices.Sort(out)
	return slices.Compact(out)
})

// refreshRequested reads an object. It reads the description of the daemon first, if that was not read so far.
func (w *worker) refreshRequested(ctx context.Context, r ref) error {
	if len(w.daemon.Extensions) == 0 {
		if err := w.describe(ctx); err != nil {
			return err
		}
	}
	return w.refresh(ctx, r, cause{})
}
