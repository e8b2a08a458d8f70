package webui

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/client"
)

// maxForm bounds a form, and maxLogIn that of a client that is not admitted, in bytes.
const (
	maxForm  = 1 << 20
	maxLogIn = 16 << 10
)

// visit is a request of an admitted principal.
type visit struct {
	h   *Handler
	w   http.ResponseWriter
	r   *http.Request
	me  access.Principal
	api *client.Client
}

// admitted calls handle for principals that may view. A browser without a session is sent to the log-in.
func (h *Handler) admitted(handle func(*visit)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		me, err := h.options.Authorize(r)
		if err == nil && me.Validate() != nil {
			err = access.ErrForbidden
		}
		v := &visit{h: h, w: w, r: r, me: me}
		switch {
		case err == nil:
		case h.options.Sessions != nil && r.Method == http.MethodGet && r.URL.Path != "/live":
			http.Redirect(w, r, "/login?to="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
			return
		default:
			v.fail(http.StatusUnauthorized, "You are not logged in, or your session has ended. The form was not carried out.")
			return
		}
		v.api, err = client.New(client.Options{URL: "https://control-plane", HTTP: &http.Client{Transport: inProcess{h.options.API, r}, CheckRedirect: noRedirect}})
		if err != nil {
			v.internal(err)
			return
		}
		if body, ok := r.Context().Value(bodyKey{}).(io.ReadCloser); ok {
			r.Body = http.MaxBytesReader(w, body, maxForm)
		}
		handle(v)
	}
}

// bodyKey is the key of the body of a request without the limit for clients that are not admitted.
type bodyKey struct{}

// noRedirect returns redirects as they are.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// inProcess sends requests to the API in this process, with the credentials of the request that asked for the page.
type inProcess struct {
	api   http.Handler
	outer *http.Request
}

// RoundTrip implements http.RoundTripper.
func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	inner := r.Clone(context.WithValue(r.Context(), bodyKey{}, nil))
	inner.RequestURI = inner.URL.RequestURI()
	inner.Host, inner.RemoteAddr, inner.TLS = t.outer.Host, t.outer.RemoteAddr, t.outer.TLS
	for name, values := range t.outer.Header {
		if !ownHeader(name) {
			inner.Header[name] = values // an authorizer may go by any of them
		}
	}
	if inner.Body == nil {
		inner.Body = io.NopCloser(bytes.NewReader(nil)) // a handler may read it
	}
	answer := &recorder{header: http.Header{}}
	t.api.ServeHTTP(answer, inner)
	answer.WriteHeader(http.StatusOK)
	return &http.Response{Status: http.StatusText(answer.status), StatusCode: answer.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: answer.header, Body: io.NopCloser(&answer.body), ContentLength: int64(answer.body.Len()), Request: r}, nil
}

// ownHeader reports whether a header describes the request for the page alone, and not its client.
func ownHeader(name string) bool {
	for _, prefix := range []string{"Accept", "Content-", "If-", "Origin", "Range", "Sec-Fetch-Site", "Connection", "Transfer-Encoding", "Upgrade", "Te", "Trailer", "Last-Event-Id"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// recorder keeps an answer in memory.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *recorder) Header() http.Header { return a.header }
func (a *recorder) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}
func (a *recorder) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

// ctx is the context of the request.
func (v *visit) ctx() context.Context { return v.r.Context() }

// may reports whether the principal has at least a role. Pages show only the forms that a principal may send; the API decides.
func (v *visit) may(role access.Role) bool { return v.me.Role.Includes(role) }

// layout is what each page shows.
type layout struct {
	Title   string
	Section string // of the navigation; empty: none
	Me      access.Principal
	// LogOut: the principal has a session.
	LogOut bool
	// Position is that of the index of the fleet before the page was read, for its stream. Empty: not known, so the page is loaded once more.
	Position string
	// Notice is the outcome of the form that was sent last; empty: none.
	Notice string
	// Status and Problem are those of a page that can't be shown; 0: it can.
	Status  int
	Problem string
	Data    any
	visit   *visit
}

// May reports whether a form may be shown to the principal.
func (l *layout) May(role string) bool { return l.visit.may(access.Role(role)) }

// show sends a page.
func (v *visit) show(status int, name string, l layout) {
	l.Me, l.visit, l.LogOut = v.me, v, v.h.options.Sessions != nil && hasSession(v.r)
	if done := v.r.URL.Query().Get("done"); l.Notice == "" && done != "" {
		l.Notice = noticeOf(done)
	}
	var page bytes.Buffer
	if err := v.h.templates[name].Execute(&page, &l); err != nil {
		v.h.options.Logger.ErrorContext(v.ctx(), "a page can't be shown", "page", name, "error", err)
		http.Error(v.w, "This page can't be shown. The log of the control plane has the reason.", http.StatusInternalServerError)
		return
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.WriteHeader(status)
	_, _ = v.w.Write(page.Bytes())
}

func hasSession(r *http.Request) bool { _, err := r.Cookie(cookieName); return err == nil }

// fail shows why a page can't be shown.
func (v *visit) fail(status int, problem string) {
	v.show(status, "problem", layout{Title: http.StatusText(status), Status: status, Problem: problem})
}

// internal logs an error that is not the client's.
func (v *visit) internal(err error) {
	v.h.options.Logger.ErrorContext(v.ctx(), "a page can't be shown", "path", v.r.URL.Path, "error", err)
	v.fail(http.StatusInternalServerError, "This page can't be shown. The log of the control plane has the reason.")
}

// failed shows the page of an error of the API.
func (v *visit) failed(err error) {
	var e *client.Error
	if !errors.As(err, &e) {
		if v.ctx().Err() == nil {
			v.internal(err)
		}
		return
	}
	v.fail(e.Status, capital(e.Message))
}

// capital begins a text with a capital.
func capital(text string) string {
	if text == "" {
		return text
	}
	first := []rune(text)[0]
	return strings.ToUpper(string(first)) + strings.TrimPrefix(text, string(first))
}

// optional returns the error of a request that a page needs. Without the right or the part of the control plane the page leaves its
// part out.
func optional(err error) error {
	switch client.StatusOf(err) {
	case http.StatusForbidden, http.StatusNotImplemented, http.StatusNotFound:
		return nil
	}
	return err
}
