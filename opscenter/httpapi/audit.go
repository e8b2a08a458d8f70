package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
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
	if (r.Method == http.MethodGet || r.Method == http.MethodHead) && !h.takesKeys(r) {
		handle(w, r)
		return
	}
	dry, err := isDryRun(r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	if h.options.Audit == nil || dry {
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
	case strings.Contains(pattern, "/rollouts/{uuid}"), strings.Contains(pattern, "/warnings/{uuid}"), strings.Contains(pattern, "/access-tokens/{uuid}"):
		entry.Object = r.PathValue("uuid") // that of a registration token is a secret
	}
	out := &auditedWriter{ResponseWriter: w}
	handled := false
	err = h.options.Audit.Do(r.Context(), entry, func(ctx context.Context) error {
		handled = true
		handle(out, r.WithContext(ctx))
		if out.carriedOut {
			return nil
		}
		return out.failure
	})
	if err != nil && !handled { // without an entry in the log the request is not carried out
		h.fail(w, r, err)
	}
}

// auditedWriter keeps the error of a request.
type auditedWriter struct {
	http.ResponseWriter
	failure error
	// carriedOut: the request was carried out, although its answer is an error.
	carriedOut bool
}

// rolloutsPattern is the pattern of the route that starts rollouts.
const rolloutsPattern = "POST /1.0/provisioning/rollouts"

// isDryRun reports whether a request only shows its consequence. Routes that cannot show it refuse dry-run, because a client that sends it does not
// want the change.
func isDryRun(r *http.Request) (bool, error) {
	rt, given, text := routeOf(r), r.URL.Query().Has("dry-run"), r.URL.Query().Get("dry-run")
	switch showing, _ := rt.takes("dry-run"); {
	case showing && text == "":
		return r.Pattern == rolloutsPattern, nil // rollouts start with dry-run=0 alone
	case showing:
		dry, err := strconv.ParseBool(text)
		return dry && err == nil, nil // the endpoint refuses other texts
	case given && !rt.raw:
		return false, fmt.Errorf("%w: parameter dry-run is not known here", errBody)
	}
	return false, nil
}

// noteCarriedOut keeps that a request was carried out, although its answer may be an error.
func noteCarriedOut(w http.ResponseWriter) {
	if a, ok := w.(*auditedWriter); ok {
		a.carriedOut = true
	}
}

// Unwrap is for http.ResponseController.
func (a *auditedWriter) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// noteFailure keeps the error of a request whose outcome is logged.
func noteFailure(w http.ResponseWriter, err error) {
	if z, ok := w.(*zstdWriter); ok {
		w = z.ResponseWriter
	}
	if a, ok := w.(*auditedWriter); ok && a.failure == nil {
		a.failure = err
	}
}

func (h *Handler) entries() resource[*audit.Entry] {
	return resource[*audit.Entry]{h: h, show: always(func(e *audit.Entry) *audit.Entry { return e })}
}

// getAudit lists entries, the newest first, whole with and without recursion.
func (h *Handler) getAudit(w http.ResponseWriter, r *http.Request) {
	q, err := queryOf(r), error(nil)
	v := q.values
	wanted := audit.Query{By: v.Get("by"), Action: v.Get("action"), Server: v.Get("server"), Cluster: v.Get("cluster"), Outcome: audit.Outcome(v.Get("outcome"))}
	for name, into := range map[string]*time.Time{"since": &wanted.Since, "until": &wanted.Until} {
		if text := v.Get(name); text != "" {
			if *into, err = time.Parse(time.RFC3339, text); err != nil {
				err = fmt.Errorf("%w: %s %.40q is not a time, as 2026-08-01T00:00:00Z", errBody, name, text)
				break
			}
		}
	}
	h.entries().list(w, r, q, err, func(page opscenter.Page) ([]*audit.Entry, string, error) {
		wanted.Limit, wanted.Before = page.Limit, 0
		if page.Cursor != "" {
			before, err := strconv.ParseUint(page.Cursor, 10, 64)
			if err != nil || before == 0 {
				return nil, "", opscenter.ErrInvalidCursor
			}
			wanted.Before = before
		}
		found, err := h.options.Audit.List(r.Context(), wanted)
		next := ""
		if found.Next > 0 {
			next = strconv.FormatUint(found.Next, 10)
		}
		return pointers(found.Entries), next, err
	})
}

// watchAudit answers with a line of JSON for each entry after the given sequence number. It goes on with entries that are
// added or end later, until the client leaves. An empty line is a sign of life.
func (h *Handler) watchAudit(w http.ResponseWriter, r *http.Request) {
	after := uint64(0)
	if text := queryOf(r).valueOf("after"); text != "" {
		var err error
		if after, err = strconv.ParseUint(text, 10, 64); err != nil {
			h.fail(w, r, fmt.Errorf("%w: after %.40q is not a sequence number", errBody, text))
			return
		}
	}
	stream(h, w, r, streamed{media: "application/x-ndjson", beat: "\n"}, func(ctx context.Context) iter.Seq2[audit.Entry, error] { return h.options.Audit.Watch(ctx, after) },
		func(entry audit.Entry) (string, error) {
			line, err := json.Marshal(entry)
			return string(line) + "\n", err
		})
}
