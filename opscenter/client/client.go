// Package client is a client of the operators' API of a control plane (package httpapi). It is thin: a call names the path of the API, and
// the type of the document. The documents are those that the API describes at /1.0/openapi.json.
//
//	c, err := client.New(client.Options{URL: "https://control.example:7443", Token: secret})
//	server, err := client.Get[client.Server](ctx, c, client.Path("provisioning/servers", "alpha"), nil)
//	for server, err := range client.All[client.Server](ctx, c, client.Path("provisioning/servers"), url.Values{"facts": {"0"}}) {
//
// A failure that the API reports is an *Error. All functions may be called concurrently.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"strings"
)

// DefaultMaxAnswer is the default of Options.MaxAnswer.
const DefaultMaxAnswer = 64 << 20

// ErrInvalid means that options or an answer are not valid.
var ErrInvalid = errors.New("invalid")

// Options of New.
type Options struct {
	// URL is that of the control plane, as "https://control.example:7443". Required.
	URL string
	// HTTP sends the requests. Its transport has the client certificate, and trusts the certificate of the control plane.
	// Default: http.DefaultClient, which has no timeout.
	HTTP *http.Client
	// Token is the secret of an access token. Default: requests show none.
	Token string
	// MaxAnswer bounds an answer, in bytes. Default 64 MiB.
	MaxAnswer int64
}

// Client sends requests to the API.
type Client struct {
	base    string
	options Options
}

// New returns a client. Errors: ErrInvalid.
func New(options Options) (*Client, error) {
	u, err := url.Parse(options.URL)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return nil, fmt.Errorf("%w option URL %.80q: https:// and a host are wanted", ErrInvalid, options.URL)
	}
	if options.MaxAnswer < 0 {
		return nil, fmt.Errorf("%w option MaxAnswer: %d", ErrInvalid, options.MaxAnswer)
	}
	if options.HTTP == nil {
		options.HTTP = http.DefaultClient
	}
	if options.MaxAnswer == 0 {
		options.MaxAnswer = DefaultMaxAnswer
	}
	return &Client{base: strings.TrimRight(options.URL, "/"), options: options}, nil
}

// Error is a failure that the API reports.
type Error struct {
	// Status is the HTTP status. The package documentation of httpapi says what each means.
	Status int
	// Message names the fault.
	Message string
}

func (e *Error) Error() string { return e.Message }

// StatusOf returns the status of an *Error, and 0 for other errors.
func StatusOf(err error) int {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e.Status
	}
	return 0
}

// Path returns a path of the API, as Path("provisioning/servers", name, "system/:reboot"): /1.0/, and the parts. The second of each pair of
// parts is a name, which is escaped.
func Path(parts ...string) string {
	var b strings.Builder
	b.WriteString("/1.0")
	for i, part := range parts {
		b.WriteByte('/')
		if i%2 == 1 {
			part = url.PathEscape(part)
		}
		b.WriteString(part)
	}
	return b.String()
}

// answer is the envelope of all answers.
type answer struct {
	Type       string          `json:"type"`
	Error      string          `json:"error"`
	ErrorCode  int             `json:"error_code"`
	Metadata   json.RawMessage `json:"metadata"`
	NextCursor string          `json:"next_cursor"`
}

// Result is the part of an answer beside its document.
type Result struct {
	// Location is the path of the object that the request made or started. Empty: none.
	Location string
	// Next is the cursor of the next page of a list. Empty: this page is the last.
	Next string
}

// Send sends a request, and decodes the metadata of the answer into out. body is sent as JSON; nil: there is none. out may be nil. Errors:
// *Error, ErrInvalid for an answer that is none of the API, and those of the transport.
func (c *Client) Send(ctx context.Context, method, path string, query url.Values, body, out any) (Result, error) {
	resp, err := c.Do(ctx, method, path, query, body)
	if err != nil {
		return Result{}, err
	}
	defer resp.Body.Close()
	envelope, err := c.read(resp)
	if err != nil {
		return Result{}, err
	}
	result := Result{Location: resp.Header.Get("Location"), Next: envelope.NextCursor}
	if out != nil && len(envelope.Metadata) > 0 {
		if err := json.Unmarshal(envelope.Metadata, out); err != nil {
			return result, fmt.Errorf("%w answer of %s: %w", ErrInvalid, path, err)
		}
	}
	return result, nil
}

// Do sends a request, and returns the answer as it is, for files, images and streams. The caller closes its body. Errors: those of the transport.
// An answer that reports a failure is an answer.
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, body any) (*http.Response, error) {
	var sent io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("%w body: %w", ErrInvalid, err)
		}
		sent = bytes.NewReader(data)
	}
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, sent)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.options.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.options.Token)
	}
	return c.options.HTTP.Do(req)
}

// read reads the envelope of an answer.
func (c *Client) read(resp *http.Response) (*answer, error) {
	data, err := io.ReadAll(io.LimitReader(resp.Body, c.options.MaxAnswer+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > c.options.MaxAnswer {
		return nil, fmt.Errorf("%w answer: it is over %d bytes", ErrInvalid, c.options.MaxAnswer)
	}
	var envelope answer
	if err := json.Unmarshal(data, &envelope); err != nil || envelope.Type == "" {
		return nil, fmt.Errorf("%w answer: status %s, and no document of the API", ErrInvalid, resp.Status)
	}
	if envelope.Type == "error" || resp.StatusCode >= 400 {
		return nil, &Error{Status: resp.StatusCode, Message: envelope.Error}
	}
	return &envelope, nil
}

// Get returns a document. Errors: as of Client.Send.
func Get[T any](ctx context.Context, c *Client, path string, query url.Values) (out T, err error) {
	_, err = c.Send(ctx, http.MethodGet, path, query, nil, &out)
	return out, err
}

// List returns a page of a list of documents, and the cursor of the next page; empty: this page is the last. The query limit is the size of
// the page; without it the page has all. Errors: as of Client.Send.
func List[T any](ctx context.Context, c *Client, path string, query url.Values) (list []T, next string, err error) {
	result, err := c.Send(ctx, http.MethodGet, path, recursive(query), nil, &list)
	return list, result.Next, err
}

// All yields all documents of a list, page by page, from the one of the query cursor on. An error ends it. Errors: as of Client.Send.
func All[T any](ctx context.Context, c *Client, path string, query url.Values) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		query := recursive(query)
		if !query.Has("limit") {
			query.Set("limit", "500")
		}
		for {
			list, next, err := List[T](ctx, c, path, query)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, one := range list {
				if !yield(one, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			query.Set("cursor", next)
		}
	}
}

// recursive returns the query of whole documents.
func recursive(query url.Values) url.Values {
	out := url.Values{"recursion": {"1"}}
	maps.Copy(out, query)
	return out
}
