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
	id, description string
	createdAt       time.Time
	done            chan struct{}
	failed          string // valid once done is closed
}

func (o *operation) document() map[string]any {
	out := map[string]any{"id": o.id, "class": "task", "description": o.description, "created_at": o.createdAt.UTC(),
		"updated_at": time.Now().UTC(), "status": "Running", "status_code": 103, "resources": nil, "metadata": nil,
		"may_cancel": false, "err": "", "location": "none"}
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

// incusRoutes serves Incus's API: a part of it, or all of a real daemon.
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
	trusted("GET /1.0/cluster", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		name := ""
		if s.state.clustered {
			name = s.options.Name
		}
		respond(w, map[string]any{"server_name": name, "enabled": s.state.clustered, "member_config": []any{}})
	})
	if isIncus(s.options.Application) {
		trusted("GET /1.0/resources", func(w http.ResponseWriter, _ *http.Request) {
			s.mu.Lock()
			defer s.mu.Unlock()
			respond(w, s.state.hardware)
		})
		trusted("GET /1.0/cluster/members/{name}", s.getMember)
		trusted("POST /1.0/cluster/members/{name}/state", s.postMember)
		trusted("GET /1.0/operations/{id}", s.getOperation)
		trusted("GET /1.0/operations/{id}/wait", s.waitOperation)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { respondError(w, http.StatusNotFound, "Not Found") })
}

// proxyRoutes hands requests on to a real daemon, the websocket of its events included.
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

func (s *Server) getServer(w http.ResponseWriter, r *http.Request) {
	trusted := s.isTrusted(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := map[string]any{"api_extensions": []string{"clustering", "clustering_evacuate", "resources"}, "api_status": "stable",
		"api_version": "1.0", "auth": "untrusted", "public": false, "auth_methods": []string{"tls"}}
	if trusted {
		name := s.options.Name
		answer["auth"], answer["auth_user_method"] = "trusted", "tls"
		answer["config"] = map[string]any{"core.https_address": s.address}
		answer["environment"] = map[string]any{"addresses": []string{s.address}, "architectures": []string{"x86_64", "i686"},
			"kernel": "Linux", "kernel_architecture": "x86_64", "os_name": "IncusOS", "os_version": s.state.version,
			"server": "incus", "server_version": "7.3", "server_name": name, "server_clustered": s.state.clustered, "project": "default"}
	}
	respond(w, answer)
}

// getMember answers for the server itself: its cluster has one member.
func (s *Server) getMember(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.state.clustered:
		respondError(w, http.StatusBadRequest, "Server isn't clustered")
	case r.PathValue("name") != s.options.Name:
		respondError(w, http.StatusNotFound, "Cluster member not found")
	default:
		respond(w, map[string]any{"server_name": s.options.Name, "url": "https://" + s.address, "database": true,
			"status": s.state.member, "message": "Fully operational", "architecture": "x86_64", "failure_domain": "default",
			"description": "", "config": map[string]any{}, "roles": []string{"database-leader", "database"}, "groups": []string{"default"}})
	}
}

func (s *Server) postMember(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Action string `json:"action"`
		Mode   string `json:"mode"`
	}
	if !decode(w, r, &body) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var during, after string
	switch {
	case !s.state.clustered:
		respondError(w, http.StatusBadRequest, "Server isn't clustered")
		return
	case r.PathValue("name") != s.options.Name:
		respondError(w, http.StatusNotFound, "Cluster member not found")
		return
	case body.Action == "evacuate":
		during, after = "Evacuating", "Evacuated"
	case body.Action == "restore":
		during, after = "Restoring", "Online"
	default:
		respondError(w, http.StatusBadRequest, "Unknown action %q", body.Action)
		return
	}
	op := &operation{id: uuid.NewString(), description: body.Action + " server", createdAt: time.Now(), done: make(chan struct{})}
	s.state.operations[op.id] = op
	if s.state.member != after {
		s.state.member = during
	}
	installation := s.state.machineID
	s.laterLocked(s.options.EvacuateDelay, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.state.machineID == installation {
			s.state.member = after
		}
		close(op.done)
	})
	w.Header().Set("Location", "/1.0/operations/"+op.id)
	send(w, http.StatusAccepted, envelope{Type: "async", Status: "Operation created", StatusCode: 100,
		Operation: "/1.0/operations/" + op.id, Metadata: op.document()})
}

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
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
	respond(w, op.document())
}
