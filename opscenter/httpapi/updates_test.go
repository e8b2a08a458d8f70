package httpapi_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/opscenter-go/sdk/opscenter/httpapi"
	"github.com/opscenter-go/sdk/opscenter/incusostest"
	"github.com/opscenter-go/sdk/opscenter/updates"
)

// feedPlane is a control plane with a feed, and its publisher.
type feedPlane struct {
	*plane
	publisher *incusostest.Publisher
	feed      *updates.Manager
}

func startFeed(t testing.TB, change func(*httpapi.Options)) *feedPlane {
	t.Helper()
	return startFeedOn(t, func(files updates.Files) updates.Files { return files }, func(_ *feedPlane, o *httpapi.Options) {
		if change != nil {
			change(o)
		}
	})
}

// startFeedOn starts a feed on other files.
func startFeedOn(t testing.TB, on func(updates.Files) updates.Files, change func(*feedPlane, *httpapi.Options)) *feedPlane {
	t.Helper()
	out := &feedPlane{}
	var err error
	out.publisher, err = incusostest.NewPublisher()
	require.NoError(t, err)
	source := httptest.NewServer(out.publisher)
	t.Cleanup(source.Close)
	startWith(t, func(p *plane, o *httpapi.Options) {
		out.plane = p
		files, err := updates.NewDir(t.TempDir())
		require.NoError(t, err)
		out.feed, err = updates.New(context.Background(), p.registry, on(files), updates.Options{Settings: &updates.Settings{Source: source.URL}, Trust: updates.Trust{Root: out.publisher.Root()},
			RetryDelay: time.Millisecond})
		require.NoError(t, err)
		o.Updates = out.feed
		change(out, o)
	})
	return out
}

func (p *feedPlane) publish(t testing.TB, releases ...incusostest.Release) {
	t.Helper()
	for _, r := range releases {
		require.NoError(t, p.publisher.Publish(r))
	}
	require.NoError(t, p.feed.Refresh(t.Context(), updates.RefreshOptions{}))
}

// shownUpdate is the document of an update, as servers and clients of Operations Center read it.
type shownUpdate struct {
	UUID     string   `json:"uuid"`
	Version  string   `json:"version"`
	Channels []string `json:"channels"`
	Status   string   `json:"update_status"`
}

type shownFile struct {
	Filename, SHA256, Component, Type, Architecture string
	Size                                            int64
}

func metadata[T any](t testing.TB, a *answer) (out T) {
	t.Helper()
	require.Equal(t, "sync", a.Type, a.Error)
	require.NoError(t, json.Unmarshal(a.Metadata, &out))
	return out
}

// TestFeed: a server reads the feed without a certificate, before it has registered.
func TestFeed(t *testing.T) {
	p := startFeed(t, nil)
	stranger := p.client(nil)
	require.Empty(t, metadata[[]string](t, p.call(stranger, "GET", "/1.0/provisioning/updates", "")))
	p.publish(t, incusostest.Release{Version: "202610010000"}, incusostest.Release{Version: "202610020000"})
	p.publisher.SetFault("202610030000/x86_64/incus.raw.gz", incusostest.PublishGone)
	require.NoError(t, p.publisher.Publish(incusostest.Release{Version: "202610030000"}))
	require.Error(t, p.feed.Refresh(t.Context(), updates.RefreshOptions{}))

	a := p.call(stranger, "GET", "/1.0/provisioning/updates?recursion=1", "")
	list := metadata[[]shownUpdate](t, a)
	require.Len(t, list, 2, "an update that is not complete is not listed")
	require.Equal(t, "202610020000", list[0].Version, "newest first")
	require.Equal(t, []string{"stable"}, list[0].Channels)
	require.Equal(t, "ready", list[0].Status)
	require.EqualValues(t, len(a.text), a.http.ContentLength)
	paths := metadata[[]string](t, p.call(stranger, "GET", "/1.0/provisioning/updates?recursion=0", ""))
	require.Equal(t, []string{"/1.0/provisioning/updates/" + list[0].UUID, "/1.0/provisioning/updates/" + list[1].UUID}, paths)
	require.Equal(t, list[0], metadata[shownUpdate](t, p.call(stranger, "GET", paths[0], "")))
	require.Empty(t, metadata[[]shownUpdate](t, p.call(stranger, "GET", "/1.0/provisioning/updates?recursion=1&status=pending", "")))
	pending := metadata[[]shownUpdate](t, p.call(p.client(&p.operator), "GET", "/1.0/provisioning/updates?recursion=1&status=pending", ""))
	require.Len(t, pending, 1)
	require.Contains(t, p.call(p.client(&p.operator), "GET", "/1.0/provisioning/updates/"+pending[0].UUID, "").text, "incus.raw.gz", "and why")
	require.Equal(t, 404, p.call(stranger, "GET", "/1.0/provisioning/updates/"+pending[0].UUID, "").ErrorCode)
	require.Equal(t, 404, p.call(stranger, "GET", "/1.0/provisioning/updates/"+pending[0].UUID+"/changelog", "").ErrorCode)
	require.Empty(t, pending[0].Channels)
	require.Equal(t, 404, p.call(stranger, "GET", "/1.0/provisioning/updates/"+pending[0].UUID+"/files", "").ErrorCode)
	require.Empty(t, metadata[[]string](t, p.call(stranger, "GET", "/1.0/provisioning/updates?channel=daily", "")))
	require.Len(t, metadata[[]string](t, p.call(stranger, "GET", "/1.0/provisioning/updates?channel=stable&origin=simulated.example&status=ready", "")), 2)
	require.Equal(t, 400, p.call(stranger, "GET", "/1.0/provisioning/updates?status=old", "").ErrorCode)
	require.Equal(t, 404, p.call(stranger, "GET", "/1.0/provisioning/updates/"+strings.Repeat("0", 36), "").ErrorCode)

	files := metadata[[]shownFile](t, p.call(stranger, "GET", paths[0]+"/files", ""))
	require.Len(t, files, len(p.publisher.Files("202610020000")))
	for _, f := range files {
		get := func(method string, header ...string) (*http.Response, []byte) {
			req, err := http.NewRequestWithContext(t.Context(), method, p.url+paths[0]+"/files/"+f.Filename, nil)
			require.NoError(t, err)
			for i := 0; i+1 < len(header); i += 2 {
				req.Header.Set(header[i], header[i+1])
			}
			resp, err := stranger.Do(req)
			require.NoError(t, err)
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			return resp, body
		}
		resp, body := get("GET", "Accept-Encoding", "gzip")
		require.Equal(t, 200, resp.StatusCode)
		require.Empty(t, resp.Header.Get("Content-Encoding"), "the library of a server would unpack it")
		require.Equal(t, "application/octet-stream", resp.Header.Get("Content-Type"))
		require.Equal(t, f.Size, resp.ContentLength)
		sum := sha256.Sum256(body)
		require.Equal(t, f.SHA256, hex.EncodeToString(sum[:]))
		resp, none := get("HEAD")
		require.Equal(t, f.Size, resp.ContentLength)
		require.Empty(t, none)
		resp, part := get("GET", "Range", "bytes=10-19")
		require.Equal(t, 206, resp.StatusCode)
		require.Equal(t, body[10:20], part)
		resp, _ = get("GET", "If-None-Match", `"`+f.SHA256+`"`)
		require.Equal(t, 304, resp.StatusCode)
	}
	for _, bad := range []string{"x86_64/other.raw.gz", "../../../etc/passwd", "x86_64%2F..%2F..%2Fsecret", ""} {
		require.Equal(t, 404, p.call(stranger, "GET", paths[0]+"/files/"+bad, "").ErrorCode, bad)
	}
	c := metadata[map[string]any](t, p.call(stranger, "GET", paths[0]+"/changelog?channel=stable", ""))
	require.Equal(t, "202610010000", c["prior_version"])
	require.Equal(t, []any{"linux-image version 202610010000 to version 202610020000"}, c["components"].(map[string]any)["IncusOS"].(map[string]any)["updated"])
	require.Equal(t, 400, p.call(stranger, "GET", paths[0]+"/changelog?upstream=perhaps", "").ErrorCode)

	// The other routes are for operators.
	for _, request := range []string{"POST /1.0/provisioning/updates", "DELETE /1.0/provisioning/updates", "PUT " + paths[0], "POST /1.0/provisioning/updates/:refresh", "GET /1.0/provisioning/updates/:refresh",
		"GET /1.0/system/updates", "PUT /1.0/system/updates", "GET /1.0/provisioning/channels", "POST /1.0/provisioning/channels", "GET /1.0/provisioning/channels/stable", "PUT /1.0/provisioning/channels/stable",
		"DELETE /1.0/provisioning/channels/stable", "GET /1.0/provisioning/channels/stable/changelog"} {
		method, path, _ := strings.Cut(request, " ")
		body := ""
		if method != "GET" {
			body = "{}"
		}
		require.Equal(t, 401, p.call(stranger, method, path, body).ErrorCode, request)
	}
	without := start(t, nil)
	require.Equal(t, 501, without.call(without.client(nil), "GET", "/1.0/provisioning/updates", "").ErrorCode)
}

// TestUpdatesByREST: an operator works with updates and channels.
func TestUpdatesByREST(t *testing.T) {
	p := startFeed(t, nil)
	operator := p.client(&p.operator)
	require.NoError(t, p.publisher.Publish(incusostest.Release{Version: "202610010000"}))
	require.Equal(t, 200, p.call(operator, "POST", "/1.0/provisioning/updates/:refresh?wait=1", "").StatusCode)
	progress := metadata[map[string]any](t, p.call(operator, "GET", "/1.0/provisioning/updates/:refresh", ""))
	require.Equal(t, false, progress["running"])
	require.Equal(t, progress["files"], progress["files_done"])
	list := metadata[[]shownUpdate](t, p.call(operator, "GET", "/1.0/provisioning/updates?recursion=1", ""))
	require.Len(t, list, 1)
	path := "/1.0/provisioning/updates/" + list[0].UUID

	require.Equal(t, 201, p.call(operator, "POST", "/1.0/provisioning/channels", `{"name":"production","description":"for customers"}`).http.StatusCode)
	require.Equal(t, 409, p.call(operator, "POST", "/1.0/provisioning/channels", `{"name":"production"}`).ErrorCode)
	require.Equal(t, 400, p.call(operator, "POST", "/1.0/provisioning/channels", `{"name":"a b"}`).ErrorCode)
	shown := p.call(operator, "GET", "/1.0/provisioning/channels/production", "")
	require.Contains(t, string(shown.Metadata), "for customers")
	require.Equal(t, 200, p.call(operator, "PUT", "/1.0/provisioning/channels/production", `{"description":"for all"}`, "If-Match", shown.http.Header.Get("ETag")).StatusCode)
	require.Equal(t, 412, p.call(operator, "PUT", "/1.0/provisioning/channels/production", `{"description":"for none"}`, "If-Match", shown.http.Header.Get("ETag")).ErrorCode)
	require.Equal(t, 400, p.call(operator, "PUT", "/1.0/provisioning/channels/production", `{"name":"other"}`).ErrorCode)
	require.Equal(t, 200, p.call(operator, "PUT", "/1.0/provisioning/channels/production", `{"name":"production"}`).StatusCode)
	require.Contains(t, p.call(operator, "GET", "/1.0/provisioning/channels/production", "").text, "for all", "a field that is left out keeps its value")
	require.Equal(t, []string{"/1.0/provisioning/channels/production", "/1.0/provisioning/channels/stable"}, metadata[[]string](t, p.call(operator, "GET", "/1.0/provisioning/channels", "")))

	before := p.call(operator, "GET", path, "").http.Header.Get("ETag")
	require.Equal(t, 404, p.call(operator, "PUT", path, `{"channels":["nowhere"]}`).ErrorCode)
	require.Equal(t, 400, p.call(operator, "PUT", path, `{}`).ErrorCode)
	require.Equal(t, 200, p.call(operator, "PUT", path, `{"channels":["stable","production"]}`, "If-Match", before).StatusCode)
	require.Equal(t, 412, p.call(operator, "PUT", path, `{"channels":[]}`, "If-Match", before).ErrorCode)
	require.Equal(t, []string{"production", "stable"}, metadata[[]shownUpdate](t, p.call(p.client(nil), "GET", "/1.0/provisioning/updates?recursion=1", ""))[0].Channels, "at once, for servers")
	require.Contains(t, p.call(operator, "GET", "/1.0/provisioning/channels/production", "").text, `"incus":"202610010000"`)
	require.Len(t, metadata[[]any](t, p.call(operator, "GET", "/1.0/provisioning/channels/production/changelog", "")), 1)
	require.Equal(t, 404, p.call(operator, "GET", "/1.0/provisioning/channels/nowhere/changelog", "").ErrorCode)
	require.Equal(t, 200, p.call(operator, "DELETE", "/1.0/provisioning/channels/production", "").StatusCode)
	require.Equal(t, 409, p.call(operator, "DELETE", "/1.0/provisioning/channels/stable", "").ErrorCode)

	// An update that lacks an application of a token is refused, unless forced.
	require.Equal(t, 201, p.call(operator, "POST", "/1.0/provisioning/tokens", `{"description":"rack 7","applications":["gpu-support"]}`).http.StatusCode)
	require.Equal(t, 200, p.call(operator, "PUT", path, `{"channels":[]}`).StatusCode)
	refused := p.call(operator, "PUT", path, `{"channels":["stable"]}`)
	require.Equal(t, 412, refused.ErrorCode)
	require.Contains(t, refused.Error, `gpu-support (needed by token "rack 7")`)
	require.Equal(t, 200, p.call(operator, "PUT", path+"?force=1", `{"channels":["stable"]}`).StatusCode)

	// Uploads.
	var archive bytes.Buffer
	require.NoError(t, p.publisher.Archive(&archive, "202610010000", "x86_64/incus.raw.gz"))
	media := p.call(operator, "POST", "/1.0/provisioning/updates", archive.String(), "Content-Type", "text/plain")
	require.Equal(t, 415, media.ErrorCode)
	require.Contains(t, media.Error, "application/x-tar")
	made := p.call(operator, "POST", "/1.0/provisioning/updates", archive.String(), "Content-Type", "application/x-tar")
	require.Equal(t, 201, made.http.StatusCode, made.Error)
	require.Equal(t, 200, p.call(operator, "GET", made.http.Header.Get("Location"), "").StatusCode)
	require.Contains(t, string(made.Metadata), "has 1 of the 11 files that its description names")
	require.Equal(t, 409, p.call(operator, "POST", "/1.0/provisioning/updates", archive.String(), "Content-Type", "application/x-tar").ErrorCode)
	archive.Reset()
	require.NoError(t, p.publisher.Archive(&archive, "202610010000"))
	rest := p.call(operator, "POST", "/1.0/provisioning/updates", archive.String(), "Content-Type", "application/x-tar")
	require.Equal(t, 201, rest.http.StatusCode, rest.Error)
	require.NotContains(t, string(rest.Metadata), "of the 11 files")

	// An update is removed. One that a channel offers is removed by force only.
	one := made.http.Header.Get("Location")
	require.Equal(t, 200, p.call(operator, "PUT", one+"?force=1", `{"channels":["stable"]}`).StatusCode)
	require.Equal(t, 200, p.call(operator, "PUT", path+"?force=1", `{"channels":[]}`).StatusCode)
	offered := p.call(operator, "DELETE", one, "")
	require.Equal(t, 409, offered.ErrorCode)
	require.Contains(t, offered.Error, "channel stable offers update 202610010000")
	require.Equal(t, 401, p.call(p.client(nil), "DELETE", one, "").ErrorCode)
	require.Equal(t, 200, p.call(operator, "DELETE", one+"?force=1", "").StatusCode)
	require.Equal(t, 404, p.call(operator, "DELETE", one, "").ErrorCode)
	require.Equal(t, 200, p.call(operator, "DELETE", path, "").StatusCode, "no channel offers it")
	require.Equal(t, 400, p.call(operator, "POST", "/1.0/provisioning/updates", "no tar at all", "Content-Type", "application/x-tar").ErrorCode)

	// Settings, as Operations Center names them.
	a := p.call(operator, "GET", "/1.0/system/updates", "")
	settings := metadata[map[string]any](t, a)
	require.Equal(t, `"stable" in upstream_channels`, settings["filter_expression"])
	require.Equal(t, "stable", settings["server_default_channel"])
	require.Equal(t, 200, p.call(operator, "PUT", "/1.0/system/updates", `{"filter_expression":"true"}`, "If-Match", a.http.Header.Get("ETag")).StatusCode)
	require.Equal(t, 412, p.call(operator, "PUT", "/1.0/system/updates", `{"filter_expression":"true"}`, "If-Match", a.http.Header.Get("ETag")).ErrorCode)
	require.Equal(t, settings["source"], metadata[map[string]any](t, p.call(operator, "GET", "/1.0/system/updates", ""))["source"], "a field that is left out keeps its value")
	for _, bad := range []string{`{"filter_expression":"version =="}`, `{"file_filter_expression":"nothing"}`, `{"source":"ftp://x"}`, `{"signature_verification_root_ca":"no"}`, `{"fliter_expression":"true"}`} {
		require.Equal(t, 400, p.call(operator, "PUT", "/1.0/system/updates", bad).ErrorCode, bad)
	}
	require.Equal(t, 404, p.call(operator, "PUT", "/1.0/system/updates", `{"updates_default_channel":"nowhere"}`).ErrorCode)
	require.Equal(t, 502, p.call(operator, "PUT", "/1.0/system/updates", `{"source":"http://127.0.0.1:1/"}`).ErrorCode)
	p.publisher.SetFault("index.sjson", incusostest.PublishError)
	require.Equal(t, 502, p.call(operator, "POST", "/1.0/provisioning/updates/:refresh?wait=1", "").ErrorCode)
	require.Equal(t, 200, p.call(operator, "PUT", "/1.0/system/updates", `{"source":""}`).StatusCode)
	require.Equal(t, 412, p.call(operator, "POST", "/1.0/provisioning/updates/:refresh", "").ErrorCode)
	require.Equal(t, 200, p.call(operator, "DELETE", "/1.0/provisioning/updates", "").StatusCode)
	require.Empty(t, metadata[[]string](t, p.call(operator, "GET", "/1.0/provisioning/updates", "")))
}

// BenchmarkFeedList lists 200 updates with 30 files each, as a server does.
func BenchmarkFeedList(b *testing.B) {
	p := startFeed(b, nil)
	settings := p.feed.Settings()
	settings.Keep = updates.MaxKeep
	require.NoError(b, p.feed.SetSettings(b.Context(), settings, nil))
	var applications []string
	for i := range 24 {
		applications = append(applications, fmt.Sprintf("app%d", i))
	}
	for i := range 200 {
		require.NoError(b, p.publisher.Publish(incusostest.Release{Version: fmt.Sprintf("2026%08d", 1010000+i), PublishedAt: time.Date(2026, 1, 1, 0, i, 0, 0, time.UTC), Size: 64, Applications: applications}))
	}
	require.NoError(b, p.feed.Refresh(b.Context(), updates.RefreshOptions{}))
	request := httptest.NewRequest("GET", "/1.0/provisioning/updates?recursion=1", nil)
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		p.handler.ServeHTTP(w, request)
		if w.Code != 200 {
			b.Fatal(w.Body.String())
		}
	}
}
