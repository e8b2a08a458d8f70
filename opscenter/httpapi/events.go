package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/event"
)

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
	name, text := "Last-Event-ID", r.Header.Get("Last-Event-ID")
	if text == "" {
		name, text = "after", queryOf(r).valueOf("after")
	}
	if text != "" {
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

// streamEvents sends events as server-sent events (HTML, 9.2). The id of each is its sequence number. The stream begins with the id after which
// it begins, so that a client which loses its connection before the first event misses none.
func (h *Handler) streamEvents(w http.ResponseWriter, r *http.Request) {
	q := queryOf(r)
	for _, name := range []string{"limit", "cursor", "recursion"} {
		if q.values.Has(name) {
			h.fail(w, r, fmt.Errorf("%w: parameter %s is that of a list", errBody, name))
			return
		}
	}
	after, err := h.streamFrom(r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // a proxy is not to hold events back
	server := q.valueOf("server")
	stream(h, w, r, streamed{media: "text/event-stream", begin: fmt.Sprintf("retry: 2000\nid: %d\n\n", after), beat: ":\n\n"}, func(ctx context.Context) iter.Seq2[event.Event, error] { return h.registry.WatchEvents(ctx, after) },
		func(e event.Event) (string, error) {
			if server != "" && e.Server != server {
				return "", nil
			}
			data, err := json.Marshal(showEvent(&e))
			return fmt.Sprintf("id: %d\ndata: %s\n\n", e.Sequence, data), err
		})
}
