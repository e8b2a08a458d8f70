package incusostest

import (
	"net/http"
	"time"

	"github.com/gorilla/websocket"
	"github.com/lxc/incus/v6/shared/api"
)

// maxUnsent is how many events wait for a listener, before it is cut off.
const maxUnsent = 512

type lifecycleEvent struct {
	Type      string             `json:"type"`
	Timestamp time.Time          `json:"timestamp"`
	Metadata  api.EventLifecycle `json:"metadata"`
	Location  string             `json:"location"`
	Project   string             `json:"project"`
}

// deaf is for how long the other members do not hear of what happens on one that has booted:
// they listen to it again with one of their next heartbeats, as those of Incus do.
const deaf = 5 * time.Second

// emit tells all who listen, at whichever member; of what happens on one that has just booted,
// only those who listen there. d.mu is held.
func (d *daemon) emit(s *Server, action, source, project string, context map[string]any) {
	if project == "" {
		project = "default"
	}
	e := lifecycleEvent{Type: api.EventTypeLifecycle, Timestamp: time.Now(), Location: s.location(d), Project: project,
		Metadata: api.EventLifecycle{Action: action, Source: source, Context: context, Project: project,
			Requestor: &api.EventLifecycleRequestor{Username: "operator", Protocol: "tls", Address: "127.0.0.1"}}}
	s.mu.Lock()
	alone, web := time.Since(s.state.bootedAt) < deaf, s.web
	s.mu.Unlock()
	for l := range d.listeners {
		if alone && l.web != web {
			continue
		}
		select {
		case l.queue <- e:
		default:
			l.cut() // it is too slow
		}
	}
}

// Emit sends a lifecycle event, of whatever action, about nothing that was done.
func (s *Server) Emit(action, source string) {
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.emit(s, action, source, "default", nil)
}

// subscriber is the websocket of somebody who listens.
type subscriber struct {
	conn  *websocket.Conn
	queue chan lifecycleEvent
	web   *http.Server // that it came in through
}

func (l *subscriber) cut() { l.conn.Close() }

// getEvents serves the stream of events until it is cut, or the server goes down.
func (s *Server) getEvents(w http.ResponseWriter, r *http.Request) {
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // it has answered
	}
	defer conn.Close()
	web, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	l := &subscriber{conn: conn, queue: make(chan lifecycleEvent, maxUnsent), web: web}
	d := s.db()
	d.mu.Lock()
	d.listeners[l] = true
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.listeners, l)
		d.mu.Unlock()
	}()
	ended := make(chan struct{})
	read := func() {
		defer close(ended)
		for { // answers pings
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
		}
	}
	s.mu.Lock()
	down := s.closed || s.web != web
	if !down {
		s.wait.Go(read)
	}
	s.mu.Unlock()
	if down {
		return
	}
	defer func() {
		conn.Close()
		<-ended
	}()
	for {
		select {
		case e := <-l.queue:
			_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
			if conn.WriteJSON(e) != nil {
				return
			}
		case <-ended:
			return
		case <-s.ctx.Done():
			return
		}
	}
}

// cutEvents ends the streams of events that came in through a listener of the server's.
func (s *Server) cutEvents(web *http.Server) {
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	for l := range d.listeners {
		if l.web == web {
			l.cut()
		}
	}
}
