package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/internal/release"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/internal/facts"
)

// Forwarder sends a request to the API of a server, and returns its answer as it comes.
// incusos.Client is one.
type Forwarder interface {
	Forward(ctx context.Context, target opscenter.Target, req *http.Request) (*http.Response, error)
}

// forwardPattern is the server's own OS API, behind ours.
const forwardPattern = "/1.0/provisioning/servers/{name}/os/{path...}"

var (
	errNoForwarder = errors.New("servers' own APIs are not set up here")
	errForbidden   = errors.New("not for this caller")
	errNoRedaction = errors.New("the server's answer can't be shown without its secrets")
)

// The headers and methods that are handed on. Others are left out.
var (
	forwardedRequest = []string{"Accept", "Content-Type", "If-Match", "If-None-Match"}
	forwardedAnswer  = []string{"Content-Type", "Content-Disposition", "Etag", "Last-Modified", "Retry-After"}
	forwardedMethods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}
)

// forward hands a request on to the server's own OS API. The request is a new one, with the headers that are named above.
func (h *Handler) forward(w http.ResponseWriter, r *http.Request) {
	if !slices.Contains(forwardedMethods, r.Method) {
		w.Header().Set("Allow", strings.Join(forwardedMethods, ", "))
		h.fail(w, r, fmt.Errorf("method %.20s %w", r.Method, errMethod))
		return
	}
	info, err := h.registry.Server(r.Context(), r.PathValue("name"))
	var req *http.Request
	if err == nil {
		req, err = forwarded(r)
	}
	if err == nil && r.Method != http.MethodGet && r.Method != http.MethodHead {
		err = h.registry.Read(r.Context(), func(s *opscenter.Snapshot) error { return s.Free(info) }) // nothing comes between an operation and its server
	}
	if err == nil {
		err = info.OnIncusOS()
	}
	if err == nil && r.Method == http.MethodGet && isSecurity(r) && !h.shows(r) && !release.Has(info.State.Versions.OS.Version, release.SecurityReads) {
		err = fmt.Errorf("reading this marks the recovery keys of server %q as retrieved, and ShowSecrets does not allow you to see them: %w", info.Name, errForbidden)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.options.ForwardTimeout)
	defer cancel()
	control := http.NewResponseController(w)
	if r.ContentLength != 0 {
		// Ends with the body. Without one net/http reads ahead already: a deadline of that would end all requests of the
		// connection.
		_ = control.SetReadDeadline(time.Now().Add(h.options.ForwardTimeout))
	}
	_ = control.SetWriteDeadline(time.Now().Add(h.options.ForwardTimeout))
	deadline := time.Now().Add(h.options.ForwardTimeout)
	resp, err := h.options.Forward.Forward(ctx, info.Target(), req)
	if err != nil {
		_ = control.SetWriteDeadline(time.Now().Add(h.options.WriteTimeout)) // the deadline for the server's answer may be over
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			err = fmt.Errorf("%w: more than %d bytes", errTooLarge, tooLarge.Limit)
		}
		h.fail(w, r, err)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode < http.StatusOK || resp.StatusCode > 599 {
		h.fail(w, r, fmt.Errorf("%w: status %d", errNoRedaction, resp.StatusCode))
		return
	}
	if resp.StatusCode < http.StatusMultipleChoices {
		noteCarriedOut(w) // also if the answer can't be handed on
	}
	if err := h.answerForwarded(w, r, resp, h.shows(r), deadline); err != nil {
		h.fail(w, r, err)
	}
}

// shows reports whether the caller sees secrets in servers' answers.
func (h *Handler) shows(r *http.Request) bool {
	return h.options.ShowSecrets != nil && h.options.ShowSecrets(opscenter.Principal(r.Context()))
}

// isSecurity reports whether a request goes to the security section, which holds the recovery keys.
func isSecurity(r *http.Request) bool {
	return strings.Trim(r.PathValue("path"), "/") == "1.0/system/security"
}

// takesKeys reports whether a request shows recovery keys. The audit log has such requests.
func (h *Handler) takesKeys(r *http.Request) bool {
	return r.Pattern == forwardPattern && r.Method == http.MethodGet && isSecurity(r) && h.shows(r)
}

// forwarded makes the request that is sent to the server: with a checked path, a query and the harmless headers.
func forwarded(r *http.Request) (*http.Request, error) {
	// /1.0/provisioning/servers/NAME/os/REST, with each segment however it is written
	parts := strings.SplitN(r.URL.EscapedPath(), "/", 7)
	if len(parts) < 7 {
		return nil, fmt.Errorf("%w: the path can't be read", errBody)
	}
	path, err := plainPath(parts[6])
	if err != nil {
		return nil, err
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("%w: the query can't be read", errBody)
	}
	where, err := url.Parse(path)
	if err != nil {
		return nil, fmt.Errorf("%w: the path can't be read", errBody)
	}
	where.RawQuery = query.Encode()
	out := &http.Request{Method: r.Method, URL: where, Header: http.Header{"User-Agent": {"opscenter"}}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	for _, name := range forwardedRequest {
		if value := r.Header.Get(name); value != "" {
			out.Header.Set(name, value)
		}
	}
	if r.ContentLength != 0 {
		out.Body, out.ContentLength = r.Body, r.ContentLength
	}
	return out, nil
}

// plainPath returns a path below /os in its escaped form. It refuses paths that lead to another place on the server.
func plainPath(below string) (string, error) {
	path := "/os"
	for segment := range strings.SplitSeq(below, "/") {
		plain, err := url.PathUnescape(segment)
		if err != nil || plain == "." || plain == ".." || strings.ContainsFunc(plain, func(c rune) bool { return c < ' ' || c == 0x7f || c == '/' || c == '\\' }) {
			return "", fmt.Errorf("%w: the path holds %.40q", errBody, segment)
		}
		path += "/" + url.PathEscape(plain)
	}
	return path, nil
}

// answerForwarded hands an answer on. With open it goes on as it comes, and otherwise without secrets. With an error nothing was
// answered so far.
func (h *Handler) answerForwarded(w http.ResponseWriter, r *http.Request, resp *http.Response, open bool, deadline time.Time) error {
	var body io.Reader = resp.Body
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case resp.StatusCode >= http.StatusMultipleChoices && resp.StatusCode < http.StatusBadRequest && resp.StatusCode != http.StatusNotModified:
		// A client would follow it, with its own certificate, to where the server wants it.
		return fmt.Errorf("%w: it redirects", errNoRedaction)
	case open || r.Method == http.MethodHead || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified:
	default:
		data, err := io.ReadAll(io.LimitReader(resp.Body, h.options.MaxRedacted+1))
		switch {
		case err != nil:
			return fmt.Errorf("%w: %w", opscenter.ErrUnreachable, err)
		case int64(len(data)) > h.options.MaxRedacted:
			return fmt.Errorf("%w: it is larger than %d bytes", errNoRedaction, h.options.MaxRedacted)
		case len(data) == 0:
		case kind != "application/json":
			return fmt.Errorf("%w: it is of type %.80q: %w", errNoRedaction, kind, errForbidden)
		default:
			if data, err = facts.RedactSecrets(data); err != nil {
				return fmt.Errorf("%w: it is no JSON", errNoRedaction)
			}
		}
		body = bytes.NewReader(data)
	}
	for _, name := range forwardedAnswer {
		if value := resp.Header.Get(name); value != "" {
			w.Header().Set(name, value)
		}
	}
	if place, ok := strings.CutPrefix(resp.Header.Get("Location"), "/os/"); ok {
		if path, err := plainPath(place); err == nil {
			w.Header().Set("Location", serverPath(r.PathValue("name"))+path)
		}
	}
	// A browser must not run a server's content as a page of the control plane.
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Security-Policy", "sandbox; default-src 'none'")
	if disposition := w.Header().Get("Content-Disposition"); kind != "application/json" && kind != "" && !strings.HasPrefix(disposition, "attachment") {
		w.Header().Set("Content-Disposition", "attachment")
	}
	if resp.StatusCode >= http.StatusBadRequest {
		noteFailure(w, fmt.Errorf("the server answered with status %d: %w", resp.StatusCode, opscenter.ErrRefused))
	}
	w.WriteHeader(resp.StatusCode)
	if err := h.copyForwarded(w, body, deadline); err != nil {
		h.options.Logger.InfoContext(r.Context(), "a server's answer was cut off", "server", r.PathValue("name"), "error", err)
		noteFailure(w, fmt.Errorf("its answer was cut off: %w", opscenter.ErrOutcomeUnknown))
		panic(http.ErrAbortHandler) // the client must not take half an answer for the whole
	}
	return nil
}

// copyForwarded copies an answer as it comes, of at most MaxForward bytes. The server may pause
// until the deadline, the reader not for longer than WriteTimeout.
func (h *Handler) copyForwarded(w http.ResponseWriter, body io.Reader, deadline time.Time) error {
	control := http.NewResponseController(w)
	buffer := make([]byte, 32<<10)
	for total := int64(0); ; {
		n, err := body.Read(buffer)
		if total += int64(n); total > h.options.MaxForward {
			return fmt.Errorf("%w: more than %d bytes", errTooLarge, h.options.MaxForward)
		}
		if n > 0 {
			_ = control.SetWriteDeadline(time.Now().Add(h.options.WriteTimeout))
			if _, err := w.Write(buffer[:n]); err != nil {
				return err
			}
			_ = control.Flush()
			_ = control.SetWriteDeadline(deadline.Add(h.options.WriteTimeout))
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}
