package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
)

// DefaultMaxStreams is the default of Options.MaxStreams, and HeartbeatInterval the time between two signs of life of a stream of events.
// A stream ends at the next of them once its client is no longer admitted.
const (
	DefaultMaxStreams = 1000
	HeartbeatInterval = 15 * time.Second
)

var errTooManyStreams = errors.New("too many streams are open")

// shownEvent is the document of an event.
type shownEvent struct {
	Sequence uint64     `json:"sequence"`
	At       time.Time  `json:"at"`
	Type     event.Kind `json:"type"`
	Server   string     `json:"server,omitempty"`
	Cluster  string     `json:"cluster,omitempty"`
	Rollout  string     `json:"rollout,omitempty"`
	Reason   string     `json:"reason"`
}

func showEvent(e *event.Event) shownEvent {
	return shownEvent{e.Sequence, e.At, e.Kind, e.Server, e.Cluster, e.Rollout, e.Reason}
}

// getEvents lists events, the newest first. To a client that accepts text/event-stream it streams events as they come.
func (h *Handler) getEvents(w http.ResponseWriter, r *http.Request) {
	if asksFor(r, "text/event-stream") {
		h.streamEvents(w, r)
		return
	}
	q := queryOf(r)
	if q.values.Has("after") {
		h.fail(w, r, fmt.Errorf("%w: parameter after is that of a stream: Accept: text/event-stream", errBody))
		return
	}
	shown := resource[*event.Event]{h: h, show: always(showEvent)}
	shown.list(w, r, q, nil, func(page opscenter.Page) ([]*event.Event, string, error) {
		filter := opscenter.EventFilter{Newest: true, Server: q.valueOf("server"), Limit: page.Limit}
		if page.Cursor != "" {
			before, err := strconv.ParseUint(page.Cursor, 10, 64)
			if err != nil || before == 0 {
				return nil, "", opscenter.ErrInvalidCursor
			}
			filter.Before = before
		}
		found, err := h.registry.ListEvents(r.Context(), filter)
		list := pointers(found)
		return list, behind(list, page.Limit, func(e *event.Event) string { return strconv.FormatUint(e.Sequence, 10) }), err
	})
}

// asksFor reports whether a client asks for a media type by its name.
func asksFor(r *http.Request, media string) bool {
	for one := range strings.SplitSeq(strings.Join(r.Header.Values("Accept"), ","), ",") {
		name, _, _ := strings.Cut(one, ";")
		if strings.EqualFold(strings.TrimSpace(name), media) {
			return true
		}
	}
	return false
}

// streamFrom returns the sequence number after which a stream of events begins: that of the header Last-Event-ID, with which a client goes
// on after a lost connection, or of the parameter after, or of the newest event.
func (h *Handler) streamFrom(r *http.Request) (uint64, error) {
	for name, text := range map[string]string{"after": queryOf(r).valueOf("after"), "Last-Event-ID": r.Header.Get("Last-Event-ID")} {
		if text == "" || name == "after" && r.Header.Get("Last-Event-ID") != "" {
			continue
		}
		after, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%w: %s %.40q is not a sequence number", errBody, name, text)
		}
		return after, nil
	}
	newest, err := h.registry.ListEvents(r.Context(), opscenter.EventFilter{Newest: true, Limit: 1})
	if err != nil || len(newest) == 0 {
		return 0, err
	}
	return newest[0].Sequence, nil
}

// streamEvents sends events as server-sent events (HTML, 9.2). The id of each is its sequence number. A gap in the numbers shows events
// that were deleted before the client asked for them.
func (h *Handler) streamEvents(w http.ResponseWriter, r *http.Request) {
	after, err := h.streamFrom(r)
	if err == nil && !h.streams.TryAcquire(1) {
		w.Header().Set("Retry-After", "60")
		err = errTooManyStreams
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	defer h.streams.Release(1)
	server := queryOf(r).valueOf("server")
	ctx, cancel := context.WithCancel(r.Context())
	come := make(chan event.Event)
	ended := make(chan struct{})
	defer func() {
		cancel()
		<-ended
	}()
	go func() {
		defer close(ended)
		for e, err := range h.registry.WatchEvents(ctx, after) {
			if err != nil {
				return
			}
			if server != "" && e.Server != server {
				continue
			}
			select {
			case come <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // a proxy is not to hold events back
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	send := func(text string) bool {
		_ = control.SetWriteDeadline(time.Now().Add(h.options.WriteTimeout))
		_, err := w.Write([]byte(text))
		return err == nil && control.Flush() == nil
	}
	beat := time.NewTicker(HeartbeatInterval)
	defer beat.Stop()
	for ok := send(": events\nretry: 2000\n\n"); ok; {
		select {
		case e := <-come:
			data, err := json.Marshal(showEvent(&e))
			ok = err == nil && send(fmt.Sprintf("id: %d\ndata: %s\n\n", e.Sequence, data))
		case <-beat.C:
			// A token may have been revoked, and a certificate may have expired.
			p, err := h.options.Authorize(r)
			ok = err == nil && p.Role.Includes(routeOf(r).role) && p.Scope.All() && send(":\n\n")
		case <-ended:
			return
		}
	}
}
