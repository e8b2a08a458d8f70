package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/audit"
)

var errNoAudit = errors.New("no audit log is kept here")

// audited logs requests that change something, with their outcomes.
func (h *Handler) audited(w http.ResponseWriter, r *http.Request, handle http.HandlerFunc) {
	if h.options.Audit == nil || r.Method == http.MethodGet || r.Method == http.MethodHead {
		handle(w, r)
		return
	}
	entry := audit.Entry{Action: r.Pattern}
	switch pattern := r.Pattern; {
	case strings.Contains(pattern, "/servers/{name}"):
		entry.Server, entry.Object = r.PathValue("name"), r.PathValue("path")
		if entry.Object != "" { // one pattern for all methods
			entry.Action = r.Method + " " + pattern
		}
	case strings.Contains(pattern, "/clusters/{name}"):
		entry.Cluster = r.PathValue("name")
	case strings.Contains(pattern, "/rollouts/{uuid}"), strings.Contains(pattern, "/warnings/{uuid}"):
		entry.Object = r.PathValue("uuid") // that of a token is a secret
	}
	out := &auditedWriter{ResponseWriter: w}
	handled := false
	err := h.options.Audit.Do(r.Context(), entry, func(ctx context.Context) error {
		handled = true
		handle(out, r.WithContext(ctx))
		return out.failure
	})
	if err != nil && !handled { // what can't be logged is not done
		h.fail(w, r, err)
	}
}

// auditedWriter keeps why a request has failed.
type auditedWriter struct {
	http.ResponseWriter
	failure error
}

// Unwrap is for http.ResponseController.
func (a *auditedWriter) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// noteFailure keeps the error of a request whose outcome is logged.
func noteFailure(w http.ResponseWriter, err error) {
	if a, ok := w.(*auditedWriter); ok && a.failure == nil {
		a.failure = err
	}
}

// auditRoutes are those of the audit log.
func (h *Handler) auditRoutes(operators map[string]http.HandlerFunc) {
	operators["GET /1.0/audit"] = h.getAudit
	operators["GET /1.0/audit/{uuid}"] = h.getAuditEntry
}

// getAudit lists what was changed, the newest first, whole with and without recursion.
func (h *Handler) getAudit(w http.ResponseWriter, r *http.Request) {
	q, err := parseQuery(r, "recursion", "limit", "cursor", "by", "action", "server", "cluster", "outcome", "since", "until")
	if err == nil && h.options.Audit == nil {
		err = errNoAudit
	}
	var wanted audit.Query
	if err == nil {
		v := q.values
		wanted = audit.Query{By: v.Get("by"), Action: v.Get("action"), Server: v.Get("server"), Cluster: v.Get("cluster"), Outcome: audit.Outcome(v.Get("outcome"))}
		for name, into := range map[string]*time.Time{"since": &wanted.Since, "until": &wanted.Until} {
			if text := v.Get(name); text != "" {
				if *into, err = time.Parse(time.RFC3339, text); err != nil {
					err = fmt.Errorf("%w: %s %.40q is not a time, as 2026-08-01T00:00:00Z", errBody, name, text)
					break
				}
			}
		}
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	out := newList(w, h)
	err = q.pages(func(page opscenter.Page) (int, string, error) {
		wanted.Limit, wanted.Before = page.Limit, 0
		if page.Cursor != "" {
			before, err := strconv.ParseUint(page.Cursor, 10, 64)
			if err != nil || before == 0 {
				return 0, "", opscenter.ErrInvalidCursor
			}
			wanted.Before = before
		}
		found, err := h.options.Audit.List(r.Context(), wanted)
		for i := range found.Entries {
			out.add(&found.Entries[i])
		}
		next := ""
		if found.Next > 0 {
			next = strconv.FormatUint(found.Next, 10)
		}
		return len(found.Entries), next, err
	})
	out.end(r, q.next, err)
}

func (h *Handler) getAuditEntry(w http.ResponseWriter, r *http.Request) {
	if h.options.Audit == nil {
		h.fail(w, r, errNoAudit)
		return
	}
	entry, err := h.options.Audit.Get(r.Context(), r.PathValue("uuid"))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	respond(w, entry)
}
