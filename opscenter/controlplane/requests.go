package controlplane

import (
	"context"
	"io"
	"net/http"
	"sync"
)

// stopping is the answer to a request after the stop, in the shape of the API's errors.
const stopping = `{"type":"error","error":"The control plane stops","error_code":503,"metadata":null}` + "\n"

// requests counts the requests under way on all servers. The control plane ends after the last of them.
type requests struct {
	handler http.Handler
	cut     context.Context // ended: requests under way are to end at once
	cutAll  context.CancelFunc

	mu     sync.Mutex
	active int
	closed bool
	idle   chan struct{} // closed when there are none, and none come any more
}

func newRequests(handler http.Handler) *requests {
	cut, cutAll := context.WithCancel(context.Background())
	return &requests{handler: handler, cut: cut, cutAll: cutAll, idle: make(chan struct{})}
}

func (q *requests) enter() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.active++
	return true
}

func (q *requests) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.active--
	if q.closed && q.active == 0 {
		close(q.idle)
	}
}

// close lets no new requests in.
func (q *requests) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	q.closed = true
	if q.active == 0 {
		close(q.idle)
	}
}

func (q *requests) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !q.enter() {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, stopping)
		return
	}
	defer q.leave()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(q.cut, cancel)()
	q.handler.ServeHTTP(w, r.WithContext(ctx))
}

// drain lets no new requests in, and waits for those under way. When patience is over it ends their contexts.
func (q *requests) drain(patience context.Context) {
	q.close()
	select {
	case <-q.idle:
	case <-patience.Done():
		q.cutAll()
		<-q.idle
	}
}
