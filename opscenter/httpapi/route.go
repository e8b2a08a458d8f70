package httpapi

import (
	"bytes"
	"context"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/opscenter-go/sdk/opscenter/access"
)

// route is one endpoint of the API. The table in routes.go has all of them. The mux, the checks before each handler, and the description of the
// API are made of it.
type route struct {
	pattern string // as of http.ServeMux
	// role is the least role that may use the route. Empty: the route is open, and the clients are those of clients.
	role access.Role
	// reads is the least role that may use the route with GET, if that is less than role.
	reads access.Role
	// clients names the clients of an open route: any, token or server.
	clients string
	// scope says how the scope of a principal applies. The zero value refuses all principals that have one.
	scope scoped
	// missing is the error of a part that is not set up; nil: it is.
	missing error
	handle  http.HandlerFunc

	// query names the parameters, separated by spaces. One that may be given more than once ends with "*". A parameter that is
	// not named is refused.
	query string
	// body is the type of the document that the request holds; nil: it holds none, and a body is refused. optional: it may be left out.
	body     reflect.Type
	optional bool
	// raw: the handler reads the query and the body by itself.
	raw bool
	// maxBody bounds the body, in bytes. 0: Options.MaxBody.
	maxBody int64
	// summary says in a few words what the route does.
	summary string
	// answer is the type of the metadata that the route answers with; nil: null. list: the metadata are a list of that type, and without
	// recursion a list of paths, if paths. created: the status is 201.
	answer               reflect.Type
	list, paths, created bool
	// media is the type of the answer if it is no envelope.
	media string
}

// typeOf is the type of a document.
func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }

// archive is a body that is no document: a tar archive.
type archive []byte

// method and path are the parts of the pattern.
func (rt *route) method() string { method, _, _ := strings.Cut(rt.pattern, " "); return method }
func (rt *route) path() string {
	_, path, ok := strings.Cut(rt.pattern, " ")
	if !ok {
		return rt.pattern // for all methods
	}
	return path
}

// needs returns the least role that may send a request to the route.
func (rt *route) needs(method string) access.Role {
	if rt.reads != "" && (method == http.MethodGet || method == http.MethodHead) {
		return rt.reads
	}
	return rt.role
}

// takes reports whether the route knows a parameter, and whether it may be given more than once.
func (rt *route) takes(name string) (known, repeated bool) {
	for one := range strings.FieldsSeq(rt.query) {
		if plain, more := strings.CutSuffix(one, "*"); plain == name {
			return true, more
		}
	}
	return false, false
}

type routeKey struct{}

// routeOf returns the route of a request.
func routeOf(r *http.Request) *route {
	rt, _ := r.Context().Value(routeKey{}).(*route)
	return rt
}

// newMux registers the routes of the table.
func (h *Handler) newMux() *http.ServeMux {
	mux := http.NewServeMux()
	h.rows, h.byPattern = h.table(), map[string]*route{}
	for _, rt := range h.rows {
		h.byPattern[rt.pattern] = rt
		mux.HandleFunc(rt.pattern, h.serve(rt))
	}
	announce := h.announce()
	h.announceServers = h.serve(announce)
	h.rows = append(h.rows, announce)
	return mux
}

// serve returns the handler of a route, with all checks before it.
func (h *Handler) serve(rt *route) http.HandlerFunc {
	checked := func(w http.ResponseWriter, r *http.Request) {
		if err := h.checkRequest(rt, &r); err != nil {
			h.fail(w, r, err)
			return
		}
		rt.handle(w, r)
	}
	return func(w http.ResponseWriter, r *http.Request) {
		r = r.WithContext(context.WithValue(r.Context(), routeKey{}, rt))
		if rt.role != "" {
			h.authorized(w, r, rt, checked)
			return
		}
		checked(w, r)
	}
}

// checkRequest refuses a request that does not fit its route. It adds the parameters to the request.
func (h *Handler) checkRequest(rt *route, r **http.Request) error {
	// A name that begins with ":" is that of an endpoint that does not exist.
	if strings.HasPrefix((*r).PathValue("name"), ":") || strings.HasPrefix((*r).PathValue("uuid"), ":") {
		return errNoEndpoint
	}
	if !rt.raw {
		q, err := parseQuery(*r, rt)
		if err != nil {
			return err
		}
		*r = (*r).WithContext(context.WithValue((*r).Context(), queryKey{}, q))
		if method := (*r).Method; rt.body == nil && method != http.MethodGet && method != http.MethodHead {
			if err := refuseBody(*r); err != nil {
				return err
			}
		}
	}
	return rt.missing
}

// refuseBody returns an error for a request with a body. An empty object, and null, count as no body.
func refuseBody(r *http.Request) error {
	data, err := readBody(r)
	if text := bytes.TrimSpace(data); err == nil && len(text) > 0 && string(text) != "null" { // as some clients send none
		err = decodeStrict(data, &struct{}{}, "")
	}
	return err
}

// missing returns the error of a part unless it is set up.
func missing(setUp bool, err error) error {
	if setUp {
		return nil
	}
	return err
}

// Route describes a route of the operators' API, for the embedder's own checks and pages.
type Route struct {
	// Method and Path are those of the route; an empty method stands for all. Path has the names of variable parts in braces.
	Method, Path string
	// Role is the least role that may use the route. Empty: the route is open to Clients: any, token (with one) or server.
	Role    access.Role
	Clients string
	// Scoped: a principal with a scope may use the route.
	Scoped bool
	// Summary says in a few words what the route does.
	Summary string
}

// Routes returns all routes, by path and method.
func (h *Handler) Routes() []Route {
	var out []Route
	for _, rt := range h.rows {
		method := rt.method()
		if method == rt.pattern {
			method = ""
		}
		out = append(out, Route{Method: method, Path: rt.path(), Role: rt.role, Clients: rt.clients, Scoped: rt.role != "" && rt.scope != wholeFleet, Summary: rt.summary})
	}
	slices.SortFunc(out, func(a, b Route) int { return strings.Compare(a.Path+" "+a.Method, b.Path+" "+b.Method) })
	return out
}
