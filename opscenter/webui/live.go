package webui

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"
)

const (
	// DefaultMaxStreams is the default of Options.MaxStreams.
	DefaultMaxStreams = 1000
	// maxTopics bounds the topics of a stream, and maxTopic one of them, in bytes.
	maxTopics, maxTopic = 8, 300
	// livePause is the least time between two messages of a stream: changes within it come together.
	livePause = 500 * time.Millisecond
	// liveHeartbeat is the time between two signs of life. A stream ends at the next of them once its client is no longer admitted.
	liveHeartbeat = 15 * time.Second
	// liveWriteTimeout bounds the time in which a client must take a message.
	liveWriteTimeout = 30 * time.Second
)

// live streams to an open page, as server-sent events: the map of the fleet with tiles=1, and the names of topics that changed. The page
// then loads the changed parts again.
func (h *Handler) live(v *visit) {
	query := v.r.URL.Query()
	topics := query["topic"]
	for _, topic := range topics {
		if len(topics) > maxTopics || len(topic) > maxTopic {
			v.fail(http.StatusBadRequest, "the stream has too many topics")
			return
		}
	}
	if !h.streams.enter(v.me.Name) {
		v.w.Header().Set("Retry-After", "60")
		v.fail(http.StatusServiceUnavailable, "too many pages are open")
		return
	}
	defer h.streams.leave(v.me.Name)
	run, release, err := h.fleet.use(v.r.Context())
	if err != nil {
		v.fail(http.StatusServiceUnavailable, "the fleet can't be read")
		return
	}
	defer release()
	reader, leave := run.subscribe(v.me.Scope, query.Get("tiles") == "1", topics, query.Get("since"))
	defer leave()

	header := v.w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("X-Accel-Buffering", "no") // a proxy is not to hold messages back
	control := http.NewResponseController(v.w)
	send := func(text string) bool {
		_ = control.SetWriteDeadline(time.Now().Add(liveWriteTimeout))
		if _, err := v.w.Write([]byte(text)); err != nil || control.Flush() != nil {
			return false
		}
		return control.SetWriteDeadline(time.Time{}) == nil
	}
	beat := time.NewTicker(h.heartbeat)
	defer beat.Stop()
	for ok := send("retry: 2000\n\n"); ok; {
		select {
		case <-v.r.Context().Done():
			return
		case <-run.ended:
			return
		case <-beat.C:
			p, err := h.options.Authorize(v.r)
			ok = err == nil && reflect.DeepEqual(p, v.me) && send(":\n\n") // with other rights it begins anew
		case <-reader.signal:
			ok = send(messages(run.take(reader))) && pause(v.r, livePause)
		}
	}
}

// messages returns the messages of changes.
func messages(tiles []byte, topics []string) string {
	var b strings.Builder
	if tiles != nil {
		fmt.Fprintf(&b, "event: tiles\ndata: %s\n\n", tiles)
	}
	for _, topic := range topics {
		fmt.Fprintf(&b, "event: changed\ndata: %s\n\n", strings.Map(oneLine, topic))
	}
	return b.String()
}

// oneLine keeps a text within its line of a stream.
func oneLine(c rune) rune {
	if c == '\r' || c == '\n' {
		return ' '
	}
	return c
}

// pause waits, and reports whether the client is still there.
func pause(r *http.Request, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// streams bounds the streams that are open at a time, in all and those of one principal.
type streams struct {
	max, maxOfOne int

	mu  sync.Mutex
	all int
	of  map[string]int
}

func (s *streams) enter(principal string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= s.max || s.of[principal] >= s.maxOfOne {
		return false
	}
	s.all++
	s.of[principal]++
	return true
}

func (s *streams) leave(principal string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.of[principal]--; s.of[principal] == 0 {
		delete(s.of, principal)
	}
}
