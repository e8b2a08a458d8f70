package updates

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opscenter-go/sdk/internal/smime"
)

// DefaultSource is the URL of the public server of IncusOS.
const DefaultSource = "https://images.linuxcontainers.org/os/"

const (
	// DefaultStallTimeout is the default of HTTPOptions.StallTimeout.
	DefaultStallTimeout = 30 * time.Second
	maxRedirects        = 3
)

// HTTPOptions are the options of NewHTTP. The zero value reads the public server of IncusOS.
type HTTPOptions struct {
	// URL is the parent of index.sjson and of the files. Default DefaultSource.
	URL string
	// Trust verifies the signature of the index. Default: IncusOS.
	Trust Trust
	// Hosts are the hosts, besides that of URL, to which the source may redirect. Their data is verified as well. Default:
	// none.
	Hosts []string
	// StallTimeout is the time within which the source must send 16 KiB, or the rest of the file. Default 30 s.
	StallTimeout time.Duration
	// Token, unless nil, returns the token that authenticates this control plane to the source. HTTP sends it in the
	// header X-IncusOS-Authentication.
	Token func(ctx context.Context) (string, error)
	// TokenInQuery sends the token as the parameter token of the request for the index, instead of the header.
	TokenInQuery bool
	// Transport carries the requests. Default: a new one, with the proxy of the environment.
	Transport http.RoundTripper
}

// HTTP is a Source on a web server. It may be used concurrently.
type HTTP struct {
	base    *url.URL
	options HTTPOptions
	client  *http.Client
}

// NewHTTP returns a Source for options. Errors: ErrInvalid for an unusable URL.
func NewHTTP(options HTTPOptions) (*HTTP, error) {
	if options.URL == "" {
		options.URL = DefaultSource
	}
	if options.StallTimeout <= 0 {
		options.StallTimeout = DefaultStallTimeout
	}
	base, err := checkSource(options.URL)
	if err != nil {
		return nil, err
	}
	h := &HTTP{base: base, options: options}
	if options.Transport == nil {
		options.Transport = &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: options.StallTimeout, IdleConnTimeout: 30 * time.Second, ForceAttemptHTTP2: true,
			DisableCompression: true} // the sums are those of the files as they are
	}
	h.client = &http.Client{Transport: options.Transport, CheckRedirect: h.redirect}
	return h, nil
}

// checkSource accepts an HTTP or HTTPS URL without credentials, query or fragment.
func checkSource(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("source can't be read as a URL: %w", ErrInvalid) // omit the parser's error, which repeats the URL with its secrets
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		return nil, fmt.Errorf("source %.200q: it must be an https URL, or empty if updates are only uploaded: %w", u.Redacted(), ErrInvalid)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("source %.200q: it must not have credentials, a query or a fragment: %w", u.Redacted(), ErrInvalid)
	}
	return u, nil
}

// redirect allows redirects to the source's own host and to Hosts, and none from https to another scheme.
func (h *HTTP) redirect(r *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("more than %d redirects: %w", maxRedirects, ErrRedirect)
	case r.URL.Scheme != "https" && r.URL.Scheme != via[0].URL.Scheme:
		return fmt.Errorf("a redirect from %s to %.20s: %w", via[0].URL.Scheme, r.URL.Scheme, ErrRedirect)
	case !strings.EqualFold(r.URL.Host, h.base.Host) && !slices.ContainsFunc(h.options.Hosts, func(host string) bool { return strings.EqualFold(host, r.URL.Host) }):
		return fmt.Errorf("%w, %.200q, which is not among HTTPOptions.Hosts", ErrRedirect, r.URL.Host)
	}
	r.Header.Del("Referer") // it may contain the token
	if !strings.EqualFold(r.URL.Host, h.base.Host) {
		r.Header.Del(authenticationHeader)
	}
	return nil
}

// authenticationHeader is the header for HTTPOptions.Token.
const authenticationHeader = "X-IncusOS-Authentication"

// get requests a path below the URL. Reading the body returns ErrStalled if the source stalls.
func (h *HTTP) get(ctx context.Context, path string, offset int64) (*http.Response, error) {
	target := h.base.JoinPath(path)
	token := ""
	if h.options.Token != nil {
		var err error
		if token, err = h.options.Token(ctx); err != nil {
			return nil, fmt.Errorf("the token for the source: %w", err)
		}
		if h.options.TokenInQuery && path == indexName {
			target.RawQuery = url.Values{"token": {token}}.Encode()
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stalled := fmt.Errorf("no data for %s: %w", h.options.StallTimeout, ErrStalled)
	timer := time.AfterFunc(h.options.StallTimeout, func() { cancel(stalled) })
	end := func() {
		timer.Stop()
		cancel(context.Canceled)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		end()
		return nil, fmt.Errorf("can't request %s: %w", path, ErrInvalid)
	}
	r.Header.Set("User-Agent", "opscenter")
	if token != "" && !h.options.TokenInQuery {
		r.Header.Set(authenticationHeader, token)
	}
	if offset > 0 {
		r.Header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
	}
	resp, err := h.client.Do(r)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		end()
		var whole *url.Error
		if errors.As(err, &whole) {
			err = whole.Err // url.Error repeats the URL with the token
		}
		return nil, fmt.Errorf("GET %s: %w", path, err)
	}
	resp.Body = &watchedBody{ReadCloser: resp.Body, ctx: ctx, timer: timer, timeout: h.options.StallTimeout, end: end}
	return resp, nil
}

// watchedBody is a body that fails if fewer than minRate bytes arrive within the timeout.
type watchedBody struct {
	io.ReadCloser
	ctx      context.Context
	timer    *time.Timer
	timeout  time.Duration
	received int // since the timer was set
	end      func()
}

// minRate is the number of bytes that a source must send within HTTPOptions.StallTimeout, unless the body ends.
const minRate = 16 << 10

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.received += n; b.received >= minRate {
		b.received = 0
		b.timer.Reset(b.timeout)
	}
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

// Close implements io.Closer.
func (b *watchedBody) Close() error {
	b.end()
	return b.ReadCloser.Close()
}

// Index implements Source.
func (h *HTTP) Index(ctx context.Context) (*Index, error) {
	resp, err := h.get(ctx, indexName, 0)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: status %d", indexName, resp.StatusCode)
	}
	message, err := readBounded(resp.Body, smime.MaxMessage)
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", indexName, err)
	}
	index, err := h.options.Trust.Index(message)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", indexName, err)
	}
	return index, nil
}

// Open implements Source.
func (h *HTTP) Open(ctx context.Context, u *Update, f *File, offset int64) (io.ReadCloser, int64, error) {
	path := strings.Trim(u.URL, "/") + "/" + f.Filename
	resp, err := h.get(ctx, path, offset)
	if err != nil {
		return nil, 0, err
	}
	switch status := resp.StatusCode; {
	case resp.Header.Get("Content-Encoding") != "" && resp.Header.Get("Content-Encoding") != "identity":
		err = fmt.Errorf("GET %s: content encoding %.40q, which was not requested: %w", path, resp.Header.Get("Content-Encoding"), ErrMismatch)
	case status == http.StatusOK:
		return resp.Body, 0, nil
	case status == http.StatusPartialContent && offset > 0:
		if begins, ok := rangeBegins(resp.Header.Get("Content-Range")); ok && begins == offset {
			return resp.Body, offset, nil
		}
		err = fmt.Errorf("GET %s: the source sent another range than requested: %w", path, ErrMismatch)
	case status == http.StatusRequestedRangeNotSatisfiable:
		err = fmt.Errorf("GET %s: the file is shorter than described: %w", path, ErrMismatch)
	case status == http.StatusNotFound || status == http.StatusGone || status == http.StatusForbidden:
		err = fmt.Errorf("GET %s: status %d: %w", path, status, ErrGone)
	default:
		err = fmt.Errorf("GET %s: status %d", path, status)
	}
	resp.Body.Close()
	return nil, 0, err
}

// rangeBegins returns the first byte of a Content-Range such as "bytes 100-199/200".
func rangeBegins(header string) (int64, bool) {
	text, ok := strings.CutPrefix(header, "bytes ")
	first, _, found := strings.Cut(text, "-")
	begins, err := strconv.ParseInt(first, 10, 64)
	return begins, ok && found && err == nil && begins >= 0
}
