package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/access"
	"github.com/opscenter-go/sdk/opscenter/audit"
	"github.com/opscenter-go/sdk/opscenter/event"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/storage/memstore"
)

// oneEvent is an event as the API shows it.
type oneEvent struct {
	Sequence uint64     `json:"sequence"`
	Type     event.Kind `json:"type"`
	Reason   string     `json:"reason"`
}

// stream opens a stream of events. next returns the next event with its id.
func (p *plane) stream(path string, header ...string) (resp *http.Response, next func() (id string, e oneEvent)) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	p.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
	require.NoError(p.t, err)
	r.Header.Set("Accept", "text/event-stream")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err = p.client(&p.operator).Do(r)
	require.NoError(p.t, err)
	p.t.Cleanup(func() { resp.Body.Close() })
	lines := bufio.NewScanner(resp.Body)
	return resp, func() (id string, e oneEvent) {
		p.t.Helper()
		for lines.Scan() {
			if text, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
				id = text
			}
			if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				require.NoError(p.t, json.Unmarshal([]byte(text), &e))
				return id, e
			}
		}
		require.NoError(p.t, lines.Err())
		require.Fail(p.t, "the stream has ended")
		return "", e
	}
}

func TestEvents(t *testing.T) {
	p := start(t, func(o *httpapi.Options) { o.MaxStreams = 2 })
	client := p.client(&p.operator)
	made := func(n int) {
		require.NoError(t, p.registry.Channels().Create(t.Context(), fmt.Sprintf("c%d", n), ""))
	}
	made(1)
	resp, next := p.stream("/1.0/events")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
	made(2)
	id, e := next()
	require.Equal(t, event.ChannelCreated, e.Type)
	require.Contains(t, e.Reason, "c2", "a stream begins with what comes")
	require.Equal(t, fmt.Sprint(e.Sequence), id)
	made(3)
	made(4)
	_, third := next()
	require.Contains(t, third.Reason, "c3")
	// A client that lost its connection goes on where it was.
	_, again := p.stream("/1.0/events?after=1", "Last-Event-ID", fmt.Sprint(third.Sequence))
	_, fourth := again()
	require.Contains(t, fourth.Reason, "c4")
	require.Equal(t, 501, p.call(client, "GET", "/1.0/audit/:watch", "").ErrorCode, "no log is kept here")
	refused, _ := p.stream("/1.0/events")
	require.Equal(t, 503, refused.StatusCode)
	require.NotEmpty(t, refused.Header.Get("Retry-After"))
	for _, query := range []string{"after=x", "limit=1", "cursor=1", "recursion=1"} {
		wrong, _ := p.stream("/1.0/events?" + query)
		require.Equal(t, 400, wrong.StatusCode, query)
	}
	resp.Body.Close()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		again, _ := p.stream("/1.0/events")
		again.Body.Close()
		if again.StatusCode == 200 {
			break // a place is free again
		}
		require.True(t, time.Now().Before(deadline), again.Status)
	}

	// The list has the newest first, in pages.
	var page, rest []oneEvent
	first := p.call(client, "GET", "/1.0/events?limit=3", "")
	first.decode(t, &page)
	require.Len(t, page, 3)
	require.Contains(t, page[0].Reason, "c4")
	p.call(client, "GET", "/1.0/events?limit=1000&cursor="+first.NextCursor, "").decode(t, &rest)
	require.Contains(t, rest[0].Reason, "c1")
	require.Less(t, rest[0].Sequence, page[2].Sequence)
	require.Equal(t, 400, p.call(client, "GET", "/1.0/events?cursor=x", "").ErrorCode)
	require.Equal(t, 400, p.call(client, "GET", "/1.0/events?after=1", "").ErrorCode, "of a stream")
	require.JSONEq(t, `[]`, string(p.call(client, "GET", "/1.0/events?server=nowhere", "").Metadata))
}

// flushed is a response that is read while it is written.
type flushed struct {
	io.Writer
	header http.Header
}

func (f flushed) Header() http.Header { return f.header }
func (f flushed) WriteHeader(int)     {}
func (f flushed) Flush()              {}

// TestStreamsEndWithTheRight: a stream ends within HeartbeatInterval after its client is no longer admitted.
func TestStreamsEndWithTheRight(t *testing.T) {
	own := newCertificate(t, "control plane")
	changes := map[string]func(*access.Principal) error{
		"revoked": func(*access.Principal) error { return access.ErrForbidden },
		"lowered": func(p *access.Principal) error { p.Role = ""; return nil },
		"scoped":  func(p *access.Principal) error { p.Scope.Clusters = []string{"c"}; return nil },
	}
	for name, change := range changes {
		for path, sign := range map[string]string{"/1.0/events": ":\n\n", "/1.0/audit/:watch": "\n"} {
			t.Run(name+path, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					registry, err := opscenter.NewRegistry(memstore.New(), opscenter.Options{})
					require.NoError(t, err)
					defer registry.Close()
					var ended atomic.Bool
					log, err := audit.New(registry, audit.Options{})
					require.NoError(t, err)
					handler, err := httpapi.New(registry, httpapi.Options{Audit: log, ClientCertificate: own.Leaf, Authorize: func(*http.Request) (access.Principal, error) {
						p := access.Principal{Name: "x", Grant: access.Grant{Role: access.RoleViewer}}
						if ended.Load() {
							err := change(&p)
							return p, err
						}
						return p, nil
					}})
					require.NoError(t, err)
					r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
					r.Header.Set("Accept", "text/event-stream")
					var out strings.Builder
					done := make(chan struct{})
					go func() {
						defer close(done)
						handler.ServeHTTP(flushed{&out, http.Header{}}, r)
					}()
					time.Sleep(4*httpapi.HeartbeatInterval + time.Second)
					synctest.Wait()
					select {
					case <-done:
						require.Fail(t, "the stream has ended", out.String())
					default:
					}
					ended.Store(true)
					time.Sleep(httpapi.HeartbeatInterval)
					synctest.Wait()
					<-done
					require.Equal(t, strings.Repeat(sign, 4), out.String()[len(out.String())-4*len(sign):], "signs of life")
				})
			})
		}
	}
}
