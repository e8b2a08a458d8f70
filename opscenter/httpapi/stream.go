package httpapi

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"time"
)

// DefaultMaxStreams is the default of Options.MaxStreams. HeartbeatInterval is the time between two signs of life of a stream. A stream ends
// at the next of them once its client is no longer admitted.
const (
	DefaultMaxStreams = 1000
	HeartbeatInterval = 15 * time.Second
)

var errTooManyStreams = errors.New("too many streams are open")

// streamed is the form of a stream: its media type, what it begins with, and its sign of life.
type streamed struct{ media, begin, beat string }

// stream sends what watch yields, until the client leaves, or is no longer admitted. show returns the text of one; empty: it is left out.
func stream[T any](h *Handler, w http.ResponseWriter, r *http.Request, form streamed, watch func(context.Context) iter.Seq2[T, error], show func(T) (string, error)) {
	if !h.streams.TryAcquire(1) {
		w.Header().Set("Retry-After", "60")
		h.fail(w, r, errTooManyStreams)
		return
	}
	defer h.streams.Release(1)
	ctx, cancel := context.WithCancel(r.Context())
	come, ended := make(chan T), make(chan struct{})
	defer func() {
		cancel()
		<-ended
	}()
	go func() {
		defer close(ended)
		for one, err := range watch(ctx) {
			if err != nil {
				if ctx.Err() == nil {
					h.options.Logger.ErrorContext(ctx, "a stream was cut short", "endpoint", r.Pattern, "error", err)
				}
				return
			}
			select {
			case come <- one:
			case <-ctx.Done():
				return
			}
		}
	}()
	w.Header().Set("Content-Type", form.media)
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	send := func(text string) bool {
		_ = control.SetWriteDeadline(time.Now().Add(h.options.WriteTimeout))
		if _, err := w.Write([]byte(text)); err != nil || control.Flush() != nil {
			return false
		}
		_ = control.SetWriteDeadline(time.Time{})
		return true
	}
	beat := time.NewTicker(HeartbeatInterval)
	defer beat.Stop()
	for ok := send(form.begin); ok; {
		select {
		case one := <-come:
			text, err := show(one)
			ok = err == nil && (text == "" || send(text))
		case <-beat.C:
			ok = h.stillAdmitted(r) && send(form.beat)
		case <-ended:
			return
		}
	}
}

// stillAdmitted reports whether the client of a stream may go on: its token may have been revoked, or its certificate may have expired.
func (h *Handler) stillAdmitted(r *http.Request) bool {
	p, ok := h.principal(r)
	return ok && p.Role.Includes(routeOf(r).needs(r.Method)) && p.Scope.All()
}
