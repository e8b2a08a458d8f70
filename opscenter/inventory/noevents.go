package inventory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/warning"
)

// A daemon may answer, and still have no stream of events. It is asked again with growing pauses, up to
// Options.MaxEventsBackoff, and scans keep its inventory meanwhile. This is another case than a daemon that is not
// reached, and than a stream that breaks: both are tried again within Options.MaxBackoff.

// eventless is the memory of a daemon without a stream of events.
type eventless struct {
	attempts int       // failed ones in a row
	next     time.Time // not before that time
	why      string    // the last failure
	reported string    // the kind of failure that was logged last; empty: none was
}

// reportAfter is the number of failed attempts in a row after which the log and a warning tell of them. A daemon that
// starts may refuse the first ones.
const reportAfter = 3

// errStreamAvailable ends a session without a stream, because the daemon has one.
var errStreamAvailable = errors.New("the server has a stream of events")

// eventsPause returns the pause after that many failed attempts in a row. It doubles with each, up to most.
func eventsPause(attempts int, most time.Duration) time.Duration {
	d := firstBackoff
	for i := 1; i < attempts && d < most; i++ {
		d *= 2
	}
	return min(d, most)
}

// noteRefusal notes that a daemon opened no stream. False: the daemon can't be reached otherwise either, or all streams are
// in use, and nothing is noted.
func (w *worker) noteRefusal(ctx context.Context, target opscenter.Target, cause error) bool {
	if errors.Is(cause, errStreams) {
		return false
	}
	if _, err := w.m.incus.Describe(ctx, target); err != nil {
		return false
	}
	// The text of an error may differ each time. A changed status is news.
	kind := fmt.Sprint("status ", status(cause))
	w.mu.Lock()
	e := w.eventless[target.ID]
	if e == nil {
		e = &eventless{}
		w.eventless[target.ID] = e
	}
	e.attempts++
	pause := eventsPause(e.attempts, w.m.options.MaxEventsBackoff)
	e.next = time.Now().Add(pause + rand.N(pause/8+1)) // many daemons may begin to refuse at the same time
	e.why = truncate.Text(cause.Error(), maxText)
	report := e.attempts >= reportAfter && e.reported != kind
	why := e.why
	w.mu.Unlock()
	if !report {
		return true
	}
	w.m.log.WarnContext(ctx, "a server has no stream of events; scans keep its inventory", "server", target.Name, "error", why)
	err := w.m.registry.Warnings().Raise(ctx, target.Name, warning.Input{Kind: warning.Events, Message: "only scans keep the inventory of the server: " + why})
	if err != nil && !errors.Is(err, opscenter.ErrNotFound) {
		w.m.log.ErrorContext(ctx, "a warning could not be stored", "server", target.Name, "error", err)
		return true // the next failed attempt reports again
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	e.reported = kind
	return true
}

// noteStream notes that a daemon has a stream, and clears its warning. An earlier process may have raised that. If that
// fails, the next stream clears it.
func (w *worker) noteStream(ctx context.Context, target opscenter.Target) {
	w.mu.Lock()
	e := w.eventless[target.ID]
	delete(w.eventless, target.ID)
	w.mu.Unlock()
	if e != nil && e.reported != "" {
		w.m.log.InfoContext(ctx, "a server has a stream of events again", "server", target.Name)
	}
	if err := w.m.clearEvents(ctx, target.Name); err != nil && ctx.Err() == nil {
		w.m.log.ErrorContext(ctx, "a warning could not be cleared", "server", target.Name, "error", err)
	}
}

// forgetEventless forgets the daemons of servers that have left the unit.
func (w *worker) forgetEventless(present map[string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.eventless, func(id string, _ *eventless) bool { return !present[id] })
}

// clearEvents clears the warning that a server has no stream of events. It writes nothing if there is none.
func (m *Manager) clearEvents(ctx context.Context, server string) error {
	if m.registry.Warnings().Counts()[warning.Events] == 0 {
		return nil
	}
	page, err := m.registry.Warnings().List(ctx, opscenter.WarningFilter{Kind: warning.Events, Server: server}, opscenter.Page{Limit: 1})
	if err == nil && len(page.Warnings) > 0 {
		err = m.registry.Warnings().Clear(ctx, server, warning.Events)
	}
	if errors.Is(err, opscenter.ErrNotFound) {
		return nil // the server was removed, with its warnings
	}
	return err
}

// retryEvents makes the next attempt of a daemon due at once, because its server was down. It may run another release now.
func (w *worker) retryEvents(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.eventless[id]; e != nil {
		e.attempts, e.next = 0, time.Time{}
	}
}

// untilEvents returns the time until the next attempt to open the stream of a daemon, and the reason of the pause. 0: the
// attempt is due.
func (w *worker) untilEvents(id string) (time.Duration, string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.eventless[id]
	if e == nil {
		return 0, ""
	}
	return max(0, time.Until(e.next)), e.why
}

// retryStream asks the daemon of a session without a stream again, until the daemon has one, or can't be reached. Its error ends
// the session: after errStreamAvailable, the next session uses the stream.
func (l *listeners) retryStream(ctx context.Context) error {
	target := l.w.target
	pause, why := l.w.untilEvents(target.ID)
	for {
		l.mu.Lock()
		l.withoutStream[target.Name] = why
		l.mu.Unlock()
		signal(l.w.notify)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		stream, release, err := l.w.open(ctx, target, false)
		switch {
		case err == nil:
			stream.Close()
			release()
			return errStreamAvailable
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errStreams):
			pause, why = l.w.m.options.MaxBackoff, err.Error()
		case l.w.noteRefusal(ctx, target, err):
			pause, why = l.w.untilEvents(target.ID)
		default:
			return fmt.Errorf("server %s: %w", target.Name, err)
		}
	}
}
