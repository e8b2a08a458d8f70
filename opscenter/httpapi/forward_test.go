package httpapi_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter"
	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/lifecycle"
)

// TestForward: operators use the server's own API, without secrets.
func TestForward(t *testing.T) {
	p, servers := changing(t, nil, "a")
	client := p.client(&p.operator)
	os := serversPath + "a/os"
	got := p.call(client, "GET", os+"/1.0", "")
	require.Equal(t, "sync", got.Type, got.text)
	require.Contains(t, string(got.Metadata), servers["a"].MachineID())
	security := p.call(client, "GET", os+"/1.0/system/security", "")
	require.Equal(t, "sync", security.Type, security.text)
	require.NotContains(t, security.text, "simulated-")
	require.NotContains(t, p.call(client, "GET", os+"/1.0/system/network", "").text, "c2ltdWxhdGVkLXBy")
	require.Equal(t, "sync", p.call(client, "PUT", os+"/1.0/system/kernel", `{"config":{"blacklist_modules":["floppy"]}}`).Type)
	require.Contains(t, p.call(client, "GET", os+"/1.0/system/kernel", "").text, "floppy")
	a := p.call(client, "GET", os+"/1.0/nothing", "")
	require.Equal(t, 404, a.http.StatusCode)
	require.Equal(t, "error", a.Type)

	require.Equal(t, 401, p.call(p.client(nil), "GET", os+"/1.0", "").ErrorCode)
	require.Equal(t, 404, p.call(client, "GET", serversPath+"none/os/1.0", "").ErrorCode)
	require.Equal(t, 405, p.call(client, "TRACE", os+"/1.0", "").ErrorCode)
	for _, path := range []string{"/%2e%2e/1.0/instances", "/1.0/..%2f..%2f1.0", "/1.0%5c..", "/1.0/%00", "/1.0/%2E%2E/x"} {
		require.Equal(t, 400, p.call(client, "GET", os+path, "").ErrorCode, path)
	}
	require.Equal(t, "sync", p.call(client, "GET", serversPath+"a/o%73/1.0", "").Type, "however it is written")
	require.Equal(t, 404, p.call(client, "GET", serversPath+"a/o%73/1.0/services/os/1.0", "").http.StatusCode, "all of it is the path")
	// A change is logged, and does not interrupt an operation on its server.
	require.Contains(t, p.call(client, "GET", "/1.0/audit", "").text, `"object":"1.0/system/kernel"`)
	info, err := p.registry.Server(t.Context(), "a")
	require.NoError(t, err)
	require.NoError(t, p.registry.Write(t.Context(), func(tx *opscenter.Tx) error {
		return tx.Claim(opscenter.Claim{Unit: info.ID, Owner: "r1", What: "rollout", Since: time.Now()})
	}))
	require.Equal(t, 409, p.call(client, "POST", os+"/1.0/system/:reboot", "").ErrorCode)
	require.Equal(t, "sync", p.call(client, "GET", os+"/1.0", "").Type)
	require.NoError(t, p.registry.Write(t.Context(), func(tx *opscenter.Tx) error { return tx.Release("r1", info.ID, false) }))
	// An operation by itself reserves nothing.
	require.NoError(t, p.registry.Write(t.Context(), func(tx *opscenter.Tx) error {
		_, _, err := tx.Begin(opscenter.Intent{Server: "a", Action: lifecycle.ActionReconfigure, Timeout: time.Minute})
		return err
	}))
	require.Equal(t, 409, p.call(client, "POST", os+"/1.0/system/:reboot", "").ErrorCode)
	require.Zero(t, servers["a"].Requests("POST /os/1.0/system/:reboot"))
	servers["a"].Crash()
	require.Equal(t, 502, p.call(client, "GET", os+"/1.0", "").ErrorCode)
}

// TestForwardSecrets: a principal that ShowSecrets allows sees secrets.
func TestForwardSecrets(t *testing.T) {
	p, _ := changing(t, func(o *httpapi.Options) {
		o.ShowSecrets = func(principal string) bool { return strings.HasPrefix(principal, "certificate ") }
	}, "a")
	require.Contains(t, p.call(p.client(&p.operator), "GET", serversPath+"a/os/1.0/system/network", "").text, "simulated-proxy-password")
}

// upstream is a server's API that answers as a test wants.
type upstream struct {
	server *httptest.Server
	got    chan *http.Request
	body   chan string
}

func (u *upstream) Forward(ctx context.Context, _ opscenter.Target, req *http.Request) (*http.Response, error) {
	where, _ := url.Parse(u.server.URL)
	out := req.Clone(ctx)
	out.URL.Scheme, out.URL.Host = where.Scheme, where.Host
	return http.DefaultTransport.RoundTrip(out)
}

func newUpstream(t *testing.T, answer http.HandlerFunc) *upstream {
	u := &upstream{got: make(chan *http.Request, 10), body: make(chan string, 10)}
	u.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, _ := io.ReadAll(r.Body)
		u.got <- r
		u.body <- string(data)
		answer(w, r)
	}))
	t.Cleanup(u.server.Close)
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
	return u
}

// TestForwardHeaders: only the named headers are handed on.
func TestForwardHeaders(t *testing.T) {
	u := newUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Set-Cookie", "a=b")
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("ETag", `"x"`)
		w.Header().Set("Location", "/os/1.0/operations/1")
		_, _ = io.WriteString(w, `{"type":"sync","status":"Success","status_code":200,"metadata":{"encryption_key":"s3cret","open":1}}`)
	})
	p, _ := changing(t, func(o *httpapi.Options) { o.Forward = u }, "a")
	a := p.call(p.client(&p.operator), "POST", serversPath+"a/os/1.0/x%20y/:do?a=1&b=%26", `{"q":1}`, "Content-Type", "application/json", "If-Match", "t",
		"Authorization", "Bearer x", "Cookie", "c=d", "X-Forwarded-For", "1.2.3.4", "X-IncusOS-Proxy", "/evil", "Connection", "X-Gone", "X-Gone", "1", "Te", "trailers")
	require.Equal(t, "sync", a.Type, a.text)
	require.NotContains(t, a.text, "s3cret")
	require.Equal(t, `"x"`, a.http.Header.Get("ETag"))
	require.Equal(t, serversPath+"a/os/1.0/operations/1", a.http.Header.Get("Location"))
	for _, gone := range []string{"Set-Cookie", "Access-Control-Allow-Origin"} {
		require.Empty(t, a.http.Header.Get(gone))
	}
	r := <-u.got
	require.Equal(t, `{"q":1}`, <-u.body)
	require.Equal(t, "/os/1.0/x%20y/:do", r.URL.EscapedPath())
	require.Equal(t, "a=1&b=%26", r.URL.RawQuery)
	require.Equal(t, "t", r.Header.Get("If-Match"))
	require.Equal(t, "opscenter", r.Header.Get("User-Agent"))
	for _, gone := range []string{"Authorization", "Cookie", "X-Forwarded-For", "X-Incusos-Proxy", "X-Gone", "Te"} {
		require.Empty(t, r.Header.Get(gone), gone)
	}
}

// TestForwardSmuggling: the bytes that a client writes become one request, or none.
func TestForwardSmuggling(t *testing.T) {
	u := newUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"type":"sync"}`)
	})
	p, _ := changing(t, func(o *httpapi.Options) { o.Forward = u }, "a")
	path := serversPath + "a/os/1.0/x"
	for name, text := range map[string]string{
		"length and chunks": "POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /1.0/secret HTTP/1.1\r\nHost: x\r\n\r\n",
		"two lengths":       "POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
		"folded header":     "POST " + path + " HTTP/1.1\r\nHost: x\r\nIf-Match: a\r\n X-Evil: b\r\nContent-Length: 0\r\n\r\n",
		"newline in value":  "POST " + path + " HTTP/1.1\r\nHost: x\r\nIf-Match: a\nX-Evil: b\r\nContent-Length: 0\r\n\r\n",
		"newline in path":   "POST " + path + "%0d%0aX-Evil:%20b HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			config := &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{p.operator}}
			conn, err := tls.Dial("tcp", strings.TrimPrefix(p.url, "https://"), config)
			require.NoError(t, err)
			defer conn.Close()
			require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
			_, err = io.WriteString(conn, text)
			require.NoError(t, err)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			conn.Close()
			for {
				select {
				case r := <-u.got:
					<-u.body
					require.Equal(t, "/os/1.0/x", r.URL.Path)
					require.Empty(t, r.Header.Get("X-Evil"))
					continue
				default:
				}
				break
			}
		})
	}
}

// TestForwardBounds: answers stream, and are bounded. An answer that can't be redacted is not shown.
func TestForwardBounds(t *testing.T) {
	release := make(chan struct{})
	u := newUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		size, _ := strconv.Atoi(r.URL.Query().Get("size"))
		w.Header().Set("Content-Type", r.URL.Query().Get("kind"))
		switch r.URL.Path {
		case "/os/1.0/stream":
			_, _ = io.WriteString(w, "first")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-release:
			case <-r.Context().Done():
			}
			_, _ = io.WriteString(w, "second")
		case "/os/1.0/redirect":
			w.Header().Set("Location", "https://elsewhere.example.com/")
			w.WriteHeader(http.StatusFound)
		default:
			for range size / 1024 {
				if _, err := w.Write(make([]byte, 1024)); err != nil {
					return
				}
			}
		}
	})
	var allowed atomic.Bool
	allowed.Store(true)
	p, _ := changing(t, func(o *httpapi.Options) {
		o.Forward, o.MaxForward, o.MaxRedacted, o.WriteTimeout = u, 64<<10, 8<<10, 150*time.Millisecond
		o.ShowSecrets = func(string) bool { return allowed.Load() }
	}, "a")
	client := p.client(&p.operator)
	path := p.url + serversPath + "a/os/1.0/"
	get := func(name string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", path+name, nil)
		require.NoError(t, err)
		return client.Do(req)
	}
	resp, err := get("stream")
	require.NoError(t, err)
	first := make([]byte, 5)
	_, err = io.ReadFull(resp.Body, first)
	require.NoError(t, err)
	require.Equal(t, "first", string(first), "it comes before the answer is over")
	time.Sleep(300 * time.Millisecond) // the server may pause for longer than a reader
	close(release)
	rest, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "second", string(rest))
	resp.Body.Close()

	resp, err = get("large?size=1048576")
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	require.Error(t, err, "half of it is not taken for the whole")
	a := p.call(client, "POST", serversPath+"a/os/1.0/x", strings.Repeat("x", 100<<10))
	require.Equal(t, 413, a.ErrorCode, a.text)

	allowed.Store(false)
	require.Equal(t, 403, p.call(client, "POST", serversPath+"a/os/1.0/done?kind=text/plain&size=1024", "").ErrorCode)
	require.Contains(t, p.call(client, "GET", "/1.0/audit?limit=1&action=POST+/1.0/provisioning/servers/{name}/os/{path...}", "").text, `"outcome":"done"`, "the request was carried out, although its answer is not shown")
	require.Equal(t, 502, p.call(client, "GET", serversPath+"a/os/1.0/large?kind=application/json&size=1048576", "").ErrorCode)
	require.Equal(t, 502, p.call(client, "GET", serversPath+"a/os/1.0/garbage?kind=application/json&size=1024", "").ErrorCode)
	require.Equal(t, 403, p.call(client, "GET", serversPath+"a/os/1.0/backup?kind=application/gzip&size=1024", "").ErrorCode)
	require.Equal(t, 502, p.call(client, "GET", serversPath+"a/os/1.0/redirect", "").ErrorCode)
}

// TestForwardedIsNoPage: a browser does not run a server's content as a page of the control plane.
func TestForwardedIsNoPage(t *testing.T) {
	kind, disposition := "text/html", ""
	u := newUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		if disposition != "" {
			w.Header().Set("Content-Disposition", disposition)
		}
		_, _ = io.WriteString(w, `{"type":"sync","metadata":"<script>alert(1)</script>"}`)
	})
	p, _ := changing(t, func(o *httpapi.Options) { o.Forward, o.ShowSecrets = u, func(string) bool { return true } }, "a")
	for _, c := range []struct{ kind, disposition, want string }{
		{"text/html", "", "attachment"}, {"text/html; charset=utf-8", "inline", "attachment"}, {"image/svg+xml", "", "attachment"},
		{"application/octet-stream", `attachment; filename="backup.tar"`, `attachment; filename="backup.tar"`}, {"application/json", "", ""},
	} {
		kind, disposition = c.kind, c.disposition
		resp, err := p.client(&p.operator).Get(p.url + serversPath + "a/os/1.0/x")
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, 200, resp.StatusCode)
		require.Equal(t, "sandbox; default-src 'none'", resp.Header.Get("Content-Security-Policy"))
		require.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"))
		require.Equal(t, c.want, resp.Header.Get("Content-Disposition"), c.kind)
	}
}

// TestForwardedLeadsNowhere: a server can't send an operator's client, with its certificate, anywhere else.
func TestForwardedLeadsNowhere(t *testing.T) {
	var status int
	var place string
	u := newUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", place)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		if status < 300 {
			_, _ = w.Write([]byte("{}"))
		}
	})
	p, _ := changing(t, func(o *httpapi.Options) { o.Forward, o.ShowSecrets = u, func(string) bool { return true } }, "a", "b")
	client := p.client(&p.operator)
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	ask := func() *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), "DELETE", p.url+serversPath+"a/os/1.0/applications/x", nil)
		require.NoError(t, err)
		resp, err := client.Do(req)
		require.NoError(t, err)
		resp.Body.Close()
		<-u.got
		<-u.body
		return resp
	}
	places := []string{"/os/../../b", "/os/%2e%2e/%2e%2e/b", "/os/1.0/..", "/os/a%2fb", "/os/%5c", "https://elsewhere/os/", "//elsewhere/os/", "/1.0/provisioning/servers/b"}
	for _, status = range []int{301, 302, 303, 307, 308} {
		for _, place = range append(places, "/os/1.0/x") {
			resp := ask()
			require.Equal(t, 502, resp.StatusCode)
			require.Empty(t, resp.Header.Get("Location"))
		}
	}
	status = 201
	for _, place = range places {
		require.Empty(t, ask().Header.Get("Location"), place)
	}
	place = "/os/1.0/applications/y"
	require.Equal(t, serversPath+"a/os/1.0/applications/y", ask().Header.Get("Location"))
}
