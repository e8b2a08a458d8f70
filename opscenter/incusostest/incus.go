package incusostest

import (
	"context"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// operation is a background operation of Incus.
type operation struct {
	id, description, location string
	createdAt                 time.Time
	metadata                  any
	done                      chan struct{}
	failed                    string // valid once done is closed
}

// document returns the API's description of an operation.
func (o *operation) document() map[string]any {
	out := map[string]any{"id": o.id, "class": "task", "description": o.description, "created_at": o.createdAt.UTC(),
		"updated_at": time.Now().UTC(), "status": "Running", "status_code": 103, "resources": nil, "metadata": o.metadata,
		"may_cancel": false, "err": "", "location": o.location}
	select {
	case <-o.done:
		out["status"], out["status_code"], out["err"] = "Success", 200, o.failed
		if o.failed != "" {
			out["status"], out["status_code"] = "Failure", 400
		}
	default:
	}
	return out
}

// incusRoutes serves a part of Incus's API, or forwards all of it to a real daemon.
func (s *Server) incusRoutes(mux *http.ServeMux) {
	if s.options.Backend != "" {
		s.proxyRoutes(mux)
		return
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { respond(w, []string{"/1.0"}) })
	mux.HandleFunc("GET /1.0", s.getServer)
	trusted := func(pattern string, handle http.HandlerFunc) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if !s.isTrusted(r) {
				respondError(w, http.StatusForbidden, "Not authorized")
				return
			}
			handle(w, r)
		})
	}
	trusted("GET /1.0/cluster", s.getCluster)
	if isIncus(s.options.Application) {
		trusted("GET /1.0/resources", func(w http.ResponseWriter, _ *http.Request) {
			s.mu.Lock()
			defer s.mu.Unlock()
			respond(w, s.state.hardware)
		})
		trusted("PATCH /1.0", s.patchConfig)
		trusted("PUT /1.0/cluster", s.putCluster)
		trusted("GET /1.0/cluster/members", s.getMembers)
		trusted("POST /1.0/cluster/members", s.postMembers)
		trusted("GET /1.0/cluster/members/{name}", s.getMember)
		trusted("DELETE /1.0/cluster/members/{name}", s.deleteMember)
		trusted("POST /1.0/cluster/members/{name}/state", s.postMember)
		trusted("GET /1.0/events", s.getEvents)
		trusted("/1.0/{collection}", buffered(s.objects))
		trusted("/1.0/{collection}/", buffered(s.objects))
		trusted("GET /1.0/certificates", s.getCertificates)
		mux.HandleFunc("POST /1.0/certificates", s.postCertificates)
		trusted("GET /1.0/instances", buffered(s.getInstances))
		trusted("POST /1.0/instances", buffered(s.postInstances))
		trusted("GET /1.0/instances/{name}", buffered(s.getInstance))
		trusted("PATCH /1.0/instances/{name}", buffered(s.patchInstance))
		trusted("POST /1.0/instances/{name}", buffered(s.renameInstance))
		trusted("DELETE /1.0/instances/{name}", buffered(s.deleteInstance))
		trusted("POST /1.0/instances/{name}/snapshots", buffered(s.postSnapshots))
		trusted("PUT /1.0/instances/{name}/state", s.putInstance)
		trusted("GET /1.0/operations", s.getOperations)
		trusted("GET /1.0/operations/{id}", s.getOperation)
		trusted("GET /1.0/operations/{id}/wait", s.waitOperation)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { respondError(w, http.StatusNotFound, "Not Found") })
}

// proxyRoutes forwards requests to a real daemon, including the websocket of events.
func (s *Server) proxyRoutes(mux *http.ServeMux) {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "incus"})
			r.Out.Host = "incus"
		},
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", s.options.Backend)
			},
			DisableKeepAlives: true,
		},
		FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			respondError(w, http.StatusBadGateway, "%v", err)
		},
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		open := r.Method == http.MethodGet && r.URL.Path == "/"
		if !open && !s.isTrusted(r) {
			respondError(w, http.StatusForbidden, "Not authorized")
			return
		}
		proxy.ServeHTTP(w, r)
	})
}

// forgetAfter is how long Incus remembers an operation after its end.
const forgetAfter = 5 * time.Second

// begin starts an operation of that duration, and answers with it. end performs it, and returns the error message, or "".
func (s *Server) begin(w http.ResponseWriter, description string, takes time.Duration, metadata any, end func() string) {
	op := &operation{id: uuid.NewString(), description: description, location: s.options.Name, createdAt: time.Now(), done: make(chan struct{}), metadata: metadata}
	s.mu.Lock()
	s.state.operations[op.id] = op
	installation := s.state.machineID
	s.laterLocked(takes, func() {
		s.mu.Lock()
		same := s.state.machineID == installation
		s.mu.Unlock()
		if same {
			op.failed = end()
		}
		close(op.done)
		s.later(forgetAfter, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.state.operations, op.id)
		})
	})
	s.mu.Unlock()
	w.Header().Set("Location", "/1.0/operations/"+op.id)
	send(w, http.StatusAccepted, envelope{Type: "async", Status: "Operation created", StatusCode: 100,
		Operation: "/1.0/operations/" + op.id, Metadata: op.document()})
}

// getOperations lists the operations by status, as Incus does.
func (s *Server) getOperations(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string][]any{}
	for _, op := range s.state.operations {
		select {
		case <-op.done:
		default:
			out["running"] = append(out["running"], op.document())
		}
	}
	respond(w, out)
}

// operation returns the operation of a request. If there is none, it sends the error and returns nil.
func (s *Server) operation(w http.ResponseWriter, r *http.Request) *operation {
	s.mu.Lock()
	defer s.mu.Unlock()
	op := s.state.operations[r.PathValue("id")]
	if op == nil {
		respondError(w, http.StatusNotFound, "Operation not found")
	}
	return op
}

func (s *Server) getOperation(w http.ResponseWriter, r *http.Request) {
	if op := s.operation(w, r); op != nil {
		respond(w, op.document())
	}
}

func (s *Server) waitOperation(w http.ResponseWriter, r *http.Request) {
	op := s.operation(w, r)
	if op == nil {
		return
	}
	ctx := r.Context()
	if seconds, err := strconv.Atoi(r.URL.Query().Get("timeout")); err == nil && seconds >= 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
		defer cancel()
	}
	select {
	case <-op.done:
		if op.failed != "" { // like Incus, with the operation's own error
			respondError(w, http.StatusBadRequest, "%s", op.failed)
			return
		}
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
	respond(w, op.document())
}
