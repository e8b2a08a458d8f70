package incusos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/lxc/incus/v6/shared/api"
	"golang.org/x/time/rate"

	"github.com/opscenter-go/sdk/internal/truncate"
	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/inventory"
)

// Limits of the stream of events.
const (
	maxEvent    = 1 << 20 // bytes
	maxBuffered = 256     // events received before Next is called
	// maxName bounds the names in an event in bytes, and maxSource the path of its object. An event with longer ones
	// is reported without its object.
	maxName   = inventory.MaxNameLength
	maxSource = inventory.MaxSourceLength
	// maxEventRate bounds the events read per second, and maxEventBytes their bytes per second. A daemon that sends
	// more has to wait. Bursts of four times as many are allowed.
	maxEventRate  = 1000
	maxEventBytes = 1 << 20
	pingInterval  = 20 * time.Second
	pongTimeout   = 60 * time.Second
)

// Describe reads whether an Incus daemon is clustered, and its API extensions. It is a method of
// inventory.Incus. Its errors and those of ReadObject and ReadList are not classified: they wrap an
// api.StatusError if the daemon answered with an error.
func (c *Client) Describe(ctx context.Context, target opscenter.Target) (out inventory.Daemon, err error) {
	var server struct {
		Auth        string   `json:"auth"`
		Extensions  []string `json:"api_extensions"`
		Environment struct {
			Clustered bool `json:"server_clustered"`
		} `json:"environment"`
	}
	data, err := c.ReadObject(ctx, target, "/1.0")
	if err == nil {
		err = json.Unmarshal(data, &server)
	}
	if err == nil && server.Auth != "trusted" {
		err = errUntrusted
	}
	return inventory.Daemon{Clustered: server.Environment.Clustered, Extensions: server.Extensions}, err
}

// ReadObject sends a GET request, and returns the metadata of the answer, which must be a JSON object. An
// object over Options.MaxObject is an api.StatusError with status 413, like a refusal by the daemon. It
// is a method of inventory.Incus.
func (c *Client) ReadObject(ctx context.Context, target opscenter.Target, path string) (json.RawMessage, error) {
	peer, err := c.fleet.peer(target)
	if err != nil {
		return nil, err
	}
	peer.object = true
	data, err := (&probe{peer: peer, ctx: ctx}).object(path)
	if errors.Is(err, ErrBodyTooLarge) {
		err = tooLarge(err, c.options.MaxObject)
	}
	return data, err
}

// tooLarge returns the error of an object over the limit. It has the form of an answer by the daemon: the daemon works,
// and other objects can be read.
func tooLarge(err error, limit int64) error {
	return fmt.Errorf("%w: %w", api.StatusErrorf(http.StatusRequestEntityTooLarge, "an object of more than %d bytes", limit), err)
}

// ReadList sends a GET request, and calls use with each entry of the list in the answer. It holds one entry
// in memory; use must not keep it. Options.ListTimeout bounds the wait for the answer to begin. ctx bounds
// the whole call. An error of use ends the call. It is a method of inventory.Incus.
func (c *Client) ReadList(ctx context.Context, target opscenter.Target, path string, use func(json.RawMessage) error) error {
	p, err := c.fleet.peer(target)
	if err != nil {
		return err
	}
	p.patient = true
	req := &http.Request{Method: http.MethodGet, Header: http.Header{"User-Agent": userAgent}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if req.URL, err = url.Parse("https://" + p.host + path); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	resp, err := p.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusMultipleChoices && resp.StatusCode < http.StatusBadRequest {
		return fmt.Errorf("GET %s: %w", path, ErrRedirect)
	}
	if err := readList(resp.Body, resp.StatusCode, c.options.MaxObject, use); err != nil {
		if resp.StatusCode >= http.StatusBadRequest && errors.Is(err, errAnswer) { // the answer of a proxy
			err = api.StatusErrorf(resp.StatusCode, "%s", http.StatusText(resp.StatusCode))
		}
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

// readList reads an answer whose metadata is a list, entry by entry. An entry over the limit in bytes is an error.
func readList(body io.Reader, status int, limit int64, use func(json.RawMessage) error) error {
	bounded := &entryReader{Reader: body, limit: limit, left: limit}
	d := json.NewDecoder(bounded)
	var kind, message string
	var code int
	listed := false
	malformed := func(err error) error { return fmt.Errorf("%w: %w", errAnswer, err) }
	if token, err := d.Token(); err != nil || token != json.Delim('{') {
		return malformed(errors.Join(err, errNoObject))
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return malformed(err)
		}
		switch key {
		case "type":
			err = d.Decode(&kind)
		case "error":
			err = d.Decode(&message)
		case "error_code":
			err = d.Decode(&code)
		case "metadata":
			if kind == string(api.SyncResponse) {
				listed = true
				if err := readEntries(d, bounded, use); err != nil {
					return err
				}
				continue
			}
			fallthrough
		default:
			var skipped json.RawMessage
			err = d.Decode(&skipped)
		}
		if err != nil {
			return malformed(err)
		}
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return malformed(err)
	}
	switch {
	case kind == string(api.ErrorResponse):
		if code == 0 {
			code = status
		}
		return api.StatusErrorf(code, "%s", truncate.Text(message, maxMessage))
	case !listed:
		return fmt.Errorf("%w: type %q, not a list", errAnswer, truncate.Text(kind, maxText))
	}
	return nil
}

var errNoObject = errors.New("not an object")

// readEntries reads the entries of a list, and its end.
func readEntries(d *json.Decoder, bounded *entryReader, use func(json.RawMessage) error) error {
	switch token, err := d.Token(); {
	case err != nil:
		return fmt.Errorf("%w: %w", errAnswer, err)
	case token == nil: // some daemons send null for an empty list
		return nil
	case token != json.Delim('['):
		return fmt.Errorf("%w: the metadata is not a list", errAnswer)
	}
	var entry json.RawMessage
	for d.More() {
		bounded.left = bounded.limit
		entry = entry[:0]
		if err := d.Decode(&entry); err != nil {
			if errors.Is(err, ErrBodyTooLarge) {
				return tooLarge(err, bounded.limit)
			}
			return fmt.Errorf("%w: %w", errAnswer, err)
		}
		if int64(len(entry)) > bounded.limit { // bounded does not count the part that was read with the previous entry
			return tooLarge(ErrBodyTooLarge, bounded.limit)
		}
		if err := use(entry); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return err
}

// entryReader bounds the bytes read for one entry.
type entryReader struct {
	io.Reader
	limit, left int64
}

func (r *entryReader) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, ErrBodyTooLarge
	}
	n, err := r.Reader.Read(p)
	r.left -= int64(n)
	return n, err
}

// Events opens a stream of the lifecycle events of all projects. It returns once the daemon has answered a
// ping on the stream, so the stream has all later events. The stream ends with ctx, with Close, or after
// the daemon sent nothing for a minute. The caller must close it. It is a method of inventory.Incus.
func (c *Client) Events(ctx context.Context, target opscenter.Target) (inventory.Stream, error) {
	p, err := c.fleet.peer(target)
	if err != nil {
		return nil, err
	}
	if c.fleet.closing.Err() != nil {
		return nil, ErrClosed
	}
	bounded, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	deadline, _ := bounded.Deadline()
	stop := func() bool { return true }
	var header *headerConn
	dialer := websocket.Dialer{
		HandshakeTimeout: c.options.Timeout,
		ReadBufferSize:   4 << 10,
		WriteBufferSize:  1 << 10,
		NetDialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			conn, err := c.fleet.dial(context.WithValue(ctx, callKey{}, call{p, deadline}), network)
			if err != nil {
				return nil, err
			}
			// The websocket library does not end the upgrade with its context: close the connection then.
			ending, cancel := context.WithCancel(bounded)
			closing := context.AfterFunc(c.fleet.closing, cancel)
			stopped := context.AfterFunc(ending, func() { conn.Close() })
			stop = func() bool {
				defer cancel()
				closing()
				return stopped()
			}
			header = &headerConn{Conn: conn}
			header.left.Store(maxHeader)
			return header, nil
		},
	}
	const path = "/1.0/events?type=lifecycle&all-projects=true"
	conn, resp, err := dialer.DialContext(bounded, "wss://"+p.host+path, http.Header{"User-Agent": userAgent})
	stop()
	if header != nil {
		header.left.Store(math.MaxInt64)
	}
	switch {
	case err != nil && bounded.Err() != nil:
		return nil, fmt.Errorf("GET %s: %w", path, bounded.Err())
	case errors.Is(err, os.ErrDeadlineExceeded): // the connection has the deadline of the context
		return nil, fmt.Errorf("GET %s: %w", path, context.DeadlineExceeded)
	case err != nil:
		if resp != nil {
			resp.Body.Close()
			err = api.StatusErrorf(resp.StatusCode, "%s", http.StatusText(resp.StatusCode))
		}
		return nil, fmt.Errorf("GET %s: %w", path, err)
	case resp.Header.Get("Sec-WebSocket-Extensions") != "": // compression was not requested, and would make the limits on sizes useless
		conn.Close()
		return nil, fmt.Errorf("GET %s: %w: an extension that was not requested", path, errAnswer)
	}
	s := &stream{conn: conn, events: make(chan *inventory.Event, maxBuffered), ended: make(chan struct{}), heard: make(chan struct{})}
	s.begin(ctx, c.fleet.closing)
	select {
	case <-s.heard:
		return s, nil
	case <-s.ended:
		err = s.err
	case <-bounded.Done():
		err = bounded.Err()
	}
	s.Close()
	return nil, fmt.Errorf("GET %s: %w", path, err)
}

// headerConn bounds the bytes read from a connection until the header was read. The websocket library has no such limit.
type headerConn struct {
	net.Conn
	left atomic.Int64
}

func (c *headerConn) Read(p []byte) (int, error) {
	left := c.left.Load()
	if left <= 0 {
		return 0, ErrBodyTooLarge
	}
	n, err := c.Conn.Read(p[:min(int64(len(p)), left)])
	c.left.Add(int64(-n))
	return n, err
}

// stream reads events from a websocket. The event listener of the Incus client is of no use here: it
// delivers events out of order, and does not end with its context.
type stream struct {
	conn   *websocket.Conn
	events chan *inventory.Event
	ended  chan struct{} // closed when the reader has ended, with err
	err    error
	heard  chan struct{} // closed when the first ping was answered
	once   sync.Once
	stop   context.CancelFunc
	group  sync.WaitGroup
}

// begin starts the goroutines that read events and send pings.
func (s *stream) begin(ctx, closing context.Context) {
	ctx, s.stop = context.WithCancel(ctx)
	stopped := context.AfterFunc(closing, s.stop)
	s.conn.SetReadLimit(maxEvent)
	alive := func() { _ = s.conn.SetReadDeadline(time.Now().Add(pongTimeout)) }
	alive()
	s.conn.SetPongHandler(func(string) error {
		alive()
		s.once.Do(func() { close(s.heard) })
		return nil
	})
	s.group.Go(func() {
		defer close(s.ended)
		s.err = s.read(ctx, alive)
	})
	s.group.Go(func() {
		defer stopped()
		s.ping(ctx)
		s.conn.Close() // ends the reader
	})
}

// ping sends pings until the stream ends.
func (s *stream) ping(ctx context.Context) {
	ticker := time.NewTicker(pingInterval)
	defer ticker.Stop()
	for {
		if s.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(pingInterval)) != nil {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		case <-s.ended:
			return
		}
	}
}

// read reads events until the stream ends, and returns the reason.
func (s *stream) read(ctx context.Context, alive func()) error {
	perEvent, perByte := rate.NewLimiter(maxEventRate, 4*maxEventRate), rate.NewLimiter(maxEventBytes, 4*maxEventBytes)
	for {
		_, data, err := s.conn.ReadMessage()
		if err != nil {
			return err
		}
		if err := errors.Join(perEvent.Wait(ctx), perByte.WaitN(ctx, len(data))); err != nil {
			return err
		}
		alive()
		event, err := parseEvent(data)
		if err != nil {
			return err
		}
		if event == nil {
			continue
		}
		select {
		case s.events <- event:
			continue
		default:
		}
		select {
		case <-s.heard:
		default:
			continue // Events has not returned yet, and promises only later events
		}
		select {
		case s.events <- event:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// parseEvent parses an event. It returns nil for other kinds than lifecycle events. An unreadable message
// is an error, because a change could be missed otherwise.
func parseEvent(data []byte) (*inventory.Event, error) {
	var raw struct {
		Type      string              `json:"type"`
		Timestamp time.Time           `json:"timestamp"`
		Metadata  *api.EventLifecycle `json:"metadata"`
		Location  string              `json:"location"`
		Project   string              `json:"project"`
	}
	var kind struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(data, &kind); err != nil {
		return nil, fmt.Errorf("%w: %w", errAnswer, err)
	}
	if kind.Type != api.EventTypeLifecycle {
		return nil, nil
	}
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("%w: %w", errAnswer, err)
	}
	if raw.Metadata == nil || raw.Metadata.Action == "" {
		return nil, fmt.Errorf("%w: an event without an action", errAnswer)
	}
	out := &inventory.Event{Action: raw.Metadata.Action, Source: raw.Metadata.Source, Project: raw.Project, Location: raw.Location, At: raw.Timestamp}
	out.OldName, _ = raw.Metadata.Context["old_name"].(string)
	if r := raw.Metadata.Requestor; r != nil && r.Username != "" {
		out.Requestor = truncate.Text(r.Protocol+"/"+r.Username, maxText)
	}
	if len(out.Action) > maxText {
		out.Action = truncate.Text(out.Action, maxText)
	}
	if len(out.OldName) > maxName {
		out.OldName = ""
	}
	if len(out.Source) > maxSource || len(out.Project) > maxName || len(out.Location) > maxName {
		out.Source, out.Project, out.Location = "", "", ""
	}
	return out, nil
}

// Next waits for the next event, in the order in which the daemon sent them. It returns an error after the end
// of the stream and its last event.
func (s *stream) Next() (*inventory.Event, error) {
	select {
	case e := <-s.events:
		return e, nil
	default:
	}
	select {
	case e := <-s.events:
		return e, nil
	case <-s.ended:
		select {
		case e := <-s.events: // received before the end
			return e, nil
		default:
			return nil, s.err
		}
	}
}

// Close ends the stream, and waits for its goroutines. The error is always nil.
func (s *stream) Close() error {
	s.stop()
	s.group.Wait()
	return nil
}
