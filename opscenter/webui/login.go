package webui

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/opscenter-go/sdk/opscenter/access"
)

// logIn is the data of the log-in.
type logIn struct {
	To string // the path of the page that was asked for
}

// destination returns a path of our own, "/" for each other one.
func destination(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "" || u.Host != "" || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(to, "//") || strings.ContainsAny(to, "\\\r\n\t") || strings.HasPrefix(u.Path, "/log") {
		return "/"
	}
	return to
}

func (h *Handler) getLogIn(w http.ResponseWriter, r *http.Request) {
	h.showLogIn(w, r, http.StatusOK, "")
}

func (h *Handler) showLogIn(w http.ResponseWriter, r *http.Request, status int, problem string) {
	v := &visit{h: h, w: w, r: r}
	if h.options.Sessions == nil {
		v.fail(http.StatusNotFound, "There is no log-in here. The control plane admits your client certificate, or none.")
		return
	}
	v.show(status, "login", layout{Title: "Log in", Problem: problem, Data: logIn{To: destination(r.FormValue("to"))}})
}

// postLogIn begins a session with an access token.
func (h *Handler) postLogIn(w http.ResponseWriter, r *http.Request) {
	if h.options.Sessions == nil {
		h.showLogIn(w, r, http.StatusNotFound, "")
		return
	}
	secret := strings.Clone(strings.TrimSpace(r.PostFormValue("token"))) // the session keeps it, and not the form
	err := h.options.Sessions.Start(w, r, func(ctx context.Context) (access.Principal, error) { return h.options.LogIn(ctx, secret) })
	switch {
	case err == nil:
		http.Redirect(w, r, destination(r.PostFormValue("to")), http.StatusSeeOther)
	case errors.Is(err, access.ErrForbidden), errors.Is(err, access.ErrUnauthenticated):
		h.options.Logger.InfoContext(r.Context(), "a log-in was refused", "remote", r.RemoteAddr, "error", err)
		h.showLogIn(w, r, http.StatusForbidden, "This token is not valid, or has expired. An administrator makes a new one.")
	case errors.Is(err, ErrTooManySessions):
		h.showLogIn(w, r, http.StatusServiceUnavailable, "Too many people are logged in. Try again later.")
	default:
		h.options.Logger.ErrorContext(r.Context(), "a log-in failed", "error", err)
		h.showLogIn(w, r, http.StatusInternalServerError, "The control plane can't check the token now. Its log has the reason.")
	}
}

// postLogOut ends the session.
func (h *Handler) postLogOut(w http.ResponseWriter, r *http.Request) {
	if h.options.Sessions != nil {
		h.options.Sessions.End(w, r)
	}
	w.Header().Set("Clear-Site-Data", `"cache"`)
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}
