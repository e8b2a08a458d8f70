package incusostest

import (
	"net/http"
	"time"

	"github.com/gorilla/websocket"
	"github.com/lxc/incus/v6/shared/api"
)

// maxUnsent is how many events wait for a listener. A slower listener is disconnected.
const maxUnsent = 512

type lifecycleEvent struct {
	Type      string             `json:"type"`
	Timestamp time.Time          `json:"timestamp"`
	Metadata  api.EventLifecycle `json:"metadata"`
	Location  string             `json:"location"`
	Project   string             `json:"project"`
}

// deafTime is the time after a boot in which other members receive no events of a member. The members of a real
// cluster reconnect to it with a later heartbeat.
const deafTime = 5 * time.Second

// emit sends an event of a server to the listeners of all members. Within deafTime after a boot of the server,
// only its own listeners receive the event. d.mu is held.
func (d *daemon) emit(s *Server, action, source, project string, context map[string]any) {
	if project == "" {
		project = "default"
	}
	e := lifecycleEvent{Type: api.EventTypeLifecycle, Timestamp: time.Now(), Location: s.location(d), Project: project,
		Metadata: api.EventLifecycle{Action: action, Source: source, Context: context, Project: project,
			Requestor: &api.EventLifecycleRequestor{Username: "operator", Protocol: "tls", Address: "127.0.0.1"}}}
	s.mu.Lock()
	alone, web := time.Since(s.state.bootedAt) < deafTime, s.web
	s.mu.Unlock()
	for l := range d.listeners {
		if alone && l.web != web {
			continue
		}
		select {
		case l.queue <- e:
		default:
			l.cut() // the listener is too slow
		}
	}
}

// Emit sends a lifecycle event of any action, about the object with the path source. It changes no object.
func (s *Server) Emit(action, source string) {
	d := s.db()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.emit(s, action, source, "default", nil)
}

// subscriber is the websocket of a listener.
type subscriber struct {
	conn  *websocket.Conn
	queue chan lifecycleEvent
	web   *http.Server // that accepted the connection
}

func (l *subscriber) cut() { l.conn.Close() }

// getEvents serves a stream of events until its connection is closed, or the server goes down.
func (s *Server) getEvents(w http.ResponseWriter, r *http.Request) {
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // Upgrade has sent the error
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
		for { // reading answers pings
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

// cutEvents closes the event streams that a web server accepted.
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
